package e2e_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// prometheus is a running Prometheus with the files of deploy/prometheus.
type prometheus struct {
	*lab.Lab
	url string
}

// newPrometheus starts Prometheus. It scrapes once a second in place of every 15 seconds; the files are otherwise used
// as they are, apart from the addresses.
func newPrometheus(l *lab.Lab, servers ...*lab.Mayfly) *prometheus {
	l.Helper()
	folder := filepath.Join("..", "deploy", "prometheus")
	for _, name := range []string{"rules.yml", "alerts.yml"} {
		text := l.Read(filepath.Join(folder, name))
		l.Write("prometheus/"+name, strings.ReplaceAll(text, "interval: 30s", "interval: 1s"))
	}
	text := l.Read(filepath.Join(folder, "prometheus.yml"))
	var targets []string
	for _, m := range servers {
		targets = append(targets, fmt.Sprintf("%q", bare(m.Admin)))
	}
	for _, pair := range [][2]string{
		{"scrape_interval: 15s", "scrape_interval: 1s"},
		{"evaluation_interval: 30s", "evaluation_interval: 1s"},
		{`["10.0.0.11:2112", "10.0.0.12:2112", "10.0.0.13:2112"]`, "[" + strings.Join(targets, ", ") + "]"},
	} {
		if !strings.Contains(text, pair[0]) {
			l.Fatalf("prometheus.yml has no %q", pair[0])
		}
		text = strings.Replace(text, pair[0], pair[1], 1)
	}
	p := &prometheus{l, "http://" + l.Address()}
	l.Start("prometheus", lab.Command{Name: l.System("prometheus"), Args: []string{
		"--config.file=" + l.Write("prometheus/prometheus.yml", text), "--web.listen-address=" + bare(p.url),
		"--storage.tsdb.path=" + l.Mkdir("prometheus", "data"),
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, p.url+"/-/ready") })
	return p
}

// query evaluates an expression and returns the number of its series.
func (p *prometheus) query(ctx context.Context, expr string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Status, Error string
		Data          struct{ Result []json.RawMessage }
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Status != "success" {
		return 0, fmt.Errorf("%s: %s %w", expr, answer.Error, errors.Join(err))
	}
	return len(answer.Data.Result), nil
}

