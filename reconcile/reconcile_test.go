package reconcile_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// damage changes a file of a log.
func damage(w *world, l int, name string, how func([]byte) []byte) {
	w.t.Helper()
	path := filepath.Join(w.logs[l].Dir, name)
	data, err := os.ReadFile(path)
	must(w.t, err)
	must(w.t, os.WriteFile(path, how(data), 0o600))
}

// theft puts something into log l that the CA's key signed elsewhere.
func theft(w *world, l int, precertificate bool) {
	w.t.Helper()
	e := ct.StaticEntry{Timestamp: uint64(w.now().UnixMilli()), Certificate: w.pki.Leaf(w.random.Int64(), precertificate)}
	if precertificate {
		e.IssuerKeyHash, e.TBS = w.keyHash(), w.next().tbs
	}
	_, err := w.logs[l].Add(e)
	must(w.t, err)
}

// scenarios are what can be in journals and logs. Everything is published and an hour passes before they are judged.
var scenarios = []struct {
	name string
	do   func(w *world)
	want []string // kinds of findings
	x    reconcile.Explained
}{
	{name: "nothing", do: func(*world) {}},
	{name: "ordinary work", do: func(w *world) {
		for i := range 300 {
			w.issue(i%2, i%2)
		}
		w.issue(0, 0, 1)
	}},
	{name: "an entry that no SCT in the certificate tells of", do: func(w *world) {
		c := w.next()
		w.intend(0, c)
		w.log(0, c)
		w.log(1, c)
		c.scts = c.scts[:1]
		w.release(0, c)
	}},
	{name: "a request that failed after the log took it", do: func(w *world) {
		c := w.next()
		w.intend(0, c)
		w.log(0, c)
		w.fail(0, c)
	}, x: reconcile.Explained{Orphans: 1}},
	{name: "a crash after the intent, after the log, before the outcome", do: func(w *world) {
		c, d := w.next(), w.next()
		w.intend(0, c)
		w.intend(0, d)
		w.log(0, d)
	}, x: reconcile.Explained{WithoutOutcome: 2, Orphans: 1}},
	{name: "the key is used elsewhere: a precertificate", do: func(w *world) { theft(w, 0, true) }, want: []string{"unintended_entry"}},
	{name: "the key is used elsewhere: a certificate", do: func(w *world) { theft(w, 1, false) }, want: []string{"unintended_entry"}},
	{name: "a certificate of another CA with our name", do: func(w *world) {
		w.pki = pki.New(pki.Options{})
		theft(w, 0, false)
	}},
	{name: "the trial of a start in a log", do: func(w *world) {
		c := w.next()
		r := w.record(c, journal.Trial)
		r.Signatures = 1
		w.made[0]++
		w.write(0, r)
		w.log(0, c)
	}, want: []string{"unintended_entry"}},
	{name: "a released certificate that somebody logged", do: func(w *world) {
		c := w.real()
		w.intend(0, c)
		w.log(0, c)
		w.release(0, c)
		w.logFinal(1, c.der)
	}},
	{name: "a certificate that was intended and not released", do: func(w *world) {
		c := w.real()
		w.intend(0, c)
		w.fail(0, c)
		w.logFinal(1, c.der)
	}, want: []string{"certificate_without_outcome"}, x: reconcile.Explained{Orphans: 1}},
	{name: "a certificate that is not the one released", do: func(w *world) {
		c := w.real()
		released := bytes.Clone(c.der)
		w.intend(0, c)
		c.der = append(c.der, 0) // the journal has the digest of another one
		w.release(0, c)
		w.logFinal(1, released)
	}, want: []string{"certificate_without_outcome"}},
	{name: "an SCT without an entry", do: func(w *world) {
		c := w.next()
		w.intend(0, c)
		c.scts = []journal.SCT{w.sct(0, uint64(w.now().UnixMilli()), nil)}
		w.release(0, c)
		w.pass(2 * delay)
	}, want: []string{"missing_entry"}},
	{name: "an SCT with an index that is not covered yet", do: func(w *world) {
		c := w.next()
		w.intend(0, c)
		c.scts = []journal.SCT{w.sct(0, uint64(w.now().UnixMilli()), ct.Extensions(5))}
		w.release(0, c)
	}, x: reconcile.Explained{Open: 1}},
	{name: "an SCT with the index of another entry", do: func(w *world) {
		w.issue(0, 0)
		c := w.next()
		w.intend(0, c)
		c.scts = []journal.SCT{w.sct(0, uint64(w.now().UnixMilli()), ct.Extensions(0))}
		w.release(0, c)
	}, want: []string{"missing_entry"}},
	{name: "an entry with another time", do: func(w *world) {
		c := w.next()
		w.intend(0, c)
		w.log(0, c)
		c.scts[0].Timestamp++
		w.release(0, c)
	}, want: []string{"entry_mismatch"}},
	{name: "an entry at another index", do: func(w *world) {
		w.issue(0, 0)
		c := w.next()
		w.intend(0, c)
		w.log(0, c)
		c.scts[0].Extensions = fmt.Sprintf("%x", ct.Extensions(0))
		w.release(0, c)
	}, want: []string{"entry_mismatch"}},
	{name: "an SCT of a log that is not read", do: func(w *world) {
		c := w.next()
		w.intend(0, c)
		c.scts = []journal.SCT{{Log: digest("another"), Timestamp: 1}}
		w.release(0, c)
	}, x: reconcile.Explained{Unwatched: 1}},
	{name: "two certificates with one serial number", do: func(w *world) {
		c := w.issue(0, 0)
		d := w.next()
		d.serial, d.tbs = c.serial, tbsOf(serialBytes(c.serial), 7)
		w.intend(1, d)
		w.log(1, d)
		w.release(1, d)
	}, want: []string{"serial_reused"}},
	{name: "one decision twice", do: func(w *world) {
		c := w.issue(0, 0)
		w.intend(0, c)
		w.release(0, c)
	}, want: []string{"serial_reused", "serial_reused"}},
	{name: "an outcome without an intent", do: func(w *world) {
		c := w.next()
		w.log(0, c)
		w.release(0, c)
	}, want: []string{"outcome_without_intent", "unintended_entry"}},
	{name: "a signature that no record explains", do: func(w *world) {
		w.issue(0, 0)
		w.stop(0, 1)
		w.start(0)
	}, want: []string{"signatures_uncounted"}},
	{name: "a signature too few", do: func(w *world) {
		w.issue(0, 0)
		w.stop(0, -1)
		w.start(0)
	}, want: []string{"signatures_uncounted"}},
	{name: "a reload counts what is under way", do: func(w *world) {
		w.intend(0, w.next())
		w.write(0, journal.Record{Kind: journal.Reload, Signatures: 2})
	}, x: reconcile.Explained{WithoutOutcome: 1}},
	{name: "a reload counts too much", do: func(w *world) {
		w.write(0, journal.Record{Kind: journal.Reload, Signatures: 1})
	}, want: []string{"signatures_uncounted"}},
	{name: "an entry of before the journal", do: func(w *world) {
		_, err := w.logs[0].Add(ct.StaticEntry{Timestamp: uint64(w.now().Add(-24 * time.Hour).UnixMilli()), IssuerKeyHash: w.keyHash(), TBS: w.next().tbs, Certificate: []byte("x")})
		must(w.t, err)
	}, x: reconcile.Explained{Before: 1}},
	{name: "an entry altered in the storage of the log", do: func(w *world) {
		for range 300 {
			w.issue(0, 0)
		}
		w.publish()
		damage(w, 0, "tile/data/000", func(b []byte) []byte { b[3] ^= 1; return b })
	}, want: []string{"log_mismatch"}, x: reconcile.Explained{Open: 1}},
	{name: "the content of an entry altered in the storage of the log", do: func(w *world) {
		for range 300 {
			w.issue(0, 0)
		}
		w.publish()
		damage(w, 0, "tile/data/000", func(b []byte) []byte { // the last byte of the first TBSCertificate
			end := 8 + 2 + 32 + 3 + int(b[44])
			b[end-1] ^= 1
			return b
		})
	}, want: []string{"log_mismatch"}, x: reconcile.Explained{Open: 1}},
	{name: "an entry removed from the storage of the log", do: func(w *world) {
		for range 300 {
			w.issue(0, 0)
		}
		w.publish()
		must(w.t, os.Remove(filepath.Join(w.logs[0].Dir, "tile/data/000")))
	}, want: []string{"log_mismatch"}, x: reconcile.Explained{Open: 300}},
}

