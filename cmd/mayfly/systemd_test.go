package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/testkit/site"
)

// notifications receives what a process tells systemd.
type notifications struct {
	mu  sync.Mutex
	all []string
}

func (n *notifications) listen(t *testing.T, path string) {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buffer := make([]byte, 4096)
		for {
			size, err := c.Read(buffer)
			if err != nil {
				return // closed
			}
			n.mu.Lock()
			n.all = append(n.all, string(buffer[:size]))
			n.mu.Unlock()
		}
	}()
}

func (n *notifications) count(prefix string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, text := range n.all {
		if strings.HasPrefix(text, prefix) {
			count++
		}
	}
	return count
}

func (n *notifications) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(slices.Clone(n.all), "\n")
}

// systemd opens the socket, and is told of the start, of readiness, of a reload and of the stop. A second process that
// gets the same socket serves the connections that arrived meanwhile.
func TestSystemd(t *testing.T) {
	t.Parallel()
	s := site.New(t, 0)
	provider := idp.New(t, idp.Options{})
	admin := process.FreeAddress(t)
	identity := func(n int) {
		s.Write(t, "identity.yaml", fmt.Appendf(nil,
			"oidc-issuers:\n  %q: {issuer-url: %q, client-id: sigstore, type: email, description: \"%d\"}\n",
			provider.URL(), provider.URL(), n))
	}
	identity(1)
	s.Write(t, "mayfly.yaml", fmt.Appendf(nil, `listen: {http: "systemd:api", grpc: "systemd:api", admin: %q}
identity: {file: identity.yaml}
ca: {file: {chain: chain.pem, key: key.pem}}
ct: {embedded: {dir: log, origin: systemd.test/ct}}
`, admin))
	dir, err := os.MkdirTemp("", "notify") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var told notifications
	told.listen(t, filepath.Join(dir, "s"))
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the test is over
	socket, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close() //nolint:errcheck // the test is over
	logs := &logbuf.Buffer{}
	serve := func(names string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec mayfly serve --config "$0"`,
			filepath.Join(s.Dir, "mayfly.yaml"))
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "s"), "WATCHDOG_USEC=200000",
			"LISTEN_FDS=1", "LISTEN_FDNAMES="+names)
		cmd.ExtraFiles, cmd.Stderr = []*os.File{socket}, logs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	url := "http://" + l.Addr().String() + "/api/v2/trustBundle"
	get := func() int {
		c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := c.Get(url)
		if err != nil {
			return 0
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	first := serve("api")
	process.Poll(t, "started", func() bool { return told.count("READY=1") == 1 })
	process.Poll(t, "ready", func() bool { return told.count("STATUS=ready") == 1 })
	process.Poll(t, "the watchdog is fed", func() bool { return told.count("WATCHDOG=1") > 2 })
	if get() != http.StatusOK {
		t.Errorf("the socket does not answer\n%s", logs)
	}
	identity(2)
	process.Poll(t, "reloaded", func() bool {
		return told.count("RELOADING=1\nMONOTONIC_USEC=") > 0 && told.count("READY=1") > 1
	})

	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("%v\n%s", err, logs)
	}
	if told.count("STOPPING=1") != 1 {
		t.Errorf("systemd is not told of the stop:\n%s", &told)
	}
	waiting := make(chan int, 1)
	go func() { waiting <- get() }() // while no process accepts connections
	time.Sleep(100 * time.Millisecond)
	second := serve("api")
	if status := <-waiting; status != http.StatusOK && status != http.StatusServiceUnavailable {
		t.Errorf("a connection from between two processes gets %d\n%s", status, logs)
	}
	process.Poll(t, "the second process serves", func() bool { return get() == http.StatusOK })
	_ = second.Process.Signal(syscall.SIGTERM)
	_ = second.Wait()

	other := serve("other")
	if err := other.Wait(); err == nil || !strings.Contains(logs.String(), `no stream socket with the name \"api\"`) &&
		!strings.Contains(logs.String(), `no stream socket with the name "api"`) {
		t.Errorf("%v\n%s", err, logs)
	}
}
