package journal

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func serialOf(n int) string { return fmt.Sprintf("%040x", n) }

// G5: problems of serial numbers are found with every size of the memory: with space for eight of them as with space
// for all.
func TestSpool(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		var records []Record
		next := 0
		for range 400 {
			n := next
			if next > 0 && random.IntN(4) == 0 { // one of before, near or far
				n = random.IntN(next + 1)
			} else {
				next++
			}
			switch random.IntN(12) {
			case 0:
				records = append(records, Record{Kind: Trial, Serial: serialOf(n), Signatures: 1})
			case 1:
				records = append(records, Record{Kind: Outcome, Serial: serialOf(n), Result: Issued, Signatures: 2})
			case 2:
				records = append(records, Record{Kind: Outcome, Serial: serialOf(n), Result: Denied})
			case 3:
				records = append(records, Record{Kind: Intent, Serial: serialOf(n)})
			default:
				records = append(records, Record{Kind: Intent, Serial: serialOf(n)},
					Record{Kind: Outcome, Serial: serialOf(n), Result: Issued, Signatures: 2})
			}
		}
		wrong := func(limit int) (out []string, runs int) {
			r := newRules(false)
			defer r.serials.close()
			r.serials.limit, r.running = limit, true
			for i := range records {
				r.at.line = uint32(i) + 1
				out = append(out, r.record(&records[i])...)
				if len(r.serials.inMemory) > limit {
					t.Fatalf("%d serial numbers are in memory", len(r.serials.inMemory))
				}
			}
			more, err := r.finish(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range more {
				if one.at.line == 0 {
					t.Error("a finding without a place")
				}
				out = append(out, one.what)
			}
			slices.Sort(out)
			return out, len(r.serials.runs)
		}
		want, none := wrong(1 << 20)
		got, runs := wrong(8)
		if diff := cmp.Diff(want, got); diff != "" || none != 0 || runs < 10 || len(want) == 0 {
			t.Fatalf("seed %d, %d runs: %s", seed, runs, diff)
		}
	}
}

