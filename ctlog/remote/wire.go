package ctlog

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

// wire posts precertificates over plain HTTP/1.1 (RFC 9112): to a log on this host, or behind a proxy beside us that speaks TLS. The
// goroutine that asks writes and reads by itself, where the transport of the library hands every request to two others and
// back: a tenth of what a certificate costs. The library reads the answers. What it does not do, the transport does: TLS,
// HTTP/2, proxies.
type wire struct {
	address string // host:port
	head    string // of every request, up to the length of its body
	dialer  *net.Dialer
	places  chan struct{} // one for each connection that may be in use

	mu     sync.Mutex
	closed bool
	idle   []*line     // the last one was used last
	reaper *time.Timer // runs while there are idle ones
}

// line is one connection; one request has it at a time.
type line struct {
	conn  net.Conn
	in    *bufio.Reader // reads from the line itself, which counts
	left  int           // bytes that may still be read of this answer
	out   []byte        // buffer of the request
	since time.Time     // when it became idle
}

const (
	idleTime    = 30 * time.Second // after which a connection is closed
	maxFraming  = 4 << 10          // bytes around the parts of a body that comes in chunks
	maxInterims = 6                // answers, of which all but the last are 1xx
)

// newWire returns nil if u is not for it.
func newWire(u *url.URL, n names, dialer *net.Dialer) *wire {
	if u.Scheme != "http" || slices.ContainsFunc([]byte(u.Host), func(b byte) bool { return b >= 0x80 }) {
		return nil
	}
	w := &wire{address: u.Host, dialer: dialer, places: make(chan struct{}, maxConns)}
	if u.Port() == "" {
		w.address = net.JoinHostPort(u.Hostname(), "80")
	}
	w.head = "POST " + u.RequestURI() + " HTTP/1.1\r\nHost: " + n.host + "\r\n"
	if n.agent != "" {
		w.head += "User-Agent: " + n.agent + "\r\n"
	}
	w.head += "Content-Type: application/json\r\nContent-Length: "
	return w
}

// post implements poster. A request that was written is not written again: whether to ask again is the set's to say.
func (w *wire) post(ctx context.Context, p *tbs.Precertificate) (reply, error) {
	select {
	case w.places <- struct{}{}:
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
	defer func() { <-w.places }()
	l := w.take()
	if l == nil {
		conn, err := w.dialer.DialContext(ctx, "tcp", w.address)
		if err != nil {
			return reply{}, overtaken(ctx, err)
		}
		l = &line{conn: conn}
		l.in = bufio.NewReader(l)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })
	answer, again, err := l.ask(w.head, p)
	if !stop() || err != nil || !again {
		_ = l.conn.Close() // nothing that could be lost
		return answer, overtaken(ctx, err)
	}
	w.give(l)
	return answer, nil
}

// overtaken is err, or the end of ctx if that is what it comes from.
func overtaken(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// ask writes the request and reads the answer. It says whether another request may follow on the connection.
func (l *line) ask(head string, p *tbs.Precertificate) (answer reply, again bool, err error) {
	l.left = answerLimit
	l.out = append(l.out[:0], head...)
	l.out = strconv.AppendInt(l.out, int64(chainLen(p)), 10)
	l.out = appendChain(append(l.out, "\r\n\r\n"...), p)
	if _, err := l.conn.Write(l.out); err != nil {
		return reply{}, false, err
	}
	for range maxInterims {
		rsp, err := http.ReadResponse(l.in, nil) //nolint:bodyclose // readReply closes it
		if err != nil {
			return reply{}, false, err
		}
		final := rsp.StatusCode >= http.StatusOK
		if final || rsp.StatusCode == http.StatusSwitchingProtocols {
			answer, err = readReply(rsp, maxSCTBody)
			return answer, err == nil && final && !rsp.Close && l.in.Buffered() == 0, err
		}
	}
	return reply{}, false, errors.New("too many interim answers")
}

// answerLimit is how many bytes are read of an answer, head and all.
const answerLimit = maxHeader + maxSCTBody + maxFraming

// Read implements [io.Reader] for the buffer of l.
func (l *line) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, &http.MaxBytesError{Limit: answerLimit}
	}
	n, err := l.conn.Read(b[:min(len(b), l.left)])
	l.left -= n
	return n, err
}

// take returns the connection that was used last, or nil. One that has something to say before it is asked is not used: the log has
// closed it, or would have its next answer taken for another's.
func (w *wire) take() *line {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := len(w.idle); n > 0; n-- {
		l := w.idle[n-1]
		w.idle[n-1] = nil
		w.idle = w.idle[:n-1]
		if silent(l.conn) {
			return l
		}
		_ = l.conn.Close() // nothing that could be lost
	}
	return nil
}

// give keeps l for another request.
func (w *wire) give(l *line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		_ = l.conn.Close() // nothing that could be lost
		return
	}
	l.since = time.Now()
	w.idle = append(w.idle, l)
	if w.reaper == nil {
		w.reaper = time.AfterFunc(idleTime, func() { w.reap(time.Now().Add(-idleTime)) })
	}
}

// reap closes the connections that have been idle since before then.
func (w *wire) reap(then time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.idle) && !w.idle[n].since.After(then) {
		_ = w.idle[n].conn.Close() // nothing that could be lost
		n++
	}
	w.idle = slices.Delete(w.idle, 0, n)
	if w.reaper != nil && len(w.idle) > 0 {
		w.reaper.Reset(time.Until(w.idle[0].since.Add(idleTime)))
		return
	}
	w.reaper = nil
}

// close closes what is idle now, and what is in use when it has been used.
func (w *wire) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.reap(time.Now())
}
