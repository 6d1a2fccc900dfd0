package journal_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/journal"
)

// small writes a journal of three segments.
func small(t *testing.T, key []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "journal.jsonl")
	c := journal.Config{File: path}
	if key != nil {
		c.Key = secretFile(t, key)
	}
	for i, first := range []int{1, 4, 7} {
		j := open(t, c, journal.Options{Version: "v1"})
		if i < 2 {
			must(t, j.Append(t.Context(), &journal.Record{Kind: journal.Intent, Serial: intent(i).Serial}))
			shut(t, j, 0)
			must(t, os.Rename(path, fmt.Sprintf("%s.%012d", path, first))) // as a rotation does
			continue
		}
		must(t, j.Append(t.Context(), intent(i)))
		must(t, j.Append(t.Context(), outcome(i)))
		shut(t, j, 2)
	}
	return path
}

// found verifies a journal and returns the findings as one text.
func found(t *testing.T, path string, o journal.VerifyOptions) string {
	t.Helper()
	_, findings, err := journal.Verify(path, o)
	var out []string
	if err != nil {
		out = append(out, err.Error())
	}
	for _, d := range findings {
		out = append(out, d.Error())
	}
	return strings.Join(out, "\n")
}

func files(t *testing.T, path string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, suffix := range []string{".000000000001", ".000000000004", "", ".head"} {
		data, err := os.ReadFile(path + suffix)
		must(t, err)
		out[path+suffix] = data
	}
	return out
}

// G5: every changed, removed or added byte of every file is found, with a key and without. By default every third byte
// is changed and every sixth one removed and doubled, which is enough for each member; "make crash" changes every byte.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	for name, key := range map[string][]byte{"sha256": nil, "hmac": []byte("the secret key of the journal")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, step := small(t, key), 3
			switch {
			case key != nil:
				step = 7 // the sums differ, nothing else
			case os.Getenv("MAYFLY_CRASH") != "":
				step = 1
			}
			o := journal.VerifyOptions{Key: key}
			if got := found(t, path, o); got != "" {
				t.Fatalf("an untouched journal: %s", got)
			}
			for file, data := range files(t, path) {
				for i := 0; i < len(data); i += step {
					flipped := bytes.Clone(data)
					flipped[i] ^= 1 << (i % 8)
					for what, mutated := range map[string][]byte{
						"flip": flipped, "delete": append(bytes.Clone(data[:i]), data[i+1:]...),
						"insert": append(append(bytes.Clone(data[:i]), '0'), data[i:]...),
					} {
						if bytes.Equal(mutated, data) || what != "flip" && i%2 == 1 {
							continue
						}
						must(t, os.WriteFile(file, mutated, 0o600))
						if found(t, path, o) == "" {
							t.Errorf("%s of byte %d of %s was not found", what, i, filepath.Base(file))
						}
					}
				}
				must(t, os.WriteFile(file, data, 0o600))
			}
		})
	}
}

// G5: every line, segment or end that is removed, doubled or moved is found, with its place.
func TestEveryLine(t *testing.T) {
	t.Parallel()
	path := small(t, nil)
	all := files(t, path)
	delete(all, path+".head")
	try := func(what, file string, data []byte) {
		t.Helper()
		must(t, os.WriteFile(file, data, 0o600))
		if got := found(t, path, journal.VerifyOptions{}); got == "" || !strings.Contains(got, "(byte ") {
			t.Errorf("%s in %s: found %q", what, filepath.Base(file), got)
		}
		must(t, os.WriteFile(file, all[file], 0o600))
	}
	for file, data := range all {
		lines := bytes.SplitAfter(data, []byte("\n"))
		lines = lines[:len(lines)-1]
		join := func(l ...[][]byte) []byte {
			var out []byte
			for _, one := range l {
				out = append(out, bytes.Join(one, nil)...)
			}
			return out
		}
		for i := range lines {
			try("deleted line", file, join(lines[:i], lines[i+1:]))
			try("doubled line", file, join(lines[:i+1], lines[i:]))
			try("cut", file, join(lines[:i]))
			try("torn", file, append(join(lines[:i]), lines[i][:len(lines[i])/2]...))
			if i > 0 {
				try("swapped line", file, join(lines[:i-1], [][]byte{lines[i], lines[i-1]}, lines[i+1:]))
			}
		}
		must(t, os.Remove(file))
		if found(t, path, journal.VerifyOptions{}) == "" {
			t.Errorf("%s is missing, and no finding says so", filepath.Base(file))
		}
		must(t, os.WriteFile(file, data, 0o600))
	}
	if got := found(t, path, journal.VerifyOptions{Key: []byte("wrong")}); !strings.Contains(got,
		"checksum of record 1") {
		t.Errorf("another key: %q", got)
	}
	must(t, os.Remove(path+".head"))
	if got := found(t, path, journal.VerifyOptions{}); !strings.Contains(got, "is missing") {
		t.Errorf("no head: %q", got)
	}
}

