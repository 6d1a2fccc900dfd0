package server

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// connections bounds the open connections of one listener, in total and by source address. A connection waits while no
// request that came in over it is being worked on: it is idle, or a request is still being received. When there is no
// room for a new connection, the one that has waited longest is closed in its favour: one of the same source when the
// source has all that it may have, one of the source that has most when the listener is full. Connections over which no
// token was ever verified go first.
type connections struct {
	bounds
	now func() time.Time

	mu       sync.Mutex
	open     map[admission.Source]map[*conn]struct{}
	n        int
	evicting map[admission.Source]time.Time // the last eviction by a source
	floods   map[admission.Source]*floods

	refused [2]atomic.Uint64 // by cause
	evicted atomic.Uint64
	flooded atomic.Uint64
	lastly  atomic.Int64 // when a connection was last refused, in Unix nanoseconds
	told    atomic.Int64 // when the log last spoke of it
	untold  atomic.Int64 // refused since
	where   atomic.Pointer[string]
}

// bounds of the connections of one listener, for [newConnections].
type bounds struct {
	name  string            // http, grpc or admin
	most  int               // connections that are open at once
	share int               // of them, of one source; 0: no such limit
	write time.Duration     // for the peer to read what was written; 0: somebody else bounds that
	trust admission.Proxies // proxies, which have connections for many clients: no limit by source
	log   *slog.Logger
}

func newConnections(b bounds) *connections {
	return &connections{
		bounds: b, now: time.Now, open: map[admission.Source]map[*conn]struct{}{},
		evicting: map[admission.Source]time.Time{}, floods: map[admission.Source]*floods{},
	}
}

// Causes of a refused connection: indexes of connections.refused, and names in metrics.
const (
	refusedSource = iota
	refusedFull
)

var refusalCauses = [2]string{"source_limit", "listener_full"}

// floods are the connections of a source that were closed because they flooded the server.
type floods struct {
	count int
	since time.Time
	until time.Time // no connection of the source is taken before
}

const (
	evictAfter = time.Second           // a connection that waits for less is not closed for another one
	keepProven = 30 * time.Second      // the same for a connection over which a token was verified
	evictPace  = 10 * time.Millisecond // between two evictions by one source
	tellEvery  = 10 * time.Second
	visibleFor = time.Minute // how long readiness speaks of connections that were refused
	// connections of one source that flood the server, in a window, before it has to stay away
	floodsAllowed = 8
	stayAway      = 10 * time.Second // so long
	floodWindow   = time.Minute
	maxTurnedAway = 16 // streams in a row that are refused over one connection before it is closed
	// received in a window without one complete request: 256 streams with 16 KiB each are not a flood
	floodBytes = 4 << 20
)

// listen returns l with the bounds of c.
func (c *connections) listen(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, all: c}
}

type boundedListener struct {
	net.Listener
	all *connections
}

// Accept implements [net.Listener]. A connection that is refused is closed and never seen by the caller.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.all.admit(raw); c != nil {
			return c, nil
		}
		_ = raw.Close() // nothing was sent
	}
}

// conn is one open connection.
type conn struct {
	net.Conn
	all    *connections
	peer   netip.Addr
	source admission.Source // of peer, for limits
	remote remoteAddr

	working atomic.Int32 // requests over it that are being worked on
	since   atomic.Int64 // when it began to wait, in Unix nanoseconds
	proven  atomic.Bool  // a token that came over it was verified
	once    sync.Once

	window atomic.Int64 // when the window for floods began, in Unix nanoseconds
	silent atomic.Int64 // bytes received in the window since the last complete request
	armed  atomic.Int64 // when the deadline for writing was set

	refusedStreams atomic.Int32 // streams over it that were refused since the last complete request
}

// remoteAddr is the peer of a connection. It leads from a request over native gRPC to its connection: the peer is all
// that the library shows of one.
type remoteAddr struct {
	net.Addr
	conn *conn
}

// RemoteAddr implements [net.Conn].
func (c *conn) RemoteAddr() net.Addr { return &c.remote }

// admit returns the connection if there is room for it, or nil.
func (c *connections) admit(raw net.Conn) *conn {
	peer := admission.AddressOf(raw.RemoteAddr())
	one := &conn{Conn: raw, all: c, peer: peer, source: admission.SourceOf(peer)}
	one.remote = remoteAddr{raw.RemoteAddr(), one}
	now := c.now()
	one.since.Store(now.UnixNano())
	one.window.Store(now.UnixNano())
	limited := c.share > 0 && !c.trust.Has(peer)

	c.mu.Lock()
	cause, victim := -1, (*conn)(nil)
	switch {
	case limited && c.away(one.source, now):
		cause = refusedSource
	case limited && len(c.open[one.source]) >= c.share:
		cause, victim = refusedSource, c.victim(one.source, one.source, now)
	case c.n >= c.most:
		cause, victim = refusedFull, c.victim(one.source, c.largest(), now)
	}
	if cause >= 0 && victim == nil {
		c.mu.Unlock()
		c.refuse(cause, peer, now)
		return nil
	}
	if victim != nil {
		c.drop(victim)
	}
	if c.open[one.source] == nil {
		c.open[one.source] = map[*conn]struct{}{}
	}
	c.open[one.source][one] = struct{}{}
	c.n++
	c.mu.Unlock()
	if victim != nil {
		c.evicted.Add(1)
		c.speak(cause, peer, now)
		_ = victim.Close() // it waited; its client connects again
	}
	return one
}

// away reports whether a source has to stay away, because its connections flooded the server. It needs mu.
func (c *connections) away(source admission.Source, now time.Time) bool {
	f := c.floods[source]
	return f != nil && now.Before(f.until)
}

