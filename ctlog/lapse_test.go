package ctlog

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/tbs"
)

// G7: a sample of a log's clock counts for a minute. A log without a Date header has no samples but its SCTs, and no
// SCT is requested while nothing is issued: its last sample must not stop the CA forever. A log that was not asked
// since may still repeat its disagreement.
func TestOldWordIsNoWitness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var logs []Log
		for _, name := range []string{"a", "b"} {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			logs = append(logs, Log{Log: loglist.Log{Name: name, Key: key.Public()}, Submitter: unusedRemote{}})
		}
		s, err := New(Options{Logs: logs})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Wait()
		a, b := s.logs[0], s.logs[1]
		s.recordSilence(b)
		for n := range minSkewedSCTs {
			if s.Clock() != nil {
				t.Fatalf("stopped by %d SCTs", n)
			}
			s.recordOffset(a, true, 2*time.Minute)
		}
		if s.Clock() == nil {
			t.Fatal("not stopped")
		}
		time.Sleep(sampleLife - time.Second)
		if s.recordSilence(b); s.Clock() == nil {
			t.Fatal("lifted while the word of a counts")
		}
		time.Sleep(2 * time.Second)
		if s.recordSilence(b); s.Clock() == nil {
			t.Fatal("lifted, and a was not asked again")
		}
		if s.recordSilence(a); s.Clock() != nil {
			t.Error(s.Clock())
		}
	})
}

// unusedRemote is a log outside this process that is never called.
type unusedRemote struct{ Remote }

func (unusedRemote) Submit(context.Context, tbs.Precertificate) ([]byte, error) { return nil, nil }