// G5: a record that was changed and has a correct sum is found by the next record, in every file and at every place;
// the last record is found by the head.
func TestResealed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j := open(t, journal.Config{File: path, MaxSize: "64KiB"}, journal.Options{})
	for n := range 150 {
		must(t, j.Append(t.Context(), intent(n)))
	}
	shut(t, j, 0)
	segments, err := journal.Segments(path)
	must(t, err)
	for _, one := range segments {
		data, err := os.ReadFile(one.Path)
		must(t, err)
		lines := bytes.SplitAfter(data, []byte("\n"))
		for i, line := range lines {
			if !bytes.Contains(line, []byte("alice")) {
				continue
			}
			changed := slices.Clone(lines)
			changed[i] = resealed(line)
			must(t, os.WriteFile(one.Path, bytes.Join(changed, nil), 0o600))
			if got := found(t, path, journal.VerifyOptions{}); !strings.Contains(got, "prev is not its sum") {
				t.Fatalf("record %d of %s: found %q", i, filepath.Base(one.Path), got)
			}
		}
		must(t, os.WriteFile(one.Path, data, 0o600))
	}
}

// Older segments may be elsewhere, if VerifyOptions.First names the first record.
func TestVerifyFirst(t *testing.T) {
	t.Parallel()
	path := small(t, nil)
	must(t, os.Remove(path+".000000000001"))
	for first, want := range map[uint64]string{
		0: "in the position of record 1", 4: "", 3: "in the position of record 3",
		5: "in the position of record 5",
	} {
		if got := found(t, path, journal.VerifyOptions{First: first}); (got == "") != (want == "") ||
			!strings.Contains(got, want) {
			t.Errorf("first %d: %q", first, got)
		}
	}
}

// G5: records with a correct chain that contradict each other.
func TestRules(t *testing.T) {
	t.Parallel()
	failed := func(n int) *journal.Record {
		r := outcome(n)
		r.Result, r.Reason, r.Certificate, r.SCTs = journal.Failed, "LOG_UNAVAILABLE", "", nil
		r.Signatures = 1
		return r
	}
	trial := &journal.Record{Kind: journal.Trial, Serial: fmt.Sprintf("%040x", 99), TBS: hexOf(1), Signatures: 1}
	denied := &journal.Record{Kind: journal.Outcome, Result: journal.Denied, Reason: "TOKEN_EXPIRED"}
	for name, c := range map[string]struct {
		records []*journal.Record
		stop    int
		want    string
	}{
		"good": {[]*journal.Record{trial, intent(1), denied, intent(2), outcome(2), failed(1)}, 4, ""},
		"reload under way": {
			[]*journal.Record{trial, intent(1), {Kind: journal.Reload, Signatures: 3}, outcome(1)},
			3, "",
		},
		"no intent":    {[]*journal.Record{outcome(1)}, 2, "without an intent"},
		"intent after": {[]*journal.Record{outcome(1), intent(1)}, 2, "without an intent"},
		"two intents":  {[]*journal.Record{intent(1), intent(1), outcome(1)}, 2, "was used before"},
		"two outcomes": {[]*journal.Record{intent(1), outcome(1), outcome(1)}, 4, "a second outcome"},
		"of the trial": {[]*journal.Record{
			trial,
			{Kind: journal.Outcome, Result: journal.Issued, Serial: trial.Serial},
		}, 1, "without an intent"},
		"hidden signature": {
			[]*journal.Record{trial, intent(1), outcome(1)},
			4,
			"made 4 signatures since the start, and the records have 3",
		},
		"hidden at a reload": {
			[]*journal.Record{intent(1), outcome(1), {Kind: journal.Reload, Signatures: 3}},
			2,
			"made 3 signatures since the start, and the records have at most 2",
		},
		"unknown kind": {[]*journal.Record{{Kind: "gossip"}}, 0, "unknown kind"},
		"unknown result": {
			[]*journal.Record{{Kind: journal.Outcome, Result: "perhaps", Serial: trial.Serial}},
			0,
			"unknown result",
		},
		"bad serial": {[]*journal.Record{{Kind: journal.Intent, Serial: "12"}}, 0, "40 hexadecimal digits"},
		"denied and signed": {
			[]*journal.Record{{Kind: journal.Outcome, Result: journal.Denied, Signatures: 1}},
			1,
			"a denied request has a signature",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "journal.jsonl")
			j := open(t, journal.Config{File: path}, journal.Options{})
			for _, r := range c.records {
				must(t, j.Append(t.Context(), r))
			}
			shut(t, j, c.stop)
			if got := found(t, path, journal.VerifyOptions{}); (got == "") != (c.want == "") ||
				!strings.Contains(got, c.want) {
				t.Errorf("found %q, not %q", got, c.want)
			}
		})
	}
}

// A journal can be verified while it grows and rotates.
func TestVerifyLive(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j := open(t, journal.Config{File: path, MaxSize: "64KiB"}, journal.Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 600 {
			if err := j.Append(t.Context(), intent(n+1)); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if got := found(t, path, journal.VerifyOptions{}); got != "" {
			t.Fatal(got)
		}
	}
	shut(t, j, 0)
	s, _, err := journal.Verify(path, journal.VerifyOptions{})
	must(t, err)
	if s.Records() != 602 || s.Open != 600 || s.Segments < 3 || s.First != 1 || s.Last != 602 {
		t.Errorf("%+v", s)
	}
}
