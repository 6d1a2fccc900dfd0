package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/doctor"
)

// doctor runs "mayfly doctor --json" by a shell, after a command that limits what it may do.
func (l *auditLab) doctor(before string, as *syscall.Credential, args ...string) (r doctor.Report, code int) {
	l.t.Helper()
	mayfly, err := exec.LookPath("mayfly")
	if err != nil {
		l.t.Fatal(err)
	}
	if as != nil { // that user may not read the directory of the program
		dir, err := os.MkdirTemp("", "mayfly-")
		if err != nil {
			l.t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		// cp, because a file that this process writes is busy while a child that another test starts has its descriptor
		copying := exec.Command("cp", "-L", mayfly, dir)
		if err := errors.Join(os.Chmod(dir, 0o755), copying.Run()); err != nil { //nolint:gosec // for another user
			l.t.Fatal(err)
		}
		mayfly = filepath.Join(dir, filepath.Base(mayfly))
	}
	cmd := exec.Command("/bin/sh", append([]string{
		"-c", before + `; exec "$0" doctor --json "$@"`, mayfly, "--config", filepath.Join(l.dir, "mayfly.yaml"),
	}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		l.t.Fatalf("%v: %s%s", err, &stdout, &stderr)
	}
	return r, cmd.ProcessState.ExitCode()
}

// expect compares the rows that are neither ok nor skipped.
func expect(t *testing.T, r doctor.Report, want map[string]string) {
	t.Helper()
	found := 0
	for _, row := range r.Rows {
		if row.State == doctor.OK || row.State == doctor.Skipped {
			continue
		}
		if cause, ok := want[row.Check]; !ok || !strings.Contains(row.Cause, cause) {
			t.Errorf("%+v", row)
		}
		found++
	}
	if found != len(want) {
		t.Errorf("%d rows, want %d: %+v", found, len(want), r.Rows)
	}
}

// doctor names the limits of the process, a disk that takes no data, and files that the user may not use; beside a CA
// that runs, it makes the canary run.
func TestDoctor(t *testing.T) {
	t.Parallel()
	l := newAuditLab(t, false)
	file := filepath.Join(l.dir, "mayfly.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l.write("mayfly.yaml", append(text, "state_dir: state\ncanary: {interval: 24h}\n"...))
	if err := os.Mkdir(filepath.Join(l.dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	l.write("identity.yaml", fmt.Appendf(nil,
		"oidc-issuers:\n  %q: {client-id: sigstore, type: email, email-domains: [example.com]}\n", l.provider.URL()))
	l.start()
	r, code := l.doctor("true", nil)
	expect(t, r, nil)
	if last := r.Rows[len(r.Rows)-1]; code != 0 || last.Check != "whole path" || last.State != doctor.OK {
		t.Errorf("status %d, %+v", code, last)
	}
	out, _, code := l.mayfly("doctor", "--config", file)
	for _, want := range []string{"check", "what to do", "key and chain", "the running CA uses them", "1 CA ready"} {
		if !strings.Contains(out, want) || code != 0 {
			t.Errorf("status %d, no %q in %s", code, want, out)
		}
	}
	runs := l.canaryRuns() // one of doctor; the schedule may have made another one
	l.end(syscall.SIGTERM)

	r, code = l.doctor("ulimit -n 300", nil)
	expect(t, r, map[string]string{"file descriptors": "the limit of this process is 300"})
	if code != cli.ExitFound {
		t.Errorf("status %d", code)
	}
	// A limit of the size of files is like a disk without space: there is room for a name, and not for data.
	r, _ = l.doctor("ulimit -f 8", nil)
	expect(t, r, map[string]string{
		"journal": "cannot be written: file too large", "state_dir": "file too large", "embedded log": "file too large",
	})
	r, code = l.doctor("true", nil, "--trial")
	expect(t, r, nil)
	if last := r.Rows[len(r.Rows)-1]; code != 0 || last.State != doctor.OK {
		t.Errorf("trial: status %d, %+v", code, last)
	}
	if out, stderr, code := l.mayfly("audit", "verify", "--config", file); code != 0 ||
		!strings.Contains(out, fmt.Sprintf("%d canary,", runs+1)) {
		t.Errorf("after the trial: status %d, %s%s", code, out, stderr)
	}
	l.asNobody()

	l.write("mayfly.yaml", append(text, "cannary: {}\n"...))
	if _, stderr, code := l.mayfly("doctor", "--config", file); code != cli.ExitUsage ||
		!strings.Contains(stderr, "mayfly.yaml:") || !strings.Contains(stderr, "cannary") {
		t.Errorf("status %d, %s", code, stderr)
	}
	if _, stderr, code := l.mayfly("doctor"); code != cli.ExitUsage ||
		!strings.Contains(stderr, "--config is missing") {
		t.Errorf("status %d, %s", code, stderr)
	}
}

// asNobody runs doctor as a user that owns all files, and may not write to two directories.
func (l *auditLab) asNobody() {
	l.t.Helper()
	if os.Geteuid() != 0 {
		l.t.Log("only root may run a program as another user")
		return
	}
	const nobody = 65534
	for dir := l.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	err := filepath.WalkDir(l.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, nobody, nobody)
	})
	if err != nil {
		l.t.Fatal(err)
	}
	as := &syscall.Credential{Uid: nobody, Gid: nobody}
	r, code := l.doctor("true", as)
	if expect(l.t, r, nil); code != 0 {
		l.t.Errorf("as the owner: status %d", code)
	}
	for _, dir := range []string{"state", "log"} {
		if err := os.Chmod(filepath.Join(l.dir, dir), 0o500); err != nil {
			l.t.Fatal(err)
		}
	}
	r, _ = l.doctor("true", as)
	bad := slices.DeleteFunc(r.Rows, func(r doctor.Row) bool { return r.State != doctor.Problem })
	if len(bad) < 2 || !slices.ContainsFunc(bad, func(r doctor.Row) bool {
		return r.Check == "state_dir" && strings.Contains(r.Cause, "permission denied")
	}) ||
		slices.ContainsFunc(bad,
			func(r doctor.Row) bool { return r.Check != "state_dir" && r.Check != "embedded log" }) {
		l.t.Errorf("read-only directories: %+v", bad)
	}
	if err := os.Chown(filepath.Join(l.dir, "key.pem"), 0, 0); err != nil {
		l.t.Fatal(err)
	}
	r, _ = l.doctor("true", as)
	if !slices.ContainsFunc(r.Rows, func(r doctor.Row) bool {
		return r.Check == "key and chain" && r.State == doctor.Problem && strings.Contains(r.Cause, "permission denied")
	}) {
		l.t.Errorf("a key of another user: %+v", r.Rows)
	}
}
