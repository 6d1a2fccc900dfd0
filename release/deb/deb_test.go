package deb_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/release/deb"
	"github.com/mayfly-ca/mayfly/release/internal/sample"
	"github.com/mayfly-ca/mayfly/release/linux"
)

// build makes a package, or skips the test without dpkg-deb.
func build(t *testing.T, p linux.Package) string {
	t.Helper()
	if _, err := exec.LookPath(deb.Tool); err != nil {
		t.Skip("dpkg-deb is not installed (package dpkg)")
	}
	name, err := deb.Build(t.Context(), p, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, arguments...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v: %s%s", name, err, out.String(), complaints.String())
	}
	return out.String()
}

// The package says what it is, its files belong to root and have the time of the commit.
func TestBuild(t *testing.T) {
	t.Parallel()
	name := build(t, sample.Package(t, "v1.2.3-rc1"))
	if filepath.Base(name) != "mayfly_1.2.3~rc1_amd64.deb" {
		t.Error(name)
	}
	control := run(t, deb.Tool, "--field", name)
	for _, line := range []string{
		"Package: mayfly", "Version: 1.2.3~rc1", "Architecture: amd64",
		"Description: certificate authority for code signing",
	} {
		if !strings.Contains(control, line+"\n") {
			t.Errorf("the line %q is missing in:\n%s", line, control)
		}
	}
	line := regexp.MustCompile(`(?m)^(\S{10}) (\S+) +\d+ (\S+ \S+) \./(.*)$`)
	listed := map[string]string{}
	content := run(t, "env", "TZ=UTC", deb.Tool, "--contents", name)
	for _, m := range line.FindAllStringSubmatch(content, -1) {
		if m[2] != "root/root" || m[3] != "2026-11-30 23:00" {
			t.Errorf("%s belongs to %s and is of %s", m[4], m[2], m[3])
		}
		listed["/"+m[4]] = m[1]
	}
	for path, mode := range map[string]string{
		"/usr/bin/mayfly": "-rwxr-xr-x", "/etc/default/mayfly": "-rw-------", "/etc/mayfly/": "drwxr-xr-x",
		"/usr/": "drwxr-xr-x", "/usr/lib/systemd/system/mayfly.service": "-rw-r--r--",
		"/usr/lib/systemd/system/mayfly.socket": "-rw-r--r--", "/usr/share/man/man1/mayfly.1.gz": "-rw-r--r--",
		"/usr/share/zsh/vendor-completions/_mayfly": "-rw-r--r--",
	} {
		if listed[path] != mode {
			t.Errorf("%s has the mode %q, want %q", path, listed[path], mode)
		}
	}
	meta := t.TempDir()
	run(t, deb.Tool, "--control", name, meta)
	if conffiles, err := os.ReadFile(filepath.Join(meta, "conffiles")); err != nil ||
		string(conffiles) != "/etc/default/mayfly\n" {
		t.Errorf("conffiles are %q, %v", conffiles, err)
	}
	sums, err := os.ReadFile(filepath.Join(meta, "md5sums"))
	if err != nil || strings.Count(string(sums), "\n") != strings.Count(content, "\n-") {
		t.Errorf("md5sums: %v:\n%s\nof\n%s", err, sums, content)
	}
}

// Two builds in different directories, at different times and with another umask are the same.
func TestReproducible(t *testing.T) { //nolint:paralleltest // the umask is that of the process
	first := build(t, sample.Package(t, "v1.2.3"))
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	second := build(t, sample.Package(t, "v1.2.3"))
	if run(t, "sha256sum", first)[:64] != run(t, "sha256sum", second)[:64] {
		t.Error("two builds differ")
	}
	if third := build(t, sample.Package(t, "v1.2.4")); run(t, "sha256sum", first)[:64] == run(t,
		"sha256sum", third)[:64] {
		t.Error("two versions are the same")
	}
}

// lintian finds nothing but what the package overrides, and each override is needed.
func TestLintian(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("lintian"); err != nil {
		t.Skip("lintian is not installed (package lintian)")
	}
	name := build(t, sample.Package(t, "v1.2.3"))
	out, err := exec.CommandContext(t.Context(), "lintian", "--allow-root", "--fail-on", "none",
		"--pedantic", "--show-overrides", name).Output()
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	var overridden []string
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.HasPrefix(line, "O: "):
			overridden = append(overridden, strings.Fields(line)[2])
		case strings.HasPrefix(line, "N: "):
		default:
			t.Errorf("lintian: %s", line)
		}
	}
	if d := cmp.Diff([]string{"non-standard-file-perm", "statically-linked-binary"}, overridden); d != "" {
		t.Error(d)
	}
}

// The scripts are accepted by the shell, and refuse what dpkg never calls them with.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := deb.Files(sample.Package(t, "v1.2.3"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range files {
		if f.Mode != 0o755 || !strings.HasPrefix(f.Path, "/DEBIAN/") {
			continue
		}
		found++
		path := filepath.Join(t.TempDir(), filepath.Base(f.Path))
		if err := os.WriteFile(path, f.Data, 0o755); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
		run(t, "sh", "-n", path)
		if err := exec.CommandContext(t.Context(), path,
			"dance").Run(); (err != nil) != (f.Path == "/DEBIAN/postinst") {
			t.Errorf("%s dance: %v", f.Path, err)
		}
	}
	if found != 3 {
		t.Errorf("%d scripts", found)
	}
}
