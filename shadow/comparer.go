package shadow

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Own is the side that the upstream is compared with.
type Own struct {
	// Handler answers a request as the CA would, without a signature.
	Handler http.Handler
	Chain   []*x509.Certificate // issuing certificate first
	Logged  bool                // certificates would have SCTs
	Config  string              // digest of the configuration
}

// The bounds of comparisons.
const (
	maxRequest  = 128 << 10 // bytes of a request that are copied; the own side refuses a request of 64 KiB
	maxAnswer   = 256 << 10 // bytes of an answer that are copied
	ownTimeout  = 25 * time.Second
	reportEvery = time.Second // how often requests that were not compared are recorded
	queueLength = 1 << 17
)

// DefaultQueue is the memory for requests that wait to be compared, in bytes.
const DefaultQueue = 256 << 20

// Processors returns how many comparisons may compute at once: half of the processors, so that the others serve
// clients.
func Processors() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// comparer decides and compares requests beside the path of the answers.
type comparer struct {
	own     atomic.Pointer[Own]
	mayfly  atomic.Bool // the upstream is a mayfly
	store   *Store
	log     *slog.Logger
	metrics *metrics
	show    func(value) string
	key     [32]byte // of digests; it exists only in this process

	asking  atomic.Int64 // callers that wait for an answer
	gate    sync.Mutex   // of the worker that waits for a pause between callers
	limit   int64        // bytes
	waiting atomic.Int64
	queue   chan *exchange
	dropped atomic.Int64
	served  atomic.Int64
}

// newComparer returns a comparer. o has its defaults.
func newComparer(o Options, m *metrics) *comparer {
	c := &comparer{
		store: o.Store, metrics: m, log: o.Logger, limit: o.Queue, queue: make(chan *exchange, queueLength),
	}
	_, _ = rand.Read(c.key[:]) // it never fails
	c.show = func(v value) string {
		if v.open || o.Values {
			return shorten(v.text)
		}
		return c.digest(v.text)
	}
	return c
}

func shorten(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxShown {
		return s[:maxShown] + "…"
	}
	return s
}

// digest returns an HMAC: without the key, nobody can find the value by trying names.
func (c *comparer) digest(text string) string {
	h := hmac.New(sha256.New, c.key[:])
	h.Write([]byte(text))
	return "digest:" + hex.EncodeToString(h.Sum(nil)[:12])
}

// offer takes a copy of an exchange for comparison, or drops it. It never waits.
func (c *comparer) offer(x *exchange) {
	size := x.size()
	if c.waiting.Add(size) <= c.limit {
		select {
		case c.queue <- x:
			c.metrics.waiting.Set(float64(c.waiting.Load()))
			return
		default:
		}
	}
	c.drop(size)
}

// drop counts a request that is not compared, and gives back its memory.
func (c *comparer) drop(size int64) {
	c.waiting.Add(-size)
	c.dropped.Add(1)
	c.metrics.comparisons.WithLabelValues(string(Dropped)).Inc()
}

// tookOver counts a request that the candidate answered.
func (c *comparer) tookOver() {
	c.served.Add(1)
	c.metrics.comparisons.WithLabelValues(string(Served)).Inc()
}

// waitingForKeys is how many comparisons, besides those that compute, may wait for the keys of an identity provider.
const waitingForKeys = 8

