package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// replicas is one CA of three servers behind HAProxy, with two logs and a store that they share. Each server reaches
// each log and the store over a link of its own, which can be slow or cut.
type replicas struct {
	*site
	logs     []*lab.Log
	store    *lab.Valkey
	toLogs   [][]*lab.Link // by server and log
	toStore  []*lab.Link   // by server
	limited  *lab.Issuer   // of tokens with a budget
	balancer *lab.Process

	mu     sync.Mutex
	phase  *phase
	phases []*phase
	held   map[string]bool // SHA-256 of the certificates that clients have
	tokens map[string]int  // certificates that leaked tokens have got, by token
}

// budget is how many certificates a token of the limited issuer may get.
const budget = 3

// phase is a time of the test in which one thing is broken, then mended, and what clients saw of it.
type phase struct {
	name        string
	begin, mend func()

	answered, repeated, lost int // requests; repeated ones needed more than one attempt
	failures                 map[string]int
	took                     []time.Duration
	leaked                   map[string]int // answers to leaked tokens, by reason
}

// TestReplicas loads three servers for MAYFLY_REPLICAS, such as 10m, while each part of the site is killed, stopped,
// slowed and cut off in turn, and servers, configuration and store are replaced. In the end every answer is accounted
// for: clients that repeat a request get a certificate, no token was used more often than its budget, the journals are
// intact, and journals and logs agree. "make replicas" runs it.
func TestReplicas(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("MAYFLY_REPLICAS"))
	if err != nil {
		t.Skip("it takes ten minutes: make replicas")
	}
	r := newReplicas(lab.New(t))
	phases := r.faults()
	for _, p := range phases {
		p.failures, p.leaked = map[string]int{}, map[string]int{}
	}
	r.phases, r.phase = phases, phases[0]
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() { r.sign(ctx, i) })
	}
	clients.Go(func() { r.leak(ctx) })
	each := length / time.Duration(len(phases))
	for _, p := range phases {
		r.enter(p)
		t.Logf("%s: %s", time.Now().UTC().Format(time.TimeOnly), p.name)
		end := time.Now().Add(each)
		p.begin()
		time.Sleep(each / 2)
		p.mend()
		time.Sleep(time.Until(end)) // until the next fault
	}
	cancel()
	clients.Wait()
	r.forget()
	r.report()
	r.account()
}

func newReplicas(l *lab.Lab) *replicas {
	l.Helper()
	pki := l.PKI()
	r := &replicas{
		site: emptySite(l), limited: l.Issuer(nil), held: map[string]bool{}, tokens: map[string]int{},
		store: l.Valkey("valkey"),
	}
	for _, name := range []string{"log-a", "log-b"} {
		r.logs = append(r.logs, l.TesseraCTIn(lab.LogPlace{Name: name, Roots: pki.RootFile}))
	}
	identity := fmt.Sprintf("%s  %[2]s: {issuer-url: %[2]s, client-id: sigstore, type: email, "+
		"certificates-per-token: %d}\n",
		lab.EmailIssuer(r.issuer.URL), r.limited.URL, budget)
	for i := range 3 {
		ct, toLogs := "  policy: {min_scts: 1}\n  logs:\n", []*lab.Link(nil)
		for _, g := range r.logs {
			link := l.Link(bare(g.URL))
			toLogs = append(toLogs, link)
			ct += fmt.Sprintf("    - {name: %s, url: \"http://%s\", public_key: %s, origin: %s}\n", g.Name,
				link.Address, g.Key.Public, g.Origin)
		}
		r.toLogs, r.toStore = append(r.toLogs, toLogs), append(r.toStore, l.Link(r.store.Address))
		r.servers = append(r.servers, l.Serve(lab.ServeOptions{
			Name: fmt.Sprintf("s%d", i+1), PKI: pki, Identity: identity, OnePort: true, CT: ct,
			Listen: r.listenTLS() + "  trusted_proxies: [127.0.0.1]\n  proxy_protocol: true\n  drain_delay: 4s\n",
			More: fmt.Sprintf("audit: {file: journal.jsonl}\nstate_dir: state\nshared: {valkey: {addresses: [%q]}}\n",
				r.toStore[i].Address),
		}))
	}
	r.balancer = r.haproxyTLS()
	return r
}

