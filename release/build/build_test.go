package build

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// repository makes a repository with one commit.
func repository(t *testing.T) (dir string, run func(args ...string)) {
	t.Helper()
	dir = t.TempDir()
	run = func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a",
			"GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=2026-11-30T09:00:00Z",
			"GIT_CONFIG_GLOBAL=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	run("init", "-q")
	put(t, dir, "a", "1")
	run("add", "a")
	run("commit", "-q", "-m", "first")
	return dir, run
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func describe(t *testing.T, dir string, modified bool) Source {
	t.Helper()
	s, err := Describe(t.Context(), dir, modified)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	dir, git := repository(t)
	s := describe(t, dir, false)
	if s.Release() || s.Version != s.Commit[:12] || !s.Date.Equal(time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)) {
		t.Errorf("without a tag: %+v", s)
	}
	git("tag", "v1.2.3")
	if s = describe(t, dir, false); !s.Release() || s.Version != "v1.2.3" || s.Number() != "1.2.3" {
		t.Errorf("with a tag: %+v", s)
	}
	git("commit", "-q", "--allow-empty", "-m", "second")
	if s = describe(t, dir, false); s.Release() || !strings.HasPrefix(s.Version, "v1.2.3-1-g") {
		t.Errorf("after a tag: %+v", s)
	}
	put(t, dir, "b", "2")
	if _, err := Describe(t.Context(), dir, false); err == nil || !strings.Contains(err.Error(), "?? b") {
		t.Errorf("a file that is not committed: %v", err)
	}
	if s = describe(t, dir, true); s.Release() || !s.Modified || !strings.HasSuffix(s.Version, "-dirty") {
		t.Errorf("a modified tree: %+v", s)
	}
	if _, err := Describe(t.Context(), t.TempDir(), false); err == nil ||
		!strings.Contains(err.Error(), "git repository") {
		t.Errorf("no repository: %v", err)
	}
}

// clone copies the commit of this repository into a folder of its own.
func clone(t *testing.T, name string) Source {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("git", "clone", "-q", "--shared", "../..", dir).CombinedOutput(); err != nil {
		t.Skipf("the repository cannot be cloned: %v: %s", err, out)
	}
	return describe(t, dir, false)
}

// Two folders, two environments and two times give the same bytes. The program is the smallest of this repository;
// "make check-release" compares those of a release.
func TestReproducible(t *testing.T) { //nolint:paralleltest // it sets the environment
	target := Target{OS: "linux", Arch: runtime.GOARCH, Package: "./testkit/outdated"}
	var sums [2][32]byte
	var sources [2]Source
	for i, dir := range []string{"one", "another folder"} {
		if i == 1 {
			t.Setenv("GOFLAGS", "-tags=other -pgo=off")
			t.Setenv("GOAMD64", "v2")
			t.Setenv("GODEBUG", "fips140=on")
			t.Setenv("TZ", "Asia/Tokyo")
		}
		sources[i] = clone(t, dir)
		out := filepath.Join(t.TempDir(), "mayfly")
		if _, err := Build(t.Context(), sources[i], target, out); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(data)
		if bytes.Contains(data, []byte(sources[i].Root)) {
			t.Errorf("the program has the name of the folder in which it was built")
		}
		info, err := buildinfo.Read(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if settings["vcs.revision"] != sources[i].Commit || settings["vcs.modified"] != "false" ||
			settings["CGO_ENABLED"] != "0" || settings["-trimpath"] != "true" {
			t.Errorf("settings %v", settings)
		}
	}
	if sums[0] != sums[1] {
		t.Errorf("two builds of %s differ", sources[0].Commit)
	}
}
