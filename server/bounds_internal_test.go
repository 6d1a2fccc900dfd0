package server

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// pipeFrom is a connection from an address.
type pipeFrom struct {
	net.Conn
	from   net.Addr
	closed atomic.Bool
}

func (p *pipeFrom) RemoteAddr() net.Addr { return p.from }
func (p *pipeFrom) Close() error         { p.closed.Store(true); return p.Conn.Close() }

func connect(t *testing.T, c *connections, address string) (*conn, *pipeFrom) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { _ = there.Close() })
	go func() { _, _ = io.Copy(io.Discard, there) }()
	p := &pipeFrom{Conn: here, from: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}}
	return c.admit(p), p
}

func newBounds(most, share int, trust ...string) (*connections, *time.Time) {
	b := bounds{name: "http", most: most, share: share, log: slog.New(slog.DiscardHandler)}
	for _, p := range trust {
		b.trust = append(b.trust, netip.MustParsePrefix(p))
	}
	c, now := newConnections(b), time.Unix(1e9, 0)
	c.now = func() time.Time { return now }
	return c, &now
}

// F3 // F8: one source gets at most its share of the connections. If it has them all, its longest idle connection is
// closed for a new one, never an active one, and a connection with a verified token last.
func TestConnectionsBySource(t *testing.T) {
	t.Parallel()
	c, now := newBounds(10, 3)
	first, p1 := connect(t, c, "192.0.2.1")
	second, p2 := connect(t, c, "192.0.2.1")
	third, p3 := connect(t, c, "192.0.2.1")
	if one, _ := connect(t, c, "192.0.2.1"); one != nil || c.refused[refusedSource].Load() != 1 {
		t.Error("a fourth connection at once")
	}
	if one, _ := connect(t, c, "192.0.2.2"); one == nil {
		t.Error("another source has no room")
	}
	if !strings.Contains(c.warning(), "192.0.2.1") {
		t.Errorf("readiness says %q", c.warning())
	}
	*now = now.Add(2 * time.Second)
	first.begin()             // active
	second.proven.Store(true) // idle, with a verified token
	fourth, p4 := connect(t, c, "192.0.2.1")
	if fourth == nil || p1.closed.Load() || p2.closed.Load() || !p3.closed.Load() || third == nil {
		t.Error("the wrong connection gave way")
	}
	if one, _ := connect(t, c, "192.0.2.1"); one != nil {
		t.Error("a connection that was just made gives way")
	}
	*now = now.Add(time.Minute)
	fourth.begin()
	if one, _ := connect(t, c, "192.0.2.1"); one == nil || !p2.closed.Load() || p4.closed.Load() {
		t.Error("a proven connection that has waited for long does not give way")
	}
	first.end()
	_ = first.Close()
	_ = first.Close() // a second Close has no effect
	if c.count() != 3 {
		t.Errorf("%d are open", c.count())
	}
	*now = now.Add(2 * time.Minute)
	if c.warning() != "" {
		t.Errorf("much later: %q", c.warning())
	}
}

// F3 // F8: a full listener closes a connection of the source that has the most; trusted proxies have no limit by
// source.
func TestConnectionsFull(t *testing.T) {
	t.Parallel()
	c, now := newBounds(6, 5, "10.0.0.0/8")
	for range 5 {
		connect(t, c, "10.0.0.1")
	}
	connect(t, c, "192.0.2.2")
	if one, _ := connect(t, c, "192.0.2.3"); one != nil || c.refused[refusedFull].Load() != 1 {
		t.Error("a seventh connection at once")
	}
	*now = now.Add(2 * time.Second)
	if one, _ := connect(t, c, "192.0.2.3"); one == nil ||
		len(c.open[admission.SourceOf(netip.MustParseAddr("10.0.0.1"))]) != 4 ||
		c.evicted.Load() != 1 {
		t.Error("the largest source does not give way")
	}
	c, _ = newBounds(6, 2, "10.0.0.0/8")
	for range 6 {
		if one, _ := connect(t, c, "10.0.0.1"); one == nil {
			t.Error("a proxy has a limit by source")
		}
	}
}

// F3: a connection over which much is received without a complete request is closed. A source that does so repeatedly
// is blocked and loses its open connections, except those with a verified token.
func TestFloods(t *testing.T) {
	t.Parallel()
	c, now := newBounds(1000, 500)
	idle, pi := connect(t, c, "192.0.2.1")
	proven, pp := connect(t, c, "192.0.2.1")
	proven.proven.Store(true)
	other, po := connect(t, c, "192.0.2.2")
	if idle == nil || other == nil {
		t.Fatal("no room")
	}
	flood := func(address string, requests bool) bool {
		here, there := net.Pipe()
		p := &pipeFrom{Conn: here, from: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}}
		one := c.admit(p)
		if one == nil {
			return false
		}
		go func() {
			data := make([]byte, 1<<16)
			for range 2 * floodBytes / len(data) {
				if _, err := there.Write(data); err != nil {
					return
				}
			}
			_ = there.Close()
		}()
		buf := make([]byte, 1<<16)
		for {
			if _, err := one.Read(buf); err != nil {
				break
			}
			if requests {
				one.begin()
				one.end()
			}
		}
		return p.closed.Load()
	}
	if flood("192.0.2.3", true) {
		t.Error("a connection with requests is a flood")
	}
	for i := range floodsAllowed {
		if !flood("192.0.2.1", false) {
			t.Fatalf("flood %d was not ended", i)
		}
	}
	if !pi.closed.Load() || pp.closed.Load() || po.closed.Load() {
		t.Error("the wrong connections are closed with the floods")
	}
	if one, _ := connect(t, c, "192.0.2.1"); one != nil {
		t.Error("a source that floods is let in")
	}
	if one, _ := connect(t, c, "192.0.2.2"); one == nil {
		t.Error("another source is not")
	}
	*now = now.Add(blockTime + time.Second)
	if one, _ := connect(t, c, "192.0.2.1"); one == nil {
		t.Error("a source that has stayed away is not let in")
	}
}