func serialBytes(text string) []byte {
	out := make([]byte, len(text)/2)
	for i := range out {
		_, _ = fmt.Sscanf(text[2*i:2*i+2], "%02x", &out[i])
	}
	return out
}

// G6 // B1 // B12: what each history amounts to, for the whole audit, for an auditor that saw it at once, and for one that looked
// after each step and was restarted.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for _, c := range scenarios {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2, 2)
			original := w.pki
			watching := w.auditor()
			watching.tick()
			w.pass(time.Minute)
			c.do(w)
			w.pki = original
			w.pass(time.Minute)
			if c.want == nil || c.want[0] != "log_mismatch" {
				w.publish()
			}
			watching.restart()
			watching.tick()
			late := w.auditor()
			late.tick()
			report := w.full(nil)
			want := append([]string{}, c.want...)
			if diff := cmp.Diff(want, kinds(report.Findings)); diff != "" {
				t.Errorf("findings: %s\n%v", diff, report.Findings)
			}
			if diff := cmp.Diff(c.x, report.Explained); diff != "" {
				t.Errorf("explained: %s", diff)
			}
			if len(report.Incomplete) > 0 {
				t.Errorf("incomplete: %v", report.Incomplete)
			}
			for name, a := range map[string]*continuous{"an auditor from the beginning": watching, "a late auditor": late} {
				if diff := cmp.Diff(ids(report.Findings), ids(a.raised)); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
				if got := len(a.Alarms()); got != len(c.want) {
					t.Errorf("%s: %d alarms are open", name, got)
				}
			}
			before := len(watching.raised)
			watching.tick()
			watching.restart()
			watching.tick()
			if len(watching.raised) != before {
				t.Errorf("a finding was raised twice: %v", watching.raised[before:])
			}
			for _, f := range report.Findings {
				if f.Action == "" || f.Severity == "" || f.ID == "" || f.Time.IsZero() || f.Text == "" {
					t.Errorf("a finding without %+v", f)
				}
			}
		})
	}
}