// alerts returns the names of the alerts whose expression is true, whether or not it has been for long enough.
func (p *prometheus) alerts() []string {
	p.Helper()
	var answer struct {
		Data struct {
			Alerts []struct{ Labels struct{ Alertname string } }
		}
	}
	if err := json.Unmarshal(p.Get(p.url+"/api/v1/alerts"), &answer); err != nil {
		p.Fatal(err)
	}
	var out []string
	for _, a := range answer.Data.Alerts {
		out = append(out, a.Labels.Alertname)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// awaited waits until alerts are raised, and says which are not.
func (p *prometheus) awaited(names ...string) {
	p.Helper()
	p.Eventually("alerts", func(context.Context) error {
		raised := p.alerts()
		if left := slices.DeleteFunc(slices.Clone(names),
			func(n string) bool { return slices.Contains(raised, n) }); len(left) > 0 {
			return fmt.Errorf("not raised: %v; raised: %v", left, raised)
		}
		return nil
	})
}

// quiet fails if one of the alerts is raised.
func (p *prometheus) quiet(names ...string) {
	p.Helper()
	for _, n := range p.alerts() {
		if slices.Contains(names, n) {
			p.Errorf("%s is raised without a cause", n)
		}
	}
}

// promtool runs the unit tests of the alerts.
func TestPromtool(t *testing.T) {
	t.Parallel()
	l := lab.Plain(t)
	folder, err := filepath.Abs(filepath.Join("..", "deploy", "prometheus"))
	if err != nil {
		t.Fatal(err)
	}
	promtool := l.System("promtool")
	l.Run(lab.Command{Name: promtool, Dir: folder, Args: []string{"check", "config", "prometheus.yml"}})
	l.Run(lab.Command{Name: promtool, Dir: folder, Args: []string{"check", "rules", "rules.yml", "alerts.yml"}})
	l.Run(lab.Command{Name: promtool, Dir: folder, Args: []string{"test", "rules", "alerts_test.yml"}})
}

// unbroken are the alerts whose cause TestAlerts does not bring about, with the reason. Their series exist in the
// metrics of its servers; TestPromtool raises them.
var unbroken = map[string]string{
	"MayflyAuditStuck":        "an hour must pass",
	"MayflyCheckpointOld":     "11 minutes must pass",
	"MayflyHandshakesRefused": "it needs more clients than this machine can be at once",
	"MayflyJournalCopyBehind": "it needs a receiver",
	"MayflyLogClock":          "it needs a log with another clock",
	"MayflyLogQuarantined":    "a real log keeps its obligations",
	"MayflyOverloaded":        "it needs more clients than this machine can be at once",
	"MayflyPanic":             "no request is known that causes a panic",
	"MayflyProviderKeysOld":   "12 hours must pass",
	"MayflySignerFailing":     "a key in a file does not fail",
	"MayflySlow":              "it needs a slow log",
	"MayflyStoreEvicting":     "make e2e-shared has a real store evict keys",
	"MayflyStoreLoss":         "make e2e-shared has a real store lose keys",
	"MayflyRekorBadProof":     "a log whose disk works has correct proofs",
	"MayflyRekorFailing":      "it needs a log of signatures on a disk that fails",
	"MayflyRekorSlow":         "it needs a slow disk",
	"MayflyTSAExpires":        "it needs a chain of a timestamp authority that ends soon",
	"MayflyTSAFailing":        "a key in a file does not fail",
	"MayflyTSAServer":         "half an hour must pass",
	"MayflyTSAUnconfirmed":    "half an hour must pass",
	"MayflyTUFExpires":        "it needs a TUF repository that is not renewed",
}

// TestAlerts has a real Prometheus scrape three servers and evaluate the rules. It brings about the causes of the
// alerts and waits until each is raised. Prometheus also evaluates each expression of the dashboard, and has every
// series that rules and dashboard name.
func TestAlerts(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	issuer := l.Issuer(nil)
	certificate, key := serverPair(t) // for an hour
	single := strings.Replace(lab.EmailIssuer(issuer.URL), "type: email}", "type: email, single-use: true}", 1)

	works := l.Serve(lab.ServeOptions{
		Name: "works", PKI: l.PKI(), Identity: single, CT: "  embedded: {dir: log, origin: e2e.test/works}\n",
		OnePort: true, More: "audit: {file: journal.jsonl}\ncanary: {interval: 10s}\n" +
			"limits: {connections: 40, connections_per_source: 30, source: {rate: 5, burst: 20}}\n",
	})
	// A log that does not exist and ends soon, a chain and a TLS certificate that end soon, a provider that is down,
	// and a timestamp authority whose time server is down.
	nowhere := l.Address()
	l.Run(lab.Command{
		Name: "mayfly", Args: []string{"ca", "init", "--dir", "tsa", "--no-password", "--timestamping"}, Dir: l.Path(),
	})
	broken := l.Serve(lab.ServeOptions{
		Name: "broken", PKI: l.PKIUntil(time.Now().Add(10 * 24 * time.Hour)), Unready: true,
		Identity: lab.EmailIssuer(issuer.URL) + strings.TrimPrefix(lab.EmailIssuer("http://"+nowhere),
			"oidc-issuers:\n"),
		CT: fmt.Sprintf("  logs:\n    - {name: gone, url: \"http://%s\", public_key: %s, not_after: %q}\n", nowhere,
			l.LogKey("gone").Public, time.Now().Add(5*24*time.Hour).Format(time.RFC3339)),
		Listen: fmt.Sprintf("  tls: {certificate: %s, key: %s}\n", l.Write("tls.pem", certificate),
			l.Write("tls.key", key)),
		More: fmt.Sprintf("canary: {interval: 10s}\nshared: {valkey: {addresses: [%q]}}\ntsa: {file: "+
			"{chain: %s, key: %s}, "+
			"clock: {servers: [%q]}}\n", nowhere, l.Path("tsa/chain.pem"), l.Path("tsa/tsa-key.pem"), "ntp://"+nowhere),
	})
	p := newPrometheus(l, works, broken)
	p.Eventually("the servers are scraped", func(ctx context.Context) error {
		if n, err := p.query(ctx, `up{job="mayfly"} == 1`); err != nil || n != 2 {
			return fmt.Errorf("%d servers: %w", n, errors.Join(err))
		}
		return nil
	})

	// A server that works raises none of these.
	time.Sleep(3 * time.Second)
	p.quiet("MayflyTokenReplayed", "MayflyLimitRefusals", "MayflyConnectionsFull", "MayflySourceFloods",
		"MayflyReloadFailed", "MayflyJournalFailing", "MayflyAuditFinding", "MayflyDown", "MayflyPanic",
		"MayflyRefusalSpike",
		"MayflyUnlogged", "MayflyConnectionsFull", "MayflyCheckpointOld", "MayflyHandshakesRefused", "MayflySlow")
	raised := []string{
		"MayflyTLSExpires", "MayflyChainExpires", "MayflyLogExpires", "MayflyNotReady", "MayflyDependencyDown",
		"MayflyLogUnusable", "MayflyConfigDiffers", "MayflyStoreDown", "MayflyTSAStopped",
	}
	p.awaited(raised...)

	client := &http.Client{Timeout: lab.MaxWait}
	token := issuer.Email(who)
	for range 4 { // one certificate for a token
		if _, err := lab.RequestCertificate(t.Context(), client, works.URL, token, who); err != nil {
			t.Fatal(err)
		}
	}
	raise := func(names ...string) {
		t.Helper()
		p.awaited(names...)
		raised = append(raised, names...)
	}
	raise("MayflyTokenReplayed")

	s := &site{Lab: l, issuer: issuer, roots: x509.NewCertPool()}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			flood := s.client("127.0.0.9", false)
			defer flood.CloseIdleConnections()
			for range 250 {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, works.URL+"/api/v2/signingCert",
					bytes.NewReader([]byte("{}")))
				if err != nil {
					t.Error(err)
					return
				}
				if res, err := flood.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}
		})
	}
	all.Wait()
	raise("MayflyLimitRefusals", "MayflyRefusalSpike")

	for _, from := range []string{"127.0.0.2", "127.0.0.3"} { // 30 of 40 for each source
		for range 40 {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
			if c, err := d.DialContext(t.Context(), "tcp", bare(works.URL)); err == nil {
				defer c.Close()
			}
		}
	}
	raise("MayflyConnectionsFull", "MayflySourceFloods")

	trusting := s.client("127.0.0.1", false)
	s.roots.AppendCertsFromPEM([]byte(certificate))
	toBroken := "https://" + bare(broken.URL)
	for range 3 {
		if _, err := lab.RequestCertificate(t.Context(), trusting, toBroken, issuer.Email(who), who); err != nil {
			t.Fatal(err)
		}
	}
	down := *issuer
	down.URL = "http://" + nowhere
	for range 6 {
		if _, err := lab.RequestCertificate(t.Context(), trusting, toBroken, down.Email(who), who); err != nil {
			t.Fatal(err)
		}
	}
	raise("MayflyErrorBudgetFast", "MayflyErrorBudgetSlow", "MayflyOrphans", "MayflyProviderFailing",
		"MayflyCanaryFailing")

	good := l.Read(works.Dir + "/mayfly.yaml")
	l.Write("works/mayfly.yaml", good+"nonsense: true\n")
	raise("MayflyReloadFailed")
	l.Write("works/mayfly.yaml", good)

	journal := works.Dir + "/journal.jsonl"
	if err := os.WriteFile(journal, append([]byte(l.Read(journal)), "{}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	raise("MayflyJournalFailing", "MayflyAuditFinding")

	p.dashboard()

	broken.Kill()
	raise("MayflyDown")
	unlogged := strings.NewReplacer("  embedded: {dir: log, origin: e2e.test/works}\n", "  none: {reason: a test}\n",
		"canary: {interval: 10s}\n", "").Replace(good)
	works.Kill()
	l.Write("works/mayfly.yaml", unlogged)
	works.ServeAgain(l)
	raise("MayflyUnlogged")

	alerts := l.Read("../deploy/prometheus/alerts.yml")
	for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(alerts, -1) {
		if reason := unbroken[m[1]]; slices.Contains(raised, m[1]) == (reason != "") {
			t.Errorf("%s is raised here, or has a reason why not: %q", m[1], reason)
		}
	}
}

// absent are the metrics that the servers of TestAlerts do not have, with the reason.
var absent = map[string]string{
	"mayfly_shared_call_seconds_bucket": "the store is never called, because a probe does not reach it",
	"mayfly_signer_calls_total":         "a key in a file is no service",
	"mayfly_signer_call_seconds_bucket": "a key in a file is no service",
	"mayfly_signer_wait_seconds_bucket": "a key in a file is no service",
	"mayfly_ctlog_clock_offset_seconds": "no log has answered",
	"mayfly_rekor_bad_proofs_total":     "there is no log of signatures",
	"mayfly_rekor_entries_total":        "there is no log of signatures",
	"mayfly_rekor_log_seconds_bucket":   "there is no log of signatures",
	"mayfly_journal_copy_lag_records":   "there is no receiver",
	"mayfly_oidc_policy_total":          "there is no policy",
	"mayfly_server_v1_requests_total":   "there is no client of the older API",
}

// dashboard evaluates each expression of the dashboard, and looks for each series that rules and dashboard name.
func (p *prometheus) dashboard() {
	p.Helper()
	text := p.Read("../deploy/grafana/mayfly.json")
	var panels struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(text), &panels); err != nil {
		p.Fatal(err)
	}
	ctx, n := p.Context(), 0
	for _, panel := range panels.Panels {
		for _, target := range panel.Targets {
			n++
			expr := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(target.Expr)
			if _, err := p.query(ctx, expr); err != nil {
				p.Errorf("%s: %v", panel.Title, err)
			}
		}
	}
	if n < 60 {
		p.Errorf("only %d expressions", n)
	}
	text += p.Read("../deploy/prometheus/rules.yml") + p.Read("../deploy/prometheus/alerts.yml")
	names := regexp.MustCompile(`\bmayfly[_:][a-z0-9_:]+\b`).FindAllString(text, -1)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		n, err := p.query(ctx, "last_over_time("+name+"[1h])")
		if err != nil {
			p.Error(err)
		}
		if reason := absent[name]; (n == 0) != (reason != "") {
			p.Errorf("%d series %s, absent because of %q", n, name, reason)
		}
	}
}
