package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/backup"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// initialised is an instance that "mayfly init" has made.
type initialised struct {
	t        *testing.T
	dir      string
	provider *idp.Provider
	token    string // the path of a token
	http     string
	admin    string
}

// newInitialised makes an instance by the two commands.
func newInitialised(t *testing.T) *initialised {
	t.Helper()
	i := &initialised{
		t: t, dir: filepath.Join(t.TempDir(), "server"), provider: idp.New(t, idp.Options{}),
		http: process.FreeAddress(t), admin: process.FreeAddress(t), token: filepath.Join(t.TempDir(), "token"),
	}
	if err := os.WriteFile(i.token, []byte(i.provider.Token(nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	i.must("init", i.dir, "--url", "http://"+i.http, "--admin", i.admin, "--organization", "Example", "--issuer",
		i.provider.URL(), "--no-password")
	i.must("ca", "init", "--dir", filepath.Join(i.dir, "ca"), "--organization", "Example", "--no-password")
	return i
}

// must runs a command that must succeed.
func (i *initialised) must(args ...string) (stdout string) {
	i.t.Helper()
	status, out, errs := command(i.t, args...)
	if status != 0 {
		i.t.Fatalf("%v: %d\n%s%s", args, status, out, errs)
	}
	return out
}

// serve starts the server with the configuration in a directory.
func (i *initialised) serve(dir string) *process.Server {
	i.t.Helper()
	return process.Start(i.t, process.Existing{Dir: dir, HTTP: i.http, Admin: i.admin})
}

// config returns the path of the configuration in a directory.
func configIn(dir string) string { return filepath.Join(dir, "mayfly.yaml") }

// trust exports the trusted root of the configuration in a directory, and returns its path.
func (i *initialised) trust(dir string) string {
	i.t.Helper()
	i.must("trust", "export", "--config", configIn(dir), "--url", "http://"+i.http, "--out",
		filepath.Join(dir, "trust"))
	return filepath.Join(dir, "trust", "trusted_root.json")
}

// request requests a certificate and verifies it with a trusted root.
func (i *initialised) request(out, trustedRoot string) error {
	args := []string{
		"request", "--url", "http://" + i.http, "--token-file", i.token, "--out", out,
		"--trusted-root", trustedRoot,
	}
	var text, errs bytes.Buffer
	if status := run(context.Background(), args,
		cli.Streams{In: strings.NewReader(""), Out: &text, Err: &errs}); status != 0 {
		return errors.New(errs.String())
	}
	return nil
}

// refused starts the server, and returns its output, if it does not start.
func (i *initialised) refused(dir string) string {
	i.t.Helper()
	out, err := exec.Command("mayfly", "serve", "--config", configIn(dir)).CombinedOutput()
	if err == nil {
		i.t.Fatal("the server started and ended")
	}
	return string(out)
}

// The drill: backups are made while certificates are issued, the server is killed, and the newest backup is restored on
// another machine. There the server refuses to continue the log, until the log is closed and a new one takes over.
// Every certificate that was issued before still verifies, the journal and both logs are intact, and certificates are
// issued.
func TestBackupDrill(t *testing.T) {
	t.Parallel()
	i := newInitialised(t)
	s := i.serve(i.dir)
	work, root := t.TempDir(), i.trust(i.dir)
	stop := make(chan struct{})
	var callers sync.WaitGroup
	var issued atomic.Int64
	for c := range 4 {
		callers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := i.request(filepath.Join(work, fmt.Sprintf("before-%d-%d.pem", c, n)), root); err != nil {
					t.Error(err)
					return
				}
				issued.Add(1)
			}
		})
	}
	archive := ""
	for n := range 4 {
		before := issued.Load()
		archive = filepath.Join(work, fmt.Sprintf("backup-%d.tar", n))
		var m backup.Manifest
		if err := json.Unmarshal([]byte(i.must("backup", "--config", configIn(i.dir), "--out", archive, "--json")),
			&m); err != nil {
			t.Fatal(err)
		}
		if size := m.Logs[0].Shards[0].Size; int64(size) < before || m.Journal.Seq < 2*uint64(before) {
			t.Errorf("%d entries and %d records after %d certificates", size, m.Journal.Seq, before)
		}
		process.Poll(t, "issuing", func() bool { return issued.Load() > before })
	}
	close(stop)
	callers.Wait()
	if err := s.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.Cmd.Wait() // it was killed

	to := filepath.Join(t.TempDir(), "restored")
	out := i.must("restore", "--from", archive, "--to", to)
	if !strings.Contains(out, "mayfly log rotate --config "+configIn(to)+" --restored --yes") {
		t.Error(out)
	}
	if out := i.refused(to); !strings.Contains(out, "the log was restored from a backup of") {
		t.Error(out)
	}
	if out, err := process.Mayfly(to, "log", "rotate", "--config", configIn(to), "--restored"); err == nil {
		t.Error("the log was closed without --yes", out)
	}
	if out, err := process.Mayfly(to, "log", "rotate", "--config", configIn(to), "--restored", "--yes"); err != nil {
		t.Fatal(err, out)
	}
	i.serve(to)
	root = i.trust(to)
	if err := i.request(filepath.Join(work, "after.pem"), root); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(work, "*.pem"))
	if err != nil || int64(len(all)) < 2*issued.Load()+2 {
		t.Fatal(len(all), err)
	}
	for _, name := range all {
		if strings.HasSuffix(name, ".key.pem") {
			continue
		}
		if status, out, errs := command(t, "inspect", name, "--trusted-root", root); status != 0 {
			t.Errorf("%s: %s%s", name, out, errs)
		}
	}
	i.must("log", "fsck", "--config", configIn(to))
	i.must("audit", "verify", "--config", configIn(to))
	i.must("audit", "reconcile", "--config", configIn(to))
	if out, err := process.Mayfly(to, "log", "rotate", "--config", configIn(to), "--restored", "--yes"); err == nil {
		t.Error("a log that was not restored was closed", out)
	}
}

