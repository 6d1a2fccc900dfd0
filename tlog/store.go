package tlog

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/loglist"
)

// Store is a log with all its shards. It opens shards that another process makes, makes shards by the
// schedule, and closes shards that have ended. Its methods may be called by several goroutines.
type Store struct {
	config  Config
	o       Options
	changes chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
	lock    *durable.FileLock // of the directory, if no open log has it

	mu      sync.RWMutex
	shards  []*storeShard
	known   []byte // the state file that the shards are from
	warning string // why the shards could not be brought up to date
}

// storeShard is a shard with its log.
type storeShard struct {
	Shard
	log     *Log // nil if the shard is closed
	handler http.Handler
	key     crypto.PublicKey
}

// OpenShard is a shard that accepts submissions.
type OpenShard struct {
	Shard
	Log *Log
}

// Describe returns the description of the shard.
func (s OpenShard) Describe() loglist.Log { return s.describe(s.Log.Key()) }

// OpenStore opens every shard of the log in c.Dir that is not closed, and makes the first one if there is none. It
// returns an error if another process uses the directory.
func OpenStore(ctx context.Context, c Config, o Options) (_ *Store, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	s := &Store{config: c, o: o, changes: make(chan struct{}, 1), done: make(chan struct{})}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			err = errors.Join(err, s.release(ctx))
		}
	}()
	if err := mkdirSynced(c.Dir); err != nil {
		return nil, err
	}
	if err := c.CheckFence(); err != nil {
		return nil, err
	}
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	<-s.changes // the first state is not a change
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	go s.maintain(life)
	return s, nil
}

// maintain keeps the shards up to date until ctx ends.
func (s *Store) maintain(ctx context.Context) {
	defer close(s.done)
	tick := time.NewTicker(s.o.Every)
	defer tick.Stop()
	for {
		err := errors.Join(s.rotateIfDue(), s.refresh(ctx), s.closeEnded(ctx))
		s.count()
		text := ""
		if err != nil {
			text = err.Error()
		}
		s.mu.Lock()
		changed := text != s.warning && text != ""
		s.warning = text
		s.mu.Unlock()
		if changed && ctx.Err() == nil {
			s.o.Logger.Error("the shards of the log could not be brought up to date; trying again", "cause",
				text)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// rotateIfDue makes the next shard of the schedule.
func (s *Store) rotateIfDue() error {
	shards := s.Shards()
	r, due := s.config.due(shards, s.o.Now())
	if !due {
		return nil
	}
	made, err := s.config.MakeShard(r, s.o.Now())
	if err != nil {
		return fmt.Errorf("rotation for %s: %w", r.At.Format(time.RFC3339), err)
	}
	s.report("log-shard-made", made,
		"takes over at "+made.NotBefore.Format(time.RFC3339)+"; publish its key to verifiers by then")
	return nil
}

func (s *Store) report(reason string, one Shard, text string) {
	s.o.Logger.Info("shards of a log", "event", reason, "log", one.Label(), "origin", one.Origin, "log_id", one.LogID,
		"what", text)
	s.o.Event(reason, fmt.Sprintf("%s (log ID %s) %s", one.Label(), one.LogID, text))
}

// refresh opens the shards of the state file, if the file has changed.
func (s *Store) refresh(ctx context.Context) error {
	data, err := os.ReadFile(filepath.Join(s.config.Dir, stateFile))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	s.mu.RLock()
	started := s.shards != nil
	same := started && bytes.Equal(data, s.known)
	s.mu.RUnlock()
	if same {
		return nil
	}
	shards, err := s.config.parseState(data)
	if err != nil {
		return err
	}
	if err := s.config.checkShards(shards, s.Shards()); err != nil { // before any shard is opened or written
		return err
	}
	var next []*storeShard
	for _, one := range shards {
		m, err := s.open(ctx, one)
		if err != nil {
			return fmt.Errorf("shard %s: %w", one.Label(), err)
		}
		if s.adopt(m) && started { // adopted now, so that it is closed even if a later shard fails
			s.report("log-shard-opened", m.Shard, "was made and takes over at "+m.NotBefore.Format(time.RFC3339))
		}
		next = append(next, m)
	}
	s.mu.Lock()
	s.shards, s.known = next, data
	s.mu.Unlock()
	select {
	case s.changes <- struct{}{}:
	default:
	}
	return nil
}

// open returns the shard with its log, which may already be open.
func (s *Store) open(ctx context.Context, one Shard) (*storeShard, error) {
	s.mu.RLock()
	for _, have := range s.shards {
		if have.Name == one.Name && (have.log == nil) == !one.Closed.IsZero() {
			m := *have
			m.Shard = one
			s.mu.RUnlock()
			return &m, nil
		}
	}
	s.mu.RUnlock()
	dir := s.config.ShardDir(one)
	if !one.Closed.IsZero() {
		return s.openClosed(one, dir)
	}
	o := s.o
	o.label = one.Label()
	if one.Name == "" && s.lock != nil { // closed before, and open again: the file was edited
		_ = s.lock.Unlock()
		s.lock = nil
	}
	c := s.config
	c.Dir, c.Origin = dir, one.Origin
	l, err := Open(ctx, c, o)
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("%x", l.ID())
	if one.LogID != "" && one.LogID != id {
		_ = l.Close(ctx)
		return nil, otherKey(dir, one)
	}
	one.LogID = id
	if one.Created.IsZero() {
		one.Created = keyCreated(dir)
	}
	return &storeShard{Shard: one, log: l, handler: l.Handler(), key: l.Key()}, nil
}

// openClosed returns a closed shard, whose files are only read.
func (s *Store) openClosed(one Shard, dir string) (*storeShard, error) {
	if one.Name == "" && s.lock == nil {
		var err error
		if s.lock, err = lockDir(dir); err != nil {
			return nil, err
		}
	}
	key, err := readPublic(s.config.Kind, dir)
	if err != nil {
		return nil, err
	}
	return &storeShard{Shard: one, key: key, handler: files{
		dir: dir, answers: s.o.Answers,
		checkpoint: func() []byte { return lastCosigned(dir) },
	}}, nil
}

// adopt adds m to the shards, or replaces the shard with its name. It reports whether the shard is new.
func (s *Store) adopt(m *storeShard) (isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.shards, func(have *storeShard) bool { return have.Name == m.Name })
	next := slices.Clone(s.shards) // other goroutines may read the old slice
	if at < 0 {
		next = append(next, m)
	} else {
		next[at] = m
	}
	s.shards = next
	return at < 0
}

// closeEnded closes the shards that have ended: it publishes the last checkpoint, then writes the state file.
func (s *Store) closeEnded(ctx context.Context) error {
	s.mu.RLock()
	shards := s.shards
	s.mu.RUnlock()
	var errs []error
	for _, m := range shards {
		if m.log == nil || !m.ended(s.o.Now()) {
			continue
		}
		if err := s.closeShard(ctx, m); err != nil {
			errs = append(errs, fmt.Errorf("closing shard %s: %w", m.Label(), err))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) closeShard(ctx context.Context, m *storeShard) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := m.log.Close(ctx); err != nil {
		return err // the log accepts no more entries, and the next start tries again
	}
	closed := m.Shard
	closed.Closed = s.o.Now().UTC().Truncate(time.Second)
	err := s.config.change(func(shards []Shard) ([]Shard, error) {
		for i := range shards {
			if shards[i].Name == closed.Name {
				shards[i].Closed = closed.Closed
			}
		}
		return shards, nil
	})
	if err != nil {
		return err
	}
	s.report("log-shard-closed", closed,
		"accepts no more entries; its last checkpoint is published and it stays readable")
	return s.refresh(ctx)
}

// count updates the metric of the shards.
func (s *Store) count() {
	now, n := s.o.Now(), map[string]int{"future": 0, "current": 0, "closed": 0}
	for _, one := range s.Shards() {
		switch {
		case !one.Closed.IsZero() || one.ended(now):
			n["closed"]++
		case now.Before(one.NotBefore):
			n["future"]++
		default:
			n["current"]++
		}
	}
	gauge := s.o.Metrics.shards
	if s.config.Kind == Rekor {
		gauge = s.o.Metrics.rekorShards
	}
	for state, many := range n {
		gauge.WithLabelValues(state).Set(float64(many))
	}
}

// Changes receives a value when the result of [Store.Open] has changed.
func (s *Store) Changes() <-chan struct{} { return s.changes }

// Shards returns all shards, oldest first.
func (s *Store) Shards() []Shard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Shard, 0, len(s.shards))
	for _, m := range s.shards {
		out = append(out, m.Shard)
	}
	return out
}

// Open returns the shards that are not closed, the newest first: if two cover a certificate, the newer one is
// preferred.
func (s *Store) Open() []OpenShard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []OpenShard
	for _, m := range slices.Backward(s.shards) {
		if m.log != nil {
			out = append(out, OpenShard{m.Shard, m.log})
		}
	}
	return out
}

