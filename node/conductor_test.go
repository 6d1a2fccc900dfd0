package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/records"
)

// A chain that the CA replaced by itself stays published until its last certificate is history, by the journal: also if
// an instance followed late, and if the journal is damaged. // C3
func TestRetireByJournal(t *testing.T) {
	t.Parallel()
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	now := time.Now()
	at := func(ago time.Duration) rotation.Entry {
		return rotation.Entry{Time: now.Add(-ago), By: "t", Reason: "t"}
	}
	first, err := rotation.First("old", old.Chain, at(9*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	both, err := first.Prepare(rotation.Chain{Name: "new"}, fresh.Chain, at(8*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	both, err = both.Activate("new", rotation.Passage{Keep: time.Hour}, at(2*time.Hour)) // "old" may go since an hour
	if err != nil {
		t.Fatal(err)
	}
	intent := func(n int, p *pki.PKI) *journal.Record {
		rec, key := records.Intent(n), sha256.Sum256(p.Intermediate.RawSubjectPublicKeyInfo)
		rec.IssuerKey = hex.EncodeToString(key[:])
		return rec
	}
	dir := t.TempDir()
	cfg := &config.Config{Audit: &config.Audit{}}
	cfg.Audit.File = filepath.Join(dir, "journal.jsonl")
	j := records.Open(t, journal.Config{File: cfg.Audit.File}, journal.Options{})
	if err := errors.Join(j.Append(t.Context(), intent(1, fresh)), j.Append(t.Context(), intent(2, old))); err != nil {
		t.Fatal(err)
	}
	records.Close(t, j, 0)

	c := &conductor{
		n: quietNode(""), cfg: cfg, file: rotation.File{Path: filepath.Join(dir, "state.json")},
		issued: map[string]*chainRecords{},
	}
	if _, err := c.file.Update(t.Context(), func(rotation.State) (rotation.State,
		error,
	) {
		return both, nil
	}); err != nil {
		t.Fatal(err)
	}
	retire := func() (rotation.Chain, error) {
		t.Helper()
		state, err := c.file.Read()
		if err != nil {
			t.Fatal(err)
		}
		c.state = &state
		chain, _ := state.Find("old")
		err = c.retire(t.Context(), chain, rotation.Policy{Keep: time.Hour})
		after, readErr := c.file.Read()
		if readErr != nil {
			t.Fatal(readErr)
		}
		chain, _ = after.Find("old")
		return chain, err
	}
	for range 2 { // the second round continues in the journal
		if chain, err := retire(); err != nil || chain.Status != rotation.Retiring {
			t.Fatalf("%s, %v: a certificate of this minute is in the journal", chain.Status, err)
		}
	}
	last, err := lastCertificate(t.Context(), cfg, both.Chains[0])
	if err != nil || last.Sub(now) < ca.Validity || last.Sub(now) > ca.Validity+time.Minute {
		t.Errorf("the last certificate ends %s from now, %v", last.Sub(now), err)
	}

	// A damaged journal does not say when the last certificate ends, in no round.
	whole, err := os.ReadFile(cfg.Audit.File)
	if err != nil {
		t.Fatal(err)
	}
	damaged := strings.Replace(string(whole), `"kind":"intent"`, `"kind":"in`, 1)
	if err := os.WriteFile(cfg.Audit.File, []byte(damaged), 0o600); err != nil {
		t.Fatal(err)
	}
	c.issued = map[string]*chainRecords{}
	for range 2 {
		if chain, err := retire(); err == nil || chain.Status != rotation.Retiring {
			t.Fatalf("%s, %v with a damaged journal", chain.Status, err)
		}
	}

	// Without a certificate of the chain it retires.
	if err := os.Remove(cfg.Audit.File); err != nil {
		t.Fatal(err)
	}
	if chain, err := retire(); err != nil || chain.Status != rotation.Retired {
		t.Fatalf("%s, %v", chain.Status, err)
	}
}

// A destination that fails three times in a row is asked after a minute, then after twice as long each time.
func TestRequests(t *testing.T) {
	t.Parallel()
	now, asked := time.Now(), 0
	r := newRequests(func() time.Time { return now })
	broken := errors.New("connection refused")
	result := broken
	ask := func(name string) error {
		return r.do(destination{"log", name}, func() error { asked++; return result })
	}
	for range 10 {
		if err := ask("a"); !errors.Is(err, broken) {
			t.Fatal(err)
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
	if err := ask("b"); err == nil || asked != 4 {
		t.Errorf("another destination: %v", err)
	}
	for _, minutes := range []int{1, 2, 4, 8, 15, 15, 15} {
		wait := time.Duration(minutes) * time.Minute
		now = now.Add(wait - time.Second)
		if err := ask("a"); err == nil || !strings.Contains(err.Error(), "times in a row") {
			t.Errorf("before %s: %v", wait, err)
		}
		now = now.Add(time.Second)
		before := asked
		if _ = ask("a"); asked != before+1 {
			t.Errorf("not asked after %s", wait)
		}
	}
	result, now = nil, now.Add(time.Hour)
	for range 3 {
		if err := ask("a"); err != nil {
			t.Error(err)
		}
	}
	result = broken
	before := asked
	for range 2 {
		_ = ask("a")
	}
	if asked != before+2 {
		t.Error("a success does not end the count")
	}
	if n := testutil.CollectAndCount(r.seconds); n != 3 { // a ok, a failed, b failed
		t.Errorf("%d series", n)
	}
	if err := (*requests)(nil).do(destination{}, func() error { return nil }); err != nil {
		t.Error(err)
	}
}

// A reload that failed is repeated while the state file is ahead of what is in force: after 5 s, then less and less
// often.
func TestReloadRepeated(t *testing.T) {
	t.Parallel()
	n := quietNode("")
	c := &conductor{n: n}
	state := rotation.State{Version: 1, Revision: 7}
	n.chains.Store(&state)
	now := time.Now()
	asks := func() bool {
		c.reload(8, now)
		select {
		case <-n.again:
			return true
		default:
			return false
		}
	}
	var got []int
	for second := range 400 {
		if asks() {
			got = append(got, second)
		}
		now = now.Add(time.Second)
	}
	if want := []int{5, 15, 35, 75, 135, 195, 255, 315, 375}; !slices.Equal(got, want) {
		t.Errorf("reloads after %v seconds, want %v", got, want)
	}
	state.Revision = 8
	if asks() || c.repeat != (repeatedReload{}) {
		t.Errorf("%+v", c.repeat)
	}
}
