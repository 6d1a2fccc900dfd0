package shared_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/server/shared"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// The tests of this file run against real servers, if MAYFLY_VALKEY names the program valkey-server: make e2e-shared.

// node is a running valkey-server.
type node struct {
	t       *testing.T
	address string
	args    []string
	cmd     *exec.Cmd
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()                     //nolint:errcheck // nothing was written
	return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it listens on TCP
}

// startNode starts a server that stores nothing on disk unless args say so.
func startNode(t *testing.T, args ...string) *node {
	t.Helper()
	if os.Getenv("MAYFLY_VALKEY") == "" {
		t.Skip("MAYFLY_VALKEY does not name a valkey-server; run make e2e-shared")
	}
	port := strconv.Itoa(freePort(t))
	n := &node{t: t, address: "127.0.0.1:" + port, args: append([]string{
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir(), "--daemonize", "no",
	}, args...)}
	n.start()
	return n
}

func (n *node) start() {
	n.t.Helper()
	n.cmd = exec.CommandContext(context.Background(), os.Getenv("MAYFLY_VALKEY"), n.args...) //nolint:gosec // a test
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	p := n.cmd
	n.t.Cleanup(func() {
		_ = p.Process.Kill() // it may have ended
		_ = p.Wait()
	})
	eventually(n.t, "the server listens", func() bool {
		c, err := net.Dial("tcp", n.address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (n *node) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) kill() {
	n.signal(syscall.SIGKILL)
	_ = n.cmd.Wait() // it was killed
}

// do runs a command on the node.
func (n *node) do(args ...string) string {
	n.t.Helper()
	c, err := valkey.NewClient(valkey.ClientOption{
		InitAddress: []string{n.address}, ForceSingleClient: true, DisableCache: true,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	v, err := c.Do(context.Background(), c.B().Arbitrary(args...).Build()).ToAny()
	if err != nil && !valkey.IsValkeyNil(err) {
		n.t.Fatalf("%q: %v", args, err)
	}
	return fmt.Sprint(v)
}

// D20: with a real server: a race, a loss by FLUSHALL and by kill -9 without persistence, and none with persistence.
func TestValkeySingle(t *testing.T) {
	t.Parallel()
	for _, persistent := range []bool{false, true} {
		var args []string
		if persistent {
			args = []string{"--appendonly", "yes", "--appendfsync", "always"}
		}
		n := startNode(t, args...)
		clients := []*client{connect(t, small(n.address)), connect(t, small(n.address)), connect(t, small(n.address))}
		for _, most := range []int{1, 4} {
			if counted, replayed := race(clients, token(most), 300); counted != most || replayed != 300-most {
				t.Errorf("at most %d: %d counted, %d replayed", most, counted, replayed)
			}
		}
		u := token(2)
		clients[0].spend(t, u, uses.Counted)
		u.IssuedAt = time.Now().Add(-time.Second)
		n.kill()
		eventually(t, "the store is found not to answer", func() bool {
			cause, _ := clients[1].Health()
			return cause != ""
		})
		clients[1].spend(t, token(1), uses.Unavailable)
		n.start()
		for _, c := range clients {
			eventually(t, "the store answers again", func() bool { cause, _ := c.Health(); return cause == "" })
		}
		if persistent {
			clients[1].spend(t, u, uses.Unknown) // issued before the first start of the store
			u.IssuedAt = time.Now().Add(time.Hour)
			clients[1].spend(t, u, uses.Counted)
			clients[2].spend(t, u, uses.Replayed)
		} else {
			clients[1].spend(t, u, uses.Unknown)
		}
		n.do("FLUSHALL")
		u.IssuedAt = time.Now().Add(-time.Second)
		clients[2].spend(t, u, uses.Unknown)
		clients[2].spend(t, token(1), uses.Counted)
		r := rate.Config{Rate: 1. / 3600, Burst: 5}
		allowed := 0
		for i := range 20 {
			if wait, err := clients[i%3].Take(t.Context(), r, "identity", "alice"); err != nil {
				t.Error(err)
			} else if wait == 0 {
				allowed++
			}
		}
		if allowed != 5 {
			t.Errorf("%d requests are allowed by a burst of 5", allowed)
		}
	}
}

// D20: a server that restarts from an older file has lost the end of its memory, and the next use of the group notices.
func TestValkeyRollback(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	c, other := connect(t, small(n.address)), connect(t, small(n.address))
	first := token(9)
	c.spend(t, first, uses.Counted)
	n.do("SAVE")
	late := first // of the same group
	late.Key[31] ^= 1
	other.spend(t, late, uses.Counted)
	n.kill()
	n.start()
	eventually(t, "the store answers again", func() bool { cause, _ := other.Health(); return cause == "" })
	late.IssuedAt, first.IssuedAt = time.Now().Add(-time.Second), time.Now().Add(-time.Second)
	for u, c := range map[uses.Use]*client{late: other, first: c} {
		eventually(t, "the use is refused", func() bool { // old connections fail once each
			r, _ := c.Spend(t.Context(), u)
			if r == uses.Counted {
				t.Fatal("a use is counted although the end of the memory is lost")
			}
			return r == uses.Unknown
		})
	}
}

// B4: a server that hangs delays a use no longer than the timeout; afterwards it is used again.
func TestValkeyHangs(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	config := small(n.address)
	config.Timeout = 100 * time.Millisecond
	c := connect(t, config)
	c.spend(t, token(1), uses.Counted)
	n.signal(syscall.SIGSTOP)
	lenient := token(1)
	lenient.IssueUncounted = true
	for range 20 {
		began := time.Now()
		c.spend(t, token(1), uses.Unavailable)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a use took %s", took)
		}
	}
	c.spend(t, lenient, uses.Uncounted)
	c.spend(t, lenient, uses.Replayed)
	n.signal(syscall.SIGCONT)
	eventually(t, "the store answers again", func() bool { cause, _ := c.Health(); return cause == "" })
	c.spend(t, token(1), uses.Counted)
}

// D20: a server that may evict keys, and one that does, is noticed; tokens that may have been evicted are refused.
func TestValkeyEvicts(t *testing.T) {
	t.Parallel()
	n := startNode(t, "--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru")
	c := connect(t, small(n.address))
	eventually(t, "the policy is a warning", func() bool {
		_, warning := c.Health()
		return strings.Contains(warning, "allkeys-lru")
	})
	u := token(2)
	c.spend(t, u, uses.Counted)
	u.IssuedAt = time.Now()
	for i := range 300 {
		n.do("SET", "other:"+strconv.Itoa(i), strings.Repeat("x", 20000))
	}
	eventually(t, "the eviction is noticed", func() bool { return c.Evicted() > 0 })
	if _, warning := c.Health(); !strings.Contains(warning, "has evicted") {
		t.Error(warning)
	}
	c.spend(t, u, uses.Unknown)
	if !strings.Contains(c.log.String(), "evicts keys") {
		t.Error("the eviction is not in the log")
	}
}

// D20: with noeviction, a server without memory refuses, and no use is counted that it does not store.
func TestValkeyFull(t *testing.T) {
	t.Parallel()
	n := startNode(t, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
	c := connect(t, small(n.address))
	u := token(2)
	c.spend(t, u, uses.Counted)
	n.do("CONFIG", "SET", "maxmemory", "1")
	c.spend(t, token(1), uses.Unavailable)
	eventually(t, "the store is found not to count", func() bool { cause, _ := c.Health(); return cause != "" })
	n.do("CONFIG", "SET", "maxmemory", "0")
	eventually(t, "the store counts again", func() bool { cause, _ := c.Health(); return cause == "" })
	c.spend(t, u, uses.Counted)
	c.spend(t, u, uses.Replayed)
	if _, warning := c.Health(); warning != "" {
		t.Error(warning)
	}
}

// C8: the permissions that docs/operations.md names suffice. That the page names them is checked without a Valkey too.
func TestValkeyRights(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	rights := regexp.MustCompile("\\*\\*Permissions\\*\\* of the user in the store: `([^`]+)`").FindSubmatch(page)
	if rights == nil {
		t.Fatal("docs/operations.md names no permissions")
	}
	n := startNode(t)
	n.do(append([]string{"ACL", "SETUSER", "ca", "on", ">right", "~mayfly:*"}, strings.Fields(string(rights[1]))...)...)
	config := small(n.address)
	config.Username, config.Password = "ca", secret.Typed([]byte("right"))
	c := connect(t, config)
	c.spend(t, token(1), uses.Counted)
	if wait, err := c.Take(t.Context(), rate.Config{Rate: 1, Burst: 1}, "x"); wait != 0 || err != nil {
		t.Error(wait, err)
	}
	config.WaitReplicas = new(1)
	strict := connect(t, config)
	_, err = strict.Spend(t.Context(), token(1))
	if err == nil || !strings.Contains(err.Error(), "0 of 1 replicas") {
		t.Error(err)
	}
	if cause, warning := strict.Health(); cause != "" || !strings.Contains(warning, "0 of 1 replicas") {
		t.Errorf("%q, %q", cause, warning)
	}
	log := n.do("ACL", "LOG")
	if log != "[]" {
		t.Errorf("the server has refused: %s", log)
	}
}

// load uses tokens, each a few times at several clients, until stop is closed. It returns how often each token was
// counted.
func load(clients []*client, most int, stop chan struct{}) (counts []int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				u := token(most)
				u.IssuedAt = time.Now().Add(time.Hour) // losses do not refuse the token: only counting bounds its uses
				var counted atomic.Int32
				var one sync.WaitGroup
				for n := range 3 * (most + 1) {
					one.Go(func() {
						if r, _ := clients[n%len(clients)].Spend(context.Background(), u); r == uses.Counted {
							counted.Add(1)
						}
					})
				}
				one.Wait()
				time.Sleep(20 * time.Millisecond)
				for n := range clients { // once more, perhaps after a failover
					if r, _ := clients[n].Spend(context.Background(), u); r == uses.Counted {
						counted.Add(1)
					}
				}
				mu.Lock()
				counts = append(counts, int(counted.Load()))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return counts
}

// failover counts uses under load while something fails. No token may be counted more often than allowed, and most
// tokens must be counted.
func failover(t *testing.T, clients []*client, fail func()) {
	t.Helper()
	stop := make(chan struct{})
	done := make(chan []int)
	const most = 2
	go func() { done <- load(clients, most, stop) }()
	time.Sleep(2 * time.Second)
	fail()
	for i, c := range clients {
		eventually(t, fmt.Sprintf("client %d counts after the failover", i), func() bool {
			r, _ := c.Spend(t.Context(), token(1))
			return r == uses.Counted || r == uses.Unknown
		})
	}
	time.Sleep(2 * time.Second)
	close(stop)
	counts := <-done
	full, more := 0, 0
	for _, n := range counts {
		switch {
		case n == most:
			full++
		case n > most:
			more++
		}
	}
	t.Logf("%d tokens: %d counted in full, %d more often than allowed", len(counts), full, more)
	if more > 0 || full < len(counts)/4 || len(counts) < 20 {
		t.Errorf("of %d tokens, %d are counted in full and %d more often than allowed", len(counts), full, more)
	}
}

// D20: a failover by sentinels under load counts no token more often than allowed, with wait_replicas.
func TestValkeySentinel(t *testing.T) {
	t.Parallel()
	master := startNode(t)
	host, port, _ := net.SplitHostPort(master.address)
	for range 2 {
		startNode(t, "--replicaof", host+" "+port)
	}
	var sentinels []string
	for range 3 {
		file := filepath.Join(t.TempDir(), "sentinel.conf")
		text := "sentinel monitor ca " + host + " " + port + " 2\nsentinel down-after-milliseconds ca 1500\n" +
			"sentinel failover-timeout ca 5000\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		own := strconv.Itoa(freePort(t))
		n := &node{t: t, address: "127.0.0.1:" + own, args: []string{
			file, "--sentinel", "--port", own, "--bind", "127.0.0.1", "--dir", t.TempDir(),
		}}
		n.start()
		sentinels = append(sentinels, n.address)
	}
	eventually(t, "the replicas are connected", func() bool {
		return strings.Count(master.do("INFO", "replication"), "state=online") == 2
	})
	for _, s := range sentinels {
		n := &node{t: t, address: s}
		eventually(t, "the sentinels know each other", func() bool {
			text := n.do("SENTINEL", "MASTER", "ca")
			return strings.Contains(text, "num-other-sentinels:2") && strings.Contains(text, "num-slaves:2")
		})
	}
	config := shared.ValkeyConfig{
		Addresses: sentinels, Mode: "sentinel", MasterSet: "ca", Timeout: time.Second, WaitReplicas: new(1),
	}
	clients := []*client{connect(t, config), connect(t, config), connect(t, config)}
	failover(t, clients, master.kill)
}

// D20: a cluster counts as one server does, and a failover of one of its nodes counts no token more often than allowed.
func TestValkeyCluster(t *testing.T) {
	t.Parallel()
	var nodes []*node
	for range 7 { // three with a replica each, and the first with another
		nodes = append(nodes, startNode(t, "--cluster-enabled", "yes", "--cluster-node-timeout",
			"2000", "--cluster-port",
			strconv.Itoa(freePort(t))))
	}
	const slots = 16384
	for i, n := range nodes[:3] {
		n.do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/3), strconv.Itoa((i+1)*slots/3-1))
		n.do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for _, n := range nodes[1:] {
		host, port, _ := net.SplitHostPort(n.address)
		nodes[0].do("CLUSTER", "MEET", host, port, busPort(n))
	}
	for _, n := range nodes {
		eventually(t, "the nodes know each other", func() bool {
			return strings.Contains(n.do("CLUSTER", "INFO"), "cluster_known_nodes:7")
		})
	}
	for i, n := range nodes[3:] {
		n.do("CLUSTER", "REPLICATE", nodes[i%3].do("CLUSTER", "MYID"))
	}
	for _, n := range nodes {
		eventually(t, "the cluster works", func() bool {
			return strings.Contains(n.do("CLUSTER", "INFO"), "cluster_state:ok")
		})
	}
	for i, n := range nodes[:3] {
		eventually(t, "the replicas are connected", func() bool {
			return strings.Count(n.do("INFO", "replication"), "state=online") == []int{2, 1, 1}[i]
		})
	}
	config := shared.ValkeyConfig{
		Addresses: []string{nodes[0].address, nodes[1].address, nodes[4].address}, Mode: "cluster",
		Timeout:      time.Second,
		WaitReplicas: new(1),
	}
	clients := []*client{connect(t, config), connect(t, config), connect(t, config)}
	for range 20 {
		if counted, replayed := race(clients, token(3), 60); counted != 3 || replayed != 57 {
			t.Errorf("%d counted, %d replayed", counted, replayed)
		}
	}
	if wait, err := clients[0].Take(t.Context(), rate.Config{Rate: 1, Burst: 1}, "x"); wait != 0 || err != nil {
		t.Error(wait, err)
	}
	failover(t, clients, nodes[0].kill)
}

func busPort(n *node) string {
	for i, a := range n.args {
		if a == "--cluster-port" {
			return n.args[i+1]
		}
	}
	n.t.Fatal("no bus port")
	return ""
}
