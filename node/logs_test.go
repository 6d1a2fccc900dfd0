package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "crypto/sha512"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/testkit/site"
	"github.com/mayfly-ca/mayfly/tlog"
	"github.com/mayfly-ca/mayfly/trust"
)

// A Rekor of version 2 refuses signatures of Ed25519 keys, which are certified unless client_algorithms says otherwise:
// a configuration whose published trusted root names one is warned of, and no other.
func TestRekorAndEd25519(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	const published = "  logs:\n    - {%0}\n  policy: {trusted_root: root.json}\n"
	const listed = "client_algorithms: [ecdsa-sha2-256-nistp256"
	rekor := func(kind pki.KeyType, origin string, to time.Time) *trust.Log {
		return &trust.Log{
			Log: loglist.Log{
				URL: "https://rekor.example.com", Origin: origin, Key: pki.NewKey(kind).Public(),
				Window: loglist.Window{NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: to},
			},
		}
	}
	for name, c := range map[string]struct {
		rekor *trust.Log
		more  string
		want  bool
	}{
		"none":                      {nil, "", false},
		"version 1":                 {rekor(pki.P256, "", time.Time{}), "", false},
		"version 1, an Ed25519 key": {rekor(pki.Ed25519, "", time.Time{}), "", false},
		"version 2":                 {rekor(pki.Ed25519, "rekor.example.com", time.Time{}), "", true},
		"version 2, listed": {
			rekor(pki.Ed25519, "rekor.example.com", time.Time{}),
			listed + ", ed25519]\n", true,
		},
		"version 2, ended": {
			rekor(pki.Ed25519, "rekor.example.com", time.Now().Add(-24*time.Hour)), "",
			false,
		},
		"version 2, without Ed25519": {rekor(pki.Ed25519, "rekor.example.com", time.Time{}), listed + "]\n", false},
	} {
		publish(t, l, l.Config(t, "  logs:\n    - {%0}\n"), func(m *trust.Material) {
			if c.rekor != nil {
				m.Rekor = []trust.Log{*c.rekor}
			}
		})
		m, err := loadAndTest(t.Context(), nil, l.Config(t, published+c.more))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := fmt.Sprint(m.warnings)
		if strings.Contains(got, "client_algorithms: ") != c.want ||
			c.want && !strings.Contains(got, "https://rekor.example.com") {
			t.Errorf("%s: warnings %s", name, got)
		}
	}
}

// B4: an SCT of a log that verifiers do not know, or not for now, is not embedded: the configuration is refused, and
// the error says which log it is and what to do.
func TestPublishedLogs(t *testing.T) {
	t.Parallel()
	l := site.New(t, 2)
	const both = "  logs:\n    - {%0}\n    - {%1}\n"
	const aside = "  logs:\n    - {%0}\n    - {%1, embed: false}\n"
	const policy = "  policy: {trusted_root: root.json}\n"
	first := func(m *trust.Material) { m.Logs = m.Logs[:1] }
	ended := func(m *trust.Material) { m.Logs[1].NotAfter = time.Now().Add(-time.Minute) }
	renamed := func(m *trust.Material) { m.Logs[1].RootID = make([]byte, 32) }
	until := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	for _, row := range []struct {
		name, ct string
		change   func(*trust.Material)
		want     []string // in the error
	}{
		{"all are", both, func(*trust.Material) {}, nil},
		{"one is not", both, first, []string{
			"ct.logs.1: ", "not in the published trusted root",
			"publish", "embed: false",
		}},
		{"one is not embedded", aside, first, nil},
		{"one has ended", both, ended, []string{"log log1", "does not include the current time"}},
		{"one has another id", both, renamed, []string{"log log1", "not in the published trusted root"}},
		{"for two days", both, func(m *trust.Material) { m.Logs[1].NotAfter = until }, nil},
	} {
		cfg := l.Config(t, row.ct)
		publish(t, l, cfg, row.change)
		m, err := loadAndTest(t.Context(), nil, l.Config(t, row.ct+policy))
		if (err == nil) != (row.want == nil) {
			t.Errorf("%s: %v", row.name, err)
		}
		for _, w := range row.want {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in: %v", row.name, w, err)
			}
		}
		if err != nil {
			continue
		}
		one := m.members()[1]
		if one.Detached != (row.ct == aside) || one.NotAfter.Equal(until) != (row.name == "for two days") {
			t.Errorf("%s: member %+v", row.name, one)
		}
	}
	l.Write(t, "root.json", []byte("{}"))
	if _, err := loadAndTest(t.Context(), nil, l.Config(t, both+policy)); err == nil ||
		!strings.Contains(err.Error(), "ct.policy.trusted_root") {
		t.Errorf("junk for a trusted root: %v", err)
	}
}

