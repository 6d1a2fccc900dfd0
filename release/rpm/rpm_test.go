package rpm_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/release/internal/sample"
	"github.com/mayfly-ca/mayfly/release/linux"
	"github.com/mayfly-ca/mayfly/release/rpm"
)

func build(t *testing.T, p linux.Package) string {
	t.Helper()
	name, err := rpm.Build(t.Context(), p, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// query runs rpm on a package, or skips the test without it.
func query(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	tool, err := exec.LookPath("rpm")
	if err != nil {
		t.Skip("rpm is not installed (package rpm)")
	}
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), tool, append(arguments, name)...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	if err := cmd.Run(); err != nil {
		t.Fatalf("rpm: %v: %s%s", err, out.String(), complaints.String())
	}
	return out.String()
}

// Two builds in different directories are the same; another version is another package.
func TestReproducible(t *testing.T) {
	t.Parallel()
	var builds [][]byte
	for _, version := range []string{"v1.2.3", "v1.2.3", "v1.2.4"} {
		data, err := os.ReadFile(build(t, sample.Package(t, version)))
		if err != nil {
			t.Fatal(err)
		}
		builds = append(builds, data)
	}
	if !bytes.Equal(builds[0], builds[1]) {
		t.Error("two builds differ")
	}
	if bytes.Equal(builds[0], builds[2]) {
		t.Error("two versions are the same")
	}
}

// rpm reads the package: what it is, its digests, its scripts, its files with owner, mode, time and kind.
func TestRead(t *testing.T) {
	t.Parallel()
	name := build(t, sample.Package(t, "v1.2.3-rc1-4-gabcdef0"))
	if filepath.Base(name) != "mayfly-1.2.3~rc1^4.gabcdef0-1.x86_64.rpm" {
		t.Error(name)
	}
	query(t, name, "--checksig", "--nosignature")
	const tags = "%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{OS} %{LICENSE} %{BUILDTIME} " +
		"%{PAYLOADCOMPRESSOR} %{CHANGELOGTEXT}"
	const want = "mayfly 1.2.3~rc1^4.gabcdef0 1 x86_64 linux Apache-2.0 1796079601 zstd " +
		"- New version; CHANGELOG.md has the changes."
	if got := query(t, name, "--query", "--package", "--queryformat", tags); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	got := query(t, name, "--query", "--package", "--queryformat",
		"[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILEMTIMES} %{FILEFLAGS:fflags}\n]")
	var lines []string
	for line := range strings.Lines(got) {
		if strings.Count(line, " 1796079601") != 1 {
			t.Errorf("%q has another time", line)
		}
		line = strings.Replace(strings.TrimSpace(line), " 1796079601", "", 1)
		if !strings.Contains(line, "/usr/share/") {
			lines = append(lines, line)
		}
	}
	files := []string{
		"/etc/mayfly drwxr-x--- mayfly mayfly",
		"/etc/sysconfig/mayfly -rw------- root root cn",
		"/usr/bin/mayfly -rwxr-xr-x root root",
		"/usr/lib/systemd/system/mayfly.service -rw-r--r-- root root",
		"/usr/lib/systemd/system/mayfly.socket -rw-r--r-- root root",
		"/usr/lib/sysusers.d/mayfly.conf -rw-r--r-- root root",
		"/usr/lib/tmpfiles.d/mayfly.conf -rw-r--r-- root root",
		"/var/lib/mayfly drwxr-x--- mayfly mayfly",
	}
	if d := cmp.Diff(files, lines); d != "" {
		t.Error(d)
	}
	for _, line := range []string{
		"/usr/share/licenses/mayfly drwxr-xr-x root root 1796079601",
		"/usr/share/doc/mayfly drwxr-xr-x root root 1796079601",
		"/usr/share/doc/mayfly/examples drwxr-xr-x root root 1796079601",
		"/usr/share/licenses/mayfly/LICENSE -rw-r--r-- root root 1796079601 l\n",
		"/usr/share/doc/mayfly/README.md -rw-r--r-- root root 1796079601 d\n",
		"/usr/share/man/man1/mayfly.1.gz -rw-r--r-- root root 1796079601 d\n",
		"/usr/share/zsh/site-functions/_mayfly -rw-r--r-- root root 1796079601",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("%q is missing in:\n%s", line, got)
		}
	}
	scripts := query(t, name, "--query", "--package", "--scripts")
	for _, part := range []string{
		"preinstall scriptlet (using /bin/sh):", "postinstall scriptlet (using /bin/sh):",
		"preuninstall scriptlet (using /bin/sh):", "postuninstall scriptlet (using /bin/sh):",
		"\nu mayfly - \"mayfly certificate authority\" /var/lib/mayfly -\nSYSUSERS\n",
	} {
		if !strings.Contains(scripts, part) {
			t.Errorf("%q is missing in:\n%s", part, scripts)
		}
	}
	for _, one := range strings.Split(scripts, "scriptlet (using /bin/sh):\n")[1:] {
		cmd := exec.CommandContext(t.Context(), "sh", "-n")
		cmd.Stdin = strings.NewReader(one[:strings.LastIndex(one, "exit 0\n")+7])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s: %s", err, out, one)
		}
	}
}