// G6: two instances with two journals and one log: with one of the journals half of the entries are unintended, with both none.
func TestTwoInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 2)
	for i := range 40 {
		w.issue(i%2, 0)
	}
	w.pass(time.Minute)
	w.publish()
	if r := w.full(nil); len(r.Findings) > 0 || r.Logs[0].Ours != 40 {
		t.Errorf("with both: %+v", r)
	}
	r := w.full(func(in *reconcile.Input) { in.Journals = in.Journals[:1] })
	if len(r.Findings) != 20 || r.Findings[0].Kind != reconcile.UnintendedEntry {
		t.Errorf("with one: %d findings", len(r.Findings))
	}
	copied := filepath.Join(t.TempDir(), "copy")
	data, err := os.ReadFile(w.paths[0])
	must(t, err)
	must(t, os.WriteFile(copied, data, 0o600))
	in := reconcile.Input{Journals: []reconcile.Journal{{Name: "a", Path: w.paths[0]}, {Name: "b", Path: copied}}}
	if _, err := reconcile.Run(t.Context(), in); err == nil {
		t.Error("the same journal twice was taken")
	}
}

// The journal of another instance that is not there keeps nobody from auditing ours, and nobody is accused for the want of it.
func TestOthersMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 2)
	a := w.auditor()
	w.issue(1, 0)
	c := w.next()
	w.intend(0, c)
	c.scts = []journal.SCT{w.sct(0, uint64(w.now().UnixMilli()), ct.Extensions(0))}
	w.release(0, c)
	w.publish()
	there := w.paths
	w.paths = []string{there[0], there[1] + ".gone"}
	a.tick()
	if diff := cmp.Diff([]string{"missing_entry"}, kinds(a.raised)); diff != "" || len(a.Warnings()) != 2 {
		t.Errorf("%s %v", diff, a.Warnings())
	}
	w.paths = there
	a.restart()
	a.tick()
	if len(a.raised) != 1 || len(a.Warnings()) != 1 {
		t.Errorf("when it is back: %v %v", a.raised, a.Warnings())
	}
}