// B4: the embedded log has to be published like any other.
func TestPublishedEmbeddedLog(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	const both = "  logs:\n    - {%0}\n  embedded: {dir: log, origin: mayfly.local/ct}\n"
	sys := start(t, l, l.Config(t, both)) // makes the key
	publish(t, l, sys.config, func(*trust.Material) {})
	if _, err := loadAndTest(t.Context(), nil, l.Config(t, both+"  policy: {trusted_root: root.json}\n")); err != nil {
		t.Error(err)
	}
	publish(t, l, sys.config, func(m *trust.Material) { m.Logs = m.Logs[:1] })
	_, err := loadAndTest(t.Context(), nil, l.Config(t, both+"  policy: {trusted_root: root.json}\n"))
	if err == nil || !strings.Contains(err.Error(), "mayfly.local/ct") {
		t.Errorf("error is %v", err)
	}
}

// B4 // F9: a shard that comes up while the process runs is not asked before it is published; readiness says so, and
// says it of a shard that is benched, too.
func TestPublishedShard(t *testing.T) {
	t.Parallel()
	l := site.New(t, 0)
	const text = "  embedded: {dir: log, origin: mayfly.local/ct}\n"
	first := start(t, l, l.Config(t, text)) // makes the key
	publish(t, l, first.config, func(*trust.Material) {})
	root, err := os.ReadFile(filepath.Join(l.Dir, "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := load(t.Context(), nil, first.config)
	if err == nil {
		first.config.CT.Policy.TrustedRoot = filepath.Join(l.Dir, "root.json")
		err = m.narrowToPublished(first.config)
	}
	if err != nil {
		t.Fatal(err)
	}
	first.files = m
	c := *first.config.CT.Embedded
	if _, err := c.Log().MakeShard(tlog.Rotation{Name: "next", At: time.Now().Add(-time.Second), Unpublished: true},
		time.Now()); err != nil {
		t.Fatal(err)
	}
	<-first.embedded.Changes()
	reshard := func() *snapshot {
		next, err := quietNode("").assemble(t.Context(), first.config, first.files, first)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	next := reshard()
	if h := health(t, next, "log embedded-next"); h.OK ||
		!strings.Contains(h.Cause, "is not in the published trusted root") {
		t.Errorf("not published: %+v", h)
	}
	for _, st := range next.logs.Status() {
		if st.Name == "embedded-next" {
			t.Error("a shard that is not published is asked")
		}
	}
	publish(t, l, first.config, func(*trust.Material) {})
	if now, err := os.ReadFile(filepath.Join(l.Dir, "root.json")); err != nil || bytes.Equal(now, root) {
		t.Fatalf("nothing new was published: %v", err)
	}
	if err := first.files.narrowToPublished(first.config); err != nil {
		t.Fatal(err)
	}
	next = reshard()
	if h := health(t, next, "log embedded-next"); !h.OK {
		t.Errorf("published: %+v", h)
	}
	next.logs.Quarantine("embedded-next", "it forgot an entry")
	if h := health(t, next, "log embedded-next"); h.OK || !h.Advisory || h.Cause != "quarantined: it forgot an entry" {
		t.Errorf("quarantined: %+v", h)
	}
}

// G3: whatever the set of logs is made from makes another one when it changes, and nothing else does.
func TestReloadOfLogs(t *testing.T) {
	t.Parallel()
	l := site.New(t, 2)
	publish(t, l, l.Config(t, "  logs:\n    - {%0}\n    - {%1}\n"), func(*trust.Material) {})
	const base = "  logs:\n    - {%0}\n    - {%1}\n  policy: {trusted_root: root.json}\n"
	old := start(t, l, l.Config(t, base))
	if next := again(t, l, old, l.Config(t, base)); next.logs != old.logs || next.clock != old.clock {
		t.Error("the same configuration makes another set")
	}
	for name, text := range map[string]string{
		"policy":   strings.Replace(base, "root.json", "root.json, min_scts: 2, min_operators: 2", 1),
		"stagger":  strings.Replace(base, "root.json", "root.json, stagger: 1s", 1),
		"rate":     strings.Replace(base, "%1", "%1, rate: 5", 1),
		"embed":    strings.Replace(base, "%1", "%1, embed: false", 1),
		"operator": strings.Replace(base, "%1", "%1, operator: x", 1),
		"proxy":    strings.Replace(base, "%1", `%1, proxy: "http://127.0.0.1:1"`, 1),
	} {
		if next := again(t, l, old, l.Config(t, text)); next.logs == old.logs || next.authority == old.authority {
			t.Errorf("another %s makes the same set", name)
		}
	}
	publish(t, l, old.config, func(m *trust.Material) { m.Logs[0].NotAfter = time.Now().Add(time.Hour) })
	if next := again(t, l, old, l.Config(t, base)); next.logs == old.logs {
		t.Error("another trusted root makes the same set")
	}
}

// G7: while the clocks of all logs differ from ours, readiness says so and names the reason; it comes back by itself.
func TestReadinessOfClock(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	l.Logs[0].SetSkew(2 * time.Minute)
	sys := start(t, l, l.Config(t, "  logs:\n    - {%0}\n  policy: {attempt: 400ms}\n"))
	clock := func() server.Health { return health(t, sys, "clock") }
	if h := clock(); !h.OK || h.Advisory {
		t.Errorf("at the start: %+v", h)
	}
	if err := issue(t, sys); err == nil {
		t.Error("an SCT with a wrong timestamp")
	}
	process.Poll(t, "stopped",
		func() bool { h := clock(); return !h.OK && strings.Contains(h.Cause, "behind all logs") })
	calls := l.Logs[0].Calls()
	if e := fault.From(issue(t, sys)); e.Reason != fault.NotReady ||
		!strings.Contains(e.Meta["cause"], "behind all logs") || l.Logs[0].Calls() != calls {
		t.Errorf("%+v after %d calls", e, l.Logs[0].Calls()-calls)
	}
	l.Logs[0].SetSkew(0)
	process.Poll(t, "lifted", func() bool { return clock().OK })
	if err := issue(t, sys); err != nil {
		t.Error(err)
	}

	sys.clock.Issued(time.Now().Add(time.Minute))
	if h := clock(); h.OK || !strings.Contains(h.Cause, "went back") {
		t.Errorf("after a step back: %+v", h)
	}
}

// B7: without a log only by ct.none, with its reason in the warnings, in readiness, and in a metric; the CA is ready
// all the same.
func TestNoLog(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	cfg := l.Config(t, "  none: {reason: an island without network}\n") // and without a journal
	_, warnings, err := config.Load(filepath.Join(l.Dir, "mayfly.yaml"))
	if err != nil || !strings.Contains(fmt.Sprint(warnings), "the reason given: an island without network") {
		t.Errorf("%v, %v", warnings, err)
	}
	sys := start(t, l, cfg)
	if h := health(t, sys, "ct"); !h.OK || h.Advisory || !strings.Contains(h.Warning, "an island without network") {
		t.Errorf("%+v", h)
	}
	if v := metric(t, sys, "mayfly_ct_none_ratio"); v != 1 {
		t.Errorf("the metric is %g", v)
	}
	if h := health(t, sys, "journal"); !h.OK || !strings.Contains(h.Warning, "the journal is missing") {
		t.Errorf("%+v", h)
	}
	with := start(t, l, l.Config(t, "  logs:\n    - {%0}\n"))
	if v := metric(t, with, "mayfly_ct_none_ratio"); v != 0 {
		t.Errorf("the metric is %g with a log", v)
	}
}

// B6: readiness names the log that lacks a root, and which.
func TestReadinessOfRoots(t *testing.T) {
	t.Parallel()
	l := site.New(t, 2)
	l.Logs[1].SetFault(ct.UnknownRoot)
	next := pki.New(pki.Options{})
	l.Write(t, "next.pem", next.ChainPEM())
	cfg := l.Config(t, "  logs:\n    - {%0}\n    - {%1}\n")
	cfg.CA.Trust = []string{filepath.Join(l.Dir, "next.pem")}
	sys := start(t, l, cfg)
	for name, roots := range map[string]int{"log log0": 1, "log log1": 2} {
		process.Poll(t, name, func() bool {
			h := health(t, sys, name)
			return strings.Count(h.Cause+h.Warning, "does not accept") == roots && h.OK == (roots == 1)
		})
	}
}

// issue asks the authority for one certificate.
func issue(t *testing.T, sys *snapshot) error {
	t.Helper()
	const issuer = "https://a.example.com"
	id := identity.Identity{
		Issuer: issuer, Subject: "s1",
		SAN: identity.SAN{Kind: identity.Email, Value: "alice@example.com"},
	}
	id.Extensions.Set(identity.IssuerV1, issuer)
	id.Extensions.Set(identity.Issuer, issuer)
	id.Extensions.Set(identity.Subject, "s1")
	key := pki.NewKey(pki.P256)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	_, err = sys.authority.Issue(t.Context(), ca.Request{Identity: &id, SPKI: spki, PublicKey: key.Public()})
	return err
}

func health(t *testing.T, sys *snapshot, name string) server.Health {
	t.Helper()
	for _, c := range sys.checks() {
		if c.Name == name {
			return c.Ask()
		}
		if c.All != nil {
			if h, ok := c.All()[name]; ok {
				return h
			}
		}
	}
	t.Fatalf("there is no dependency %q", name)
	return server.Health{}
}

func metric(t *testing.T, sys *snapshot, name string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(sys.collectors()...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return math.NaN()
}

// "config check --online" asks every log: for its roots, for a head that the pinned key signed, and for the time.
func TestCheckAsksLogs(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		set  func(l *site.Site, log *ct.Log, t *testing.T)
		ct   string // "" is the log as it is
		want string // in what is printed; "" is all well
	}{
		{"well", func(*site.Site, *ct.Log, *testing.T) {}, "", ""},
		{
			"another root", func(_ *site.Site, log *ct.Log, _ *testing.T) { log.SetFault(ct.UnknownRoot) }, "",
			"does not accept our root",
		},
		{"another key", func(l *site.Site, _ *ct.Log, t *testing.T) {
			l.Write(t, "ct0.pem", site.NewTestLog(t, l.PKI).PublicKeyPEM())
		}, "", "pinned key"},
		{
			"a wrong timestamp", func(_ *site.Site, log *ct.Log, _ *testing.T) { log.SetSkew(-10 * time.Minute) }, "",
			"behind this machine's",
		},
		{"broken", func(_ *site.Site, log *ct.Log, _ *testing.T) { log.SetFault(ct.Reset) }, "", "unreachable"},
		{
			"dead", func(*site.Site, *ct.Log, *testing.T) {},
			"  logs:\n    - {name: dead, url: \"http://127.0.0.1:1\", public_key: ct0.pem}\n", "unreachable",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := site.New(t, 1)
			row.set(l, l.Logs[0], t)
			if row.ct == "" {
				row.ct = "  logs:\n    - {%0}\n"
			}
			cfg := l.Config(t, row.ct)
			m, err := loadAndTest(t.Context(), nil, cfg)
			if err != nil {
				t.Fatal(err)
			}
			got := m.askLogs(t.Context(), cfg)
			text := strings.Join(got[0].Problems, "; ")
			if got[0].OK != (row.want == "") || !strings.Contains(text, row.want) {
				t.Errorf("%+v, want %q", got[0], row.want)
			}
		})
	}
}

// A log that shows neither roots nor a head may do: the check says that it does not know, and names the settings that
// tell.
func TestCheckOfASilentLog(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	cfg := l.Config(t, "  logs:\n    - {name: static, url: \""+srv.URL+"\", public_key: ct0.pem}\n")
	m, err := loadAndTest(t.Context(), nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := m.askLogs(t.Context(), cfg)[0]
	if text := strings.Join(got.Warnings, "; "); !got.OK || !strings.Contains(text, "roots cannot be read") ||
		!strings.Contains(text, "monitoring_url and origin") {
		t.Errorf("%+v", got)
	}
}

// The embedded log is asked by its files: a directory without a log is no problem, a head of another key is one.
func TestCheckOfTheEmbeddedLog(t *testing.T) {
	t.Parallel()
	l := site.New(t, 1)
	cfg := l.Config(t, "  embedded: {dir: log, origin: ca.example.com/ct}\n")
	m, err := loadAndTest(t.Context(), nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.askLogs(t.Context(), cfg)[0]; !got.OK || len(got.Warnings) != 1 {
		t.Errorf("before the first start: %+v", got)
	}
	sys := start(t, l, cfg)
	_ = sys
	if got := m.askLogs(t.Context(), cfg)[0]; !got.OK || len(got.Warnings) != 0 {
		t.Errorf("a log that runs: %+v", got)
	}
	l.Write(t, filepath.Join("log", "log.pub.pem"), l.Logs[0].PublicKeyPEM())
	if got := m.askLogs(t.Context(), cfg)[0]; got.OK || !strings.Contains(got.Problems[0], "pinned key") {
		t.Errorf("another key: %+v", got)
	}
}

// publish writes root.json with the logs of cfg, after a change.
func publish(t *testing.T, l *site.Site, cfg *config.Config, change func(*trust.Material)) {
	t.Helper()
	m, err := load(t.Context(), nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	material, err := m.trustMaterial(cfg, "https://ca.example.com")
	if err != nil {
		t.Fatal(err)
	}
	change(&material)
	data, err := material.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	l.Write(t, "root.json", data)
}

// start assembles a system and runs its background work until the test ends.
func start(t *testing.T, l *site.Site, cfg *config.Config) *snapshot {
	t.Helper()
	m, err := loadAndTest(t.Context(), nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	sys, err := quietNode("").assemble(ctx, cfg, m, nil)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	sys.start(ctx)
	t.Cleanup(func() {
		cancel()
		if err := sys.close(); err != nil {
			t.Error(err)
		}
	})
	return sys
}

// again assembles the system that a reload to cfg would make.
func again(t *testing.T, l *site.Site, old *snapshot, cfg *config.Config) *snapshot {
	t.Helper()
	m, err := loadAndTest(t.Context(), nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	next, err := quietNode("").assemble(t.Context(), cfg, m, old)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// quietNode is a node with nothing in force that logs nothing.
func quietNode(path string) *Node {
	return newNode(Options{Path: path, Logger: slog.New(slog.DiscardHandler)})
}
