package canary_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// lab is a CA with a journal and one log, whose parts can be broken.
type lab struct {
	pki        *pki.PKI
	log        *ct.Log
	path       string // of the journal
	journal    *journal.Journal
	signatures atomic.Int64
	signer     *breakable
	ready      error // of ca.Options.Ready
	submitted  func()
	target     *canary.Target
	canary     *canary.Canary
}

// breakable is the key of the CA.
type breakable struct {
	crypto.Signer
	fail   error
	forged bool // the signature is that of another message
}

func (b *breakable) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if b.forged {
		digest = slices.Clone(digest)
		digest[0] ^= 1
	}
	if b.fail != nil {
		return nil, b.fail
	}
	return b.Signer.Sign(r, digest, o)
}

// hooked calls a function after each submission.
type hooked struct {
	ca.Log
	lab *lab
}

func (h hooked) Submit(ctx context.Context, p tbs.Precertificate) ([][]byte, error) {
	scts, err := h.Log.Submit(ctx, p)
	if h.lab.submitted != nil {
		h.lab.submitted()
	}
	return scts, err
}

type setup struct {
	algorithms []string
	noLogs     bool
	through    bool // a precertificate signing certificate
}

func newLab(t *testing.T, s setup) *lab {
	t.Helper()
	l := &lab{pki: pki.New(pki.Options{}), path: filepath.Join(t.TempDir(), "journal.jsonl")}
	l.log = ct.New(t, ct.Options{Roots: []*x509.Certificate{l.pki.Root}})
	l.signer = &breakable{Signer: l.pki.Key}
	submitter, err := remote.Open(remote.Config{Name: "lab", URL: l.log.URL()},
		remote.Options{PublicKeyPEM: l.log.PublicKeyPEM()})
	must(t, err)
	logs, err := ctlog.New(ctlog.Options{
		Logs:   []ctlog.Log{{Log: loglist.Log{Name: "lab", Key: l.log.Key()}, Submitter: submitter}},
		Policy: ctlog.PolicyConfig{Budget: time.Second, Attempt: 300 * time.Millisecond},
	})
	must(t, err)
	l.journal, err = journal.Open(journal.Config{File: l.path}, journal.Options{})
	must(t, err)
	o := ca.Options{
		Chain: l.pki.Chain, Signer: l.signer, Log: hooked{logs, l}, Signatures: &l.signatures,
		Ready: func() error { return l.ready }, PrecertIssuer: s.through,
		Trial: func(ctx context.Context, in ca.Intent) error {
			return l.journal.Append(ctx, &journal.Record{
				Kind: journal.Trial, Serial: hexOf(in.Serial), TBS: hexOf(in.TBS[:]), Signatures: 1,
			})
		},
	}
	if s.noLogs {
		o.Log = nil
	}
	authority, err := ca.New(o)
	must(t, err)
	keys, err := pop.New(pop.Config{Algorithms: s.algorithms}, pop.Options{})
	must(t, err)
	l.target = &canary.Target{
		Interval: canary.DefaultInterval, Keys: keys, Authority: authority, Journal: l.journal, Digest: "d1",
	}
	l.canary = canary.New(canary.Options{Target: func() *canary.Target { return l.target }})
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var out strings.Builder
	for _, c := range b {
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

func (l *lab) run(t *testing.T) *canary.Run {
	t.Helper()
	r, err := l.canary.Now(t.Context())
	must(t, err)
	return r
}

// records closes the journal, verifies it, and returns its intents and outcomes.
func (l *lab) records(t *testing.T) (out []journal.Record) {
	t.Helper()
	must(t, l.journal.Close(t.Context(), int(l.signatures.Load())))
	_, findings, err := journal.Verify(l.path, journal.VerifyOptions{})
	must(t, err)
	if len(findings) > 0 {
		t.Errorf("the journal has findings: %v", findings)
	}
	must(t, journal.NewReader(l.path, 1).Drain(func(d *journal.Damage) { t.Error(d) }, func(e journal.Entry) error {
		if e.Kind == journal.Intent || e.Kind == journal.Outcome {
			out = append(out, e.Record)
		}
		return nil
	}))
	return out
}

func stagesOf(r *canary.Run) (out []string) {
	for _, s := range r.Stages {
		out = append(out, s.Stage)
	}
	return out
}

// A run is the path of a request up to the SCTs: one signature, a precertificate with the reserved name in the log, an
// intent and an outcome in the journal, and no certificate.
func TestRun(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]setup{
		"the defaults":      {},
		"through an issuer": {through: true},
		"ed25519":           {algorithms: []string{"ed25519"}},
		"nistp384":          {algorithms: []string{"ecdsa-sha2-384-nistp384"}},
		"nistp521":          {algorithms: []string{"ecdsa-sha2-512-nistp521"}},
		"rsa":               {algorithms: []string{"rsa-sign-pss-2048-sha256"}},
		"mldsa":             {algorithms: []string{"mldsa-44"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, s)
			before := l.signatures.Load()
			r := l.run(t)
			if !r.OK || r.Cause != "" || r.SCTs != 1 || len(r.Serial) != 40 {
				t.Fatalf("%+v", r)
			}
			if diff := cmp.Diff(canary.Stages(), stagesOf(r)); diff != "" {
				t.Error(diff)
			}
			want := int64(1)
			if s.through {
				want = 0 // the key of the precertificate signing certificate signs
			}
			if n := l.signatures.Load() - before; n != want {
				t.Errorf("%d signatures of the CA's key, want %d", n, want)
			}
			entries := l.log.Entries()
			if len(entries) != 1 {
				t.Fatalf("%d entries", len(entries))
			}
			pre, err := x509.ParseCertificate(entries[0])
			must(t, err)
			const name = "https://canary.mayfly.invalid/canary"
			id, err := identity.Parse(pre)
			must(t, err)
			if id.SAN.Value != name || len(pre.UnhandledCriticalExtensions) != 1 ||
				pre.UnhandledCriticalExtensions[0].String() != "1.3.6.1.4.1.11129.2.4.3" {
				t.Errorf("SAN %+v, critical extensions %v", id.SAN, pre.UnhandledCriticalExtensions)
			}
			got := l.records(t)
			if len(got) != 2 || got[0].Kind != journal.Intent || got[1].Result != journal.Canary {
				t.Fatalf("records %+v", got)
			}
			o := got[1]
			if o.Certificate != "" || len(o.SCTs) != 1 || o.Signatures != int(want) || o.SAN != name ||
				o.Issuer != "https://canary.mayfly.invalid" || o.Transport != "canary" || o.Config != "d1" ||
				o.Serial != r.Serial || o.Key == "" || o.ProviderKey == "" || o.TBS != got[0].TBS {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

// What is broken shows as the stage that fails, in the result, the metrics and the journal.
func TestFailures(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		setup  setup
		broken func(t *testing.T, l *lab)
		stage  string
		cause  string
		result journal.Result // of the outcome; "": there is none
	}{
		"the log refuses": {
			broken: func(_ *testing.T, l *lab) { l.log.SetFault(ct.UnknownRoot) }, stage: "log",
			cause: "LOG_UNAVAILABLE", result: journal.Failed,
		},
		"the log hangs": {
			broken: func(_ *testing.T, l *lab) { l.log.SetFault(ct.Hang) }, stage: "log", cause: "LOG_UNAVAILABLE",
			result: journal.Failed,
		},
		"the SCT does not verify": {
			broken: func(_ *testing.T, l *lab) { l.log.SetFault(ct.BadSignature) }, stage: "log",
			cause: "LOG_UNAVAILABLE", result: journal.Failed,
		},
		"the signer fails": {
			broken: func(_ *testing.T, l *lab) { l.signer.fail = errors.New("no slot") }, stage: "sign",
			cause: "no slot", result: journal.Failed,
		},
		"the signature is wrong": {
			broken: func(_ *testing.T, l *lab) { l.signer.forged = true }, stage: "sign",
			cause: "SIGNER_UNAVAILABLE", result: journal.Failed,
		},
		"the CA is not ready": {
			broken: func(_ *testing.T, l *lab) { l.ready = errors.New("the clock is wrong") }, stage: "build",
			cause: "the clock is wrong",
		},
		"the journal is closed": {
			broken: func(t *testing.T, l *lab) { must(t, l.journal.Close(t.Context(), 1)) }, stage: "intent",
			cause: "JOURNAL_UNAVAILABLE",
		},
		"the journal fails at the outcome": {
			broken: func(t *testing.T, l *lab) {
				l.submitted = func() { must(t, l.journal.Close(t.Context(), 2)) }
			}, stage: "outcome", cause: "JOURNAL_UNAVAILABLE",
		},
		"no log": {
			setup: setup{noLogs: true}, broken: func(*testing.T, *lab) {}, stage: "build",
			cause: "needs transparency logs",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, c.setup)
			c.broken(t, l)
			r := l.run(t)
			if r.OK || r.Stage != c.stage || !strings.Contains(r.Cause, c.cause) {
				t.Errorf("%+v", r)
			}
			text := gathered(t, l.canary)
			for _, want := range []string{
				"mayfly_canary_failures_total{" + c.stage + "} 1",
				"mayfly_canary_runs_total{failure} 1",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("no %s in\n%s", want, text)
				}
			}
			if c.setup.noLogs && l.signatures.Load() != 1 {
				t.Errorf("%d signatures, want that of the trial only", l.signatures.Load())
			}
			if strings.Contains(name, "journal") {
				return
			}
			got := l.records(t)
			if c.result == "" {
				if len(got) != 0 {
					t.Errorf("records %+v", got)
				}
				return
			}
			if len(got) != 2 || got[1].Result != c.result || got[1].Reason == "" || got[1].Certificate != "" {
				t.Errorf("records %+v", got)
			}
		})
	}
}

// gathered has the metrics of c, a line each.
func gathered(t *testing.T, c *canary.Canary) string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c.Collectors()...)
	all, err := r.Gather()
	must(t, err)
	var out strings.Builder
	for _, f := range all {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, p := range m.GetLabel() {
				labels = append(labels, p.GetValue())
			}
			out.WriteString(f.GetName() + "{" + strings.Join(labels, ",") + "} ")
			data, err := json.Marshal(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			must(t, err)
			out.Write(append(data, '\n'))
		}
	}
	return out.String()
}

