package ctlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

// span is when an SCT may have been made.
type span struct{ from, to time.Time }

// verify proves that raw is an SCT of m over p: version 1, log ID, signature with the pinned key, and the time, which it
// returns as the offset from the span. Its error is a [Failure].
func (m *member) verify(raw []byte, p *tbs.Precertificate, when span) (offset time.Duration, err error) {
	s, err := tbs.ParseSCT(raw)
	if err != nil {
		return 0, &Failure{Result: Unverified, Err: err}
	}
	if s.LogID != m.id {
		return 0, &Failure{
			Result: Unverified,
			Err: fmt.Errorf("the SCT is of the log id %x, and public_key has the log id %x; write the "+
				"key of the log at url", s.LogID, m.id),
		}
	}
	if err := s.Verify(m.Key, p.Entry); err != nil {
		return 0, &Failure{
			Result: Unverified,
			Err: fmt.Errorf("the SCT bears the log id of public_key, but is not signed with that key over "+
				"this precertificate: %w", err),
		}
	}
	t := s.Time()
	offset = when.offset(t)
	if offset < -skew || offset > skew {
		return offset, skewed(offset, t, when)
	}
	if !m.NotBefore.IsZero() && t.Before(m.NotBefore) || !m.NotAfter.IsZero() && !t.Before(m.NotAfter) {
		return offset, &Failure{Result: Unverified, Err: errors.New("the SCT is from outside the log's validity")}
	}
	return offset, nil
}

// skewed is the failure of an SCT that is too far outside of the span.
func skewed(offset time.Duration, t time.Time, when span) *Failure {
	text := "after " + when.to.Add(skew).UTC().Format(time.RFC3339)
	if offset < 0 {
		text = "before " + when.from.Add(-skew).UTC().Format(time.RFC3339)
	}
	return &Failure{Result: Skewed, Err: &skewError{fmt.Errorf("the SCT is of %s, %s", t.Format(time.RFC3339), text), offset}}
}