// faults are the phases, in order.
func (r *replicas) faults() []*phase {
	nothing := func() {}
	server := func(i int) func() { return func() { r.servers[i].ServeAgain(r.Lab) } }
	paused := func(name string, p func() *lab.Process) *phase {
		return &phase{name: name, begin: func() { p().Pause() }, mend: func() { p().Continue() }}
	}
	links := func(name string, to []*lab.Link, harm func(*lab.Link)) *phase {
		return &phase{
			name: name, begin: func() {
				for _, k := range to {
					harm(k)
				}
			}, mend: func() {
				for _, k := range to {
					k.Heal()
				}
			},
		}
	}
	cut := (*lab.Link).Cut
	slow := func(d time.Duration) func(*lab.Link) { return func(k *lab.Link) { k.Slow(d) } }
	all := func(log int) (out []*lab.Link) {
		for _, one := range r.toLogs {
			out = append(out, one[log])
		}
		return out
	}
	return []*phase{
		{name: "nothing is broken", begin: nothing, mend: nothing},
		{name: "a server is killed", begin: func() { r.servers[0].Kill() }, mend: server(0)},
		paused("a server is stopped (SIGSTOP)", func() *lab.Process { return r.servers[1].Process }),
		{name: "the servers are restarted, one after the other", begin: r.restart, mend: nothing},
		{name: "the configuration is changed, one server after the other", begin: r.reconfigure, mend: nothing},
		{name: "a log is killed", begin: func() { r.logs[0].Server.Kill() }, mend: func() { r.logs[0].Restart(r.Lab) }},
		paused("the other log is stopped", func() *lab.Process { return r.logs[1].Server }),
		links("a log is slow (1 s each way)", all(0), slow(time.Second)),
		links("a log cannot be reached", all(1), cut),
		links("a server reaches no log", r.toLogs[2], cut),
		{name: "the store is killed", begin: func() { r.store.Kill() }, mend: r.store.Again},
		paused("the store is stopped", func() *lab.Process { return r.store.Process }),
		links("the store is slow (50 ms each way)", r.toStore, slow(50*time.Millisecond)),
		links("a server does not reach the store", r.toStore[:1], cut),
		{
			name: "the balancer is killed and started again", begin: func() {
				r.balancer.Kill()
				r.balancer = r.haproxyTLS()
			}, mend: nothing,
		},
		{name: "all is mended", begin: nothing, mend: nothing},
	}
}

func (r *replicas) enter(p *phase) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = p
}

// reconfigure adds an issuer to each server in turn.
func (r *replicas) reconfigure() {
	for i, m := range r.servers {
		name := fmt.Sprintf("s%d/identity.yaml", i+1)
		r.Write(name, r.Read(r.Path(name))+"  https://added.example: {client-id: sigstore, type: email}\n")
		if err := syscall.Kill(m.PID(), syscall.SIGHUP); err != nil {
			r.Error(err)
		}
		time.Sleep(time.Second) // one after the other
	}
}

// sign requests certificates as a Sigstore client does: it repeats a request after a failure that may pass, up to
// half a minute.
func (r *replicas) sign(ctx context.Context, i int) {
	h2 := i%2 == 1
	client := r.client(fmt.Sprintf("127.0.1.%d", 1+i), h2)
	client.Timeout = 15 * time.Second
	defer client.CloseIdleConnections()
	for n := 0; ctx.Err() == nil; n++ {
		who := fmt.Sprintf("client%d-%d@example.com", i, n)
		start, attempts := time.Now(), 0
		for {
			attempts++
			certificate, wait, err := r.attempt(client, h2, r.issuer.Email(who), who)
			if err == nil {
				r.signed(certificate, attempts, time.Since(start))
				break
			}
			r.failed(err)
			if wait < 0 || time.Since(start) > 30*time.Second {
				r.mu.Lock()
				r.phase.lost++
				r.mu.Unlock()
				break
			}
			time.Sleep(wait + rand.N(200*time.Millisecond)) // as a client waits
		}
		time.Sleep(100 * time.Millisecond) // the rate of a client
	}
}