// Three failures in a row are a warning, and a success ends it. Runs on demand are limited.
func TestWarning(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{})
	l.log.SetFault(ct.Error400)
	for n := range 3 {
		if w := l.canary.Warning(); w != "" {
			t.Errorf("after %d failures: %s", n, w)
		}
		if r := l.canary.Force(t.Context()); r.OK {
			t.Fatal("it succeeded")
		}
	}
	if w := l.canary.Warning(); !strings.Contains(w, "3 runs in a row failed, the last one in the stage log: ") {
		t.Error(w)
	}
	l.log.SetFault(ct.None)
	if r := l.canary.Force(t.Context()); !r.OK {
		t.Fatalf("%+v", r)
	}
	if w := l.canary.Warning(); w != "" {
		t.Error(w)
	}
	calls := l.log.Calls()
	for range 5 {
		if r := l.run(t); !r.OK {
			t.Errorf("%+v", r)
		}
	}
	if l.log.Calls() != calls {
		t.Error("a run on demand within ten seconds of the last one has reached the log")
	}
}

// The page runs the canary on demand, shows the last result, and says what to do if there is none.
func TestPage(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{})
	do := func(method string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		l.canary.ServeHTTP(w, httptest.NewRequest(method, "/canary", http.NoBody))
		return w
	}
	if w := do(http.MethodGet); w.Code != http.StatusNoContent {
		t.Errorf("status %d", w.Code)
	}
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		w := do(method)
		var r canary.Run
		if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != http.StatusOK || !r.OK {
			t.Errorf("%s: status %d, %v, %+v", method, w.Code, err, r)
		}
	}
	l.target = &canary.Target{}
	if w := do(http.MethodPost); w.Code != http.StatusNotFound ||
		!strings.Contains(w.Body.String(), "canary: {interval: 1m}") {
		t.Errorf("status %d, %s", w.Code, w.Body)
	}
	if l.log.Calls() != 1 {
		t.Errorf("%d calls of the log", l.log.Calls())
	}
}

