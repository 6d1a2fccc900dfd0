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
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// damage changes a file of log l.
func damage(h *harness, l int, name string, change func([]byte) []byte) {
	h.t.Helper()
	path := filepath.Join(h.logs[l].Dir, name)
	data, err := os.ReadFile(path)
	must(h.t, err)
	must(h.t, os.WriteFile(path, change(data), 0o600))
}

// signOutsideCA adds an entry to log l that the key signed outside of the CA.
func (h *harness) signOutsideCA(l int, precertificate bool) {
	h.t.Helper()
	e := ct.StaticEntry{
		Timestamp:   uint64(h.now().UnixMilli()),
		Certificate: h.pki.Leaf(h.random.Int64(), precertificate),
	}
	if precertificate {
		e.IssuerKeyHash, e.TBS = h.keyHash(), h.newCertificate().tbs
	}
	_, err := h.logs[l].Add(e)
	must(h.t, err)
}

// scenarios are histories of journals and logs. Everything is published before the audit.
var scenarios = []struct {
	name string
	do   func(h *harness)
	want []string // kinds of findings
	x    reconcile.Explained
}{
	{name: "nothing", do: func(*harness) {}},
	{name: "normal operation", do: func(h *harness) {
		for i := range 300 {
			h.issue(i%2, i%2)
		}
		h.issue(0, 0, 1)
	}},
	{name: "an entry whose SCT is not in the certificate", do: func(h *harness) {
		c := h.newCertificate()
		h.intend(0, c)
		h.log(0, c)
		h.log(1, c)
		c.scts = c.scts[:1]
		h.release(0, c)
	}},
	{name: "a request that failed after the log accepted it", do: func(h *harness) {
		c := h.newCertificate()
		h.intend(0, c)
		h.log(0, c)
		h.fail(0, c)
	}, x: reconcile.Explained{OrphanPrecerts: 1}},
	{name: "canaries", do: func(h *harness) {
		for range 3 {
			c := h.newCertificate()
			h.intend(0, c)
			h.log(0, c)
			h.canary(0, c)
		}
	}, x: reconcile.Explained{Canaries: 3}},
	{name: "a canary whose SCT the log did not keep", do: func(h *harness) {
		c := h.newCertificate()
		h.intend(0, c)
		c.scts = []journal.SCT{h.sct(0, uint64(h.now().UnixMilli()), ct.Extensions(0))}
		h.issue(0, 0) // has that index
		h.canary(0, c)
	}, want: []string{"missing_entry"}, x: reconcile.Explained{Canaries: 1}},
	{name: "a certificate for a canary", do: func(h *harness) {
		c := h.realCertificate()
		h.intend(0, c)
		h.log(0, c)
		h.canary(0, c)
		h.logFinal(1, c.der)
	}, want: []string{"certificate_without_outcome"}, x: reconcile.Explained{Canaries: 1}},
	{name: "a crash after the intent, and one after the submission", do: func(h *harness) {
		c, d := h.newCertificate(), h.newCertificate()
		h.intend(0, c)
		h.intend(0, d)
		h.log(0, d)
	}, x: reconcile.Explained{WithoutOutcome: 2, OrphanPrecerts: 1}},
	{
		name: "the key signs a precertificate outside of the CA", do: func(h *harness) { h.signOutsideCA(0, true) },
		want: []string{"unintended_entry"},
	},
	{
		name: "the key signs a certificate outside of the CA", do: func(h *harness) { h.signOutsideCA(1, false) },
		want: []string{"unintended_entry"},
	},
	{name: "a certificate of another CA with the same name", do: func(h *harness) {
		h.pki = pki.New(pki.Options{})
		h.signOutsideCA(0, false)
	}},
	{name: "a certificate that was signed to test the key is in a log", do: func(h *harness) {
		c := h.newCertificate()
		r := h.record(c, journal.Trial)
		r.Signatures = 1
		h.signatures[0]++
		h.write(0, r)
		h.log(0, c)
	}, want: []string{"unintended_entry"}},
	{name: "a released certificate that was submitted by a third party", do: func(h *harness) {
		c := h.realCertificate()
		h.intend(0, c)
		h.log(0, c)
		h.release(0, c)
		h.logFinal(1, c.der)
	}},
	{name: "a certificate with an intent that was not released", do: func(h *harness) {
		c := h.realCertificate()
		h.intend(0, c)
		h.fail(0, c)
		h.logFinal(1, c.der)
	}, want: []string{"certificate_without_outcome"}, x: reconcile.Explained{OrphanPrecerts: 1}},
	{name: "a certificate that differs from the released one", do: func(h *harness) {
		c := h.realCertificate()
		released := bytes.Clone(c.der)
		h.intend(0, c)
		c.der = append(c.der, 0) // the journal gets the digest of another certificate
		h.release(0, c)
		h.logFinal(1, released)
	}, want: []string{"certificate_without_outcome"}},
	{name: "an SCT without an entry", do: func(h *harness) {
		c := h.newCertificate()
		h.intend(0, c)
		c.scts = []journal.SCT{h.sct(0, uint64(h.now().UnixMilli()), nil)}
		h.release(0, c)
		h.advance(2 * delay)
	}, want: []string{"missing_entry"}},
	{name: "an SCT with an index beyond the head", do: func(h *harness) {
		c := h.newCertificate()
		h.intend(0, c)
		c.scts = []journal.SCT{h.sct(0, uint64(h.now().UnixMilli()), ct.Extensions(5))}
		h.release(0, c)
	}, x: reconcile.Explained{Open: 1}},
	{name: "an SCT with the index of another entry", do: func(h *harness) {
		h.issue(0, 0)
		c := h.newCertificate()
		h.intend(0, c)
		c.scts = []journal.SCT{h.sct(0, uint64(h.now().UnixMilli()), ct.Extensions(0))}
		h.release(0, c)
	}, want: []string{"missing_entry"}},
	{name: "an entry with another timestamp", do: func(h *harness) {
		c := h.newCertificate()
		h.intend(0, c)
		h.log(0, c)
		c.scts[0].Timestamp++
		h.release(0, c)
	}, want: []string{"entry_mismatch"}},
	{name: "an entry at another index", do: func(h *harness) {
		h.issue(0, 0)
		c := h.newCertificate()
		h.intend(0, c)
		h.log(0, c)
		c.scts[0].Extensions = fmt.Sprintf("%x", ct.Extensions(0))
		h.release(0, c)
	}, want: []string{"entry_mismatch"}},
	{name: "an SCT of a log that is not read", do: func(h *harness) {
		c := h.newCertificate()
		h.intend(0, c)
		c.scts = []journal.SCT{{Log: digest("another"), Timestamp: 1}}
		h.release(0, c)
	}, x: reconcile.Explained{UnreadLogs: 1}},
	{name: "two certificates with one serial number", do: func(h *harness) {
		c := h.issue(0, 0)
		d := h.newCertificate()
		d.serial, d.tbs = c.serial, tbsOf(serialBytes(c.serial), 7)
		h.intend(1, d)
		h.log(1, d)
		h.release(1, d)
	}, want: []string{"serial_reused"}},
	{name: "two intents and two outcomes for one certificate", do: func(h *harness) {
		c := h.issue(0, 0)
		h.intend(0, c)
		h.release(0, c)
	}, want: []string{"serial_reused", "serial_reused"}},
	{name: "an outcome without an intent", do: func(h *harness) {
		c := h.newCertificate()
		h.log(0, c)
		h.release(0, c)
	}, want: []string{"outcome_without_intent", "unintended_entry"}},
	{name: "one signature more than the records explain", do: func(h *harness) {
		h.issue(0, 0)
		h.stop(0, 1)
		h.start(0)
	}, want: []string{"signatures_uncounted"}},
	{name: "one signature fewer than the records explain", do: func(h *harness) {
		h.issue(0, 0)
		h.stop(0, -1)
		h.start(0)
	}, want: []string{"signatures_uncounted"}},
	{name: "a reload counts the signatures of a request in progress", do: func(h *harness) {
		h.intend(0, h.newCertificate())
		h.write(0, journal.Record{Kind: journal.Reload, Signatures: 2})
	}, x: reconcile.Explained{WithoutOutcome: 1}},
	{name: "a reload counts a signature that no record explains", do: func(h *harness) {
		h.write(0, journal.Record{Kind: journal.Reload, Signatures: 1})
	}, want: []string{"signatures_uncounted"}},
	{name: "an entry that is older than the journal", do: func(h *harness) {
		_, err := h.logs[0].Add(ct.StaticEntry{
			Timestamp:     uint64(h.now().Add(-24 * time.Hour).UnixMilli()),
			IssuerKeyHash: h.keyHash(), TBS: h.newCertificate().tbs, Certificate: []byte("x"),
		})
		must(h.t, err)
	}, x: reconcile.Explained{PredateJournal: 1}},
	{name: "an entry altered in the storage of the log", do: func(h *harness) {
		for range 300 {
			h.issue(0, 0)
		}
		h.publish()
		damage(h, 0, "tile/data/000", func(b []byte) []byte { b[3] ^= 1; return b })
	}, want: []string{"log_mismatch"}, x: reconcile.Explained{Open: 1}},
	{name: "the content of an entry altered in the storage of the log", do: func(h *harness) {
		for range 300 {
			h.issue(0, 0)
		}
		h.publish()
		damage(h, 0, "tile/data/000", func(b []byte) []byte { // the last byte of the first TBSCertificate
			end := 8 + 2 + 32 + 3 + int(b[44])
			b[end-1] ^= 1
			return b
		})
	}, want: []string{"log_mismatch"}, x: reconcile.Explained{Open: 1}},
	{name: "an entry removed from the storage of the log", do: func(h *harness) {
		for range 300 {
			h.issue(0, 0)
		}
		h.publish()
		must(h.t, os.Remove(filepath.Join(h.logs[0].Dir, "tile/data/000")))
	}, want: []string{"log_mismatch"}, x: reconcile.Explained{Open: 300}},
}

