package shared

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valkey-io/valkey-go"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// Options for [Open].
type Options struct {
	// Local counts uses in this process while the store does not answer.
	Local *uses.Local
	// Since is when uses are counted in the store: tokens that were issued before may have been used elsewhere. The
	// zero time: the store has always counted.
	Since  time.Time
	Logger *slog.Logger // nil: none
}

// Store counts in a store that several servers share. It is safe for concurrent use.
type Store struct {
	config  ValkeyConfig
	option  valkey.ClientOption
	o       Options
	metrics *metrics
	spends  script
	takes   script
	slots   chan struct{}
	seen    [groups]atomic.Int64 // the highest number of uses of a group that the store has acknowledged
	lost    atomic.Int64         // Unix ns: tokens issued before may have been evicted, or used elsewhere
	breaker breaker

	mu      sync.Mutex
	client  valkey.Client // nil: not connected yet
	closed  bool
	health  watched
	stop    context.CancelFunc
	watches sync.WaitGroup
}

const (
	groups     = 32
	concurrent = 512         // calls at once; further ones wait
	leeway     = time.Minute // how long a use is stored after the expiry of its token
)

// Open checks the files and secrets of a configuration. It makes no connection: see [Store.Start]. Its errors are
// [fault.Setting] values.
func Open(c Config, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		config: *c.Valkey, o: o, slots: make(chan struct{}, concurrent), spends: newScript(spendText),
		takes: newScript(takeText),
	}
	if !o.Since.IsZero() {
		s.lost.Store(o.Since.UnixNano())
	}
	s.metrics = newMetrics(s)
	s.breaker.last = errNotConnected
	tls, err := c.Valkey.TLS.load()
	if err != nil {
		return nil, fault.Under(err, "valkey")
	}
	password, err := c.Valkey.Password.Read()
	if err != nil {
		return nil, fault.Under(err, "valkey", "password")
	}
	sentinelPassword, err := c.Valkey.SentinelPassword.Read()
	if err != nil {
		return nil, fault.Under(err, "valkey", "sentinel_password")
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: dialTimeout}
	s.option = valkey.ClientOption{
		InitAddress: c.Valkey.Addresses, ShuffleInit: true, TLSConfig: tls, Dialer: dialer,
		Username: c.Valkey.Username, Password: string(password), SelectDB: number(c.Valkey.Database),
		ClientName: "mayfly",
		// A repeated call could count a use twice.
		DisableRetry: true, DisableCache: true, ConnWriteTimeout: stalled,
		ReadBufferEachConn: bufferSize, WriteBufferEachConn: bufferSize, BlockingPoolSize: concurrent / 4,
		BlockingPoolCleanup: time.Minute, ForceSingleClient: c.Valkey.mode() == single,
	}
	if c.Valkey.Mode == sentinel {
		s.option.Sentinel = valkey.SentinelOption{
			MasterSet: c.Valkey.MasterSet, Username: c.Valkey.SentinelUsername, Password: string(sentinelPassword),
			TLSConfig: tls, Dialer: dialer, TopologyRefreshInterval: refreshTopology,
		}
	}
	return s, nil
}

const (
	dialTimeout     = time.Second
	stalled         = 2 * time.Second // without an answer, after which a connection is closed
	bufferSize      = 32 << 10
	refreshTopology = 2 * time.Second
)

// Spend counts a use of a token for all servers. Its error is an [*uses.Error], or wraps one.
func (s *Store) Spend(ctx context.Context, u uses.Use) (uses.Result, error) {
	if s.o.Local.Used(u.Key) >= u.Most { // each of these was counted in the store, or would have been
		return uses.Replayed, u.Used()
	}
	if at := s.lost.Load(); at != 0 && !u.IssueUncounted {
		if cause := u.Before(time.Unix(0, at)); cause != nil {
			return uses.Unknown, u.Unknown(cause)
		}
	}
	r, err := s.spend(ctx, u)
	switch {
	case err != nil && u.IssueUncounted:
		s.metrics.fallbacks.WithLabelValues(opSpend).Inc()
		result, err := s.o.Local.Spend(ctx, u)
		if err == nil {
			result = uses.Uncounted
		}
		return result, err
	case err != nil:
		refusal := u.Unavailable(err)
		refusal.Refusal = refusal.Refusal.By(fault.PartyStore)
		return uses.Unavailable, refusal
	case r.status == statusReplayed:
		return uses.Replayed, u.Used()
	case r.status == statusUnknown:
		return uses.Unknown, u.Unknown(u.Before(r.born))
	}
	s.o.Local.Remember(u)
	result := uses.Counted
	if u.Before(r.born) != nil { // earlier uses are not known
		result = uses.Uncounted
	}
	return result, nil
}

