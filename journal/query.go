package journal

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"
)

// Filter selects records. A member without a value selects every record; a record must match all others.
type Filter struct {
	Issuer, ProviderKey, Serial, RequestID, Key string
	Result                                      Result
	Reason                                      string
	Subject, SAN                                string    // in plain text, or the digest in the record
	Since, Until                                time.Time // Since is inclusive, Until exclusive
	// Also select intents, whose facts are repeated in their outcomes.
	Intents bool
	// Salt is that of the journal, so that a plain-text subject matches its digest. Empty: unknown.
	Salt []byte
}

// Match reports whether the filter selects r.
func (f *Filter) Match(r *Record) bool {
	if r.Kind == Intent && !f.Intents || r.Time.Before(f.Since) || !f.Until.IsZero() && !r.Time.Before(f.Until) {
		return false
	}
	for _, m := range []struct{ want, has string }{
		{f.Issuer, r.Issuer},
		{f.ProviderKey, r.ProviderKey},
		{f.Serial, r.Serial},
		{f.RequestID, r.RequestID},
		{f.Key, r.Key},
		{string(f.Result), string(r.Result)},
		{f.Reason, r.Reason},
	} {
		if m.want != "" && m.want != m.has {
			return false
		}
	}
	return f.matchName(f.Subject, r.Subject) && f.matchName(f.SAN, r.SAN)
}

// matchName compares a name with the subject or SAN of a record, which is plain text or a digest.
func (f *Filter) matchName(want, has string) bool {
	return want == "" || want == has || len(f.Salt) > 0 && strings.HasPrefix(has, digestPrefix) &&
		SubjectDigest(f.Salt, want) == has
}

// Hides reports whether the filter has a name and r has a digest that cannot be compared with it without the salt.
func (f *Filter) Hides(r *Record) bool {
	return (f.Subject != "" || f.SAN != "") && len(f.Salt) == 0 && strings.HasPrefix(r.SAN, digestPrefix)
}

// followEvery is how often [Reader.Follow] looks for new records.
const followEvery = 100 * time.Millisecond

// Follow calls each for every record, then for each new record until ctx ends. The end of ctx is not an error. Damaged
// lines are passed to damaged and skipped. An error of each ends it.
func (r *Reader) Follow(ctx context.Context, damaged func(*Damage), each func(Entry) error) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		if err := r.Drain(damaged, each); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Drain is like [Reader.Follow], but returns at the current end.
func (r *Reader) Drain(damaged func(*Damage), each func(Entry) error) error {
	for {
		e, err := r.Next()
		if d, ok := errors.AsType[*Damage](err); ok {
			damaged(d)
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = each(e)
		}
		if err != nil {
			return err
		}
	}
}

// Tail returns a reader that begins with the last n records of the journal at path.
func Tail(path string, n uint64) (*Reader, error) {
	last, err := Last(path)
	if err != nil {
		return nil, err
	}
	return NewReader(path, last-min(n, last)+1), nil
}

// NormalizeSerial returns a serial number as records have it, from the forms in which other tools write it: without
// leading zeroes, with colons, with capitals or with 0x. ok is false if it is not hexadecimal.
func NormalizeSerial(s string) (serial string, ok bool) {
	s = strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(s, "0x"), ":", ""))
	const digits = "0123456789abcdef"
	if strings.Trim(s, digits) != "" {
		return "", false
	}
	if s == "" || len(s) >= 40 {
		return s, true
	}
	return strings.Repeat("0", 40-len(s)) + s, true
}

// Results returns the results that a record can have.
func Results() []Result { return []Result{Issued, Failed, Denied, Canary, Logged} }