func serialBytes(text string) []byte {
	out := make([]byte, len(text)/2)
	for i := range out {
		_, _ = fmt.Sscanf(text[2*i:2*i+2], "%02x", &out[i])
	}
	return out
}

// G6 // B1 // B12: the findings of each scenario are the same for Run, for an Auditor that starts afterwards, and for
// an Auditor that runs before and after it with a restart between.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for _, c := range scenarios {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, 2, 2)
			original := h.pki
			early := h.auditor()
			early.run()
			h.advance(time.Minute)
			c.do(h)
			h.pki = original
			h.advance(time.Minute)
			if c.want == nil || c.want[0] != "log_mismatch" {
				h.publish()
			}
			early.restart()
			early.run()
			late := h.auditor()
			late.run()
			report := h.runAll(nil)
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
			for name, a := range map[string]*testAuditor{"early auditor": early, "late auditor": late} {
				if diff := cmp.Diff(ids(report.Findings), ids(a.raised)); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
				if got := len(a.Alarms()); got != len(c.want) {
					t.Errorf("%s: %d alarms are open", name, got)
				}
			}
			before := len(early.raised)
			early.run()
			early.restart()
			early.run()
			if len(early.raised) != before {
				t.Errorf("a finding was raised twice: %v", early.raised[before:])
			}
			for _, f := range report.Findings {
				if f.Action == "" || f.Severity == "" || f.ID == "" || f.Time.IsZero() || f.Text == "" {
					t.Errorf("incomplete finding: %+v", f)
				}
			}
		})
	}
}

