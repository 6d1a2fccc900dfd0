package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
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
)

// devProcess is a running "mayfly dev".
type devProcess struct {
	cmd                      *exec.Cmd
	logs                     *lockedBuffer
	url, grpc, issuer, admin string
	printed                  string
}

// launchDev starts "mayfly dev" on free ports in the directory cwd and waits until it has printed its lines.
func launchDev(cwd string, flags ...string) (*devProcess, error) {
	args := append([]string{"dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--idp", "127.0.0.1:0"}, flags...)
	p := &devProcess{cmd: exec.Command("mayfly", args...), logs: &lockedBuffer{}}
	p.cmd.Dir = cwd
	p.cmd.Env = append(os.Environ(), "NO_COLOR=1")
	p.cmd.Stderr = p.logs
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	found := make(map[string]string)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		p.printed += lines.Text() + "\n"
		if f := strings.Fields(lines.Text()); len(f) == 2 {
			found[f[0]] = f[1]
		}
		if strings.Contains(lines.Text(), "Ctrl-C stops") {
			break
		}
	}
	p.url, p.grpc, p.issuer, p.admin = found["REST"], found["gRPC"], found["sign-in"], strings.TrimSuffix(found["readiness"], "/readyz")
	if p.url == "" {
		return nil, fmt.Errorf("mayfly dev printed no addresses: %w; log:\n%s", p.cmd.Wait(), p.logs)
	}
	return p, nil
}

// stop interrupts the process and expects an orderly end within five seconds (two on a machine that does nothing else).
func (p *devProcess) stop() error {
	began := time.Now()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("mayfly dev: %w; log:\n%s", err, p.logs)
	}
	if d := time.Since(began); d > 5*time.Second {
		return fmt.Errorf("mayfly dev took %s to stop", d)
	}
	return nil
}

// lockedBuffer takes a process's log while a test may read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func get(t *testing.T, url string) (int, []byte) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// treeSize is the size in the log's checkpoint (its second line).
func treeSize(t *testing.T, url string) int {
	t.Helper()
	status, body := get(t, url+"/ct/checkpoint")
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

// The readiness page names every dependency.
func TestDevReadiness(t *testing.T) {
	t.Parallel()
	p, err := launchDev(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var status int
	var body []byte
	poll(t, "asked", func() bool { // dependencies are asked once a second
		status, body = get(t, p.admin+"/readyz")
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
	for _, name := range []string{"ca", "ct", "config", "log embedded", "issuer " + p.issuer} {
		if !report.Dependencies[name].OK {
			t.Errorf("dependency %q is not ok in %s", name, body)
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

// A stop, and a kill in the middle of issuing, lose nothing: the next start has the same chain and a log that went on.
func TestDevRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := launchDev(dir)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := os.ReadFile(filepath.Join(dir, ".mayfly-dev", "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second, err := launchDev(dir)
	if err != nil {
		t.Fatal(err)
	}
	issued := issueUntilKilled(t, dir, second)
	third, err := launchDev(dir)
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
	// One entry for each start's own certificate (three) and for each certificate that a client received.
	deadline := time.Now().Add(10 * time.Second)
	want := 3 + issued
	for treeSize(t, third.url) < want && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // the checkpoint follows within its interval; there is nothing to wait on but the clock
	}
	if n := treeSize(t, third.url); n < want {
		t.Errorf("the log has %d entries; %d certificates were handed out", n, want)
	}
	if err := third.stop(); err != nil {
		t.Error(err)
	}
}

// issueUntilKilled issues from several clients, kills the CA under them, and returns how many certificates they received.
func issueUntilKilled(t *testing.T, dir string, p *devProcess) int {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	issued := 0
	for i := range 4 {
		wg.Go(func() {
			for {
				token, err := runIn(dir, "dev", "token", "--email", fmt.Sprintf("user%d@example.com", i))
				if err != nil {
					return
				}
				cmd := exec.Command("mayfly", "request", "--url", p.url, "--trusted-root", ".mayfly-dev/trusted_root.json", "--token-file", "-")
				cmd.Dir, cmd.Stdin = dir, strings.NewReader(token)
				if cmd.Run() != nil {
					return // killed
				}
				mu.Lock()
				issued++
				enough := issued == 8
				mu.Unlock()
				if enough {
					_ = p.cmd.Process.Signal(syscall.SIGKILL)
				}
			}
		})
	}
	wg.Wait()
	_ = p.cmd.Wait() // "signal: killed"
	if issued < 8 {
		t.Fatalf("only %d certificates before the end; log:\n%s", issued, p.logs)
	}
	return issued
}

func runIn(dir string, args ...string) (string, error) {
	cmd := exec.Command("mayfly", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	return string(out), err
}