// Where older files of the journal were archived, what is older than the rest cannot be judged; what is younger is.
func TestArchived(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	a := w.auditor()
	a.keep, a.rows = time.Minute, 16
	a.restart()
	first := w.issue(0, 0)
	for range 100 {
		w.pass(time.Minute)
		w.issue(0, 0)
	}
	w.publish()
	a.tick()
	segments, err := journal.Segments(w.paths[0])
	must(t, err)
	if len(segments) < 2 {
		t.Fatalf("%d files", len(segments))
	}
	must(t, os.Remove(segments[0].Path))
	_, err = w.logs[0].Add(ct.StaticEntry{Timestamp: uint64(w.now().Add(-100 * time.Minute).UnixMilli()), IssuerKeyHash: w.keyHash(), TBS: first.tbs, Certificate: []byte("x")})
	must(t, err)
	w.publish()
	a.restart()
	a.tick()
	r := w.full(nil)
	if len(a.raised) > 0 || len(r.Findings) > 0 || r.Explained.Before == 0 {
		t.Errorf("of before: %v %+v", a.raised, r)
	}
	theft(w, 0, true)
	w.publish()
	a.tick()
	if diff := cmp.Diff([]string{"unintended_entry"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// G5: a journal that was replaced is told of, and the new one is read.
func TestReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	a := w.auditor()
	w.issue(0, 0)
	w.issue(0, 0)
	w.publish()
	a.tick()
	w.stop(0, 0)
	for _, suffix := range []string{"", ".head"} {
		must(t, os.Remove(w.paths[0]+suffix))
	}
	w.pass(time.Minute)
	w.start(0)
	c := w.next()
	w.intend(0, c)
	w.log(0, c)
	c.scts[0].Timestamp++
	w.release(0, c)
	w.publish()
	a.restart()
	a.tick()
	if diff := cmp.Diff([]string{"entry_mismatch", "journal_broken"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// Each entry that nobody intended is an alarm of its own, however many there are.
func TestFlood(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	for range 1100 {
		theft(w, 0, true)
	}
	w.publish()
	a := w.auditor()
	a.tick()
	if len(a.raised) != 1100 || len(a.Alarms()) != 1100 {
		t.Errorf("%d raised, %d open", len(a.raised), len(a.Alarms()))
	}
	if r := w.full(nil); len(r.Findings) != 1100 {
		t.Errorf("the command lists %d", len(r.Findings))
	}
}

// A copy of a journal may be behind, for as long as the lag says and no longer.
func TestLag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 2)
	w.issue(1, 0)
	copied := filepath.Join(t.TempDir(), "copy")
	data, err := os.ReadFile(w.paths[1])
	must(t, err)
	must(t, os.WriteFile(copied, data, 0o600))
	w.pass(time.Minute)
	w.issue(1, 0)
	w.publish()
	behind := func(in *reconcile.Input) { in.Journals[1].Path, in.Lag = copied, 10*time.Minute }
	if r := w.full(behind); len(r.Findings) > 0 || r.Explained.Young != 1 {
		t.Errorf("%+v", r)
	}
	w.pass(10 * time.Minute)
	if r := w.full(behind); len(r.Findings) != 1 || r.Explained.Young != 0 {
		t.Errorf("%+v", r)
	}
}

// An issuing key that only a journal names is looked for in the logs, also in what has been read.
func TestKeyFromJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	a := w.auditor()
	a.tick()
	other := pki.New(pki.Options{})
	first := w.pki
	w.pki = other
	theft(w, 0, true)
	w.publish()
	w.pki = first
	a.tick()
	if r := w.full(nil); len(r.Findings) > 0 || len(a.raised) > 0 {
		t.Errorf("the entry of another CA: %v", r.Findings)
	}
	w.pki = other
	w.issue(0, 0)
	w.publish()
	w.pki = first
	a.tick()
	r := w.full(nil)
	if diff := cmp.Diff([]string{"unintended_entry"}, kinds(r.Findings)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(ids(r.Findings), ids(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// A journal that cannot be read is no proof of anything: nothing is accused, and nothing is well.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	w.issue(0, 0)
	w.publish()
	r := w.full(func(in *reconcile.Input) { in.Journals[0].Path += ".gone" })
	if len(r.Findings) > 0 || len(r.Incomplete) != 1 || r.Explained.Young != 1 {
		t.Errorf("%+v", r)
	}
	must(t, os.Remove(filepath.Join(w.logs[0].Dir, "checkpoint")))
	if r = w.full(nil); len(r.Findings) > 0 || len(r.Incomplete) != 1 {
		t.Errorf("%+v", r)
	}
	if _, err := reconcile.Run(t.Context(), reconcile.Input{}); err == nil {
		t.Error("an audit without a journal")
	}
}

// G5: a changed line of the journal is found here too.
func TestBrokenJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	w.issue(0, 0)
	w.issue(0, 0)
	w.stop(0, 0)
	w.publish()
	data, err := os.ReadFile(w.paths[0])
	must(t, err)
	lines := splitLines(data)
	for name, change := range map[string]func() [][]byte{
		"a record removed": func() [][]byte { return slices.Delete(slices.Clone(lines), 1, 2) },
		"two in another order": func() [][]byte {
			out := slices.Clone(lines)
			out[1], out[2] = out[2], out[1]
			return out
		},
		"a byte changed": func() [][]byte {
			out := slices.Clone(lines)
			out[2] = slices.Clone(out[2])
			out[2][len(out[2])/2] ^= 1
			return out
		},
	} {
		path := filepath.Join(t.TempDir(), "journal")
		must(t, os.WriteFile(path, slices.Concat(change()...), 0o600))
		r := w.full(func(in *reconcile.Input) { in.Journals[0].Path = path })
		if !slices.Contains(kinds(r.Findings), "journal_broken") {
			t.Errorf("%s: %v", name, r.Findings)
		}
	}
}

func splitLines(data []byte) (out [][]byte) {
	for start, i := 0, 0; i < len(data); i++ {
		if data[i] == '\n' {
			out = append(out, data[start:i+1])
			start = i + 1
		}
	}
	return out
}

// G6: a log that breaks its promise is benched, stays so over a restart, and is asked again when an operator says so.
func TestBenched(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, 1)
	w.issue(0, 0, 1)
	w.publish()
	a := w.auditor()
	a.tick()
	other := sha256.Sum256([]byte("another history"))
	note := ct.Checkpoint(ct.CheckpointOptions{Origin: w.logs[1].Origin, Key: w.logs[1].Key, Size: 1, Root: other[:], Now: w.now().Add(time.Second)})
	must(t, os.WriteFile(filepath.Join(w.logs[1].Dir, "checkpoint"), note, 0o600))
	a.tick()
	if diff := cmp.Diff([]string{"log_forked"}, kinds(a.raised)); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]string{"log1"}, a.benched); diff != "" {
		t.Error(diff)
	}
	a.benched = nil
	a.restart()
	if diff := cmp.Diff([]string{"log1"}, a.benched); diff != "" || len(a.Warnings()) != 1 {
		t.Errorf("after a restart: %s %v", diff, a.Warnings())
	}
	w.pass(time.Minute)
	w.publish()
	a.orders = []reconcile.Order{{Log: "log1"}}
	a.tick()
	if len(a.benched) != 0 || len(a.Alarms()) != 0 || len(a.raised) != 1 {
		t.Errorf("after the order: benched %v, alarms %v", a.benched, a.Alarms())
	}
	w.issue(0, 1)
	w.publish()
	a.tick()
	if len(a.raised) != 1 {
		t.Errorf("the log is not followed again: %v", a.raised[1:])
	}
}

// A head that the pinned key did not sign is an alarm, and no reason to do without the log: its SCTs are verified.
func TestHeadInvalid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	w.issue(0, 0)
	w.publish()
	a := w.auditor()
	damage(w, 0, "checkpoint", func(b []byte) []byte { return bytes.Replace(b, []byte("\n1\n"), []byte("\n2\n"), 1) })
	a.tick()
	if diff := cmp.Diff([]string{"log_head_invalid"}, kinds(a.raised)); diff != "" || len(a.benched) > 0 {
		t.Errorf("%s, benched %v", diff, a.benched)
	}
	if diff := cmp.Diff([]string{"log_head_invalid"}, kinds(w.full(nil).Findings)); diff != "" {
		t.Error(diff)
	}
	w.publish()
	a.orders = []reconcile.Order{{Log: "log0"}}
	a.tick()
	if len(a.Alarms()) > 0 || len(a.raised) != 1 {
		t.Errorf("after it was mended: %v", a.Alarms())
	}
}

