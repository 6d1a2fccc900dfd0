package version

import (
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestInfoOf(t *testing.T) {
	t.Parallel()
	settings := []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123abcd"},
		{Key: "vcs.time", Value: "2026-11-30T09:00:00Z"},
		{Key: "vcs.modified", Value: "true"},
		{Key: "GOARCH", Value: "arm64"},
		{Key: "CGO_ENABLED", Value: "1"},
		{Key: "-tags", Value: "notink,nokms_aws"},
	}
	build := func(version string, s []debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: s}
	}
	here := Info{GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	for name, c := range map[string]struct {
		release string
		build   *debug.BuildInfo
		want    Info
	}{
		"release":           {"v1.2.3", build("(devel)", nil), Info{Version: "v1.2.3"}},
		"go install":        {"", build("v1.2.4", nil), Info{Version: "v1.2.4"}},
		"no version":        {"", build("", nil), Info{Version: "(devel)"}},
		"no build info":     {"", nil, Info{Version: "(devel)"}},
		"release, no build": {"v1.2.3", nil, Info{Version: "v1.2.3"}},
		"work tree": {"v1.2.3", build("v9", settings), Info{
			Version: "v1.2.3", Commit: "0123abcd", Date: "2026-11-30T09:00:00Z", Modified: true,
			CGO: true, Tags: "notink,nokms_aws",
		}},
	} {
		c.want.GoVersion, c.want.Platform, c.want.FIPS140 = here.GoVersion, here.Platform, FIPS140()
		if got := infoOf(c.release, c.build); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// The Makefile sets the variable of this package in each program. A wrong name is no error of the linker.
func TestLinkerFlag(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	pkg := strings.TrimSuffix(reflect.TypeFor[Info]().PkgPath(), "/internal/version")
	for text, want := range map[string]int{
		"-X $(MODULE)/internal/version.release=$(VERSION)": 4,
		"MODULE := " + pkg + "\n":                          1,
	} {
		if n := strings.Count(string(makefile), text); n != want {
			t.Errorf("%q is in the Makefile %d times, want %d", text, n, want)
		}
	}
}

// The User-Agent has a version, whatever the build.
func TestUserAgent(t *testing.T) {
	t.Parallel()
	agent := UserAgent()
	if name, version, ok := strings.Cut(agent, "/"); !ok || name != "mayfly" || version == "" {
		t.Errorf("%q", agent)
	}
}
