package journal_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/journal"
)

// countingDisk counts the syncs.
type countingDisk struct {
	*os.File
	n *atomic.Int64
}

func (d countingDisk) Sync() error {
	d.n.Add(1)
	return d.File.Sync()
}

// BenchmarkAppend measures the time until a record is durable. One caller waits for the disk each time; many share a
// commit.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run("callers="+strconv.Itoa(callers), func(b *testing.B) {
			var syncs atomic.Int64
			j := open(b, journal.Config{File: filepath.Join(b.TempDir(), "journal.jsonl")}, journal.Options{
				Disk: func(f *os.File) journal.Disk { return countingDisk{f, &syncs} },
			})
			r := outcome(1)
			var next atomic.Int64
			var wait sync.WaitGroup
			syncs.Store(0)
			b.ReportAllocs()
			b.ResetTimer()
			for range callers {
				wait.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if err := j.Append(context.Background(), r); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wait.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(b.N)/float64(syncs.Load()), "records/sync")
			shut(b, j, 0)
		})
	}
}

// BenchmarkVerify measures the time per record of a verification.
func BenchmarkVerify(b *testing.B) {
	path := filepath.Join(b.TempDir(), "journal.jsonl")
	j := open(b, journal.Config{File: path}, journal.Options{})
	for n := range b.N {
		j.Note(&journal.Record{
			Kind: journal.Outcome, Result: journal.Denied, Reason: "TOKEN_EXPIRED",
			RequestID: strconv.Itoa(n),
		})
		if n%1000 == 0 {
			_ = j.Append(context.Background(), &journal.Record{Kind: journal.Event})
		}
	}
	shut(b, j, 0)
	b.ResetTimer()
	if _, findings, err := journal.Verify(path, journal.VerifyOptions{}); err != nil || len(findings) > 0 {
		b.Fatal(findings, err)
	}
}
