package embedded_test

import (
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/tlog"
)

// realPrecert returns a precertificate that the standard library has signed.
func realPrecert(t testing.TB, p *pki.PKI, n int64) tbs.Precertificate {
	t.Helper()
	der := p.Leaf(n+1, true)
	bare, _, err := tbs.WithoutSCTList(der)
	if err != nil {
		t.Fatal(err)
	}
	return tbs.Precertificate{
		DER: der, Chain: [][]byte{p.Intermediate.Raw, p.Root.Raw},
		Entry: tbs.Entry{IssuerKeyHash: sha256.Sum256(p.Intermediate.RawSubjectPublicKeyInfo), TBS: bare},
	}
}

// Check finds nothing in a log while it is written and afterwards, in its directory and over HTTP.
func TestCheck(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	dir := t.TempDir()
	l := open(t, dir)
	head(t, l, 0)
	server := httptest.NewServer(http.StripPrefix("/ct", l.Handler()))
	t.Cleanup(server.Close)
	var logs []*monitor.Log
	for _, o := range []monitor.Options{
		{Log: loglist.Log{Name: "directory"}, Dir: dir},
		{Log: loglist.Log{Name: "remote", MonitoringURL: server.URL + "/ct/"}},
	} {
		o.Log.Origin, o.Log.Key = origin, l.Key()
		one, err := monitor.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, one)
	}
	check := func(least uint64) {
		t.Helper()
		for _, one := range logs {
			got, err := one.Check(t.Context(), monitor.CheckOptions{
				Now:   time.Now(),
				Found: func(f monitor.Finding) { t.Errorf("%s: %s: %s", one.Name(), f.Where, f.Problem) },
			})
			if err != nil || got.Size < least {
				t.Errorf("%s: %d entries, %v", one.Name(), got.Size, err)
			}
		}
	}
	var all sync.WaitGroup
	submit := func(from, to int64) {
		for n := from; n < to; n++ {
			precert := realPrecert(t, p, n)
			all.Go(func() {
				if _, err := l.Submit(t.Context(), precert); err != nil {
					t.Error(err)
				}
			})
		}
	}
	submit(0, 600)
	all.Wait()
	head(t, l, 600)
	check(600)
	done := make(chan struct{})
	all.Go(func() { // tiles that are read as partial ones become whole, and go
		for n := int64(600); ; n++ {
			select {
			case <-done:
				return
			default:
				if _, err := l.Submit(t.Context(), realPrecert(t, p, n)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 5 {
		check(600)
	}
	close(done)
	all.Wait()
	shut(t, l)
	logs = logs[:1]
	check(600)
}

// A directory has enough information to read its log.
func TestLocal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := tlog.Local(tlog.StaticCT, dir); err == nil {
		t.Error("an empty directory is a log")
	}
	shut(t, open(t, dir))
	if c, err := tlog.Local(tlog.StaticCT, dir); err != nil || c.Origin != origin || c.Dir != dir {
		t.Errorf("%+v, %v", c, err)
	}
}