// Current returns the shard that gets the entries that are added now.
func (s *Store) Current() (OpenShard, error) {
	now := s.o.Now()
	for _, one := range s.Open() {
		if one.Contains(now) {
			return one, nil
		}
	}
	return OpenShard{}, fault.New(fault.LogUnavailable, errors.New("no shard of the log is active now"))
}

// Add adds an entry to the current shard and returns its inclusion (see [Log.Add]).
func (s *Store) Add(ctx context.Context, leaf []byte) (Inclusion, error) {
	one, err := s.Current()
	if err != nil {
		return Inclusion{}, err
	}
	return one.Log.Add(ctx, leaf)
}

// ShardHandler serves the read path of one shard (see [Log.Handler]); nil if there is none of that name.
func (s *Store) ShardHandler(name string) http.Handler {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range s.shards {
		if m.Name == name {
			return m.handler
		}
	}
	return nil
}

// Keys returns the public keys of all shards.
func (s *Store) Keys() []crypto.PublicKey {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]crypto.PublicKey, 0, len(s.shards))
	for _, m := range s.shards {
		out = append(out, m.key)
	}
	return out
}

// Warning returns why the shards could not be brought up to date; empty if they are.
func (s *Store) Warning() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.warning
}

// Handler serves the read path of every shard (see [Log.Handler]): the first at the root, the others below /NAME/.
func (s *Store) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.RLock()
		shards := s.shards
		s.mu.RUnlock()
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		for _, m := range shards {
			if m.Name == name && name != "" {
				http.StripPrefix("/"+name, m.handler).ServeHTTP(w, r)
				return
			}
		}
		if len(shards) == 0 {
			refuse(w, "404 page not found", http.StatusNotFound)
			return
		}
		shards[0].handler.ServeHTTP(w, r)
	})
}

// Close publishes a checkpoint over all entries and releases the directory. It waits no longer than ctx.
func (s *Store) Close(ctx context.Context) error {
	s.stop()
	<-s.done
	return s.release(ctx)
}

func (s *Store) release(ctx context.Context) error {
	var errs []error
	for _, one := range s.Open() {
		errs = append(errs, one.Log.Close(ctx))
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Unlock())
		s.lock = nil
	}
	return errors.Join(errs...)
}

// Collectors returns the metrics of all shards.
func (s *Store) Collectors() []prometheus.Collector { return []prometheus.Collector{s.o.Metrics} }