// A final backup moves an instance: where it is restored the log continues with the same key, and the original does not
// start again.
func TestBackupFinal(t *testing.T) {
	t.Parallel()
	i := newInitialised(t)
	s := i.serve(i.dir)
	if err := i.request(filepath.Join(i.dir, "first.pem"), i.trust(i.dir)); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "final.tar")
	args := []string{"backup", "--config", configIn(i.dir), "--out", archive, "--final"}
	if status, _, errs := command(t, args...); status != cli.ExitUsage ||
		!strings.Contains(errs, "stop it first") || there(archive) {
		t.Fatal(status, errs)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	i.must(args...)
	if status, _, errs := command(t, args...); status != cli.ExitFailed ||
		!strings.Contains(errs, "never overwritten") {
		t.Error(status, errs)
	}
	if out := i.refused(i.dir); !strings.Contains(out, "the log was moved by the backup") {
		t.Error(out)
	}
	to := filepath.Join(t.TempDir(), "moved")
	i.must("restore", "--from", archive, "--to", to)
	i.serve(to)
	root := i.trust(to)
	if err := i.request(filepath.Join(to, "second.pem"), root); err != nil {
		t.Fatal(err)
	}
	i.must("inspect", filepath.Join(i.dir, "first.pem"), "--trusted-root", root)
	i.must("log", "fsck", "--config", configIn(to))
	i.must("audit", "reconcile", "--config", configIn(to))
	if out := i.must("log", "stats", "--config", configIn(to)); !strings.Contains(out, "2") {
		t.Error(out)
	}
}

// Standard output and input: an archive can be encrypted on its way.
func TestBackupStream(t *testing.T) {
	t.Parallel()
	i := newInitialised(t)
	archive := i.must("backup", "--config", configIn(i.dir), "--out", "-")
	to := filepath.Join(t.TempDir(), "restored")
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"restore", "--from", "-", "--to", to, "--json"}, cli.Streams{
		In: strings.NewReader(archive), Out: &out, Err: &errs,
	}); status != 0 {
		t.Fatal(errs.String())
	}
	i.must("config", "check", "--config", configIn(to))
	for want, args := range map[string]string{
		"--config is missing":          "backup --out x",
		"--out is missing":             "backup --config x",
		"--final needs a file":         "backup --config x --out - --final",
		"--json and --out - both":      "backup --config x --out - --json",
		"--from and --to are required": "restore --from x",
		"no-such.yaml: cannot be read": "backup --config no-such.yaml --out x",
	} {
		if status, _, errs := command(t, strings.Fields(args)...); status != cli.ExitUsage ||
			!strings.Contains(errs, want) {
			t.Errorf("%s: %d %s", args, status, errs)
		}
	}
}
