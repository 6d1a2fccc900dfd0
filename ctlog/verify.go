package ctlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

// skew is how far a log's clock may be from ours.
const skew = 60 * time.Second

// span is when an SCT may have been made.
type span struct{ from, to time.Time }

// verify proves that raw is an SCT of m over p, made in the span: version 1, log ID, signature with the pinned key, time.
func (m *member) verify(raw []byte, p tbs.Precertificate, when span) error {
	s, err := tbs.ParseSCT(raw)
	if err != nil {
		return err
	}
	if s.LogID != m.id {
		return fmt.Errorf("the SCT has the log id %x; the pinned key has %x", s.LogID, m.id)
	}
	if err := s.Verify(m.Key, p.Entry); err != nil {
		return err
	}
	t := s.Time()
	if from := when.from.Add(-skew); t.Before(from) {
		return fmt.Errorf("the SCT is of %s, before %s", t.Format(time.RFC3339), from.UTC().Format(time.RFC3339))
	}
	if to := when.to.Add(skew); t.After(to) {
		return fmt.Errorf("the SCT is of %s, after %s", t.Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	}
	if !m.NotBefore.IsZero() && t.Before(m.NotBefore) || !m.NotAfter.IsZero() && !t.Before(m.NotAfter) {
		return errors.New("the SCT is from outside the log's validity")
	}
	return nil
}