func (r *replicas) signed(certificate []byte, attempts int, took time.Duration) {
	sum := sha256.Sum256(certificate)
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.phase
	p.answered++
	if attempts > 1 {
		p.repeated++
	}
	p.took = append(p.took, took)
	r.held[hex.EncodeToString(sum[:])] = true
}

func (r *replicas) failed(err error) {
	text := err.Error()
	for _, word := range []string{
		"EOF", "cannot retry", "reset", "refused", "Timeout", "deadline", "502",
		"503", "504", "429",
	} {
		if strings.Contains(text, word) {
			text = word
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase.failures[text[:min(len(text), 120)]]++
}

// attempt sends one request. wait is how long to wait before the next one; negative if it would fail again.
func (r *replicas) attempt(client *http.Client, h2 bool, token, who string) (certificate []byte,
	wait time.Duration, err error,
) {
	if h2 {
		text, err := lab.RequestOverGRPC(r.Context(), client, r.url, token, who)
		if err != nil {
			return nil, 500 * time.Millisecond, err
		}
		block, _ := pem.Decode([]byte(text))
		return block.Bytes, 0, nil
	}
	a, err := lab.RequestCertificate(r.Context(), client, r.url, token, who)
	if err != nil {
		return nil, 500 * time.Millisecond, err
	}
	issued, err := a.Signed()
	if err == nil {
		return issued.Leaf.Raw, 0, nil
	}
	if a.Status < 500 && a.Status != http.StatusTooManyRequests {
		return nil, -1, err
	}
	seconds, _ := strconv.Atoi(a.Header.Get("Retry-After"))
	return nil, max(500*time.Millisecond, min(time.Duration(seconds)*time.Second, 5*time.Second)), err
}

// leak has 50 clients use one token at once, with keys of their own, again and again.
func (r *replicas) leak(ctx context.Context) {
	var clients []*http.Client
	for i := range 50 {
		c := r.client(fmt.Sprintf("127.0.2.%d", 1+i), false)
		c.Timeout = 15 * time.Second
		defer c.CloseIdleConnections()
		clients = append(clients, c)
	}
	const who = "leaked@example.com"
	for ctx.Err() == nil {
		token := r.limited.Email(who)
		var all sync.WaitGroup
		for _, c := range clients {
			all.Go(func() { r.use(c, token, who) })
		}
		all.Wait()
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
}

// use sends one request with a leaked token, which is not repeated.
func (r *replicas) use(c *http.Client, token, who string) {
	a, err := lab.RequestCertificate(r.Context(), c, r.url, token, who)
	reason := "no answer"
	if err == nil {
		reason = fmt.Sprint(a.Status)
		if issued, err := a.Signed(); err == nil {
			sum := sha256.Sum256(issued.Leaf.Raw)
			r.mu.Lock()
			r.tokens[token]++
			r.held[hex.EncodeToString(sum[:])] = true
			r.mu.Unlock()
			reason = "certificate"
		} else if refusal, err := a.Refused(); err == nil && len(refusal.Details) > 0 {
			reason = refusal.Details[0].Reason
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase.leaked[reason]++
}

// forget empties the store, as a failover to an empty one does: a token that was used up before stays used up.
func (r *replicas) forget() {
	r.Helper()
	const who = "leaked@example.com"
	client := r.client("127.0.3.1", false)
	defer client.CloseIdleConnections()
	token := r.limited.Email(who)
	last := &phase{leaked: map[string]int{}}
	r.enter(last)
	for range 2 * budget {
		r.use(client, token, who)
	}
	if n := r.tokens[token]; n != budget {
		r.Errorf("a token with a budget of %d got %d certificates: %v", budget, n, last.leaked)
	}
	if reply, err := r.store.Do(r.Context(), "FLUSHALL"); err != nil || reply != "+OK" {
		r.Fatal(reply, err)
	}
	for range 5 * budget {
		r.use(client, token, who)
	}
	if n := r.tokens[token]; n != budget {
		r.Errorf("after the store lost its memory, the token got %d certificates: %v", n, last.leaked)
	}
}

// report prints what clients saw, as a table, and fails if it was too much.
func (r *replicas) report() {
	r.Helper()
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "phase\tcertificates\trepeated\tlost\tp50\tp99\tfailed attempts\tleaked tokens")
	answered, lost := 0, 0
	for _, p := range r.phases {
		slices.Sort(p.took)
		at := func(share float64) time.Duration {
			if len(p.took) == 0 {
				return 0
			}
			return p.took[int(share*float64(len(p.took)-1))].Round(time.Millisecond)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", p.name, p.answered, p.repeated, p.lost, at(.5), at(.99),
			counts(p.failures), counts(p.leaked))
		answered, lost = answered+p.answered, lost+p.lost
	}
	_ = w.Flush()
	share := float64(answered) / float64(answered+lost)
	r.Logf("\n%s%d requests, of which %d got a certificate: %.3f %%", &out, answered+lost, answered, 100*share)
	if share < 0.999 {
		r.Errorf("fewer than 99.9 %% of the requests got a certificate")
	}
	if first := r.phases[0]; first.lost > 0 || len(first.failures) > 0 || first.answered < 20 ||
		first.leaked["certificate"] == 0 || first.leaked["certificate"]%budget != 0 {
		r.Errorf("something fails while nothing is broken: %+v, %v", first.failures, first.leaked)
	}
	for token, n := range r.tokens {
		if n > budget {
			sum := sha256.Sum256([]byte(token))
			r.Errorf("the token %x was used %d times; its budget is %d", sum[:4], n, budget)
		}
	}
}

func counts(by map[string]int) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(by)) {
		out = append(out, fmt.Sprintf("%s %d", key, by[key]))
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ", ")
}

// account compares what clients have with the journals, and the journals with the logs.
func (r *replicas) account() {
	r.Helper()
	issued := map[string]bool{}
	reconcile := []string{"audit", "reconcile", "--config", filepath.Join(r.servers[0].Dir, "mayfly.yaml")}
	for i, m := range r.servers {
		m.Stop()
		path := filepath.Join(m.Dir, "journal.jsonl")
		r.Run(lab.Command{Name: "mayfly", Args: []string{"audit", "verify", path}})
		if i > 0 {
			reconcile = append(reconcile, "--journal", path)
		}
		for line := range strings.Lines(r.Run(lab.Command{Name: "mayfly", Args: []string{
			"audit", "query", path, "--result", "issued", "--json",
		}}).Stdout) {
			var one struct{ Certificate string }
			if err := json.Unmarshal([]byte(line), &one); err != nil {
				r.Fatal(errors.Join(err, errors.New(line)))
			}
			issued[one.Certificate] = true
		}
	}
	for certificate := range r.held {
		if !issued[certificate] {
			r.Errorf("a client has the certificate %s, and no journal does", certificate)
		}
	}
	unknown := len(issued) - len(r.held)
	failures := 0
	for _, p := range r.phases {
		for _, n := range p.failures {
			failures += n
		}
		failures += p.leaked["no answer"] + p.leaked["502"] + p.leaked["503"] + p.leaked["504"]
	}
	r.Logf("%d certificates issued, of which clients have %d; %d attempts failed", len(issued), len(r.held), failures)
	if unknown > failures {
		r.Errorf("%d certificates were issued that no client has, and only %d attempts failed", unknown, failures)
	}
	r.Log(r.Run(lab.Command{Name: "mayfly", Args: reconcile}).Stdout)
	for _, g := range r.logs {
		r.Logf("%s: %s", g.Name, r.CheckLog(g))
	}
}
