package journal_test

import (
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

// With one caller or sixteen, no record waits for a clock, only for the disk and for the processors. In the bubble of
// synctest, time advances only if all goroutines sleep.
func TestNoWaitForTheClock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	const each = 30
	total := 0
	synctest.Test(t, func(t *testing.T) {
		j := open(t, journal.Config{File: path}, journal.Options{})
		began := time.Now()
		for _, callers := range []int{1, 4, 16} {
			var wait sync.WaitGroup
			for i := range callers {
				wait.Go(func() {
					for k := range each {
						if err := j.Append(t.Context(), intent(callers*1000+i*each+k)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wait.Wait()
			total += callers * each
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("they waited %s", took)
		}
		shut(t, j, 0)
	})
	if got := len(all(t, path)); got != total+2 {
		t.Errorf("%d records, not %d", got, total+2)
	}
}
