package journal_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mayfly-ca/mayfly/journal"
)

// Usage adds up what identities with a verified token did, and nothing that a caller without one can cause.
func TestUsage(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Date(2026, 11, 30, 12, 0, s, 0, time.UTC) }
	record := func(s int, san, repository string, change func(*journal.Record)) *journal.Record {
		r := &journal.Record{
			Kind: journal.Outcome, Result: journal.Issued, Time: at(s), Issuer: "https://a.example", SAN: san,
			Repository: repository, ProviderKey: "k", Signatures: 2,
		}
		if change != nil {
			change(r)
		}
		return r
	}
	all := []*journal.Record{
		record(0, "x", "r1", nil),
		record(1, "x", "r1", nil),
		record(59, "y", "r1", nil),
		record(60, "x", "r1", nil),
		record(61, "x", "r2", func(r *journal.Record) { r.Issuer = "https://b.example" }),
		record(62, "x", "r1", func(r *journal.Record) { r.Kind, r.Result, r.Signatures = journal.Repeated, "", 0 }),
		record(63, "y", "r1", func(r *journal.Record) { r.Result, r.Signatures = journal.Failed, 1 }),
		record(64, "z", "r1", func(r *journal.Record) { r.Result, r.Reason, r.Signatures = journal.Denied, "R", 0 }),
		record(65, "z", "r1",
			func(r *journal.Record) { r.Kind, r.Reason, r.Count, r.Signatures = journal.Dropped, "R", 40, 0 }),
		record(66, "x", "r1", func(r *journal.Record) { r.Kind = journal.Intent }),
		record(67, "m", "r1", func(r *journal.Record) { r.ProviderKey = "" }),
		{Kind: journal.Dropped, Count: 7, Time: at(68)},
	}
	add := func(by journal.Group) *journal.Usages {
		u := journal.NewUsages(by)
		for _, r := range all {
			u.Add(r)
		}
		return u
	}
	u := func(issuer, who, repository string, numbers [6]int, first, last int) journal.Usage {
		return journal.Usage{
			Issuer: issuer, Identity: who, Repository: repository, Issued: numbers[0], Repeated: numbers[1],
			Denied: numbers[2], Failed: numbers[3], Signatures: numbers[4], Peak: numbers[5],
			First: at(first), Last: at(last),
		}
	}
	const a, b = "https://a.example", "https://b.example"
	for by, want := range map[journal.Group][]journal.Usage{
		journal.ByIdentity: {
			u(a, "x", "", [6]int{3, 1, 0, 0, 6, 2}, 0, 62), u(a, "y", "", [6]int{1, 0, 0, 1, 3, 1}, 59, 63),
			u(b, "x", "", [6]int{1, 0, 0, 0, 2, 1}, 61, 61), u(a, "z", "", [6]int{0, 0, 41, 0, 0, 0}, 64, 65),
		},
		journal.ByIssuer: {
			u(a, "", "", [6]int{4, 1, 41, 1, 9, 3}, 0, 65), u(b, "", "", [6]int{1, 0, 0, 0, 2, 1}, 61, 61),
		},
		journal.ByRepository: {
			u(a, "", "r1", [6]int{4, 1, 41, 1, 9, 3}, 0, 65), u(b, "", "r2", [6]int{1, 0, 0, 0, 2, 1}, 61, 61),
		},
	} {
		got := add(by)
		ignore := cmpopts.IgnoreUnexported(journal.Usage{})
		if diff := cmp.Diff(want, got.Sorted(), ignore); diff != "" {
			t.Errorf("by %s:\n%s", by, diff)
		}
		if diff := cmp.Diff(u("", "", "", [6]int{5, 1, 41, 1, 11, 3}, 0, 65), got.Total(), ignore); diff != "" {
			t.Errorf("total by %s:\n%s", by, diff)
		}
	}
}

// Journals of several servers are read in the order of their times; damage in one is reported and skipped.
func TestMerge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var paths []string
	clock := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	journals := make([]*journal.Journal, 3)
	for i := range journals {
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("%d.jsonl", i)))
		j, err := journal.Open(journal.Config{File: paths[i]}, journal.Options{
			Now: func() time.Time { return clock },
		})
		if err != nil {
			t.Fatal(err)
		}
		journals[i] = j
	}
	for n := range 12 {
		clock = clock.Add(time.Second)
		if err := journals[n%3].Append(t.Context(), &journal.Record{
			Kind: journal.Event, Text: fmt.Sprint("number ", n),
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, j := range journals {
		if err := j.Close(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (texts []string, damage int) {
		for e, err := range journal.Merge(paths, func(*journal.Damage) { damage++ }) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == journal.Event {
				texts = append(texts, strings.TrimPrefix(e.Text, "number "))
			}
		}
		return texts, damage
	}
	got, damage := read()
	if strings.Join(got, " ") != "0 1 2 3 4 5 6 7 8 9 10 11" || damage != 0 {
		t.Errorf("%v, %d damaged", got, damage)
	}
	data, err := os.ReadFile(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	data = []byte(strings.Replace(string(data), `"text":"number 4"`, `"text":"number 4`, 1))
	if err := os.WriteFile(paths[1], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, damage := read(); strings.Join(got, " ") != "0 1 2 3 5 6 7 8 9 10 11" || damage == 0 {
		t.Errorf("after damage: %v, %d damaged", got, damage)
	}
	none := []string{paths[0], filepath.Join(dir, "nowhere.jsonl")}
	failed := false
	for _, err := range journal.Merge(none, func(*journal.Damage) {}) {
		failed = failed || err != nil
	}
	if !failed {
		t.Error("a journal that does not exist is silently left out")
	}
}
