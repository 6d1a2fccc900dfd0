package ctlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

// verify proves that raw is an SCT of the log over p: version 1, log ID, signature with the pinned key, and a timestamp
// within the span and the log's window. It returns the offset of the timestamp from the span. Its error is a [Failure].
func (l *logState) verify(raw []byte, p *tbs.Precertificate, when interval) (offset time.Duration, err error) {
	s, err := tbs.ParseSCT(raw)
	if err != nil {
		return 0, &Failure{Result: Unverified, Err: err}
	}
	if s.LogID != l.id {
		return 0, &Failure{
			Result: Unverified,
			Err: fmt.Errorf("the SCT has the log ID %x, but public_key has the log ID %x; write the "+
				"key of the log at url", s.LogID, l.id),
		}
	}
	if err := s.Verify(l.Key, p.Entry); err != nil {
		return 0, &Failure{
			Result: Unverified,
			Err: fmt.Errorf("the SCT has the log ID of public_key, but is not signed with that key over "+
				"this precertificate: %w", err),
		}
	}
	t := s.Time()
	offset = when.offset(t)
	if offset < -maxSkew || offset > maxSkew {
		return offset, skewed(offset, t, when)
	}
	if !l.Contains(t) {
		return offset, &Failure{Result: Unverified, Err: errors.New("the SCT is from outside the log's window")}
	}
	return offset, nil
}

// skewed returns the failure of an SCT whose timestamp is too far outside the span.
func skewed(offset time.Duration, t time.Time, when interval) *Failure {
	bound := "after " + when.to.Add(maxSkew).UTC().Format(time.RFC3339)
	if offset < 0 {
		bound = "before " + when.from.Add(-maxSkew).UTC().Format(time.RFC3339)
	}
	err := fmt.Errorf("the timestamp of the SCT is %s, %s", t.Format(time.RFC3339), bound)
	return &Failure{Result: Skewed, Err: &skewError{err, offset}}
}