// Runs are made at the interval of the configuration in force, one at a time, also while a log hangs; a run that is
// under way ends with the process.
func TestInterval(t *testing.T) {
	t.Parallel()
	l := newLab(t, setup{})
	var running, most atomic.Int64
	var target atomic.Pointer[canary.Target]
	set := func(interval time.Duration) {
		next := *l.target
		next.Interval = interval
		target.Store(&next)
	}
	set(0)
	c := canary.New(canary.Options{
		Target: target.Load,
		Compute: func() func() {
			most.Store(max(most.Load(), running.Add(1)))
			return func() { running.Add(-1) }
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx)
	}()
	l.log.SetFault(ct.Hang)
	set(5 * time.Millisecond)
	c.Changed()
	until(t, "two failures", func() bool { return strings.Contains(gathered(t, c), "runs_total{failure} 2") })
	l.log.SetFault(ct.None)
	until(t, "a success", func() bool { return c.Last() != nil && c.Last().OK })
	set(0)
	c.Changed()
	cancel()
	<-ended
	if most.Load() != 1 {
		t.Errorf("%d runs at once", most.Load())
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("no " + what)
		}
		time.Sleep(5 * time.Millisecond) // the state of another goroutine can only be polled
	}
}

// The settings.
func TestConfig(t *testing.T) {
	t.Parallel()
	var absent *canary.Config
	if absent.Period() != 0 || absent.Check(true) != nil || (&canary.Config{}).Period() != time.Minute {
		t.Error("the defaults differ")
	}
	for d, ok := range map[time.Duration]bool{
		0: false, 9 * time.Second: false, 10 * time.Second: true, 24 * time.Hour: true, 25 * time.Hour: false,
	} {
		if err := (&canary.Config{Interval: &d}).Check(false); (err == nil) != ok {
			t.Errorf("%s: %v", d, err)
		}
	}
	if err := (&canary.Config{}).Check(true); err == nil || !strings.Contains(err.Error(), "ct.none") {
		t.Error(err)
	}
}
