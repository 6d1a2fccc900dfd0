package journal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

// copyOf copies a journal of testdata, with its head, to a directory of the test.
func copyOf(t *testing.T, name string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "journal.jsonl")
	for _, suffix := range []string{"", ".head"} {
		data, err := os.ReadFile(filepath.Join("testdata", name+suffix))
		must(t, err)
		must(t, os.WriteFile(path+suffix, data, 0o600))
	}
	return path
}

// G5: a journal of each format can be read and verified, and be continued. The files were written by versions of mayfly
// that wrote these formats.
func TestFormats(t *testing.T) {
	t.Parallel()
	for format, row := range map[int]struct{ name, sum string }{
		1: {"format1.jsonl", format1Sum},
		2: {"format2.jsonl", format2Sum},
		3: {"format3.jsonl", format3Sum},
	} {
		path := copyOf(t, row.name)
		before, err := os.ReadFile(path)
		must(t, err)
		s, findings, err := journal.Verify(path, journal.VerifyOptions{})
		must(t, err)
		if len(findings) > 0 || s.Records() != 10 || s.Sum != row.sum {
			t.Errorf("%s: %+v, findings %v", row.name, s, findings)
		}
		written := format
		if format == 1 {
			written = 0
		}
		for _, e := range all(t, path) {
			if e.Format != written {
				t.Errorf("%s: record %d has format %d", row.name, e.Seq, e.Format)
			}
		}
		j := open(t, journal.Config{File: path}, journal.Options{})
		must(t, j.Append(t.Context(), intent(2)))
		shut(t, j, 0)
		after, err := os.ReadFile(path)
		must(t, err)
		if !bytes.HasPrefix(after, before) {
			t.Errorf("%s: its records were changed", row.name)
		}
		s, findings, err = journal.Verify(path, journal.VerifyOptions{})
		must(t, err)
		if len(findings) > 0 || s.Records() != 13 {
			t.Errorf("%s, continued: %+v, findings %v", row.name, s, findings)
		}
		if entries := all(t, path); entries[10].Format != journal.Format || entries[10].Prev != row.sum {
			t.Errorf("%s: the first new record is %+v", row.name, entries[10].Record)
		}
	}
}

// The last sums of the journals in testdata.
const (
	format1Sum = "6810d817da2e0b2d937e4313e01400cf41c3c9908597de2dffe4b58316ec8542"
	format2Sum = "395ffce64b3b39e577e053764b1f0932407afa7ffd3177946c4194bfb0af1d7b"
	format3Sum = "6887c5a208d2ff4f64eb1f3deaa84b5acd0ba043e6a00ca8583f18992631a367"
)

// Records are written in the format of the golden file: the same records at the same times have the same bytes.
func TestFormatIsStable(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("testdata/format3.jsonl")
	must(t, err)
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	old := all(t, "testdata/format3.jsonl")
	var times []time.Time
	for _, e := range old {
		times = append(times, e.Time)
	}
	clock := clockOf(times)
	j := open(t, journal.Config{File: path}, journal.Options{
		Version: old[0].Version,
		Digest:  old[0].Config, Now: clock.now,
	})
	for _, e := range old[1 : len(old)-1] {
		clock.record(int(e.Seq) - 1)
		must(t, j.Append(t.Context(), &e.Record))
	}
	clock.record(len(old) - 1)
	shut(t, j, old[len(old)-1].Signatures)
	got := all(t, path)
	for i, line := range bytes.SplitAfter(want, []byte("\n"))[:len(old)] {
		// The instance of a start is random, so the sums differ.
		a, b := got[i].Raw, line
		if i == 0 {
			a = bytes.Replace(a, []byte(got[0].Instance), []byte(old[0].Instance), 1)
		}
		a, _, _ = bytes.Cut(a, []byte(`,"prev":`))
		b, _, _ = bytes.Cut(b, []byte(`,"prev":`))
		if !bytes.Equal(a, b) {
			t.Errorf("record %d is written as\n%s\nand was\n%s", i+1, a, b)
		}
	}
}

// A record of a newer format is refused by everything that reads records, with the same words, and is not damage to the
// chain: the journal is left as it is.
func TestNewerFormat(t *testing.T) {
	t.Parallel()
	path := copyOf(t, "format3.jsonl")
	data, err := os.ReadFile(path)
	must(t, err)
	last := all(t, path)[9]
	covered := []byte(`{"seq":11,"format":4,"when":"a member that this version does not know","prev":"` + last.Sum +
		`"`)
	sum := sha256.Sum256(covered)
	line := string(covered) + `,"sum":"` + hex.EncodeToString(sum[:]) + "\"}\n"
	must(t, os.WriteFile(path, append(data, line...), 0o600))
	must(t, os.WriteFile(path+".head", []byte("00000000000000000011 "+hex.EncodeToString(sum[:])+"\n"), 0o600))
	const want = "record 11 has format 4; this version of mayfly reads formats up to 3"
	check := func(who string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "use the version that wrote it") {
			t.Errorf("%s: %v", who, err)
		}
	}
	_, findings, err := journal.Verify(path, journal.VerifyOptions{})
	must(t, err)
	if len(findings) != 1 || findings[0].At.Line != 11 {
		t.Errorf("findings %v", findings)
	}
	check("Verify", &findings[0])
	_, err = journal.ParseRecord([]byte(line))
	check("ParseRecord", err)
	_, err = journal.NewReader(path, 11).Next()
	check("Reader", err)
	check("Inspect", (journal.Config{File: path}).Inspect())
	_, err = journal.Open(journal.Config{File: path}, journal.Options{})
	check("Open", err)
	after, err := os.ReadFile(path)
	must(t, err)
	if string(after) != string(data)+line {
		t.Error("the journal was changed")
	}
	// The same in a closed segment, which is looked at for its last record only.
	must(t, os.Rename(path, path+".000000000001"))
	_, err = journal.Open(journal.Config{File: path}, journal.Options{})
	check("Open after a closed segment", err)
	// A record whose sum is wrong is damage, whatever its format says.
	bad := strings.Replace(line, "member", "nember", 1)
	must(t, os.Rename(path+".000000000001", path))
	must(t, os.WriteFile(path, append(bytes.Clone(data), bad...), 0o600))
	_, findings, err = journal.Verify(path, journal.VerifyOptions{})
	must(t, err)
	if len(findings) == 0 || !strings.Contains(findings[0].What, "checksum") {
		t.Errorf("findings %v", findings)
	}
	if _, err := journal.Open(journal.Config{File: path}, journal.Options{}); err == nil ||
		errors.Is(err, os.ErrNotExist) ||
		!strings.Contains(err.Error(), "records are missing or damaged") {
		t.Errorf("Open: %v", err)
	}
}

// testClock gives each record its time.
type testClock struct {
	times []time.Time
	at    int
}

func clockOf(times []time.Time) *testClock { return &testClock{times: times} }

func (c *testClock) record(i int) { c.at = i }

func (c *testClock) now() time.Time { return c.times[c.at] }
