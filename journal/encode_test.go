package journal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/journal"
)

// D22: every text of a token is written on one line, in visible characters, and reads back unchanged.
func TestHostileText(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j := open(t, journal.Config{File: path}, journal.Options{})
	for _, s := range []string{
		"a\nb\r\tc", `"},{"seq":1}`, "\x1b[31mred", "nul\x00", "\x7f\u0085\u009b\u2028\u2029", "élise 日本 🦋",
		"bad \xff\xfe utf-8", strings.Repeat("\\", 3), "<&>",
	} {
		r := intent(1)
		r.Subject, r.SAN = s, s
		must(t, j.Append(t.Context(), r))
		e := all(t, path)
		got := e[len(e)-1]
		if want := strings.ToValidUTF8(s, "\uFFFD"); got.Subject != want && utf8.ValidString(s) {
			t.Errorf("%q became %q", s, got.Subject)
		}
		line := string(bytes.TrimSuffix(got.Raw, []byte("\n")))
		if strings.ContainsFunc(line,
			func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 }) {
			t.Errorf("%q is written as %q", s, line)
		}
		if json.Unmarshal(got.Raw, &journal.Record{}) != nil || !utf8.Valid(got.Raw) {
			t.Errorf("%q is not JSON", line)
		}
	}
	shut(t, j, 0)
	if got := found(t, path, journal.VerifyOptions{}); strings.Contains(got, "checksum") {
		t.Error(got)
	}
}

// A line that a journal would write in other bytes is refused, also if it is valid JSON.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good := sealed(t, outcome(1))
	if _, err := journal.ParseRecord(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"unknown member": {`"kind":`, `"x":1,"kind":`}, "space": {`,"kind"`, `, "kind"`},
		"twice":        {`"kind":`, `"kind":"stop","kind":`},
		"another case": {`"kind"`, `"Kind"`}, "another number": {`"signatures":2`, `"signatures":2.0`},
		"escape":       {"alice@", `\u0061lice@`},
		"empty member": {`"kind"`, `"text":"","kind"`}, "time zone": {"Z\"", "+00:00\""},
		"null": {`"transport":"grpc"`, `"transport":null`}, "negative": {`"signatures":2`, `"signatures":-2`},
		"another order": {`"request_id":"req-1","transport":"grpc"`, `"transport":"grpc","request_id":"req-1"`},
		"cut":           {`"}` + "\n", "\n"}, "more": {"}\n", "}{}\n"}, "leading zero": {`"seq":2`, `"seq":02`},
	} {
		bad := []byte(strings.Replace(string(good), change[0], change[1], 1))
		if bytes.Equal(bad, good) {
			t.Fatalf("%s changes nothing", name)
		}
		if _, err := journal.ParseRecord(bad); err == nil {
			t.Errorf("%s: accepted %s", name, bad)
		}
	}
}

// sealed returns the line of a record.
func sealed(t testing.TB, r *journal.Record) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j := open(t, journal.Config{File: path}, journal.Options{})
	must(t, j.Append(context.Background(), r))
	shut(t, j, 0)
	return all(t, path)[1].Raw
}

// G5: a line is either refused, or it is the one encoding of its record, and encoding/json reads the same record.
func FuzzParseRecord(f *testing.F) {
	f.Add(sealed(f, outcome(1)))
	f.Add(sealed(f, &journal.Record{Kind: journal.Event, Text: "\u0000\"\\é"}))
	f.Add([]byte(`{"seq":1,"time":"2026-11-24T00:00:00.000000Z","kind":"x","prev":"","sum":""}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := journal.ParseRecord(line)
		if err != nil {
			return
		}
		var again journal.Record
		if err := json.Unmarshal(line, &again); err != nil {
			t.Fatalf("accepted what is not JSON: %v", err)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
