package uses

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options for [Open].
type Options struct {
	// File is where uses are stored, so that they outlast a restart. Empty: they are in memory only.
	File string
	// Tokens is the highest number of tokens that are stored; 0: as many as 1/16 of the memory limit has room for.
	Tokens int
	Logger *slog.Logger // nil: none
	// Wall is the time of day; nil: time.Now. Elapsed is a clock that only runs forward; nil: the system's.
	Wall    func() time.Time
	Elapsed func() time.Duration
}

// Local counts uses in this process. It is safe for concurrent use.
type Local struct {
	o      Options
	born   time.Time // uses before are not known; of a file only
	shards [shards]shard
	live   atomic.Int64 // tokens
	full   atomic.Int64 // when a use was not counted because there is no room, in Unix nanoseconds; 0: never
	file   *file        // nil: memory only
}

const (
	shards = 64 // power of two
	// tokenCost is the memory of a token in a map, in bytes.
	tokenCost    = 160
	fewestTokens = 1 << 16
	mostTokens   = 1 << 22
	// leeway is how long a token is stored after it has expired: more than clocks of this machine usually step.
	leeway = time.Minute
	// sweepEvery is the time between two searches of a shard for expired tokens.
	sweepEvery = 10 * time.Second
)

// shard has a part of the tokens.
type shard struct {
	mu sync.Mutex
	by map[Key]count
	// forgotten is the latest expiry of a token that was dropped, in Unix seconds. A token that expires no later may
	// be one of those: it is valid only if the clock was set back.
	forgotten int64
	swept     time.Duration
}

// count is how often a token was used.
type count struct {
	used    uint32
	expires int64         // Unix seconds
	keep    time.Duration // on the clock that only runs forward: the token has not expired before
}

// Open returns the counts of a file, or empty ones. It locks the file.
func Open(o Options) (*Local, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Elapsed == nil {
		began := time.Now()
		o.Elapsed = func() time.Duration { return time.Since(began) }
	}
	if o.Tokens == 0 {
		o.Tokens = int(min(max(debug.SetMemoryLimit(-1)/16/tokenCost, fewestTokens), mostTokens))
	}
	l := &Local{o: o}
	for i := range l.shards {
		l.shards[i].by = map[Key]count{}
	}
	if o.File == "" {
		return l, nil
	}
	if err := l.open(o.File); err != nil {
		return nil, err
	}
	return l, nil
}

// Born returns the time before which uses are not known. For uses in memory the time is computed from how long this
// process runs, so that it is right when the time of day was wrong at the start and has been corrected.
func (l *Local) Born() time.Time {
	if l.file != nil {
		return l.born
	}
	return l.o.Wall().Add(-l.o.Elapsed())
}

func (l *Local) shardOf(k Key) *shard { return &l.shards[k[0]%shards] }

// errors of uses that cannot be counted, for the log.
var (
	errFull    = errors.New("there is no room for another token; see docs/operations.md, \"Budget of a token\"")
	errSetBack = errors.New("the clock was set back, and this token may have been forgotten after it had expired")
)

// Spend counts a use. Its error is an [*Error]. It waits for the file, if there is one, no longer than ctx.
func (l *Local) Spend(ctx context.Context, u Use) (Result, error) {
	older := u.Before(l.Born())
	if older != nil && !u.IssueUncounted {
		return Unknown, u.Unknown(older)
	}
	n, err := l.count(u)
	if err != nil && err.Result == Unavailable || err == nil && n == 0 {
		l.full.Store(l.o.Wall().UnixNano())
	}
	if err != nil {
		return err.Result, err
	}
	result := Counted
	if n == 0 || older != nil {
		result = Uncounted
	}
	if n == 0 || l.file == nil {
		return result, nil
	}
	if err := l.file.append(ctx, stored{key: u.Key, expires: u.Expires.Unix(), used: n}); err != nil {
		if u.IssueUncounted {
			return Uncounted, nil
		}
		l.giveBack(u.Key)
		return Unavailable, u.Unavailable(err)
	}
	return result, nil
}