// G6: with two instances, two journals and one log, half of the entries are unintended if one journal is missing.
func TestTwoInstances(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 2)
	for i := range 40 {
		h.issue(i%2, 0)
	}
	h.advance(time.Minute)
	h.publish()
	if r := h.runAll(nil); len(r.Findings) > 0 || r.Logs[0].Matched != 40 {
		t.Errorf("with both: %+v", r)
	}
	r := h.runAll(func(in *reconcile.Input) { in.Journals = in.Journals[:1] })
	if len(r.Findings) != 20 || r.Findings[0].Kind != reconcile.UnintendedEntry {
		t.Errorf("with one: %d findings", len(r.Findings))
	}
	copyPath := filepath.Join(t.TempDir(), "copy")
	data, err := os.ReadFile(h.paths[0])
	must(t, err)
	must(t, os.WriteFile(copyPath, data, 0o600))
	in := reconcile.Input{Journals: []reconcile.Journal{{Name: "a", Path: h.paths[0]}, {Name: "b", Path: copyPath}}}
	if _, err := reconcile.Run(t.Context(), in); err == nil {
		t.Error("the same journal was accepted twice")
	}
}

// If the journal of another instance is missing, the own journal is still audited, and no entry is reported as
// unintended.
func TestMissingJournal(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 2)
	a := h.auditor()
	h.issue(1, 0)
	c := h.newCertificate()
	h.intend(0, c)
	c.scts = []journal.SCT{h.sct(0, uint64(h.now().UnixMilli()), ct.Extensions(0))}
	h.release(0, c)
	h.publish()
	paths := h.paths
	h.paths = []string{paths[0], paths[1] + ".gone"}
	a.run()
	if diff := cmp.Diff([]string{"missing_entry"}, kinds(a.raised)); diff != "" || len(a.Warnings()) != 2 {
		t.Errorf("%s %v", diff, a.Warnings())
	}
	h.paths = paths
	a.restart()
	a.run()
	if len(a.raised) != 1 || len(a.Warnings()) != 1 {
		t.Errorf("after the journal is back: %v %v", a.raised, a.Warnings())
	}
}

