package reconcile

import (
	"context"
	"errors"
	"time"

	"github.com/mayfly-ca/mayfly/monitor"
)

// Log is a log to audit: a Certificate Transparency log, or a log of signatures (Rekor), whose entries name
// certificates.
type Log struct {
	*monitor.Log
	// MergeDelay is the maximum merge delay of the log (RFC 6962 §3).
	MergeDelay time.Duration
}

// logState is what is known about a log under audit.
type logState struct {
	name       string
	id         [32]byte
	mergeDelay time.Duration
	size       uint64       // number of entries that were read and verified
	head       monitor.Head // the newest verified head
	matched    uint64       // entries under an issuing key
	last       uint64       // timestamp of the newest entry that was read, in milliseconds
	// missingCAs has the SHA-256 of the CA certificates that the log names and does not serve, with the first entry
	// that names each.
	missingCAs map[[32]byte]uint64
	// directory: the log is read from a directory, which may be an old copy of the log.
	directory bool
	// verified: everything that was read of the log has been verified.
	verified bool
	// removed: the configuration no longer names the log.
	removed bool
	// unreadable: the last attempt to read the log failed.
	unreadable bool
	state      monitor.State // of a log that is not followed at the moment
}

// logFollower follows a log.
type logFollower struct {
	*monitor.Follower
	*logState
	number uint16
	// scrub reads all entries again, to detect damage to entries that were verified long ago.
	scrub   *monitor.Follower
	scrubAt time.Time // when the next scrub starts
}

// applyScope replaces what is audited by the last Scope. A log continues where its audit stopped, even if it was not in
// the configuration for some time.
func (a *Auditor) applyScope() {
	a.mu.Lock()
	s := a.scope
	a.scope = nil
	a.mu.Unlock()
	if s == nil {
		return
	}
	newKey := a.keys.configure(s.Issuers)
	old := a.followers
	a.followers = nil
	for _, w := range a.logs {
		w.removed = true
	}
	for _, l := range s.Logs {
		number, ok := a.logNumber(l.ID())
		if !ok {
			a.addLog(l.Name(), l.ID(), l.MergeDelay)
			number, _ = a.logNumber(l.ID())
		}
		w := a.logs[number]
		w.name, w.mergeDelay, w.removed = l.Name(), l.MergeDelay, false
		for _, have := range old {
			if have.number == number {
				w.state = have.State()
			}
		}
		follower, err := monitor.Follow(l.Log, monitor.FollowerOptions{State: w.state, Step: a.o.Step})
		if err != nil {
			continue // cannot happen: the state was found by the ID of the log
		}
		a.rescan = a.rescan || newKey && w.state.Size > 0
		a.followers = append(a.followers, &logFollower{Follower: follower, logState: w, number: number})
	}
}

// follow reads the next step of a log. Its entries are added only if they are verified.
func (a *Auditor) follow(ctx context.Context, f *logFollower) (more bool, err error) {
	var matched []matchedEntry
	last := f.last
	more, err = f.Next(ctx, func(e *monitor.Entry) error {
		last = max(last, e.Timestamp)
		matched = append(matched, a.matchAll(ctx, f.logState, f.Log(), e)...)
		return nil
	})
	if errors.Is(err, monitor.ErrStale) {
		return false, nil // a replica that is behind; resolveObligations reports a log whose head stays old
	}
	if err != nil {
		f.verified, f.unreadable = !monitor.Misbehaved(err), true
		if !f.verified {
			a.addFinding(logFinding(f.logState.name, err, a.o.Now()))
			return false, nil
		}
		return false, err
	}
	state := f.State()
	f.size, f.logState.head, f.last, f.verified, f.unreadable = state.Size, state.Head, last, true, false
	for i := range matched {
		a.addMatch(f.number, matched[i])
	}
	if !more {
		a.scrubNext(ctx, f)
	}
	return more, nil
}

// logFinding returns the finding for an error that proves a violation of a log.
func logFinding(log string, err error, now time.Time) Finding {
	kind := LogMismatch
	switch {
	case errors.Is(err, monitor.ErrBadHead):
		kind = LogHeadInvalid
	case errors.Is(err, monitor.ErrShrunk):
		kind = LogShrunk
	case errors.Is(err, monitor.ErrFork):
		kind = LogForked
	}
	return newFinding(Finding{Kind: kind, Log: log, Time: now.UTC(), Text: err.Error()}, "")
}

// scrubNext reads the next step of a second pass over all entries of a log whose storage is on this machine. A day
// after the end of a pass, the next one begins.
func (a *Auditor) scrubNext(ctx context.Context, f *logFollower) {
	if !f.Log().Local() {
		return
	}
	if f.scrub == nil {
		if a.o.Now().Before(f.scrubAt) {
			return
		}
		s, err := monitor.Follow(f.Log(), monitor.FollowerOptions{Step: a.o.Step})
		if err != nil {
			return // cannot happen: the zero state fits every log
		}
		f.scrub = s
	}
	more, err := f.scrub.Next(ctx, func(*monitor.Entry) error { return nil })
	if err != nil && monitor.Misbehaved(err) {
		f.verified = false
		a.addFinding(logFinding(f.logState.name, err, a.o.Now()))
	}
	if err == nil && !more {
		f.scrub, f.scrubAt = nil, a.o.Now().Add(scrubInterval)
	}
}