// flood closes a connection over which the server was flooded. When a source does that again and again, its other
// connections are closed, too, unless a token that came over them was verified, and it is not let in for a while:
// closing costs the server more than connecting costs the client.
func (c *connections) flood(one *conn) {
	c.flooded.Add(1)
	now := c.now()
	var closing []*conn
	c.mu.Lock()
	if c.share > 0 && !c.trust.Has(one.peer) {
		f := c.floods[one.source]
		if f == nil || now.Sub(f.since) > floodWindow {
			if len(c.floods) >= maxFloods {
				clear(c.floods)
			}
			f = &floods{since: now}
			c.floods[one.source] = f
		}
		if f.count++; f.count >= floodsAllowed && now.After(f.until) {
			f.until = now.Add(stayAway)
			for other := range c.open[one.source] {
				if !other.proven.Load() && other != one {
					closing = append(closing, other)
				}
			}
		}
	}
	c.mu.Unlock()
	c.speak(refusedSource, one.peer, now)
	_ = one.Close()
	for _, other := range closing {
		_ = other.Close()
	}
}

// maxFloods is how many sources that flooded the server are remembered.
const maxFloods = 4096

// largest is the source with most connections. It needs mu.
func (c *connections) largest() (out admission.Source) {
	most := 0
	for key, all := range c.open {
		if len(all) > most {
			out, most = key, len(all)
		}
	}
	return out
}

// victim chooses the connection of a source that is closed in favour of one by another, or nil. It needs mu.
func (c *connections) victim(by, of admission.Source, now time.Time) *conn {
	if last, ok := c.evicting[by]; ok && now.Sub(last) < evictPace {
		return nil
	}
	var out *conn
	for one := range c.open[of] {
		if one.working.Load() > 0 {
			continue
		}
		proven, waited := one.proven.Load(), now.Sub(time.Unix(0, one.since.Load()))
		if waited < evictAfter || proven && waited < keepProven {
			continue
		}
		if out == nil || out.proven.Load() && !proven ||
			out.proven.Load() == proven && one.since.Load() < out.since.Load() {
			out = one
		}
	}
	if len(c.evicting) > 1024 { // entries only matter for milliseconds
		clear(c.evicting)
	}
	c.evicting[by] = now
	return out
}

// drop forgets a connection. It needs mu.
func (c *connections) drop(one *conn) {
	all := c.open[one.source]
	if _, ok := all[one]; !ok {
		return
	}
	delete(all, one)
	if len(all) == 0 {
		delete(c.open, one.source)
	}
	c.n--
}

func (c *connections) refuse(cause int, peer netip.Addr, now time.Time) {
	c.refused[cause].Add(1)
	c.speak(cause, peer, now)
}

// speak notes, for the log and for readiness, that there was no room for a connection.
func (c *connections) speak(cause int, peer netip.Addr, now time.Time) {
	c.lastly.Store(now.UnixNano())
	c.untold.Add(1)
	last := c.told.Load()
	if now.UnixNano()-last < int64(tellEvery) || !c.told.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	text := "all connections of the listener are taken"
	if cause == refusedSource {
		text = "one source has as many connections as it may have, or floods the server: " + peer.String()
	}
	c.where.Store(&text)
	c.log.Warn("no room for connections: refused, or an idle one closed for each", "listener", c.name, "cause",
		refusalCauses[cause], "source", peer.String(),
		"count", c.untold.Swap(0), "open", c.count(), "limit", c.most, "limit_per_source", c.share)
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// warning is what readiness says of the listener; "" is nothing.
func (c *connections) warning() string {
	if last := c.lastly.Load(); last == 0 || c.now().Sub(time.Unix(0, last)) > visibleFor {
		return ""
	}
	if text := c.where.Load(); text != nil {
		return "listener " + c.name + ": " + *text
	}
	return ""
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.once.Do(func() {
		c.all.mu.Lock()
		defer c.all.mu.Unlock()
		c.all.drop(c)
	})
	return c.Conn.Close()
}

// Read implements [net.Conn]. It ends a connection over which much is received and no request: frames of HTTP/2 that
// cost the server an answer each and no client needs in numbers (PING, SETTINGS, streams that are reset at once).
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if total := c.silent.Add(int64(n)); total > floodBytes {
		now := c.all.now().UnixNano()
		if begun := c.window.Load(); now-begun > int64(floodWindow) {
			c.window.Store(now)
			c.silent.Store(int64(n))
		} else {
			c.all.flood(c)
			return 0, net.ErrClosed
		}
	}
	return n, err
}

// Write implements [net.Conn]. Where the listener bounds it, a write that the peer does not read ends the connection.
// The deadline is set anew when a quarter of it has passed, not for each write.
func (c *conn) Write(p []byte) (int, error) {
	if limit := c.all.write; limit > 0 {
		now := c.all.now()
		if now.UnixNano()-c.armed.Load() > int64(limit/4) {
			c.armed.Store(now.UnixNano())
			_ = c.SetWriteDeadline(now.Add(limit)) // a connection that is closed fails in Write
		}
	}
	return c.Conn.Write(p)
}

// begin notes that a request was received completely and is being worked on.
func (c *conn) begin() {
	if c != nil {
		c.working.Add(1)
		c.silent.Store(0)
		c.refusedStreams.Store(0)
	}
}

// end notes that the work on a request has ended.
func (c *conn) end() {
	if c != nil {
		c.since.Store(c.all.now().UnixNano())
		c.working.Add(-1)
	}
}

type connKey struct{}

// withConn is the ConnContext of HTTP servers.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if one, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, one)
	}
	return ctx
}