// run compares until ctx ends; then it compares what is in the queue, for at most drain.
func (c *comparer) run(ctx context.Context, drain time.Duration) {
	c.record(Record{Time: time.Now().UnixMilli(), Outcome: started, Config: c.own.Load().Config})
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(drain, cancel) })
	var all sync.WaitGroup
	for range Processors() + waitingForKeys {
		all.Go(func() { c.work(ctx, work) })
	}
	all.Go(func() {
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		for {
			c.recordCounts()
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	all.Wait()
	for { // what is left was not compared
		select {
		case x := <-c.queue:
			c.drop(x.size())
			continue
		default:
		}
		break
	}
	c.recordCounts()
}

// work compares one exchange after the other. When ctx has ended, it empties the queue, until work ends.
func (c *comparer) work(ctx, work context.Context) {
	for work.Err() == nil {
		select {
		case x := <-c.queue:
			c.pause()
			c.one(work, x)
			continue
		default:
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case x := <-c.queue:
			c.pause()
			c.one(work, x)
		case <-ctx.Done():
		}
	}
}

// recordCounts writes how many requests were not compared since the last call.
func (c *comparer) recordCounts() {
	now := time.Now().UnixMilli()
	if n := c.dropped.Swap(0); n > 0 {
		c.record(Record{Time: now, Outcome: Dropped, Count: n})
	}
	if n := c.served.Swap(0); n > 0 {
		c.record(Record{Time: now, Outcome: Served, Count: n})
	}
}

func (c *comparer) record(r Record) {
	if err := c.store.Add(r); err != nil {
		c.metrics.records.Inc()
		c.log.Error("a record was not written", "cause", err.Error())
	}
}

// The bounds of [comparer.pause].
const (
	longestPause = 10 * time.Millisecond
	pauseStep    = time.Millisecond
	backlog      = 100 // comparisons that wait; with more of them, no worker pauses
)

// pause waits until no caller waits for an answer, so that a comparison does not compete with them for processors,
// which the upstream on the same machine needs too. It ends soon in any case: otherwise a busy CA would never be
// compared.
func (c *comparer) pause() {
	c.gate.Lock()
	defer c.gate.Unlock()
	for end := time.Now().Add(longestPause); c.asking.Load() > 0 && len(c.queue) < backlog && time.Now().Before(end); {
		time.Sleep(pauseStep)
	}
}

// one compares one exchange and records the outcome.
func (c *comparer) one(ctx context.Context, x *exchange) {
	c.waiting.Add(-x.size())
	c.metrics.waiting.Set(float64(c.waiting.Load()))
	r := Record{Time: x.began.UnixMilli(), API: x.api, Outcome: Panicked}
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("a comparison panicked", "stack", string(debug.Stack()))
		}
		c.metrics.comparisons.WithLabelValues(string(r.Outcome)).Inc()
		for _, d := range r.Differences {
			c.metrics.differences.WithLabelValues(string(d.Kind)).Inc()
		}
		c.record(r)
	}()
	if x.failed {
		r.Outcome = Failed
		return
	}
	r.Outcome, r.Differences = c.compare(ctx, x)
	if len(r.Differences) > 0 {
		if s, _, ok := subjectOf(x.api, x.header, x.body); ok {
			r.Subject = c.digest(s.Issuer + "\x00" + s.Name)
		}
	}
}

// compare decides the request of x and compares the answers.
func (c *comparer) compare(stopped context.Context, x *exchange) (Outcome, []Difference) {
	own := c.own.Load()
	ctx, cancel := context.WithTimeout(stopped, ownTimeout)
	defer cancel()
	w := newRecorder()
	own.Handler.ServeHTTP(w, x.request(ctx))
	decided := time.Now()
	if stopped.Err() != nil {
		return Dropped, nil
	}
	w.finish()
	p := comparison{
		exchange: x, decided: decided, chain: own.Chain, logged: own.Logged, mayfly: c.mayfly.Load(), show: c.show,
		up:  x.answer.read(x.api),
		own: received{w.status, w.head, w.header, w.body.Bytes()}.read(x.api),
	}
	if p.own.reason == fault.TokenExpired && p.up.issued() {
		if _, expires, ok := subjectOf(x.api, x.header, x.body); ok && expires.After(x.began) {
			return Late, nil
		}
	}
	switch all := p.run(); {
	case len(all) == 0:
		return Equal, nil
	case explained(all):
		return Explained, all
	default:
		return Different, all
	}
}

func explained(all []Difference) bool {
	for _, d := range all {
		if len(d.Rows) == 0 {
			return false
		}
	}
	return true
}

// request returns the request of an exchange, for the own side.
func (x *exchange) request(ctx context.Context) *http.Request {
	u, err := url.ParseRequestURI(x.target)
	if err != nil {
		u = &url.URL{Path: "/"}
	}
	r := (&http.Request{
		Method: x.method, URL: u, RequestURI: x.target, Host: x.host, Header: x.header.Clone(), RemoteAddr: x.from,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(x.body)), ContentLength: int64(len(x.body)),
	}).WithContext(ctx)
	if x.api == GRPC {
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	}
	return r
}

// recorder keeps the answer of a handler in memory.
type recorder struct {
	header http.Header // with the trailers, when the handler has returned
	head   http.Header // as it was sent
	status int
	body   bytes.Buffer
}

func newRecorder() *recorder { return &recorder{header: http.Header{}} }

// Header implements [http.ResponseWriter].
func (w *recorder) Header() http.Header { return w.header }

// WriteHeader implements [http.ResponseWriter].
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status, w.head = status, w.header.Clone()
	}
}

// Write implements [http.ResponseWriter]. What exceeds the limit of an answer is not kept.
func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	keep(&w.body, b, maxAnswer)
	return len(b), nil
}

// Flush implements [http.Flusher], which the server of gRPC requires.
func (w *recorder) Flush() { w.WriteHeader(http.StatusOK) }

// finish ends the answer, and gives trailers that were not announced their names.
func (w *recorder) finish() {
	w.WriteHeader(http.StatusOK)
	for k, v := range w.header {
		if name, ok := strings.CutPrefix(k, http.TrailerPrefix); ok {
			w.header[http.CanonicalHeaderKey(name)] = v
		}
	}
}

// keep appends b to a buffer, up to limit bytes in all.
func keep(to *bytes.Buffer, b []byte, limit int) {
	if room := limit - to.Len(); room > 0 {
		to.Write(b[:min(len(b), room)])
	}
}
