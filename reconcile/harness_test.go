package reconcile_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// delay is the maximum merge delay of the test logs.
const delay = time.Hour

// harness has the logs, the journals and the clock of a CA. A test may write anything into them. "The key" is the
// issuing key of the CA.
type harness struct {
	t          testing.TB
	pki        *pki.PKI
	logs       []*ct.Static
	journals   []*journal.Journal
	paths      []string
	signatures []int // by journal
	random     *rand.Rand

	mu    sync.Mutex
	clock time.Time
}

// ram is a file that is never synced.
type ram struct{ *os.File }

func (ram) Sync() error { return nil }

func newHarness(t testing.TB, logs, journals int) *harness {
	t.Helper()
	h := &harness{
		t: t, pki: pki.New(pki.Options{}), clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		random: rand.New(rand.NewPCG(1, 2)),
	}
	for i := range logs {
		l, err := ct.NewStatic(t.TempDir(), fmt.Sprintf("log%d.test/2026", i))
		must(t, err)
		l.Now = h.now
		h.logs = append(h.logs, l)
	}
	for range journals {
		h.paths = append(h.paths, filepath.Join(t.TempDir(), "journal"))
		h.journals = append(h.journals, nil)
		h.signatures = append(h.signatures, 0)
		h.start(len(h.paths) - 1)
	}
	h.publish()
	return h
}

// start starts a process that writes journal j.
func (h *harness) start(j int) {
	h.t.Helper()
	journal, err := journal.Open(journal.Config{File: h.paths[j], MaxSize: "64KiB"},
		journal.Options{Now: h.now, Disk: func(f *os.File) journal.Disk { return ram{f} }})
	must(h.t, err)
	h.journals[j], h.signatures[j] = journal, 0
	h.t.Cleanup(func() {
		if h.journals[j] == journal {
			h.stop(j, 0)
		}
	})
}

// stop ends the process in order. The process counted extra more signatures than its records explain.
func (h *harness) stop(j, extra int) {
	h.t.Helper()
	must(h.t, h.journals[j].Close(context.Background(), h.signatures[j]+extra))
	h.journals[j] = nil
}

func (h *harness) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.clock
}

func (h *harness) advance(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock = h.clock.Add(d)
}

func (h *harness) publish() {
	h.t.Helper()
	for _, l := range h.logs {
		must(h.t, l.Publish())
	}
}

func (h *harness) write(j int, r journal.Record) {
	h.t.Helper()
	must(h.t, h.journals[j].Append(context.Background(), &r))
}

// certificate is a certificate that is issued, or should be.
type certificate struct {
	serial string
	tbs    []byte
	scts   []journal.SCT
	der    []byte // of the final certificate, where it matters
}

// newCertificate returns as much of a certificate as an auditor reads.
func (h *harness) newCertificate() *certificate {
	serial := make([]byte, 20)
	for i := range serial {
		serial[i] = byte(h.random.Uint32())
	}
	serial[0] = serial[0]&0x3f | 1
	return &certificate{serial: hex.EncodeToString(serial), tbs: tbsOf(serial, h.random.Uint64())}
}

// realCertificate returns a certificate that can be in a log itself.
func (h *harness) realCertificate() *certificate {
	h.t.Helper()
	der := h.pki.Leaf(h.random.Int64(), false)
	bare, _, err := tbs.WithoutSCTList(der)
	must(h.t, err)
	leaf, err := x509.ParseCertificate(der)
	must(h.t, err)
	return &certificate{serial: fmt.Sprintf("%040x", leaf.SerialNumber), tbs: bare, der: der}
}

// logFinal adds a final certificate to log l.
func (h *harness) logFinal(l int, der []byte) {
	h.t.Helper()
	_, err := h.logs[l].Add(ct.StaticEntry{Timestamp: uint64(h.now().UnixMilli()), Certificate: der})
	must(h.t, err)
}

func tbsOf(serial []byte, rest uint64) []byte {
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.Tag(0).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) })
		b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(serial) })
		b.AddASN1Uint64(rest)
	})
	return b.BytesOrPanic()
}

func (h *harness) record(c *certificate, k journal.Kind) journal.Record {
	sum, key := sha256.Sum256(c.tbs), h.keyHash()
	return journal.Record{
		Kind: k, Serial: c.serial, TBS: hex.EncodeToString(sum[:]),
		IssuerKey: hex.EncodeToString(key[:]),
	}
}

func (h *harness) keyHash() [32]byte {
	return sha256.Sum256(h.pki.Intermediate.RawSubjectPublicKeyInfo)
}

// intend writes an intent to journal j.
func (h *harness) intend(j int, c *certificate) { h.write(j, h.record(c, journal.Intent)) }

// log submits c to log l and adds the SCT to c.
func (h *harness) log(l int, c *certificate) {
	h.t.Helper()
	at := uint64(h.now().UnixMilli())
	index, err := h.logs[l].Add(ct.StaticEntry{
		Timestamp: at, IssuerKeyHash: h.keyHash(), TBS: c.tbs,
		Certificate: []byte("precertificate"),
	})
	must(h.t, err)
	c.scts = append(c.scts, h.sct(l, at, ct.Extensions(index)))
}

