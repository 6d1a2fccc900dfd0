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

// delay is the maximum merge delay of the logs here.
const delay = time.Hour

// world is a CA seen from outside: logs, journals and a clock, and nobody who minds what stands in them.
type world struct {
	t        testing.TB
	pki      *pki.PKI
	logs     []*ct.Static
	journals []*journal.Journal
	paths    []string
	made     []int // signatures, by journal
	random   *rand.Rand

	mu    sync.Mutex
	clock time.Time
}

// ram is a disk that does not wait.
type ram struct{ *os.File }

func (ram) Sync() error { return nil }

func newWorld(t testing.TB, logs, journals int) *world {
	t.Helper()
	w := &world{t: t, pki: pki.New(pki.Options{}), clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), random: rand.New(rand.NewPCG(1, 2))}
	for i := range logs {
		l, err := ct.NewStatic(t.TempDir(), fmt.Sprintf("log%d.test/2026", i))
		must(t, err)
		l.Now = w.now
		w.logs = append(w.logs, l)
	}
	for range journals {
		w.paths = append(w.paths, filepath.Join(t.TempDir(), "journal"))
		w.journals = append(w.journals, nil)
		w.made = append(w.made, 0)
		w.start(len(w.paths) - 1)
	}
	w.publish()
	return w
}

// start begins a process that has the journal j.
func (w *world) start(j int) {
	w.t.Helper()
	journal, err := journal.Open(journal.Config{File: w.paths[j], MaxSize: "64KiB"}, journal.Options{Now: w.now, Disk: func(f *os.File) journal.Disk { return ram{f} }})
	must(w.t, err)
	w.journals[j], w.made[j] = journal, 0
	w.t.Cleanup(func() {
		if w.journals[j] == journal {
			w.stop(j, 0)
		}
	})
}