// If older segments of the journal were archived, older entries are not reported, and newer ones are.
func TestArchived(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	a := h.auditor()
	a.keep, a.rows = time.Minute, 16
	a.restart()
	first := h.issue(0, 0)
	for range 100 {
		h.advance(time.Minute)
		h.issue(0, 0)
	}
	h.publish()
	a.run()
	segments, err := journal.Segments(h.paths[0])
	must(t, err)
	if len(segments) < 2 {
		t.Fatalf("%d files", len(segments))
	}
	must(t, os.Remove(segments[0].Path))
	_, err = h.logs[0].Add(ct.StaticEntry{
		Timestamp:     uint64(h.now().Add(-100 * time.Minute).UnixMilli()),
		IssuerKeyHash: h.keyHash(), TBS: first.tbs, Certificate: []byte("x"),
	})
	must(t, err)
	h.publish()
	a.restart()
	a.run()
	r := h.runAll(nil)
	if len(a.raised) > 0 || len(r.Findings) > 0 || r.Explained.PredateJournal == 0 {
		t.Errorf("older entry: %v %+v", a.raised, r)
	}
	h.signOutsideCA(0, true)
	h.publish()
	a.run()
	if diff := cmp.Diff([]string{"unintended_entry"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// G5: a replaced journal is reported, and the new one is read.
func TestReplaced(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	a := h.auditor()
	h.issue(0, 0)
	h.issue(0, 0)
	h.publish()
	a.run()
	h.stop(0, 0)
	for _, suffix := range []string{"", ".head"} {
		must(t, os.Remove(h.paths[0]+suffix))
	}
	h.advance(time.Minute)
	h.start(0)
	c := h.newCertificate()
	h.intend(0, c)
	h.log(0, c)
	c.scts[0].Timestamp++
	h.release(0, c)
	h.publish()
	a.restart()
	a.run()
	if diff := cmp.Diff([]string{"entry_mismatch", "journal_broken"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// Each unintended entry is an alarm of its own, however many there are.
func TestFlood(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	for range 1100 {
		h.signOutsideCA(0, true)
	}
	h.publish()
	a := h.auditor()
	a.run()
	if len(a.raised) != 1100 || len(a.Alarms()) != 1100 {
		t.Errorf("%d raised, %d open", len(a.raised), len(a.Alarms()))
	}
	if r := h.runAll(nil); len(r.Findings) != 1100 {
		t.Errorf("Run lists %d", len(r.Findings))
	}
}

// A copy of a journal may be behind as far as Lag says.
func TestLag(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 2)
	h.issue(1, 0)
	copyPath := filepath.Join(t.TempDir(), "copy")
	data, err := os.ReadFile(h.paths[1])
	must(t, err)
	must(t, os.WriteFile(copyPath, data, 0o600))
	h.advance(time.Minute)
	h.issue(1, 0)
	h.publish()
	behind := func(in *reconcile.Input) { in.Journals[1].Path, in.Lag = copyPath, 10*time.Minute }
	if r := h.runAll(behind); len(r.Findings) > 0 || r.Explained.Undecided != 1 {
		t.Errorf("%+v", r)
	}
	h.advance(10 * time.Minute)
	if r := h.runAll(behind); len(r.Findings) != 1 || r.Explained.Undecided != 0 {
		t.Errorf("%+v", r)
	}
}

// The logs are searched for an issuing key that only a journal names, also in entries that have been read.
func TestKeyFromJournal(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	a := h.auditor()
	a.run()
	other := pki.New(pki.Options{})
	first := h.pki
	h.pki = other
	h.signOutsideCA(0, true)
	h.publish()
	h.pki = first
	a.run()
	if r := h.runAll(nil); len(r.Findings) > 0 || len(a.raised) > 0 {
		t.Errorf("the entry of another CA: %v", r.Findings)
	}
	h.pki = other
	h.issue(0, 0)
	h.publish()
	h.pki = first
	a.run()
	r := h.runAll(nil)
	if diff := cmp.Diff([]string{"unintended_entry"}, kinds(r.Findings)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(ids(r.Findings), ids(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// If the journal or the log cannot be read, there is no finding, and the report is incomplete.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	h.issue(0, 0)
	h.publish()
	r := h.runAll(func(in *reconcile.Input) { in.Journals[0].Path += ".gone" })
	if len(r.Findings) > 0 || len(r.Incomplete) != 1 || r.Explained.Undecided != 1 {
		t.Errorf("%+v", r)
	}
	must(t, os.Remove(filepath.Join(h.logs[0].Dir, "checkpoint")))
	if r = h.runAll(nil); len(r.Findings) > 0 || len(r.Incomplete) != 1 {
		t.Errorf("%+v", r)
	}
	if _, err := reconcile.Run(t.Context(), reconcile.Input{}); err == nil {
		t.Error("Run accepted no journal")
	}
}

// G5: a changed line of the journal is reported.
func TestBrokenJournal(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	h.issue(0, 0)
	h.issue(0, 0)
	h.stop(0, 0)
	h.publish()
	data, err := os.ReadFile(h.paths[0])
	must(t, err)
	lines := splitLines(data)
	for name, change := range map[string]func() [][]byte{
		"a record removed": func() [][]byte { return slices.Delete(slices.Clone(lines), 1, 2) },
		"two records swapped": func() [][]byte {
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
		r := h.runAll(func(in *reconcile.Input) { in.Journals[0].Path = path })
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

// G6: a log that violates its obligations is quarantined, stays so after a restart, and is released by an order.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 2, 1)
	h.issue(0, 0, 1)
	h.publish()
	a := h.auditor()
	a.run()
	other := sha256.Sum256([]byte("another history"))
	note := ct.Checkpoint(ct.CheckpointOptions{
		Origin: h.logs[1].Origin, Key: h.logs[1].Key, Size: 1, Root: other[:],
		Now: h.now().Add(time.Second),
	})
	must(t, os.WriteFile(filepath.Join(h.logs[1].Dir, "checkpoint"), note, 0o600))
	a.run()
	if diff := cmp.Diff([]string{"log_forked"}, kinds(a.raised)); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]string{"log1"}, a.quarantined); diff != "" {
		t.Error(diff)
	}
	a.quarantined = nil
	a.restart()
	if diff := cmp.Diff([]string{"log1"}, a.quarantined); diff != "" || len(a.Warnings()) != 1 {
		t.Errorf("after a restart: %s %v", diff, a.Warnings())
	}
	h.advance(time.Minute)
	h.publish()
	a.orders = []reconcile.Order{{Log: "log1"}}
	a.run()
	if len(a.quarantined) != 0 || len(a.Alarms()) != 0 || len(a.raised) != 1 {
		t.Errorf("after the order: quarantined %v, alarms %v", a.quarantined, a.Alarms())
	}
	h.issue(0, 1)
	h.publish()
	a.run()
	if len(a.raised) != 1 {
		t.Errorf("after the order, the log is not followed: %v", a.raised[1:])
	}
}

// An invalid head is an alarm and does not quarantine the log, because every SCT is verified with the pinned key.
func TestHeadInvalid(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	h.issue(0, 0)
	h.publish()
	a := h.auditor()
	damage(h, 0, "checkpoint", func(b []byte) []byte { return bytes.Replace(b, []byte("\n1\n"), []byte("\n2\n"), 1) })
	a.run()
	if diff := cmp.Diff([]string{"log_head_invalid"}, kinds(a.raised)); diff != "" || len(a.quarantined) > 0 {
		t.Errorf("%s, quarantined %v", diff, a.quarantined)
	}
	if diff := cmp.Diff([]string{"log_head_invalid"}, kinds(h.runAll(nil).Findings)); diff != "" {
		t.Error(diff)
	}
	h.publish()
	a.orders = []reconcile.Order{{Log: "log0"}}
	a.run()
	if len(a.Alarms()) > 0 || len(a.raised) != 1 {
		t.Errorf("after the order: %v", a.Alarms())
	}
}

// Damage to entries that were verified long ago is found by the scrub.
func TestScrub(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	for range 300 {
		h.issue(0, 0)
	}
	h.publish()
	a := h.auditor()
	a.run()
	damage(h, 0, "tile/data/000", func(b []byte) []byte { b[3] ^= 1; return b })
	a.run()
	if len(a.raised) != 0 {
		t.Fatalf("the auditor reads everything each time: %v", a.raised)
	}
	h.advance(25 * time.Hour)
	h.publish()
	a.run()
	if diff := cmp.Diff([]string{"log_mismatch"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
}

// A log that accepts entries and publishes no head that covers them violates its obligations an hour after its maximum
// merge delay.
func TestLogWithoutHead(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	a := h.auditor()
	h.issue(0, 0) // not published
	a.run()
	h.advance(delay + 59*time.Minute)
	a.run()
	if len(a.raised) > 0 {
		t.Errorf("too soon: %v", a.raised)
	}
	if r := h.runAll(nil); len(r.Findings) > 0 || len(r.Incomplete) > 0 || r.Explained.Open != 1 ||
		r.Explained.Overdue != 0 {
		t.Errorf("too soon: %+v", r)
	}
	h.advance(2 * time.Minute)
	a.run()
	if diff := cmp.Diff([]string{"missing_entry"}, kinds(a.raised)); diff != "" {
		t.Error(diff)
	}
	// Run reads a directory, which may be an old copy of the log: there is no finding, and the report is incomplete.
	r := h.runAll(nil)
	if len(r.Findings) > 0 || len(r.Incomplete) != 1 ||
		!strings.Contains(r.Incomplete[0], "covers 0 entries, and lacks 1 entries whose merge delay is over") ||
		r.Explained != (reconcile.Explained{Overdue: 1}) {
		t.Errorf("a directory: %+v", r)
	}
	r = h.runAll(func(in *reconcile.Input) { in.Since = h.now().Add(-time.Minute) })
	if len(r.Incomplete) > 0 || r.Explained.Overdue != 1 {
		t.Errorf("an SCT older than Since: %+v", r)
	}
	// A log that is read over HTTP is not a copy.
	web := httptest.NewServer(http.FileServer(http.Dir(h.logs[0].Dir)))
	t.Cleanup(web.Close)
	r = h.runAll(func(in *reconcile.Input) {
		l, err := monitor.Open(monitor.Options{Log: loglist.Log{
			Name: "log0", Key: h.logs[0].Key.Public(),
			Origin: h.logs[0].Origin, MonitoringURL: web.URL,
		}})
		must(t, err)
		in.Logs[0].Log = l
	})
	if diff := cmp.Diff(ids(a.raised), ids(r.Findings)); diff != "" || len(r.Incomplete) > 0 {
		t.Errorf("over HTTP: %s %v", diff, r.Incomplete)
	}
}

// Without a journal, merge obligations are audited nevertheless.
func TestSCTsWithoutJournal(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 0)
	var raised []reconcile.Finding
	a, err := reconcile.NewAuditor(reconcile.AuditorOptions{Every: time.Minute, Now: h.now, Raise: collect(&raised)})
	must(t, err)
	a.Configure(h.scope(t))
	addSCT := func(c *certificate, index int) {
		a.AddSCT(reconcile.SCT{
			Log: h.id(0), TBS: sha256.Sum256(c.tbs), Timestamp: uint64(h.now().UnixMilli()),
			Extensions: ct.Extensions(uint64(index)),
		})
	}
	c, d := h.newCertificate(), h.newCertificate()
	h.log(0, c)
	h.signOutsideCA(0, true)
	addSCT(c, 0)
	addSCT(d, 1)
	a.RunOnce(t.Context())
	if len(raised) > 0 {
		t.Errorf("before the head is published: %v", raised)
	}
	h.publish()
	a.RunOnce(t.Context())
	if diff := cmp.Diff([]string{"missing_entry"}, kinds(raised)); diff != "" {
		t.Error(diff)
	}
}

// F2: without a journal, a log that publishes nothing does not fill the memory: a random sample of its SCTs is audited.
func TestManySCTsWithoutJournal(t *testing.T) {
	t.Parallel()
	const rows, scts = 50, 5000
	h := newHarness(t, 1, 0)
	var raised []reconcile.Finding
	a, err := reconcile.NewAuditor(reconcile.AuditorOptions{
		Every: time.Minute, Now: h.now,
		Raise: collect(&raised), Rows: rows,
	})
	must(t, err)
	a.Configure(h.scope(t))
	began := h.now().UnixMilli()
	for i := range scts {
		a.AddSCT(reconcile.SCT{
			Log: h.id(0), TBS: sha256.Sum256([]byte(fmt.Sprint("TBS ", i))), Serial: [20]byte{1, byte(i >> 8), byte(i)},
			Timestamp:  uint64(began) + uint64(i),
			Extensions: ct.Extensions(0),
		})
		if i%1000 == 999 {
			a.RunOnce(t.Context())
		}
	}
	h.log(0, h.newCertificate()) // at the index that all SCTs name
	h.publish()
	a.RunOnce(t.Context())
	late := 0
	for _, f := range raised {
		if f.Time.UnixMilli() >= began+scts/2 {
			late++
		}
	}
	if n := len(raised); n != rows || late < rows/10 || late > rows*9/10 {
		t.Errorf("%d findings, %d of them of the second half", n, late)
	}
}

// G6: an Auditor that runs and restarts at random times and keeps few rows has the same findings as Run.
func TestIncrementalIsFull(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, 2, 2)
			h.random = rand.New(rand.NewPCG(seed, 3))
			a := h.auditor()
			a.step, a.keep, a.rows = 1+uint64(h.random.IntN(9)), time.Minute, 16
			a.restart()
			var old []*certificate
			for range 150 {
				randomEvent(h, &old)
				switch h.random.IntN(6) {
				case 0:
					h.publish()
				case 1:
					a.run()
				case 2:
					a.restart()
				}
			}
			h.advance(3 * delay)
			h.publish()
			a.run()
			r := h.runAll(nil)
			if diff := cmp.Diff(ids(r.Findings), ids(a.raised)); diff != "" {
				t.Error(diff)
			}
			if len(r.Findings) == 0 {
				t.Error("a history without findings")
			}
		})
	}
}

// randomEvent does one thing at random.
func randomEvent(h *harness, old *[]*certificate) {
	h.advance(time.Duration(h.random.IntN(90)) * time.Second)
	j, l := h.random.IntN(2), h.random.IntN(2)
	switch n := h.random.IntN(40); {
	case n < 20:
		*old = append(*old, h.issue(j, l))
	case n < 25:
		*old = append(*old, h.issue(j, 0, 1))
	case n < 28:
		c := h.newCertificate()
		h.intend(j, c)
		h.log(l, c)
		h.fail(j, c)
	case n == 28:
		h.intend(j, h.newCertificate())
	case n == 29:
		h.signOutsideCA(l, true)
	case n == 30:
		h.signOutsideCA(l, false)
	case n == 31: // an SCT without an entry and without an index
		c := h.newCertificate()
		h.intend(j, c)
		c.scts = []journal.SCT{h.sct(l, uint64(h.now().UnixMilli()), nil)}
		h.release(j, c)
	case n == 32: // another timestamp
		c := h.newCertificate()
		h.intend(j, c)
		h.log(l, c)
		c.scts[0].Timestamp++
		h.release(j, c)
	case n == 33: // an outcome without an intent
		c := h.newCertificate()
		h.release(j, c)
	case n == 34:
		h.stop(j, h.random.IntN(2))
		h.start(j)
	case n < 38 && len(*old) > 0: // a third party submits an old precertificate again
		h.log(l, (*old)[h.random.IntN(len(*old))])
	}
}

// collect returns a Raise function that appends to a slice.
func collect(to *[]reconcile.Finding) func(context.Context, reconcile.Finding) {
	return func(_ context.Context, f reconcile.Finding) { *to = append(*to, f) }
}
