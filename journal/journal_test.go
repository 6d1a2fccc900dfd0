package journal_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/testkit/records"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The journals and records of these tests.
var (
	open, shut             = records.Open, records.Close
	intent, outcome, hexOf = records.Intent, records.Outcome, records.Digest
	eventually             = records.Eventually
)

// all reads a journal without damage.
func all(t testing.TB, path string) (out []journal.Entry) {
	t.Helper()
	for e, err := range journal.Read(path, 0) {
		must(t, err)
		out = append(out, e)
	}
	return out
}

func kinds(entries []journal.Entry) string {
	var out []string
	for _, e := range entries {
		out = append(out, string(e.Kind))
	}
	return strings.Join(out, " ")
}

// G5: records are chained across restarts and segments, in order, and each line is the JSON of its record.
func TestJournal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	c := journal.Config{File: path, MaxSize: "64KiB"}
	total := 0
	for range 3 {
		j := open(t, c, journal.Options{Version: "v1", Digest: hexOf(7)})
		for range 100 {
			total++
			must(t, j.Append(t.Context(), intent(total)))
			must(t, j.Append(t.Context(), outcome(total)))
		}
		shut(t, j, 200)
	}
	entries := all(t, path)
	if len(entries) != 2*total+6 {
		t.Fatalf("%d records", len(entries))
	}
	segments, err := journal.Segments(path)
	must(t, err)
	if len(segments) < 3 {
		t.Errorf("%d segments", len(segments))
	}
	prev := strings.Repeat("0", 64)
	for i, e := range entries {
		var r journal.Record
		must(t, json.Unmarshal(e.Raw, &r))
		if diff := cmp.Diff(e.Record, r); diff != "" {
			t.Fatalf("encoding/json reads another record: %s", diff)
		}
		if r.Seq != uint64(i+1) || r.Prev != prev {
			t.Fatalf("record %d has number %d and prev %s", i+1, r.Seq, r.Prev)
		}
		prev = r.Sum
	}
	want := outcome(1)
	got := entries[2].Record
	want.Seq, want.Format, want.Time, want.Prev, want.Sum = got.Seq, journal.Format, got.Time, got.Prev, got.Sum
	if diff := cmp.Diff(*want, got); diff != "" {
		t.Error(diff)
	}
	if e := entries[0]; e.Kind != journal.Start || e.Version != "v1" || e.Config != hexOf(7) || len(e.Instance) != 26 {
		t.Errorf("%+v", e.Record)
	}
	if e := entries[len(entries)-1]; e.Kind != journal.Stop || e.Signatures != 200 {
		t.Errorf("%+v", e.Record)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

// G4: concurrent callers: every acknowledged record is in the journal once, and so is every note.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j := open(t, journal.Config{File: path, MaxSize: "64KiB"}, journal.Options{})
	if _, err := journal.Open(journal.Config{File: path}, journal.Options{}); err == nil ||
		!strings.Contains(err.Error(), "in use") {
		t.Errorf("a second writer: %v", err)
	}
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			for k := range 20 {
				n := i*100 + k + 1
				if err := errors.Join(j.Append(t.Context(), intent(n)), j.Append(t.Context(), outcome(n))); err != nil {
					t.Error(err)
				}
				j.Note(&journal.Record{Kind: journal.Outcome, Result: journal.Denied, Reason: "TOKEN_EXPIRED"})
			}
		})
	}
	reader := journal.NewReader(path, 0) // follows the journal while it grows and rotates
	defer reader.Close()
	seen := uint64(0)
	follow := func() {
		for {
			e, err := reader.Next()
			if err != nil {
				return
			}
			if seen++; e.Seq != seen {
				t.Fatalf("record %d after %d", e.Seq, seen-1)
			}
		}
	}
	done := make(chan struct{})
	go func() { wait.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			follow()
		}
	}
	shut(t, j, 640)
	follow()
	if want := uint64(16*20*3 + 2); seen != want {
		t.Errorf("%d records, not %d", seen, want)
	}
	if err := j.Append(t.Context(), intent(1)); err == nil {
		t.Error("a closed journal takes records")
	}
}

func secretFile(t testing.TB, value []byte) *secret.Source {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(name, value, 0o600))
	return &secret.Source{File: name}
}