// spend counts a use in the store, and waits for replicas.
func (s *Store) spend(ctx context.Context, u uses.Use) (r reply, err error) {
	group := int(u.Key[1]) % groups
	strict := "1"
	if u.IssueUncounted {
		strict = "0"
	}
	keys := []string{s.useKey(group, u.Key), s.markerKey(group)}
	args := []string{
		strconv.FormatInt(s.seen[group].Load(), 10), strconv.Itoa(u.Most),
		strconv.FormatInt(u.Expires.UnixMilli(), 10),
		strconv.FormatInt((max(0, time.Until(u.Expires)) + leeway).Milliseconds(), 10),
		strconv.FormatInt(u.IssuedAt.Unix(), 10), strict, strconv.FormatInt(leeway.Milliseconds(), 10),
	}
	var few error // says nothing about whether the store answers
	err = s.call(ctx, opSpend, func(ctx context.Context, c valkey.Client) error {
		if number(s.config.WaitReplicas) == 0 {
			r, err = s.counted(group, s.spends.run(ctx, c, keys, args))
			return err
		}
		return c.Dedicated(func(c valkey.DedicatedClient) error { // WAIT is about the writes of its own connection
			if r, err = s.counted(group, s.spends.run(ctx, c, keys, args)); err != nil || r.status != statusCounted {
				return err
			}
			few, err = s.awaitReplicas(ctx, c)
			return err
		})
	})
	if err == nil && few != nil {
		s.tooFew(few)
		err = few
	}
	return r, err
}

// awaitReplicas waits until the configured number of replicas have the last write of a connection. few is not nil if
// fewer replicas have it in time.
func (s *Store) awaitReplicas(ctx context.Context, c valkey.DedicatedClient) (few, err error) {
	want, wait := int64(number(s.config.WaitReplicas)), s.config.timeout()/2
	n, err := c.Do(ctx, c.B().Wait().Numreplicas(want).Timeout(wait.Milliseconds()).Build()).AsInt64()
	if err == nil && n < want {
		few = fmt.Errorf("%d of %d replicas of the shared store have the use of the token after %s (wait_replicas)", n,
			want, wait)
	}
	return few, err
}

// counted reads the reply of spendText about a group.
func (s *Store) counted(group int, result valkey.ValkeyResult) (reply, error) {
	all, err := result.AsIntSlice()
	if err != nil {
		return reply{}, err
	}
	r, err := parseReply(all)
	if err != nil {
		return reply{}, err
	}
	for {
		seen := s.seen[group].Load()
		if r.seq <= seen || s.seen[group].CompareAndSwap(seen, r.seq) {
			break
		}
	}
	if r.lost {
		s.metrics.losses.Inc()
		s.o.Logger.Warn("the shared store does not have all uses of tokens that were counted; tokens that were issued "+
			"before this time are refused unless their issuer entry has budget-unavailable: issue",
			"part", fmt.Sprintf("%d of %d", group+1, groups), "time", r.born.UTC().Format(time.RFC3339))
	}
	return r, nil
}

func (s *Store) useKey(group int, k uses.Key) string {
	return s.config.prefix() + "use:{" + strconv.Itoa(group) + "}:" + hex.EncodeToString(k[:])
}

func (s *Store) markerKey(group int) string {
	return s.config.prefix() + "use:{" + strconv.Itoa(group) + "}"
}

// Take counts a request under the rate r, for all servers. what says what the rate applies to. If the rate is exceeded,
// the request does not count, and wait is the time after which it would. An error means that the store did not answer.
func (s *Store) Take(ctx context.Context, r rate.Config, what ...string) (wait time.Duration, err error) {
	key := s.rateKey(r, what)
	args := []string{
		strconv.FormatInt(max(1, r.Interval().Microseconds()), 10),
		strconv.FormatInt(max(1, r.Interval().Microseconds())*int64(r.Burst), 10),
	}
	err = s.call(ctx, opTake, func(ctx context.Context, c valkey.Client) error {
		n, err := s.takes.run(ctx, c, []string{key}, args).AsInt64()
		if most := max(1, r.Interval().Microseconds()); err == nil && (n < 0 || n > most) {
			err = fmt.Errorf("the store answers with a wait of %d microseconds; the longest is %d", n, most)
		}
		wait = time.Duration(n) * time.Microsecond
		return err
	})
	if err != nil {
		s.metrics.fallbacks.WithLabelValues(opTake).Inc()
		return 0, err
	}
	return wait, nil
}

// rateKey is a hash of what a rate applies to and of its values: other values have other keys.
func (s *Store) rateKey(r rate.Config, what []string) string {
	h := sha256.New()
	for _, one := range append([]string{fmt.Sprintf("%g %d", r.Rate, r.Burst)}, what...) {
		var size [8]byte // so that no two lists are the same bytes
		binary.BigEndian.PutUint64(size[:], uint64(len(one)))
		_, _ = h.Write(size[:]) // a hash returns no error
		_, _ = h.Write([]byte(one))
	}
	return s.config.prefix() + "rate:" + hex.EncodeToString(h.Sum(nil))
}

