package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// connections bounds the open connections of one listener, in total and by source address. A connection is idle while
// the server works on no request of it, even if one is being received. When there is no room for a new connection, the
// longest idle connection is closed: one of the same source if the source has reached its limit, one of the source with
// the most connections if the listener is full. Connections over which no token was ever verified are closed first.
type connections struct {
	bounds
	now func() time.Time

	mu       sync.Mutex
	open     map[admission.Source]map[*conn]struct{}
	n        int
	evicting map[admission.Source]time.Time // time of the last eviction by each source
	floods   map[admission.Source]*floods

	refused     [2]atomic.Uint64 // by cause
	evicted     atomic.Uint64
	flooded     atomic.Uint64
	lastRefusal atomic.Int64 // when a connection was last refused, in Unix nanoseconds
	loggedAt    atomic.Int64 // when the last line was written to the log
	unlogged    atomic.Int64 // refused since that line
	reason      atomic.Pointer[string]
}

// bounds are the options of [newConnections].
type bounds struct {
	name  string            // http, grpc or admin
	most  int               // connections that are open at once
	share int               // of these, from one source; 0: no limit
	write time.Duration     // for the peer to read what was written; 0: another layer has this limit
	age   time.Duration     // after which a client is asked for a new connection; 0: another layer does that
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

// floods counts the connections of a source that were closed because they flooded the server.
type floods struct {
	count int
	since time.Time
	until time.Time // until then, no connection of the source is accepted
}

const (
	evictAfter = time.Second           // a connection that has been idle for less is not closed for another one
	keepProven = 30 * time.Second      // the same for a connection over which a token was verified
	evictEvery = 10 * time.Millisecond // minimum between two evictions by one source
	logEvery   = 10 * time.Second
	visibleFor = time.Minute // how long readiness reports refused connections
	// connections of one source that may flood the server within a window before the source is blocked
	floodsAllowed     = 8
	blockTime         = 10 * time.Second // how long a source is blocked
	floodWindow       = time.Minute
	maxRefusedStreams = 16 // consecutive refused streams after which a connection is closed
	// bytes received in a window without a complete request; 256 streams with 16 KiB each are less
	floodBytes = 4 << 20
)

// listen returns l with the limits of c.
func (c *connections) listen(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, all: c}
}

type boundedListener struct {
	net.Listener
	all *connections
}

// Accept implements [net.Listener]. A refused connection is closed and not returned.
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
	source admission.Source // of the peer, for limits
	remote remoteAddr

	working atomic.Int32 // requests of it that the server works on
	since   atomic.Int64 // when it became idle, in Unix nanoseconds
	proven  atomic.Bool  // a token that was received over it was verified
	once    sync.Once

	window      atomic.Int64 // when the flood window began, in Unix nanoseconds
	unrequested atomic.Int64 // bytes received in the window since the last complete request
	deadlineSet atomic.Int64 // when the write deadline was last set

	refusedStreams atomic.Int32 // consecutive streams that were refused since the last complete request

	retireAt time.Time // when the client is asked for a new connection; zero: never

	handshake  atomic.Int32 // the state of the TLS handshake
	handshakes *handshakes  // set before handshake is
}

// remoteAddr is the address of a connection's peer, with a reference to the connection: with native gRPC, the peer
// address is all that the library reveals of a connection.
type remoteAddr struct {
	net.Addr
	conn *conn
}

// RemoteAddr implements [net.Conn].
func (c *conn) RemoteAddr() net.Addr { return &c.remote }

// admit returns raw as a conn if there is room for it, or nil.
func (c *connections) admit(raw net.Conn) *conn {
	peer := admission.AddressOf(raw.RemoteAddr())
	one := &conn{Conn: raw, all: c, peer: peer, source: admission.SourceOf(peer)}
	one.remote = remoteAddr{raw.RemoteAddr(), one}
	now := c.now()
	if c.age > 0 {
		one.retireAt = now.Add(jittered(c.age))
	}
	one.since.Store(now.UnixNano())
	one.window.Store(now.UnixNano())
	limited := c.share > 0 && !c.trust.Has(peer)

	c.mu.Lock()
	cause, victim := -1, (*conn)(nil)
	switch {
	case limited && c.blocked(one.source, now):
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
		c.report(cause, peer, now)
		_ = victim.Close() // it was idle, and its client can connect again
	}
	return one
}

// jittered returns d plus or minus up to a tenth, so that connections that were opened together are not closed
// together.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1) //nolint:gosec // jitter, no secret
}

// old reports whether the client must open a new connection.
func (c *conn) old() bool { return c != nil && !c.retireAt.IsZero() && c.all.now().After(c.retireAt) }

// blocked reports whether no connection of the source is accepted now, because its connections flooded the server. The
// caller holds mu.
func (c *connections) blocked(source admission.Source, now time.Time) bool {
	f := c.floods[source]
	return f != nil && now.Before(f.until)
}