func (h *harness) sct(l int, at uint64, extensions []byte) journal.SCT {
	id := h.id(l)
	return journal.SCT{Log: hex.EncodeToString(id[:]), Timestamp: at, Extensions: hex.EncodeToString(extensions)}
}

func (h *harness) id(l int) [32]byte {
	log, err := monitor.Open(h.options(l))
	must(h.t, err)
	return log.ID()
}

func (h *harness) options(l int) monitor.Options {
	return monitor.Options{Log: loglist.Log{
		Name: fmt.Sprintf("log%d", l), Key: h.logs[l].Key.Public(),
		Origin: h.logs[l].Origin,
	}, Dir: h.logs[l].Dir}
}

// release writes the outcome of c, with its SCTs, to journal j.
func (h *harness) release(j int, c *certificate) {
	r := h.record(c, journal.Outcome)
	r.Result, r.Signatures, r.SCTs, r.Certificate = journal.Issued, 2, c.scts, digest("final "+c.serial)
	if c.der != nil {
		r.Certificate = digest(string(c.der))
	}
	h.signatures[j] += 2
	h.write(j, r)
}

// fail writes an outcome without a released certificate to journal j.
func (h *harness) fail(j int, c *certificate) {
	r := h.record(c, journal.Outcome)
	r.Result, r.Signatures = journal.Failed, 1
	h.signatures[j]++
	h.write(j, r)
}

// canary writes the outcome of a canary to journal j.
func (h *harness) canary(j int, c *certificate) {
	r := h.record(c, journal.Outcome)
	r.Result, r.Signatures, r.SCTs = journal.Canary, 1, c.scts
	h.signatures[j]++
	h.write(j, r)
}

// issue issues a certificate: intent, logs, outcome.
func (h *harness) issue(j int, logs ...int) *certificate {
	c := h.newCertificate()
	h.intend(j, c)
	for _, l := range logs {
		h.log(l, c)
	}
	h.release(j, c)
	return c
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func (h *harness) journalList() (out []reconcile.Journal) {
	for i, path := range h.paths {
		out = append(out, reconcile.Journal{Name: fmt.Sprintf("journal%d", i), Path: path, Live: i == 0})
	}
	return out
}

// runAll audits everything once.
func (h *harness) runAll(change func(*reconcile.Input)) reconcile.Report {
	h.t.Helper()
	in := reconcile.Input{Journals: h.journalList(), Issuers: h.pki.Chain[:1], Now: h.now}
	for i := range h.logs {
		l, err := monitor.Open(h.options(i))
		must(h.t, err)
		in.Logs = append(in.Logs, reconcile.Log{Log: l, MergeDelay: delay})
	}
	if change != nil {
		change(&in)
	}
	report, err := reconcile.Run(h.t.Context(), in)
	must(h.t, err)
	return report
}

// testAuditor is an Auditor of the harness, with its state in memory.
type testAuditor struct {
	*reconcile.Auditor
	h           *harness
	state       []byte
	raised      []reconcile.Finding
	quarantined []string
	orders      []reconcile.Order
	step        uint64
	keep        time.Duration
	rows        uint32
	lag         time.Duration
}

func (h *harness) auditor() *testAuditor {
	c := &testAuditor{h: h}
	c.restart()
	return c
}

// restart replaces the auditor by another one that continues from its state.
func (c *testAuditor) restart() {
	c.h.t.Helper()
	var err error
	c.Auditor, err = reconcile.NewAuditor(reconcile.AuditorOptions{
		Every: time.Minute, Now: c.h.now, Step: c.step, Keep: c.keep, Lag: c.lag, Rows: c.rows,
		Journals:   func() ([]reconcile.Journal, error) { return c.h.journalList(), nil },
		Load:       func() ([]byte, error) { return c.state, nil },
		Save:       func(data []byte) error { c.state = slices.Clone(data); return nil },
		Raise:      func(_ context.Context, f reconcile.Finding) { c.raised = append(c.raised, f) },
		Orders:     func() ([]reconcile.Order, error) { o := c.orders; c.orders = nil; return o, nil },
		Quarantine: func(log, _ string) { c.quarantined = append(c.quarantined, log) },
		Release: func(log string) {
			c.quarantined = slices.DeleteFunc(c.quarantined, func(s string) bool { return s == log })
		},
	})
	must(c.h.t, err)
	c.Configure(c.h.scope(c.h.t))
}

func (h *harness) scope(t testing.TB) reconcile.Scope {
	t.Helper()
	s := reconcile.Scope{Issuers: h.pki.Chain[:1]}
	for i := range h.logs {
		l, err := monitor.Open(h.options(i))
		must(t, err)
		s.Logs = append(s.Logs, reconcile.Log{Log: l, MergeDelay: delay})
	}
	return s
}

func (c *testAuditor) run() { c.RunOnce(c.h.t.Context()) }

// kinds returns the kinds of findings, sorted.
func kinds(findings []reconcile.Finding) []string {
	out := []string{}
	for _, f := range findings {
		out = append(out, string(f.Kind))
	}
	slices.Sort(out)
	return out
}

func ids(findings []reconcile.Finding) []string {
	out := []string{}
	for _, f := range findings {
		out = append(out, fmt.Sprintf("%s %s %s", f.Kind, f.ID, f.Serial))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
