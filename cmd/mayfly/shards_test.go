package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/tlog"
)

// No request fails during a rotation. A rotation needs no restart, and works while the configuration file is invalid.
func TestRotateUnderLoad(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true,
		More: "audit: {file: journal.jsonl}\n",
	})
	requests := process.Requests(t, provider)
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for i := range 4 {
		call, release := s.Caller(t, i%2 == 0)
		callers.Go(func() {
			defer release()
			for n := i; ; n += 4 {
				select {
				case <-stop:
					return
				default:
				}
				if err := call(requests[n%len(requests)]); err != nil {
					t.Errorf("a request failed during a rotation: %v", err)
					return
				}
			}
		})
	}
	s.Replace(t, "identity.yaml", []byte("oidc-issuers: {broken"))
	s.Until(t, "refused", func() bool { return strings.Contains(s.Logs.String(), "not reloaded") })
	c := embedded.Config{Dir: filepath.Join(s.Dir, "log"), Origin: "mayfly.local/ct"}
	if _, err := c.Log().MakeShard(tlog.Rotation{Name: "next", At: time.Now(), Unpublished: true},
		time.Now()); err != nil {
		t.Fatal(err)
	}
	s.Until(t, "logged in the new shard", func() bool {
		resp, err := http.Get("http://" + s.HTTP + "/ct/next/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		lines := strings.Split(string(text), "\n")
		return err == nil && len(lines) > 2 && lines[0] == "mayfly.local/ct/next" && lines[1] != "0"
	})
	close(stop)
	callers.Wait()
	if _, err := os.Stat(filepath.Join(c.Dir, "shards", "next", "tile")); err != nil {
		t.Error(err)
	}
	lines, err := os.ReadFile(filepath.Join(s.Dir, "journal.jsonl"))
	if err != nil || !strings.Contains(string(lines),
		`"kind":"event","reason":"log-shard-opened","text":"embedded-next (log ID `) {
		t.Errorf("the journal has no record of the new shard: %v", err)
	}
}

// While the disk of the embedded log fails, requests get status 503 with the reason LOG_UNAVAILABLE, and the CA is not
// ready. When the disk works again, the CA continues by itself.
func TestLogStorageFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := process.Dev(dir)
	if err != nil {
		t.Fatal(err)
	}
	mayfly := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "mayfly", args...)
		cmd.Dir = dir
		out, _ := cmd.CombinedOutput() // only the output is checked
		return string(out)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(mayfly("dev", "token", "--email", "alice@example.com")),
		0o600); err != nil {
		t.Fatal(err)
	}
	request := func() string {
		return mayfly("request", "--url", p.URL, "--trusted-root", ".mayfly-dev/trusted_root.json",
			"--token-file", "token")
	}
	ready := func() (int, string) {
		status, page := process.Get(t, p.Admin+"/readyz")
		return status, string(page)
	}
	tiles := filepath.Join(dir, ".mayfly-dev", "ct", "tile")
	if err := errors.Join(os.Rename(tiles, tiles+".away"), os.WriteFile(tiles, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if out := request(); !strings.Contains(out, "LOG_UNAVAILABLE") {
		t.Errorf("the answer is %s", out)
	}
	// the checks run once a second
	process.Poll(t, "not ready", func() bool { status, _ := ready(); return status == http.StatusServiceUnavailable })
	// during repeated attempts
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if status, page := ready(); status != http.StatusServiceUnavailable ||
			!strings.Contains(page, "the storage failed at") {
			t.Fatalf("readiness: %d %s", status, page)
		}
	}
	if err := errors.Join(os.Remove(tiles), os.Rename(tiles+".away", tiles)); err != nil {
		t.Fatal(err)
	}
	// the state of another process can only be polled
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		status, page := ready()
		if status == http.StatusOK && strings.Contains(request(), "alice@example.com") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready again: %d %s", status, page)
		}
	}
	var page []byte
	process.Poll(t, "two entries", func() bool { // the log reads the files once a second
		_, page = process.Get(t, p.Admin+"/metrics")
		return strings.Contains(string(page), `mayfly_embedded_log_tree_entries{log="embedded"} 2`)
	})
	for _, want := range []string{
		`mayfly_embedded_log_entries_total{log="embedded",result="failure"}`,
		`mayfly_embedded_log_tree_entries{log="embedded"} 2`,
		// the old name of the metric
		"# TYPE mayfly_embedded_log_tree_count untyped", `mayfly_embedded_log_tree_count{log="embedded"} 2`,
		`mayfly_embedded_log_checkpoint_age_seconds{log="embedded"}`, `mayfly_embedded_log_shards{state="current"} 1`,
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no metric %s", want)
		}
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}