// flood closes a connection that flooded the server. If the source has done so repeatedly, the source is blocked for a
// while, and its other connections are closed, except those over which a token was verified: closing a connection costs
// the server more than opening one costs the client.
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
			f.until = now.Add(blockTime)
			for other := range c.open[one.source] {
				if !other.proven.Load() && other != one {
					closing = append(closing, other)
				}
			}
		}
	}
	c.mu.Unlock()
	c.report(refusedSource, one.peer, now)
	_ = one.Close()
	for _, other := range closing {
		_ = other.Close()
	}
}

// maxFloods is the number of flooding sources that are stored.
const maxFloods = 4096

// largest returns the source with the most connections. The caller holds mu.
func (c *connections) largest() (out admission.Source) {
	most := 0
	for key, all := range c.open {
		if len(all) > most {
			out, most = key, len(all)
		}
	}
	return out
}

// victim returns the connection of the source from that is closed for a new connection of the source by, or nil. The
// caller holds mu.
func (c *connections) victim(by, from admission.Source, now time.Time) *conn {
	if last, ok := c.evicting[by]; ok && now.Sub(last) < evictEvery {
		return nil
	}
	var out *conn
	for one := range c.open[from] {
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
	if len(c.evicting) > 1024 { // entries matter only for milliseconds
		clear(c.evicting)
	}
	c.evicting[by] = now
	return out
}

// drop removes a connection. The caller holds mu.
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
	c.report(cause, peer, now)
}

// report records, for the log and for readiness, that there was no room for a connection.
func (c *connections) report(cause int, peer netip.Addr, now time.Time) {
	c.lastRefusal.Store(now.UnixNano())
	c.unlogged.Add(1)
	last := c.loggedAt.Load()
	if !passed(last, now.UnixNano(), logEvery) || !c.loggedAt.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	text := "all connections of the listener are taken"
	if cause == refusedSource {
		text = "one source has reached its limit of connections, or floods the server: " + peer.String()
	}
	c.reason.Store(&text)
	c.log.Warn("no room for new connections; they are refused, or an idle connection is closed for each",
		"listener", c.name, "cause", refusalCauses[cause], "source", peer.String(),
		"count", c.unlogged.Swap(0), "open", c.count(), "limit", c.most, "limit_per_source", c.share)
}

// passed reports whether the time d has passed since last, or the clock was set back. Times are in Unix nanoseconds.
func passed(last, now int64, d time.Duration) bool { return now < last || now-last >= int64(d) }

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// warning returns the warning of the listener for readiness; empty if there is none.
func (c *connections) warning() string {
	if last := c.lastRefusal.Load(); last == 0 || c.now().Sub(time.Unix(0, last)) > visibleFor {
		return ""
	}
	if text := c.reason.Load(); text != nil {
		return "listener " + c.name + ": " + *text
	}
	return ""
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.endHandshake(notComputing)
	c.once.Do(func() {
		c.all.mu.Lock()
		defer c.all.mu.Unlock()
		c.all.drop(c)
	})
	return c.Conn.Close()
}

// Read implements [net.Conn]. It closes a connection over which much is received without a complete request: HTTP/2
// frames that each cost the server an answer, and that no client needs in large numbers (PING, SETTINGS, streams that
// are reset at once).
func (c *conn) Read(p []byte) (int, error) {
	c.endHandshake(notComputing)
	n, err := c.Conn.Read(p)
	if err == nil && c.handshake.Load() == retrying {
		err = c.resumeHandshake()
	}
	if total := c.unrequested.Add(int64(n)); total > floodBytes {
		now := c.all.now().UnixNano()
		if begun := c.window.Load(); now-begun > int64(floodWindow) {
			c.window.Store(now)
			c.unrequested.Store(int64(n))
		} else {
			c.all.flood(c)
			return 0, net.ErrClosed
		}
	}
	return n, err
}

// Write implements [net.Conn]. If the listener has a write limit, a write that the peer does not read ends the
// connection. The deadline is renewed after a quarter of it has passed, not for each write.
func (c *conn) Write(p []byte) (int, error) {
	if c.handshake.Load() == computing {
		next := notComputing
		if isHelloRetry(p) {
			next = retrying
		}
		c.endHandshake(next)
	}
	if limit := c.all.write; limit > 0 {
		now := c.all.now()
		if passed(c.deadlineSet.Load(), now.UnixNano(), limit/4) {
			c.deadlineSet.Store(now.UnixNano())
			_ = c.SetWriteDeadline(now.Add(limit)) // on a closed connection, Write fails
		}
	}
	return c.Conn.Write(p)
}

// begin records that a request was received completely and that the work on it begins.
func (c *conn) begin() {
	if c != nil {
		c.working.Add(1)
		c.unrequested.Store(0)
		c.refusedStreams.Store(0)
	}
}

// end records that the work on a request has ended.
func (c *conn) end() {
	if c != nil {
		c.since.Store(c.all.now().UnixNano())
		c.working.Add(-1)
	}
}

type connKey struct{}

// withConn is the ConnContext function of the HTTP servers.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	if one, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, one)
	}
	return ctx
}
