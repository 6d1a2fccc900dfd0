package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDirect(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "go.mod")
	text := `module example.com/m

go 1.27.0

tool example.com/generator/cmd/gen

require (
	example.com/a v1.0.0
	example.com/b v1.2.0 // held at v1.2.0: v1.3.0 does not build
	// held at v0.1.0: an old reason
	example.com/c v0.2.0
	example.com/generator v1.0.0 // indirect
	example.com/generator/other v1.0.0 // indirect
	example.com/indirect v1.0.0 // indirect
)

require example.com/d v1.0.0
`
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := direct(name)
	if err != nil {
		t.Fatal(err)
	}
	want := []dependency{
		{"example.com/a", "v1.0.0", "", ""},
		{"example.com/b", "v1.2.0", "v1.2.0", "v1.3.0 does not build"},
		{"example.com/c", "v0.2.0", "v0.1.0", "an old reason"},
		{"example.com/generator", "v1.0.0", "", ""},
		{"example.com/d", "v1.0.0", "", ""},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(dependency{})); diff != "" {
		t.Error(diff)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	states := map[string]state{}
	text := `{"Path": "new", "Version": "v1.0.0"}
{"Path": "behind", "Version": "v1.0.0", "Update": {"Version": "v1.1.0"}}
{"Path": "retracted", "Version": "v1.0.0", "Update": {"Version": "v1.1.0"}, "Retracted": ["broken"]}
{"Path": "deprecated", "Version": "v1.0.0", "Deprecated": "use another"}
{"Path": "unknown", "Version": "v1.0.0", "Error": {"Err": "no answer"}}
{"Path": "recent", "Version": "v0.0.0-20261001000000-0123456789ab", "Time": "2026-10-01T00:00:00Z",
 "Update": {"Version": "v0.0.0-20261201000000-0123456789ab", "Time": "2026-12-01T00:00:00Z"}}
{"Path": "old", "Version": "v0.0.0-20260101000000-0123456789ab", "Time": "2026-01-01T00:00:00Z",
 "Update": {"Version": "v0.0.0-20261201000000-0123456789ab", "Time": "2026-12-01T00:00:00Z"}}
{"Path": "released", "Version": "v0.0.0-20261001000000-0123456789ab", "Time": "2026-10-01T00:00:00Z",
 "Update": {"Version": "v1.0.0", "Time": "2026-10-02T00:00:00Z"}}`
	if err := decode([]byte(text), states); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		d     dependency
		note  string
		fails bool
	}{
		{dependency{path: "new", version: "v1.0.0"}, "", false},
		{dependency{"new", "v1.0.0", "v1.0.0", "x"}, "remove the reason", true},
		{dependency{path: "behind", version: "v1.0.0"}, "behind", true},
		{dependency{"behind", "v1.0.0", "v1.0.0", "it does not build"}, "held: it does not build", false},
		{dependency{"behind", "v1.0.0", "v1.0.0", ""}, "the reason is for", true},
		{dependency{"behind", "v1.0.0", "v0.9.0", "x"}, "the reason is for v0.9.0", true},
		{dependency{"retracted", "v1.0.0", "v1.0.0", "x"}, "retracted: broken", true},
		{dependency{path: "deprecated", version: "v1.0.0"}, "use another", false},
		{dependency{path: "unknown", version: "v1.0.0"}, "no answer", false},
		{dependency{path: "recent"}, "", false},
		{dependency{path: "old"}, "behind", true},
		{dependency{path: "released"}, "behind", true},
	} {
		note, fails := c.d.assess(states[c.d.path])
		if !strings.Contains(note, c.note) || (note == "") != (c.note == "") || fails != c.fails {
			t.Errorf("%+v: %q, %t", c.d, note, fails)
		}
	}
}

// If the module system cannot be reached, the check passes and says so.
func TestOffline(t *testing.T) { //nolint:paralleltest // it sets the environment
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOFLAGS", "-mod=mod")
	dir := t.TempDir()
	text := "module example.com/m\n\ngo 1.27.0\n\nrequire example.com/a v1.0.0\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	began := time.Now()
	if status := run(t.Context(), []string{dir}, &out); status != 0 || !strings.Contains(out.String(), "not known") {
		t.Errorf("exit status %d after %v: %s", status, time.Since(began), out.String())
	}
}

// The reasons in this repository refer to the required versions.
func TestReasons(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"../../go.mod", "../../e2e/go.mod", "../../tools/go.mod"} {
		all, err := direct(name)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(all,
			func(d dependency) bool { return d.held != "" && (d.held != d.version || d.reason == "") }) {
			t.Errorf("%s: a reason is for another version than the required one: %+v", name, all)
		}
	}
}