var (
	errNotConnected = errors.New("not connected yet")
	errClosed       = errors.New("the process is stopping")
	errBusy         = errors.New("too many calls at once")
	errLate         = errors.New("no answer in time")
)

// call makes one call, within the limits. It makes none while the breaker is open.
func (s *Store) call(ctx context.Context, operation string, f func(context.Context, valkey.Client) error) error {
	if err := s.breaker.open(); err != nil {
		s.metrics.seconds.WithLabelValues(operation, resultNotMade).Observe(0)
		return err
	}
	return s.try(ctx, operation, f)
}

// try is call without the breaker, for a probe.
func (s *Store) try(ctx context.Context, operation string, f func(context.Context, valkey.Client) error) error {
	began := time.Now()
	ctx, step := span.Call(ctx, "store call")
	step.Set(span.Operation, operation)
	limited, cancel := context.WithTimeoutCause(ctx, s.config.timeout(), errLate)
	defer cancel()
	err := s.limited(limited, f)
	if limited.Err() != nil && err != nil {
		err = context.Cause(limited)
	}
	if err != nil && ctx.Err() != nil { // says nothing about the store
		step.EndCall(resultCanceled, false)
		return context.Cause(ctx)
	}
	result := resultSuccess
	if err != nil {
		result = resultFailure
		err = fmt.Errorf("the shared store: %s", brief(err))
	}
	step.Observe(s.metrics.seconds.WithLabelValues(operation, result), time.Since(began).Seconds())
	step.EndCall(result, err != nil)
	s.told(err)
	return err
}

// The results of a call, in metrics and spans.
const (
	resultSuccess  = "success"
	resultFailure  = "failure"
	resultCanceled = "canceled" // in spans only
	resultNotMade  = "not_made" // the breaker is open
)

func (s *Store) limited(ctx context.Context, f func(context.Context, valkey.Client) error) error {
	s.mu.Lock()
	c, closed := s.client, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return errClosed
	case c == nil:
		return errNotConnected
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return errBusy
	}
	defer func() { <-s.slots }()
	return f(ctx, c)
}

// told passes the result of a call to the breaker, and logs a change.
func (s *Store) told(err error) {
	switch s.breaker.told(err) {
	case opened:
		s.o.Logger.Error("the shared store is not used until it answers again", "cause", err.Error())
	case closedAgain:
		s.o.Logger.Info("the shared store answers")
	case unchanged:
	}
}

// maxText bounds the text of an error, which may come from the store, in bytes.
const maxText = 300

func brief(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// breaker is open after failures in a row. Only a successful probe closes it.
type breaker struct {
	mu       sync.Mutex
	failures int
	closed   bool // false at first: the first probe closes it
	last     error
}

// failuresAllowed in a row open the breaker.
const failuresAllowed = 5

type change uint8

const (
	unchanged change = iota
	opened
	closedAgain
)

func (b *breaker) open() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	return b.last
}

func (b *breaker) told(err error) change {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.failures = 0
		if was := b.closed; !was {
			b.closed = true
			return closedAgain
		}
		return unchanged
	}
	b.failures, b.last = b.failures+1, err
	if b.closed && b.failures >= failuresAllowed {
		b.closed = false
		return opened
	}
	return unchanged
}

// metrics of a store.
type metrics struct {
	seconds   *prometheus.HistogramVec
	fallbacks *prometheus.CounterVec
	losses    prometheus.Counter
	available prometheus.GaugeFunc
	evicted   prometheus.GaugeFunc
}

// The operations, in metrics.
const (
	opSpend = "spend"
	opTake  = "take"
	opProbe = "probe"
)

func newMetrics(s *Store) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_shared_call_seconds",
			Help: "Duration of a call of the shared store, by operation and result.",
			Buckets: []float64{
				.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5,
			},
		}, []string{"operation", "result"}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_shared_fallbacks_total",
			Help: "Uses of tokens (spend) and requests under a rate (take) that this process " +
				"counted alone, because the " +
				"shared store did not answer.",
		}, []string{"operation"}),
		losses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_shared_losses_total",
			Help: "How often this process noticed that a part of the shared store does not have all " +
				"uses of tokens. A new " +
				"store counts once for each of its 32 parts.",
		}),
		available: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_shared_available_ratio", Help: "1 if the shared store answers, 0 if it does not.",
		}, func() float64 {
			if s.breaker.open() != nil {
				return 0
			}
			return 1
		}),
		evicted: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_shared_evicted_keys",
			Help: "Keys that the shared store has evicted for lack of memory since this process " +
				"started. Uses of tokens " +
				"may be among them: it must be 0.",
		}, func() float64 { return float64(s.Evicted()) }),
	}
	for _, op := range []string{opSpend, opTake} {
		m.fallbacks.WithLabelValues(op)
	}
	return m
}

// Collectors returns the metrics.
func (s *Store) Collectors() []prometheus.Collector {
	m := s.metrics
	return []prometheus.Collector{m.seconds, m.fallbacks, m.losses, m.available, m.evicted}
}
