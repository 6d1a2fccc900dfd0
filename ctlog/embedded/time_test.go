package embedded_test

import (
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/tlog"
)

// The timestamp of an SCT is the time of the clock.
func TestTimestampOfSCT(t *testing.T) {
	t.Parallel()
	now := time.Now().Add(-3 * time.Second).Truncate(time.Millisecond)
	l, err := embedded.Open(t.Context(), embedded.Config{Dir: t.TempDir(), Origin: origin},
		tlog.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, l) })
	raw, err := l.Submit(t.Context(), precert(0))
	if err != nil {
		t.Fatal(err)
	}
	s, err := tbs.ParseSCT(raw)
	if err != nil || !s.Time().Equal(now) {
		t.Errorf("%s, want %s: %v", s.Time(), now, err)
	}
}
