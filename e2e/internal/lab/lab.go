// Package lab is the environment of one end-to-end test: a folder, free ports, processes, keys, an issuer of identity
// tokens, real logs, and the real clients.
//
// Nothing here imports the code under test. Programs run with an empty home directory and a proxy that refuses
// connections, so that every request to a public Sigstore service fails; loopback needs no proxy.
//
// Every helper that takes a test ends it on failure. When a test has failed, its folder with all logs, keys and outputs
// is kept and named; otherwise it is removed.
package lab

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/binaries"
)

// MaxWait bounds every wait for an event that takes a second or two on an idle machine.
const MaxWait = 60 * time.Second

// Lab is the environment of one test.
type Lab struct {
	testing.TB
	dir   string
	path  string // PATH of all programs
	ports *ports
	build *binaries.Builder
}

// ports records the ports that were handed out.
type ports struct {
	mu    sync.Mutex
	taken map[int]bool
}

// take reports whether port was free to hand out.
func (p *ports) take(port int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	used := p.taken[port]
	p.taken[port] = true
	return !used
}

// New builds what is missing and makes an empty folder. Programs started in the lab end before the test does.
func New(t testing.TB) *Lab {
	t.Helper()
	return newLab(t, func(ctx context.Context, b *binaries.Builder) ([]string, error) { return b.All(ctx) })
}

// Plain is a lab with the programs of this repository only, named as the folders below cmd.
func Plain(t testing.TB, programs ...string) *Lab {
	t.Helper()
	return newLab(t, func(ctx context.Context, b *binaries.Builder) ([]string, error) {
		for _, p := range programs {
			if err := b.Own(ctx, p); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
}

func newLab(t testing.TB, prepare func(context.Context, *binaries.Builder) (dirs []string, err error)) *Lab {
	t.Helper()
	b, err := binaries.New(".", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := prepare(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	own, err := b.Mayfly(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	runs, err := filepath.Abs(filepath.Join(".cache", "runs"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(runs, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(runs, strings.ReplaceAll(t.Name(), "/", "_")+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("everything that the test left is in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	path := strings.Join(slices.Concat([]string{own}, dirs, []string{os.Getenv("PATH")}), string(os.PathListSeparator))
	l := &Lab{TB: t, dir: dir, path: path, ports: &ports{taken: map[int]bool{}}, build: b}
	l.Mkdir("home")
	return l
}

// Need puts a program that only few tests run on the lab's PATH, building it if it is missing.
func (l *Lab) Need(names ...string) {
	l.Helper()
	for _, name := range names {
		dir, err := l.build.Tool(l.Context(), name)
		if err != nil {
			l.Fatal(err)
		}
		l.path = dir + string(os.PathListSeparator) + l.path
	}
}

// Project installs a folder of e2e/ with its package manager, once, and returns the copy.
func (l *Lab) Project(dir string, install ...string) string {
	l.Helper()
	out, err := l.build.Project(l.Context(), dir, install...)
	if err != nil {
		l.Fatal(err)
	}
	return out
}

// For returns the same lab reporting to t, a subtest.
func (l *Lab) For(t testing.TB) *Lab {
	return &Lab{TB: t, dir: l.dir, path: l.path, ports: l.ports, build: l.build}
}

// Path returns the path of a file of the lab.
func (l *Lab) Path(name ...string) string {
	return filepath.Join(append([]string{l.dir}, name...)...)
}

// Mkdir makes a folder of the lab and returns its path.
func (l *Lab) Mkdir(name ...string) string {
	l.Helper()
	p := l.Path(name...)
	if err := os.MkdirAll(p, 0o755); err != nil {
		l.Fatal(err)
	}
	return p
}

// Write writes a file of the lab and returns its path.
func (l *Lab) Write(name, content string) string {
	l.Helper()
	p := l.Path(name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		l.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		l.Fatal(err)
	}
	return p
}

// Read returns the content of a file.
func (l *Lab) Read(path string) string {
	l.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		l.Fatal(err)
	}
	return string(data)
}

// Address returns a free loopback address. It lies below the ports that the system hands to clients, so that no
// connection of a neighbour takes it before its server starts.
func (l *Lab) Address() string {
	l.Helper()
	for range 200 {
		port := 20000 + rand.IntN(12000)
		if !l.ports.take(port) {
			continue
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		if ln, err := net.Listen("tcp", address); err == nil {
			ln.Close()
			return address
		}
	}
	l.Fatal("no free port")
	return ""
}

// Eventually polls try until it returns nil. what names the awaited condition in the message of a failure.
func (l *Lab) Eventually(what string, try func(ctx context.Context) error) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), MaxWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			l.Fatalf("%s: not within %s: %v", what, MaxWait, err)
		case <-tick.C:
		}
	}
}

// GetOK returns nil when url answers a GET with status 200.
func GetOK(ctx context.Context, url string) error {
	_, err := fetch(ctx, url)
	return err
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.300s", url, resp.Status, body)
	}
	return body, err
}

// Get returns the body of url, which must answer 200.
func (l *Lab) Get(url string) []byte {
	l.Helper()
	body, err := fetch(l.Context(), url)
	if err != nil {
		l.Fatal(err)
	}
	return body
}