// Damage to what was read long ago is found by reading everything again.
func TestScrub(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	for range 300 {
		w.issue(0, 0)
	}
	w.publish()
	a := w.auditor()
	a.tick()
	damage(w, 0, "tile/data/000", func(b []byte) []byte { b[3] ^= 1; return b })
	a.tick()
	if len(a.raised) != 0 {
		t.Fatalf("it reads everything each time: %v", a.raised)
	}
	w.pass(25 * time.Hour)
	w.publish()
	a.tick()
	if diff := cmp.Diff([]string{"log_mismatch"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// A log that takes entries and never shows a head with them is late an hour after its delay.
func TestSilentLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 1)
	a := w.auditor()
	w.issue(0, 0) // and no head
	a.tick()
	w.pass(delay + 59*time.Minute)
	a.tick()
	if len(a.raised) > 0 {
		t.Errorf("too soon: %v", a.raised)
	}
	if r := w.full(nil); len(r.Findings) > 0 || len(r.Incomplete) > 0 || r.Explained.Open != 1 || r.Explained.Overdue != 0 {
		t.Errorf("too soon: %+v", r)
	}
	w.pass(2 * time.Minute)
	a.tick()
	if diff := cmp.Diff([]string{"missing_entry"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
	// The whole audit reads a directory that may be an old copy: the entry is not in it, and that is all that can be known.
	r := w.full(nil)
	if len(r.Findings) > 0 || len(r.Incomplete) != 1 || !strings.Contains(r.Incomplete[0], "covers 0 entries, and lacks 1 that were promised") ||
		r.Explained != (reconcile.Explained{Overdue: 1}) {
		t.Errorf("a directory: %+v", r)
	}
	r = w.full(func(in *reconcile.Input) { in.Since = w.now().Add(-time.Minute) })
	if len(r.Incomplete) > 0 || r.Explained.Overdue != 1 {
		t.Errorf("a promise of before --since: %+v", r)
	}
	// Who answers for the log is no copy.
	web := httptest.NewServer(http.FileServer(http.Dir(w.logs[0].Dir)))
	t.Cleanup(web.Close)
	r = w.full(func(in *reconcile.Input) {
		l, err := monitor.Open(monitor.Options{Name: "log0", Key: w.logs[0].Key.Public(), Origin: w.logs[0].Origin, Monitoring: web.URL})
		must(t, err)
		in.Logs[0].Follower, err = monitor.Follow(l, monitor.FollowerOptions{})
		must(t, err)
	})
	if diff := cmp.Diff(ids(a.raised), ids(r.Findings)); diff != "" || len(r.Incomplete) > 0 {
		t.Errorf("over HTTP: %s %v", diff, r.Incomplete)
	}
}

// Without a journal the promises are audited all the same.
func TestGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 0)
	var raised []reconcile.Finding
	a, err := reconcile.NewAuditor(reconcile.AuditorOptions{Every: time.Minute, Now: w.now, Raise: raise(&raised)})
	must(t, err)
	a.Configure(w.setup(t))
	grant := func(c *certificate, index int) {
		a.Granted(reconcile.Grant{Log: w.id(0), TBS: sha256.Sum256(c.tbs), Timestamp: uint64(w.now().UnixMilli()), Extensions: ct.Extensions(uint64(index))})
	}
	c, d := w.next(), w.next()
	w.log(0, c)
	theft(w, 0, true)
	grant(c, 0)
	grant(d, 1)
	a.Tick(t.Context())
	if len(raised) > 0 {
		t.Errorf("before there is a head: %v", raised)
	}
	w.publish()
	a.Tick(t.Context())
	if diff := cmp.Diff([]string{"missing_entry"}, kinds(raised)); diff != "" {
		t.Error(diff)
	}
}

// F2: without a journal, a log that shows nothing does not fill the memory: of its promises a random part is watched.
func TestManyGrants(t *testing.T) {
	t.Parallel()
	const rows, grants = 50, 5000
	w := newWorld(t, 1, 0)
	var raised []reconcile.Finding
	a, err := reconcile.NewAuditor(reconcile.AuditorOptions{Every: time.Minute, Now: w.now, Raise: raise(&raised), Rows: rows})
	must(t, err)
	a.Configure(w.setup(t))
	began := w.now().UnixMilli()
	for i := range grants {
		a.Granted(reconcile.Grant{
			Log: w.id(0), TBS: sha256.Sum256([]byte(fmt.Sprint("TBS ", i))), Serial: [20]byte{1, byte(i >> 8), byte(i)}, Timestamp: uint64(began) + uint64(i),
			Extensions: ct.Extensions(0),
		})
		if i%1000 == 999 {
			a.Tick(t.Context())
		}
	}
	w.log(0, w.next()) // the place that all were promised
	w.publish()
	a.Tick(t.Context())
	late := 0
	for _, f := range raised {
		if f.Time.UnixMilli() >= began+grants/2 {
			late++
		}
	}
	if n := len(raised); n != rows || late < rows/10 || late > rows*9/10 {
		t.Errorf("%d findings, %d of them of the second half", n, late)
	}
}

// G6: looking after each step, with restarts and a short memory, comes to what the whole audit comes to.
func TestIncrementalIsFull(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2, 2)
			w.random = rand.New(rand.NewPCG(seed, 3))
			a := w.auditor()
			a.step, a.keep, a.rows = 1+uint64(w.random.IntN(9)), time.Minute, 16
			a.restart()
			var old []*certificate
			for range 150 {
				happen(w, &old)
				switch w.random.IntN(6) {
				case 0:
					w.publish()
				case 1:
					a.tick()
				case 2:
					a.restart()
				}
			}
			w.pass(3 * delay)
			w.publish()
			a.tick()
			r := w.full(nil)
			if diff := cmp.Diff(ids(r.Findings), ids(a.raised)); diff != "" {
				t.Error(diff)
			}
			if len(r.Findings) == 0 {
				t.Error("a history in which nothing happened")
			}
		})
	}
}

