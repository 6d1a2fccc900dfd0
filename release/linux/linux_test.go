package linux_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/release/internal/sample"
	"github.com/mayfly-ca/mayfly/release/linux"
)

var format = linux.Format{Environment: "/etc/default/mayfly", Zsh: "/zsh", Units: "/units"}

// Each version that git describes has a text that dpkg and rpm order as git does: "~" is before, "+" is after.
func TestVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"v1.2.3":                       "1.2.3",
		"1.2.3":                        "1.2.3",
		"v1.2.3-rc1":                   "1.2.3~rc1",
		"v1.2.3-rc.1":                  "1.2.3~rc.1",
		"v1.2.3-dirty":                 "1.2.3+0.dirty",
		"v1.2.3-rc1-dirty":             "1.2.3~rc1+0.dirty",
		"v1.2.3-12-g0123abc":           "1.2.3+12.g0123abc",
		"v1.2.3-12-g0123abc-dirty":     "1.2.3+12.g0123abc.dirty",
		"v1.2.3-rc1-12-g0123abc-dirty": "1.2.3~rc1+12.g0123abc.dirty",
		"0123abc":                      "0.0.0~g0123abc",
		"0123abc-dirty":                "0.0.0~g0123abc.dirty",
		"0123456":                      "0.0.0~g0123456",
	} {
		v, err := linux.ParseVersion(text)
		if err != nil || v.Text("+") != want {
			t.Errorf("%s: %q, %v; want %q", text, v.Text("+"), err, want)
		}
	}
	for _, text := range []string{
		"", "v1", "v1.2", "unknown", "v1.2.3-", "v1.2.3 ", "v1.2.3/../..", "v1.2.3-a b", "v1.2.3\n", "v1.2.3-rc_1",
		"(devel)",
	} {
		if v, err := linux.ParseVersion(text); err == nil {
			t.Errorf("%q is %+v", text, v)
		}
	}
}

// A version becomes a file name and a field of a package: it has no other characters than the formats allow.
func FuzzVersion(f *testing.F) {
	for _, text := range []string{"v1.2.3", "v1.2.3-rc1-12-g0123abc-dirty", "0123abc", "v1.2.3-\n", "v1.2.3-.-"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := linux.ParseVersion(text)
		if err != nil {
			return
		}
		out := v.Text("+")
		if strings.Trim(out, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.~+") != "" ||
			out[0] < '0' || out[0] > '9' {
			t.Errorf("%q is %q", text, out)
		}
	})
}

// The files have their places and modes, and the text that was given.
func TestFiles(t *testing.T) {
	t.Parallel()
	p := sample.Package(t, "v1.2.3")
	files, err := p.Files(format)
	if err != nil {
		t.Fatal(err)
	}
	byPath := map[string]linux.File{}
	var paths []string
	for _, f := range files {
		byPath[f.Path] = f
		paths = append(paths, f.Path)
	}
	if !slices.IsSorted(paths) || len(byPath) != len(files) {
		t.Errorf("the files are not sorted or not unique: %q", paths)
	}
	want := []string{
		"/etc/default/mayfly", "/etc/mayfly", "/units/mayfly.service", "/units/mayfly.socket", "/usr/bin/mayfly",
		"/usr/lib/sysusers.d/mayfly.conf", "/usr/lib/tmpfiles.d/mayfly.conf",
		"/usr/share/bash-completion/completions/mayfly", "/usr/share/doc/mayfly/README.md",
		"/usr/share/doc/mayfly/examples/identity.yaml", "/usr/share/doc/mayfly/examples/mayfly.yaml",
		"/usr/share/doc/mayfly/examples/nginx.conf",
		"/usr/share/fish/vendor_completions.d/mayfly.fish", "/usr/share/man/man1/mayfly.1.gz", "/var/lib/mayfly",
		"/zsh/_mayfly",
	}
	if d := cmp.Diff(want, paths); d != "" {
		t.Error(d)
	}
	r, err := gzip.NewReader(bytes.NewReader(byPath["/usr/share/man/man1/mayfly.1.gz"].Data))
	if err != nil {
		t.Fatal(err)
	}
	if page, err := io.ReadAll(r); err != nil || string(page) != sample.Page || !r.ModTime.IsZero() || r.Name != "" {
		t.Errorf("the manual page is %q, %v, %v, %q", page, err, r.ModTime, r.Name)
	}
	for path, mode := range map[string]os.FileMode{
		"/usr/bin/mayfly": 0o755, "/etc/default/mayfly": 0o600, "/etc/mayfly": os.ModeDir | 0o750,
		"/var/lib/mayfly": os.ModeDir | 0o750, "/units/mayfly.service": 0o644,
	} {
		if byPath[path].Mode != mode {
			t.Errorf("%s has the mode %v, want %v", path, byPath[path].Mode, mode)
		}
	}
	for path, f := range byPath {
		if f.Config != (path == "/etc/default/mayfly") {
			t.Errorf("%s is configuration: %t", path, f.Config)
		}
	}
}

// A package of the wrong binary, without pages, or without a time is not made.
func TestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*linux.Package)
		err    string
	}{
		"architecture": {func(p *linux.Package) { p.Arch = "s390x" }, "made for amd64 and arm64"},
		"other binary": {func(p *linux.Package) { p.Arch = "arm64" }, "is a program for EM_X86_64, not for arm64"},
		"no program": {
			func(p *linux.Package) { p.Binary = filepath.Join(p.Repository, "README.md") },
			"not a program for",
		},
		"no binary": {func(p *linux.Package) { p.Binary += "x" }, "no such file"},
		"no time":   {func(p *linux.Package) { p.Time = time.Time{} }, "the time of the package is missing"},
		"version":   {func(p *linux.Package) { p.Version = "(devel)" }, `"(devel)" is not a version`},
		"no pages":  {func(p *linux.Package) { p.Manuals = p.Completions }, "has no manual pages"},
		"no completion": {
			func(p *linux.Package) { p.Completions = p.Manuals },
			"no such file",
		},
	} {
		p := sample.Package(t, "v1.2.3")
		c.change(&p)
		if files, err := p.Files(format); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %d files, %v; want %q", name, len(files), err, c.err)
		}
	}
}

// Parents are all directories above the files that are no files themselves.
func TestParents(t *testing.T) {
	t.Parallel()
	got := linux.Parents([]linux.File{
		{Path: "/a/b/c"}, {Path: "/a/d", Mode: os.ModeDir}, {Path: "/a/d/e"}, {Path: "/f/g"}, {Path: "/h"},
	})
	if d := cmp.Diff([]string{"/a", "/a/b", "/f"}, got); d != "" {
		t.Error(d)
	}
}