// Remember adds a use that the shared store has counted, if there is room.
func (l *Local) Remember(u Use) {
	u.Most, u.IssueUncounted = math.MaxInt32, true
	_, _ = l.count(u) // the store has counted the use; this is a copy
}

// count counts a use in memory and returns the number of uses including this one; 0: the use is accepted and not
// counted.
func (l *Local) count(u Use) (uint32, *Error) {
	s := l.shardOf(u.Key)
	now, elapsed := l.o.Wall(), l.o.Elapsed()
	s.mu.Lock()
	defer s.mu.Unlock()
	one, known := s.by[u.Key]
	if known && int64(one.used) >= int64(u.Most) {
		return 0, u.Used()
	}
	if !known {
		if u.Expires.Unix() <= s.forgotten && !u.IssueUncounted {
			return 0, u.Unknown(errSetBack)
		}
		l.sweep(s, now, elapsed)
		if !l.room() {
			if u.IssueUncounted {
				return 0, nil
			}
			return 0, u.Unavailable(errFull)
		}
		one = count{expires: u.Expires.Unix(), keep: elapsed + max(0, u.Expires.Sub(now)) + leeway}
	}
	one.used++
	s.by[u.Key] = one
	return one.used, nil
}

// room reserves a place for a token, if one is free.
func (l *Local) room() bool {
	if l.live.Add(1) <= int64(l.o.Tokens) {
		return true
	}
	l.live.Add(-1)
	return false
}

// giveBack takes back a use that got no certificate.
func (l *Local) giveBack(k Key) {
	s := l.shardOf(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if one, ok := s.by[k]; ok && one.used > 0 {
		one.used--
		s.by[k] = one
	}
}

// sweep drops the tokens that have expired by both clocks: the time of day may step forward and back again, and a token
// that was dropped meanwhile would be valid again. The caller holds s.mu.
func (l *Local) sweep(s *shard, now time.Time, elapsed time.Duration) {
	every := sweepEvery
	if l.live.Load() >= int64(l.o.Tokens) {
		every = time.Second
	}
	if elapsed-s.swept < every {
		return
	}
	s.swept = elapsed
	for k, one := range s.by {
		if one.expired(now, elapsed) {
			s.forgotten = max(s.forgotten, one.expires)
			delete(s.by, k)
			l.live.Add(-1)
		}
	}
}

func (c count) expired(now time.Time, elapsed time.Duration) bool {
	return now.Unix() >= c.expires+int64(leeway/time.Second) && elapsed >= c.keep
}

// Used returns how often a token was used, as far as this process knows.
func (l *Local) Used(k Key) int {
	s := l.shardOf(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.by[k].used)
}

// Tokens returns the number of stored tokens, and the highest possible number.
func (l *Local) Tokens() (n, most int) { return int(l.live.Load()), l.o.Tokens }

// fullFor is how long Warning reports that a token was refused for lack of room.
const fullFor = time.Minute

// Warning returns what an operator must know; empty if there is nothing.
func (l *Local) Warning() string {
	if at := l.full.Load(); at != 0 && l.o.Wall().Sub(time.Unix(0, at)) < fullFor {
		return fmt.Sprintf("there is no room for further tokens whose uses are counted: %d are stored", l.live.Load())
	}
	if l.file == nil {
		return ""
	}
	if err := l.file.broken(); err != nil {
		return "uses of tokens cannot be stored: " + err.Error()
	}
	return ""
}

// Collectors returns the metrics.
func (l *Local) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_uses_stored_tokens",
			Help: "Tokens whose counts of uses this process stores, until the tokens have expired.",
		}, func() float64 { return float64(l.live.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_uses_room_tokens",
			Help: "Highest number of tokens whose counts of uses this process can store.",
		}, func() float64 { return float64(l.o.Tokens) }),
	}
}

// Close closes the file after the last use is stored. No use may be counted afterwards.
func (l *Local) Close() error {
	if l == nil || l.file == nil {
		return nil
	}
	return l.file.close()
}
