package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/testkit/process"
)

// treeSize returns the tree size in the checkpoint of the log (its second line).
func treeSize(t *testing.T, url string) int {
	t.Helper()
	status, body := process.Get(t, url+"/ct/checkpoint")
	lines := strings.Split(string(body), "\n")
	if status != http.StatusOK || len(lines) < 3 || lines[0] != "mayfly.local/ct" {
		t.Fatalf("checkpoint: status %d, %q", status, body)
	}
	n, err := strconv.Atoi(lines[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The readiness page lists every dependency.
func TestDevReadiness(t *testing.T) {
	t.Parallel()
	p, err := process.Dev(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var status int
	var body []byte
	process.Poll(t, "asked", func() bool { // the checks run once a second
		status, body = process.Get(t, p.Admin+"/readyz")
		return !strings.Contains(string(body), "have not been fetched yet")
	})
	var report struct {
		Ready        bool
		Dependencies map[string]struct{ OK bool }
		Config       struct {
			Generation int
			Digest     string
		}
	}
	if err := json.Unmarshal(body, &report); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if status != http.StatusOK || !report.Ready {
		t.Errorf("status %d, %s", status, body)
	}
	if report.Config.Generation != 1 || len(report.Config.Digest) != 64 {
		t.Errorf("configuration in force: %+v", report.Config)
	}
	for _, name := range []string{"ca", "ct", "config", "log embedded", "issuer " + p.Issuer} {
		if !report.Dependencies[name].OK {
			t.Errorf("dependency %q is not ok in %s", name, body)
		}
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

// No entry is lost by a stop, or by a kill during issuance: the next start has the same chain and continues the log.
func TestDevRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := process.Dev(dir)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := os.ReadFile(filepath.Join(dir, ".mayfly-dev", "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	second, err := process.Dev(dir)
	if err != nil {
		t.Fatal(err)
	}
	issued := issueUntilKilled(t, dir, second)
	third, err := process.Dev(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(filepath.Join(dir, ".mayfly-dev", "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(chain, again) {
		t.Error("the chain changed over a restart")
	}
	// There is an entry for the certificate of each start (three) and for each certificate that a client received.
	deadline := time.Now().Add(10 * time.Second)
	want := 3 + issued
	for treeSize(t, third.URL) < want && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // the checkpoint is published at intervals, so the test can only poll
	}
	if n := treeSize(t, third.URL); n < want {
		t.Errorf("the log has %d entries; %d certificates were handed out", n, want)
	}
	if err := third.Stop(); err != nil {
		t.Error(err)
	}
}

// issueUntilKilled requests certificates with several clients, kills the CA meanwhile, and returns the number of
// received certificates.
func issueUntilKilled(t *testing.T, dir string, p *process.DevProcess) int {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	issued := 0
	for i := range 4 {
		wg.Go(func() {
			for {
				token, err := process.Mayfly(dir, "dev", "token", "--email", fmt.Sprintf("user%d@example.com", i))
				if err != nil {
					return
				}
				cmd := exec.Command("mayfly", "request", "--url", p.URL, "--trusted-root",
					".mayfly-dev/trusted_root.json", "--token-file", "-")
				cmd.Dir, cmd.Stdin = dir, strings.NewReader(token)
				if cmd.Run() != nil {
					return // killed
				}
				mu.Lock()
				issued++
				enough := issued == 8
				mu.Unlock()
				if enough {
					_ = p.Cmd.Process.Signal(syscall.SIGKILL)
				}
			}
		})
	}
	wg.Wait()
	_ = p.Cmd.Wait() // "signal: killed"
	if issued < 8 {
		t.Fatalf("only %d certificates before the end; log:\n%s", issued, p.Logs)
	}
	return issued
}
