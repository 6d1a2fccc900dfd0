package reconcile_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/testkit/history"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// BenchmarkRun audits ten thousand entries and their records.
func BenchmarkRun(b *testing.B) {
	const entries = 10000
	p, dir := pki.New(pki.Options{}), b.TempDir()
	o := history.Options{
		PKI: p, Log: filepath.Join(dir, "log"), Origin: "log.test/ct",
		Journal: filepath.Join(dir, "journal"), Entries: entries, End: time.Now(),
	}
	log, err := history.Write(o)
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		l, err := monitor.Open(monitor.Options{Log: loglist.Log{Key: log.Key.Public(), Origin: o.Origin}, Dir: o.Log})
		must(b, err)
		r, err := reconcile.Run(b.Context(), reconcile.Input{
			Logs:     []reconcile.Log{{Log: l, MergeDelay: time.Hour}},
			Journals: []reconcile.Journal{{Name: "journal", Path: o.Journal, Live: true}}, Issuers: p.Chain[:1],
		})
		must(b, err)
		if len(r.Findings) > 0 || len(r.Incomplete) > 0 || r.Logs[0].Matched != entries ||
			r.Explained != (reconcile.Explained{}) {
			b.Fatalf("%+v", r)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/entries, "µs/entry")
}
