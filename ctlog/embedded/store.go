package embedded

import (
	"context"
	"crypto/x509"
	"sync"

	"github.com/mayfly-ca/mayfly/tlog"
)

// Store is the embedded log with all its shards. Its methods may be called by several goroutines.
type Store struct {
	*tlog.Store
	roots *roots
	o     tlog.Options

	mu   sync.Mutex
	logs map[*tlog.Log]*Log
}

// OpenShard is a shard that accepts submissions.
type OpenShard struct {
	tlog.OpenShard
	Log *Log
}

// OpenStore opens every shard of the log in c.Dir that is not closed, and makes the first one if there is none. It
// returns an error if another process uses the directory. The answer to get-roots is empty until SetRoots.
func OpenStore(ctx context.Context, c Config, o tlog.Options) (*Store, error) {
	s := &Store{roots: new(roots), o: o, logs: map[*tlog.Log]*Log{}}
	var err error
	s.Store, err = tlog.OpenStore(ctx, c.Log(), s.roots.answers(o))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// SetRoots replaces the answer to get-roots.
func (s *Store) SetRoots(all []*x509.Certificate) { s.roots.current.Store(&all) }

// Open returns the shards that are not closed, the newest first: if two cover a certificate, the newer one is
// preferred.
func (s *Store) Open() []OpenShard {
	all := s.Store.Open()
	s.mu.Lock()
	defer s.mu.Unlock()
	open := make(map[*tlog.Log]*Log, len(all))
	out := make([]OpenShard, 0, len(all))
	for _, one := range all {
		l := s.logs[one.Log]
		if l == nil {
			l = newLog(one.Log, s.o)
		}
		open[one.Log] = l
		out = append(out, OpenShard{one, l})
	}
	s.logs = open
	return out
}
