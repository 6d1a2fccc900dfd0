package audit_test

import (
	"context"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/audit"
)

// BenchmarkAppend is the time until a record is durable: one caller waits for the disk each time, many share a commit.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run("callers="+strconv.Itoa(callers), func(b *testing.B) {
			j := open(b, audit.Config{File: filepath.Join(b.TempDir(), "journal.jsonl")}, audit.Options{})
			r := outcome(1)
			var next atomic.Int64
			var wait sync.WaitGroup
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
			shut(b, j, 0)
		})
	}
}

// BenchmarkVerify is the time per record of a verification.
func BenchmarkVerify(b *testing.B) {
	path := filepath.Join(b.TempDir(), "journal.jsonl")
	j := open(b, audit.Config{File: path}, audit.Options{})
	for n := range b.N {
		j.Note(&audit.Record{Kind: audit.Outcome, Result: audit.Denied, Reason: "TOKEN_EXPIRED", RequestID: strconv.Itoa(n)})
		if n%1000 == 0 {
			_ = j.Append(context.Background(), &audit.Record{Kind: audit.Event})
		}
	}
	shut(b, j, 0)
	b.ResetTimer()
	if _, findings, err := audit.Verify(path, audit.VerifyOptions{}); err != nil || len(findings) > 0 {
		b.Fatal(findings, err)
	}
}