// stop ends it in order; more is how many signatures it does not own up to.
func (w *world) stop(j, more int) {
	w.t.Helper()
	must(w.t, w.journals[j].Close(context.Background(), w.made[j]+more))
	w.journals[j] = nil
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func (w *world) publish() {
	w.t.Helper()
	for _, l := range w.logs {
		must(w.t, l.Publish())
	}
}

func (w *world) write(j int, r journal.Record) {
	w.t.Helper()
	must(w.t, w.journals[j].Append(context.Background(), &r))
}

// certificate is one that is, or was, to be issued.
type certificate struct {
	serial string
	tbs    []byte
	scts   []journal.SCT
	der    []byte // of the final certificate, where it matters
}

// next makes up another certificate: as much DER as an auditor reads.
func (w *world) next() *certificate {
	serial := make([]byte, 20)
	for i := range serial {
		serial[i] = byte(w.random.Uint32())
	}
	serial[0] = serial[0]&0x3f | 1
	return &certificate{serial: hex.EncodeToString(serial), tbs: tbsOf(serial, w.random.Uint64())}
}

// real makes up a certificate that can be in a log itself.
func (w *world) real() *certificate {
	w.t.Helper()
	der := w.pki.Leaf(w.random.Int64(), false)
	bare, _, err := tbs.Unlisted(der)
	must(w.t, err)
	leaf, err := x509.ParseCertificate(der)
	must(w.t, err)
	return &certificate{serial: fmt.Sprintf("%040x", leaf.SerialNumber), tbs: bare, der: der}
}

// logFinal puts a certificate itself into log l.
func (w *world) logFinal(l int, der []byte) {
	w.t.Helper()
	_, err := w.logs[l].Add(ct.StaticEntry{Timestamp: uint64(w.now().UnixMilli()), Certificate: der})
	must(w.t, err)
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

func (w *world) record(c *certificate, k journal.Kind) journal.Record {
	sum, key := sha256.Sum256(c.tbs), w.keyHash()
	return journal.Record{Kind: k, Serial: c.serial, TBS: hex.EncodeToString(sum[:]), IssuerKey: hex.EncodeToString(key[:])}
}

func (w *world) keyHash() [32]byte { return sha256.Sum256(w.pki.Intermediate.RawSubjectPublicKeyInfo) }

// intend writes an intent into journal j.
func (w *world) intend(j int, c *certificate) { w.write(j, w.record(c, journal.Intent)) }

// log submits c to log l, and keeps the SCT.
func (w *world) log(l int, c *certificate) {
	w.t.Helper()
	at := uint64(w.now().UnixMilli())
	index, err := w.logs[l].Add(ct.StaticEntry{Timestamp: at, IssuerKeyHash: w.keyHash(), TBS: c.tbs, Certificate: []byte("precertificate")})
	must(w.t, err)
	c.scts = append(c.scts, w.sct(l, at, ct.Extensions(index)))
}

func (w *world) sct(l int, at uint64, extensions []byte) journal.SCT {
	id := w.id(l)
	return journal.SCT{Log: hex.EncodeToString(id[:]), Timestamp: at, Extensions: hex.EncodeToString(extensions)}
}

func (w *world) id(l int) [32]byte {
	log, err := monitor.Open(w.options(l))
	must(w.t, err)
	return log.ID()
}

func (w *world) options(l int) monitor.Options {
	return monitor.Options{Name: fmt.Sprintf("log%d", l), Key: w.logs[l].Key.Public(), Origin: w.logs[l].Origin, Dir: w.logs[l].Dir}
}

// release writes the outcome of c into journal j.
func (w *world) release(j int, c *certificate) {
	r := w.record(c, journal.Outcome)
	r.Result, r.Signatures, r.SCTs, r.Certificate = journal.Issued, 2, c.scts, digest("final "+c.serial)
	if c.der != nil {
		r.Certificate = digest(string(c.der))
	}
	w.made[j] += 2
	w.write(j, r)
}

// fail writes that no certificate was released.
func (w *world) fail(j int, c *certificate) {
	r := w.record(c, journal.Outcome)
	r.Result, r.Signatures = journal.Failed, 1
	w.made[j]++
	w.write(j, r)
}

// issue is the whole path.
func (w *world) issue(j int, logs ...int) *certificate {
	c := w.next()
	w.intend(j, c)
	for _, l := range logs {
		w.log(l, c)
	}
	w.release(j, c)
	return c
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func (w *world) list() (out []reconcile.Journal) {
	for i, path := range w.paths {
		out = append(out, reconcile.Journal{Name: fmt.Sprintf("journal%d", i), Path: path, Live: i == 0})
	}
	return out
}

// full is the whole audit of now.
func (w *world) full(change func(*reconcile.Input)) reconcile.Report {
	w.t.Helper()
	in := reconcile.Input{Journals: w.list(), Issuers: w.pki.Chain[:1], Now: w.now}
	for i := range w.logs {
		l, err := monitor.Open(w.options(i))
		must(w.t, err)
		f, err := monitor.Follow(l, monitor.FollowerOptions{})
		must(w.t, err)
		in.Logs = append(in.Logs, reconcile.Log{Follower: f, Delay: delay})
	}
	if change != nil {
		change(&in)
	}
	report, err := reconcile.Run(w.t.Context(), in)
	must(w.t, err)
	return report
}

// continuous is an auditor of the same world, with its state in memory.
type continuous struct {
	*reconcile.Auditor
	w       *world
	state   []byte
	raised  []reconcile.Finding
	benched []string
	orders  []reconcile.Order
	step    uint64
	keep    time.Duration
	rows    uint32
	lag     time.Duration
}

func (w *world) auditor() *continuous {
	c := &continuous{w: w}
	c.restart()
	return c
}

// restart makes another auditor from the state of the last one.
func (c *continuous) restart() {
	c.w.t.Helper()
	var err error
	c.Auditor, err = reconcile.NewAuditor(reconcile.AuditorOptions{
		Every: time.Minute, Now: c.w.now, Step: c.step, Keep: c.keep, Lag: c.lag, Rows: c.rows,
		Journals: func() ([]reconcile.Journal, error) { return c.w.list(), nil },
		Load:     func() ([]byte, error) { return c.state, nil },
		Save:     func(data []byte) error { c.state = slices.Clone(data); return nil },
		Raise:    func(_ context.Context, f reconcile.Finding) { c.raised = append(c.raised, f) },
		Orders:   func() ([]reconcile.Order, error) { o := c.orders; c.orders = nil; return o, nil },
		Bench:    func(log, _ string) { c.benched = append(c.benched, log) },
		Unbench:  func(log string) { c.benched = slices.DeleteFunc(c.benched, func(s string) bool { return s == log }) },
	})
	must(c.w.t, err)
	c.Configure(c.w.setup(c.w.t))
}

func (w *world) setup(t testing.TB) reconcile.Setup {
	t.Helper()
	s := reconcile.Setup{Issuers: w.pki.Chain[:1]}
	for i := range w.logs {
		l, err := monitor.Open(w.options(i))
		must(t, err)
		s.Targets = append(s.Targets, reconcile.Target{Log: l, Delay: delay})
	}
	return s
}

func (c *continuous) tick() { c.Tick(c.w.t.Context()) }

// kinds are the kinds of findings, sorted.
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