// happen does one thing that can happen.
func happen(w *world, old *[]*certificate) {
	w.pass(time.Duration(w.random.IntN(90)) * time.Second)
	j, l := w.random.IntN(2), w.random.IntN(2)
	switch n := w.random.IntN(40); {
	case n < 20:
		*old = append(*old, w.issue(j, l))
	case n < 25:
		*old = append(*old, w.issue(j, 0, 1))
	case n < 28:
		c := w.next()
		w.intend(j, c)
		w.log(l, c)
		w.fail(j, c)
	case n == 28:
		w.intend(j, w.next())
	case n == 29:
		theft(w, l, true)
	case n == 30:
		theft(w, l, false)
	case n == 31: // no entry, no index
		c := w.next()
		w.intend(j, c)
		c.scts = []journal.SCT{w.sct(l, uint64(w.now().UnixMilli()), nil)}
		w.release(j, c)
	case n == 32: // another time
		c := w.next()
		w.intend(j, c)
		w.log(l, c)
		c.scts[0].Timestamp++
		w.release(j, c)
	case n == 33: // an outcome alone
		c := w.next()
		w.release(j, c)
	case n == 34:
		w.stop(j, w.random.IntN(2))
		w.start(j)
	case n < 38 && len(*old) > 0: // somebody submits an old precertificate again
		w.log(l, (*old)[w.random.IntN(len(*old))])
	}
}

func raise(to *[]reconcile.Finding) func(context.Context, reconcile.Finding) {
	return func(_ context.Context, f reconcile.Finding) { *to = append(*to, f) }
}
