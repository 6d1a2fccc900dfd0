package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/rotation"
)

// chainRecords reads the records about the key of one chain from a journal. Each call continues after the last record
// of the previous call; after an error, reading starts from the beginning.
type chainRecords struct {
	file string
	next uint64    // number of the next record; 0: the oldest one
	last time.Time // time of the newest intent; see [chainRecords.lastEnd]
}

// each calls f for every record about the key of c. If the journal is damaged, it returns an error after all other
// records.
func (r *chainRecords) each(ctx context.Context, c rotation.Chain, f func(*journal.Record)) (err error) {
	defer func() {
		if err != nil {
			*r = chainRecords{file: r.file}
		}
	}()
	sum := sha256.Sum256(c.Certificates()[0].RawSubjectPublicKeyInfo)
	key := hex.EncodeToString(sum[:])
	var damage error
	for e, err := range journal.Read(r.file, r.next) {
		if ctx.Err() != nil {
			return fmt.Errorf("%s was not read completely: %w", r.file, ctx.Err())
		}
		if d, ok := errors.AsType[*journal.Damage](err); ok {
			damage = fmt.Errorf("the journal is damaged, so that the list may be incomplete: %w", d)
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		r.next = e.Record.Seq + 1
		if e.Record.IssuerKey == key {
			f(&e.Record)
		}
	}
	return damage
}

// lastEnd returns when the last certificate of c expires; zero if the journal has none. A certificate expires no later
// than [ca.Validity] after its intent.
func (r *chainRecords) lastEnd(ctx context.Context, c rotation.Chain) (time.Time, error) {
	err := r.each(ctx, c, func(rec *journal.Record) {
		if rec.Kind == journal.Intent && rec.Time.After(r.last) {
			r.last = rec.Time
		}
	})
	if err != nil || r.last.IsZero() {
		return time.Time{}, err
	}
	return r.last.Add(ca.Validity), nil
}

// lastCertificate returns when the last certificate of a chain expires, according to the journal of cfg; zero if there
// is none.
func lastCertificate(ctx context.Context, cfg *config.Config, c rotation.Chain) (time.Time, error) {
	if cfg.Audit == nil || cfg.Audit.File == "" {
		return time.Time{}, nil
	}
	return (&chainRecords{file: cfg.Audit.File}).lastEnd(ctx, c)
}