// F2: a journal of many certificates is verified with one segment open at a time and with bounded memory; a serial
// number that is used a second time much later is found with its place.
func TestVerifyIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, err := Open(Config{File: path, MaxSize: "64KiB"}, Options{Disk: func(f *os.File) Disk { return noSync{f} }})
	if err != nil {
		t.Fatal(err)
	}
	const many = 3000
	for n := range many {
		j.Note(&Record{Kind: Intent, Serial: serialOf(n), SAN: "alice@example.com"})
		j.Note(&Record{Kind: Outcome, Serial: serialOf(n), Result: Issued, Signatures: 2})
		if n%50 == 0 { // so that the files are many
			if err := j.Append(t.Context(), &Record{Kind: Event}); err != nil {
				t.Fatal(err)
			}
		}
	}
	j.Note(&Record{Kind: Intent, Serial: serialOf(1)})
	if err := j.Close(context.Background(), 2*many); err != nil {
		t.Fatal(err)
	}
	most := 0
	s, findings, err := Verify(path, VerifyOptions{spool: 64, Progress: func(int64, int64) {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return
		}
		n := 0
		for _, fd := range open {
			if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil &&
				filepath.Dir(to) == filepath.Dir(path) {
				n++
			}
		}
		most = max(most, n)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(findings) != 1 || findings[0].What != usedBefore(serial{19: 1}) || findings[0].At.File != path ||
		findings[0].At.Line == 0 {
		t.Errorf("found %v", findings)
	}
	if s.Segments < 15 || most > 2 { // the newest one, and the one that is read
		t.Errorf("%d of %d segments were open at once", most, s.Segments)
	}
	if runtime.GOOS == "linux" && most == 0 {
		t.Error("nothing was open")
	}
}

// noSync is a disk whose Sync returns at once.
type noSync struct{ *os.File }

func (noSync) Sync() error { return nil }

// G4: a disk that is nearly full is reserved for certificates: denials are counted, in few records.
func TestTightDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, err := Open(Config{File: path}, Options{free: func(string) (uint64, uint64, bool) { return 40, 1000, true }})
	if err != nil {
		t.Fatal(err)
	}
	for range 500 {
		j.Note(&Record{Kind: Outcome, Result: Denied, Reason: "TOKEN_EXPIRED"})
		j.Note(&Record{Kind: Outcome, Result: Denied, Reason: "POLICY_DENIED", ProviderKey: "k", Issuer: "i"})
	}
	if h := j.Health(); !h.OK || h.Warning == "" {
		t.Errorf("health %+v", h)
	}
	if err := j.Append(t.Context(), &Record{Kind: Intent, Serial: serialOf(1)}); err != nil {
		t.Error(err)
	}
	if err := j.Close(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	s, _, err := Verify(path, VerifyOptions{})
	if err != nil || s.Results[Denied] != 0 || s.Kinds[Dropped] == 0 || s.Kinds[Dropped] > 2 || s.Kinds[Intent] != 1 {
		t.Errorf("%+v %v", s, err)
	}
	counted := 0
	for e, err := range Read(path, 0) {
		if err != nil {
			t.Fatal(err)
		}
		counted += e.Count
	}
	if counted != 1000 {
		t.Errorf("%d of 1000 are counted", counted)
	}
}

// The reserve is a part of a small disk, and at most some hundred megabytes of a large one.
func TestMeasure(t *testing.T) {
	t.Parallel()
	j := &Journal{file: &fileStore{path: "/journal"}, log: slog.New(slog.DiscardHandler), denials: newDenials()}
	for _, c := range []struct {
		free, size uint64
		known      bool
		tight      bool
	}{
		{1 << 40, 1 << 41, true, false},
		{300 << 20, 1 << 41, true, false},
		{200 << 20, 1 << 41, true, true},
		{60 << 20, 1 << 30, true, false},
		{50 << 20, 1 << 30, true, true},
		{0, 0, false, false},
	} {
		j.free = func(string) (uint64, uint64, bool) { return c.free, c.size, c.known }
		j.measured = time.Time{}
		j.measure()
		if j.denials.tight != c.tight {
			t.Errorf("%+v: tight %t", c, j.denials.tight)
		}
	}
	if free, size, known := freeOf(t.TempDir()); runtime.GOOS == "linux" && (!known || free == 0 || size < free) {
		t.Errorf("this disk has %d of %d bytes, %t", free, size, known)
	}
}

// D22 // F2: of repeated denials the first are written in full, then one record for each interval has the identity and
// the count. Other identities and other reasons are not affected, and the memory is bounded for any number of them.
func TestRepeatedDenials(t *testing.T) {
	t.Parallel()
	d := newDenials()
	deny := func(subject, reason string) (full bool) {
		full, _ = d.admit(&Record{
			Kind: Outcome, Result: Denied, Reason: reason, Issuer: "i", Subject: subject,
			SAN: "san of " + subject, ProviderKey: "k",
		})
		return full
	}
	written := 0
	for range 1000 {
		if deny("alice", "KEY_MALFORMED") {
			written++
		}
	}
	if written < repeatBurst || written > repeatBurst+2 || !deny("alice", "POLICY_DENIED") ||
		!deny("bob", "KEY_MALFORMED") {
		t.Errorf("%d of 1000 were written", written)
	}
	if out, _ := d.summaries(time.Now(), false); len(out) > 0 {
		t.Errorf("too soon: %+v", out)
	}
	out, rest := d.summaries(time.Now().Add(reportRepeated), false)
	if len(out) != 1 || rest != 0 {
		t.Fatalf("%+v, %d", out, rest)
	}
	if r := out[0].record; r.Kind != Dropped || r.Count != 1000-written || r.Subject != "alice" ||
		r.SAN != "san of alice" || r.Issuer != "i" || r.Reason != "KEY_MALFORMED" {
		t.Errorf("%+v", r)
	}
	for n := range 3 * maxRepeaters {
		for range 20 {
			deny(fmt.Sprint(n), "KEY_MALFORMED")
		}
	}
	if len(d.by) > maxRepeaters {
		t.Errorf("%d are kept", len(d.by))
	}
	total := 0
	for _, one := range d.by {
		total += one.count
	}
	out, rest = d.summaries(time.Now(), true)
	for _, e := range out {
		rest += e.record.Count
	}
	if len(out) != maxReported || rest != total || total < maxRepeaters {
		t.Errorf("%d records count %d of %d", len(out), rest, total)
	}
	if d.summaries(time.Now().Add(48*time.Hour), true); len(d.by) > 0 {
		t.Errorf("%d are never forgotten", len(d.by))
	}
}
