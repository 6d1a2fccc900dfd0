package oidc_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// one returns a configuration with one issuer of the type email.
func one(p *idp.Provider, change func(*oidc.IssuerConfig)) oidc.Config {
	c := oidc.IssuerConfig{ClientID: "sigstore", Type: "email"}
	if change != nil {
		change(&c)
	}
	return oidc.Config{Issuers: map[string]oidc.IssuerConfig{p.URL(): c}}
}

// E1 // E2 // E6 // E9 // E10 // E11: every fault of a provider ends soon, is not reported as the fault of the caller,
// and needs a limited amount of memory. Tokens are still accepted with cached keys.
func TestProviderFaults(t *testing.T) {
	t.Parallel()
	for _, f := range []idp.Fault{
		idp.Error500, idp.Hang, idp.Garbage, idp.Huge, idp.Bomb, idp.Drip, idp.NoKeys, idp.WrongIssuer,
		idp.RedirectAway, idp.RedirectLoop,
	} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			p := idp.New(t, idp.Options{})
			shift := new(atomic.Int64)
			now := func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }
			v := verifier(t, one(p, func(c *oidc.IssuerConfig) { c.Outbound.Timeout = 2 * time.Second }),
				oidc.Options{Now: now})
			p.SetFault(f)
			token := p.Token(nil)
			began := time.Now()
			_, err := v.Identify(t.Context(), token)
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("took %s", d)
			}
			failure := fault.From(err)
			if failure.Reason != fault.ProviderUnavailable || failure.RetryAfter <= 0 ||
				strings.Contains(fmt.Sprint(failure.Meta), "canary") {
				t.Errorf("%v, %+v", err, failure)
			}
			if n := p.Sent(); n > 16<<20 {
				t.Errorf("%d bytes were read", n)
			}
			began = time.Now()
			if _, err = v.Identify(t.Context(), token); fault.From(err).Reason != fault.ProviderUnavailable ||
				time.Since(began) > time.Second {
				t.Errorf("during the back-off: %v after %s", err, time.Since(began))
			}
			p.SetFault(idp.None)
			shift.Store(int64(2 * time.Second))
			if _, err = v.Identify(t.Context(), p.Token(nil)); err != nil {
				t.Errorf("after it: %v", err)
			}
			p.SetFault(f)
			shift.Store(int64(time.Hour)) // the keys are no longer fresh, but usable
			if _, err = v.Identify(t.Context(),
				p.Token(map[string]any{"iat": now().Unix(), "exp": now().Unix() + 60})); err != nil {
				t.Errorf("with cached keys: %v", err)
			}
		})
	}
}

// E2 GHSA-f5mr-q85p-6hh6: no redirect to another host, nor from https to http, is followed for keys.
func TestRedirects(t *testing.T) {
	t.Parallel()
	other := idp.New(t, idp.Options{})
	for name, target := range map[string]string{
		"host": strings.Replace(other.URL(), "127.0.0.1", "localhost", 1),
		"port": other.URL(),
	} {
		p := idp.New(t, idp.Options{Wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/keys" {
					http.Redirect(w, r, target+"/keys", http.StatusFound)
					return
				}
				h.ServeHTTP(w, r)
			})
		}})
		v := verifier(t, one(p, nil), oidc.Options{})
		if _, err := v.Identify(t.Context(), p.Token(nil)); reason(err) != fault.ProviderUnavailable ||
			other.Requests() != 0 {
			t.Errorf("%s: %v, %d requests to the other host", name, err, other.Requests())
		}
	}
	within := idp.New(t, idp.Options{Wrap: func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/keys" && r.URL.RawQuery == "" {
				http.Redirect(w, r, "/keys?again", http.StatusFound)
				return
			}
			h.ServeHTTP(w, r)
		})
	}})
	if _, err := verifier(t, one(within, nil), oidc.Options{}).Identify(t.Context(), within.Token(nil)); err != nil {
		t.Errorf("on the same host: %v", err)
	}
}

// E3: an issuer that only matches a pattern, and a jwks_uri on another host, cannot make mayfly connect to this machine
// or to a private network.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{TLS: true, Path: "/id/1"})
	local := strings.Replace(p.URL(), "127.0.0.1", "localhost", 1)
	pattern := "https://local*:" + p.URL()[strings.LastIndex(strings.TrimSuffix(p.URL(), "/id/1"), ":")+1:]
	c := oidc.IssuerConfig{ClientID: "sigstore", Type: "email", CACert: p.CA()}
	v := verifier(t, oidc.Config{MetaIssuers: map[string]oidc.IssuerConfig{strings.TrimSuffix(pattern, "1") + "*": c}},
		oidc.Options{})
	_, err := v.Identify(t.Context(), p.Token(map[string]any{"iss": local}))
	if reason(err) != fault.ProviderUnavailable || !strings.Contains(err.Error(), "not a public address") ||
		p.Requests() != 0 {
		t.Errorf("a pattern led to loopback: %v, %d requests", err, p.Requests())
	}
	for _, host := range []string{
		"127.0.0.1:1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "[::1]:1", "[fd00::1]",
		"100.64.0.1", "0.0.0.0", "[::ffff:127.0.0.1]:1", "[64:ff9b::7f00:1]",
	} {
		front := httptest.NewUnstartedServer(nil)
		iss := ""
		front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"https://%s/keys"}`, iss, host)
		})
		front.StartTLS()
		t.Cleanup(front.Close)
		iss = "https://idp.example.com/" + host // not on loopback, as far as the configuration says
		v := verifier(t, oidc.Config{Issuers: map[string]oidc.IssuerConfig{iss: {
			ClientID: "sigstore", Type: "email", DiscoveryURL: front.URL,
			CACert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})),
		}}}, oidc.Options{})
		_, err := v.Identify(t.Context(), p.Token(map[string]any{"iss": iss}))
		if reason(err) != fault.ProviderUnavailable || !strings.Contains(err.Error(), "not a public address") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// A pattern on a loopback host is for test set-ups: it may be plain http.
func TestLoopbackPattern(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{Path: "/id/1"})
	v := verifier(t,
		oidc.Config{MetaIssuers: map[string]oidc.IssuerConfig{"http://127.0.0.1:*/id/*": {
			ClientID: "sigstore",
			Type:     "email",
		}}}, oidc.Options{})
	if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
		t.Error(err)
	}
	if err := (oidc.Config{MetaIssuers: map[string]oidc.IssuerConfig{"http://*/id": {
		ClientID: "sigstore",
		Type:     "email",
	}}}).Check(); err == nil {
		t.Error("plain http to any host is fine")
	}
}

// E8: a flood of invented issuers below a pattern neither evicts a proven one nor starts more fetches than there are
// slots.
func TestPatternProviders(t *testing.T) {
	t.Parallel()
	good := idp.New(t, idp.Options{TLS: true, Path: "/id/good"})
	base := strings.TrimSuffix(good.URL(), "good")
	v := verifier(t, oidc.Config{MetaIssuers: map[string]oidc.IssuerConfig{base + "*": {
		ClientID: "sigstore", Type: "email", CACert: good.CA(),
		Outbound: provider.OutboundConfig{Timeout: 5 * time.Second},
	}}}, oidc.Options{})
	for range 2 { // the second time the provider is proven
		if _, err := v.Identify(t.Context(), good.Token(nil)); err != nil {
			t.Fatal(err)
		}
	}
	before := good.Requests()
	var all sync.WaitGroup
	for part := range 8 {
		all.Go(func() {
			for i := range 80 { // together more than the unproven providers that are remembered
				_, err := v.Identify(t.Context(),
					good.Token(map[string]any{"iss": fmt.Sprintf("%sinvented-%d-%d", base, part, i)}))
				if reason(err) != fault.ProviderUnavailable {
					t.Errorf("invented: %v", err)
				}
			}
		})
	}
	all.Wait()
	flood := good.Requests() - before
	if flood < 640 {
		t.Errorf("%d requests: the flood was not one", flood)
	}
	if _, err := v.Identify(t.Context(), good.Token(nil)); err != nil || good.Requests()-before != flood {
		t.Errorf("the good issuer was forgotten: %v", err)
	}
}

// E8: the requests for one provider below a pattern share one fetch, and a request that is cancelled does not free a
// slot.
func TestPatternProviderSlots(t *testing.T) {
	t.Parallel()
	var running, most atomic.Int64
	p := idp.New(t, idp.Options{TLS: true, Path: "/id/1", Wrap: func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := running.Add(1)
			defer running.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			if strings.Contains(r.URL.Path, "slow") {
				<-r.Context().Done()
				return
			}
			h.ServeHTTP(w, r)
		})
	}})
	base := strings.TrimSuffix(p.URL(), "1")
	v := verifier(t, oidc.Config{MetaIssuers: map[string]oidc.IssuerConfig{base + "*": {
		ClientID: "sigstore", Type: "email", CACert: p.CA(),
		Outbound: provider.OutboundConfig{Timeout: 2 * time.Second},
	}}}, oidc.Options{})
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() {
			if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
				t.Errorf("one of many requests for one provider: %v", err)
			}
		})
	}
	all.Wait()
	for i := range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		// the request is cancelled at once
		_, _ = v.Identify(ctx, p.Token(map[string]any{"iss": fmt.Sprintf("%sslow-%d", base, i)}))
		cancel()
	}
	if n := most.Load(); n > 20 {
		t.Errorf("%d discoveries at once", n)
	}
}

// E6: keys that were stored with a time in the future, because of a wrong clock, are not used.
func TestStateFromTheFuture(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	dir := t.TempDir()
	ahead := verifier(t, one(p, nil), oidc.Options{
		StateDir: dir,
		Now:      func() time.Time { return time.Now().Add(10 * 365 * 24 * time.Hour) },
	})
	ahead.Probe(t.Context())
	old := p.Token(nil)
	p.Rotate()
	v := verifier(t, one(p, nil), oidc.Options{StateDir: dir})
	if _, err := v.Identify(t.Context(), old); reason(err) != fault.KeyIDUnknown {
		t.Errorf("a key that was taken away: %v", err)
	}
}

// E13: the token of the pod is sent only to the issuer of its own cluster.
func TestPodToken(t *testing.T) {
	t.Parallel()
	var got atomic.Int64
	front := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			got.Add(1)
		}
	}))
	t.Cleanup(front.Close)
	dir := t.TempDir()
	for name, data := range map[string][]byte{"ca.crt": pem.EncodeToMemory(&pem.Block{
		Type:  "CERTIFICATE",
		Bytes: front.Certificate().Raw,
	}), "token": []byte("POD")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v := verifier(t, oidc.Config{Issuers: map[string]oidc.IssuerConfig{"https://kubernetes.default.svc": {
		ClientID: "sigstore", Type: "kubernetes", DiscoveryURL: front.URL,
		CACert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})),
	}}}, oidc.Options{ServiceAccountDir: dir})
	if s := v.Probe(t.Context()); s[0].OK || got.Load() != 0 {
		t.Errorf("%+v, the token was sent %d times", s, got.Load())
	}
}

// A new configuration keeps the keys of issuers that it does not change and fetches those of issuers that it changes.
func TestWith(t *testing.T) {
	t.Parallel()
	a, b := idp.New(t, idp.Options{}), idp.New(t, idp.Options{})
	v := verifier(t, one(a, nil), oidc.Options{})
	if _, err := v.Identify(t.Context(), a.Token(nil)); err != nil {
		t.Fatal(err)
	}
	before := a.Requests()
	both := one(a, func(c *oidc.IssuerConfig) { c.Description = "renamed" })
	both.Issuers[b.URL()] = oidc.IssuerConfig{ClientID: "sigstore", Type: "email"}
	next, err := v.With(both)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*idp.Provider{a, b} {
		if _, err := next.Identify(t.Context(), p.Token(nil)); err != nil {
			t.Error(err)
		}
	}
	if _, err := v.Identify(t.Context(), b.Token(nil)); reason(err) != fault.IssuerNotTrusted {
		t.Errorf("the old configuration has changed: %v", err)
	}
	if a.Requests() != before {
		t.Errorf("%d requests for cached keys", a.Requests()-before)
	}
	if _, err := v.With(oidc.Config{}); err == nil {
		t.Error("a configuration without issuers is fine")
	}
	changed, err := next.With(one(a, func(c *oidc.IssuerConfig) { c.Outbound.Proxy = "none" }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := changed.Identify(t.Context(), a.Token(nil)); err != nil || a.Requests() == before {
		t.Errorf("another way to the provider, the same keys: %v", err)
	}
}

// The settings for outbound connections.
func TestOutbound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	identify := func(p *idp.Provider, change func(*oidc.IssuerConfig)) error {
		t.Helper()
		v, err := oidc.New(one(p, change), oidc.Options{})
		if err != nil {
			return err
		}
		t.Cleanup(v.Wait)
		_, err = v.Identify(t.Context(), p.Token(nil))
		return err
	}
	certificate, key := clientPair(t)
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM([]byte(certificate))
	closed := idp.New(t, idp.Options{TLS: true, Clients: clients})
	secure := idp.New(t, idp.Options{TLS: true})
	pair := &provider.ClientCertificateConfig{
		Certificate: file("client.pem", certificate),
		Key:         file("client-key.pem", key),
	}
	bundle := file("ca.pem", secure.CA())

	if err := identify(secure, nil); reason(err) != fault.ProviderUnavailable {
		t.Errorf("an unknown CA: %v", err)
	}
	for name, change := range map[string]func(*oidc.IssuerConfig){
		"ca-cert":   func(c *oidc.IssuerConfig) { c.CACert = secure.CA() },
		"ca-bundle": func(c *oidc.IssuerConfig) { c.Outbound.CABundle = bundle },
		"exclusive": func(c *oidc.IssuerConfig) { c.Outbound.CABundle, c.Outbound.CAExclusive = bundle, true },
	} {
		if err := identify(secure, change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := identify(secure,
		func(c *oidc.IssuerConfig) { c.Outbound.CABundle = file("empty.pem", "x") }); err == nil ||
		!strings.Contains(err.Error(), "ca-bundle") {
		t.Errorf("a bundle without certificate: %v", err)
	}
	if err := identify(closed,
		func(c *oidc.IssuerConfig) { c.CACert = closed.CA() }); reason(err) != fault.ProviderUnavailable {
		t.Errorf("without a client certificate: %v", err)
	}
	if err := identify(closed,
		func(c *oidc.IssuerConfig) { c.CACert, c.Outbound.ClientCertificate = closed.CA(), pair }); err != nil {
		t.Errorf("with a client certificate: %v", err)
	}

	var proxied atomic.Int64
	far := idp.New(t, idp.Options{})
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxied.Add(1)
		far.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	if err := identify(far, func(c *oidc.IssuerConfig) { c.Outbound.Proxy = proxy.URL }); err != nil ||
		proxied.Load() != 2 {
		t.Errorf("by a proxy: %v, %d requests", err, proxied.Load())
	}

	elsewhere := idp.New(t, idp.Options{})
	u, err := url.Parse(elsewhere.URL())
	if err != nil {
		t.Fatal(err)
	}
	moved := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://%s/keys","id_token_signing_alg_values_supported":["ES256"]}`,
			elsewhere.URL(), u.Host)
	}))
	t.Cleanup(moved.Close)
	if err := identify(elsewhere,
		func(c *oidc.IssuerConfig) { c.DiscoveryURL = moved.URL + "/any/place" }); err != nil ||
		elsewhere.Requests() != 1 {
		t.Errorf("discovery-url: %v, %d requests to the issuer", err, elsewhere.Requests())
	}
}

// clientPair returns a certificate for a TLS client and its key, in PEM.
func clientPair(t *testing.T) (certificate, key string) {
	t.Helper()
	k := pki.NewKey(pki.P256)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// E13: the bearer token is read again and sent only to the provider's own host, over https.
func TestBearer(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("first\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got []string
	note := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			got = append(got, r.Header.Get("Authorization"))
			mu.Unlock()
			h.ServeHTTP(w, r)
		})
	}
	p := idp.New(t, idp.Options{TLS: true, Wrap: note})
	with := func(c *oidc.IssuerConfig) { c.CACert, c.Outbound.BearerTokenFile = p.CA(), token }
	v := verifier(t, one(p, with), oidc.Options{})
	if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Rotate()
	v.Probe(t.Context()) // as the background work does
	if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(got, ","); s != "Bearer first,Bearer first,Bearer second,Bearer second" {
		t.Errorf("sent: %s", s)
	}

	got = nil
	plain := idp.New(t, idp.Options{})
	if err := one(plain, func(c *oidc.IssuerConfig) { c.Outbound.BearerTokenFile = token }).Check(); err == nil ||
		!strings.Contains(err.Error(), "plain http") {
		t.Errorf("over plain http: %v", err)
	}
	away := idp.New(t, idp.Options{TLS: true, Wrap: note})
	front := idp.New(t, idp.Options{TLS: true, Wrap: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"issuer":"https://%s","jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]}`,
				r.Host, away.URL()+"/keys")
		})
	}})
	v = verifier(t,
		one(front, func(c *oidc.IssuerConfig) { c.CACert, c.Outbound.BearerTokenFile = front.CA()+away.CA(), token }),
		oidc.Options{})
	// The other host serves its keys without the token, and must not get it.
	if _, err := v.Identify(t.Context(), away.Token(map[string]any{"iss": front.URL()})); err != nil ||
		len(got) != 1 || got[0] != "" {
		t.Errorf("to another host: %v, %q", err, got)
	}
}

// Static keys need no network, are read again when they change, and stay in use while a file is invalid.
func TestStaticKeys(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	p.SetFault(idp.Error500)
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.json", p.JWKS())
	shift := new(atomic.Int64)
	now := func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }
	token := func() string { return p.Token(map[string]any{"iat": now().Unix(), "exp": now().Unix() + 60}) }
	for name, keys := range map[string]provider.StaticKeysConfig{
		"inline": {JWKS: string(p.JWKS())}, "file": {File: filepath.Join(dir, "a.json")}, "directory": {Dir: dir},
		"algorithms": {JWKS: string(p.JWKS()), Algorithms: []string{"ES256"}},
	} {
		v := verifier(t, one(p, func(c *oidc.IssuerConfig) { c.StaticKeys = &keys }), oidc.Options{Now: now})
		if _, err := v.Identify(t.Context(), token()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s := v.Status()[0]; !s.OK {
			t.Errorf("%s: %+v", name, s)
		}
	}
	v := verifier(t, one(p, func(c *oidc.IssuerConfig) {
		c.StaticKeys = &provider.StaticKeysConfig{JWKS: string(p.JWKS()), Algorithms: []string{"RS256"}}
	}), oidc.Options{})
	if _, err := v.Identify(t.Context(), p.Token(nil)); reason(err) != fault.AlgorithmNotAllowed {
		t.Errorf("another algorithm: %v", err)
	}
	v = verifier(t, one(p, func(c *oidc.IssuerConfig) { c.StaticKeys = &provider.StaticKeysConfig{Dir: dir} }),
		oidc.Options{Now: now})
	p.Rotate()
	write("b.json", p.JWKS())
	v.Probe(t.Context()) // as the background work does: no request reads a file
	if _, err := v.Identify(t.Context(), token()); err != nil {
		t.Errorf("a new key: %v", err)
	}
	write("c.json", []byte("{"))
	v.Probe(t.Context())
	shift.Store(int64(12 * time.Hour))
	if _, err := v.Identify(t.Context(), token()); err != nil {
		t.Errorf("with an invalid file in the directory: %v", err)
	}
	shift.Store(int64(25 * time.Hour))
	if _, err := v.Identify(t.Context(), token()); reason(err) != fault.ProviderUnavailable {
		t.Errorf("broken for a day: %v", err)
	}
	write("gone.json", p.JWKS())
	alone := verifier(t,
		one(p, func(c *oidc.IssuerConfig) { c.StaticKeys = &provider.StaticKeysConfig{File: dir + "/gone.json"} }),
		oidc.Options{Now: now})
	write("gone.json", []byte(`{"keys":[]}`))
	gone := one(p, func(c *oidc.IssuerConfig) {
		c.StaticKeys = &provider.StaticKeysConfig{File: dir + "/gone.json"}
	})
	if _, err := alone.With(gone); err == nil {
		t.Error("a reload takes a set without keys")
	}
	alone.Probe(t.Context())
	if _, err := alone.Identify(t.Context(), token()); reason(err) != fault.KeyIDUnknown {
		t.Errorf("keys that were taken away: %v", err)
	}
	for _, bad := range []provider.StaticKeysConfig{
		{},
		{JWKS: "{}"},
		{File: dir + "/none"},
		{Dir: dir + "/none"},
		{JWKS: string(p.JWKS()), File: "x"},
	} {
		if _, err := oidc.New(one(p, func(c *oidc.IssuerConfig) { c.StaticKeys = &bad }), oidc.Options{}); err == nil ||
			!strings.Contains(err.Error(), "static-keys") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if n := p.Requests(); n != 0 {
		t.Errorf("%d requests to the provider", n)
	}
}

// D2 // D9 // D10: the rules on tokens that an entry can set.
func TestTokenRules(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := idp.New(t, idp.Options{})
	for name, c := range map[string]struct {
		change func(*oidc.IssuerConfig)
		claims map[string]any
		want   fault.Reason
	}{
		"audiences": {
			func(c *oidc.IssuerConfig) { c.Audiences = []string{"other"} },
			map[string]any{"aud": "other"},
			"",
		},
		"audiences alone": {
			func(c *oidc.IssuerConfig) { c.ClientID, c.Audiences = "", []string{"other"} },
			map[string]any{"aud": "sigstore"},
			fault.AudienceMismatch,
		},
		"list":          {nil, map[string]any{"aud": []any{"x", "sigstore"}}, ""},
		"azp of a list": {nil, map[string]any{"aud": []any{"x", "sigstore"}, "azp": "x"}, fault.AudienceMismatch},
		"azp alone":     {nil, map[string]any{"azp": "x"}, ""},
		"party": {
			func(c *oidc.IssuerConfig) { c.AuthorizedParties = []string{"cli"} },
			map[string]any{"azp": "cli"},
			"",
		},
		"other party": {
			func(c *oidc.IssuerConfig) { c.AuthorizedParties = []string{"cli"} },
			map[string]any{"azp": "sigstore"},
			fault.AudienceMismatch,
		},
		"no party": {
			func(c *oidc.IssuerConfig) { c.AuthorizedParties = []string{"cli"} }, nil,
			fault.AudienceMismatch,
		},
		"age": {
			func(c *oidc.IssuerConfig) { c.MaxAge = time.Minute },
			map[string]any{"iat": now.Add(-2 * time.Minute).Unix()},
			fault.TokenTooLongLived,
		},
		"young": {func(c *oidc.IssuerConfig) { c.MaxAge = time.Minute }, nil, ""},
		"age, lenient": {
			func(c *oidc.IssuerConfig) { c.MaxAge, c.Compat = time.Minute, "fulcio" },
			map[string]any{"iat": nil},
			fault.ClaimMissing,
		},
		"lifetime": {
			func(c *oidc.IssuerConfig) { c.MaxLifetime = time.Minute }, nil,
			fault.TokenTooLongLived,
		},
		"a day": {nil, map[string]any{"exp": now.Add(25 * time.Hour).Unix()}, fault.TokenTooLongLived},
		"a day, lenient": {
			func(c *oidc.IssuerConfig) { c.Compat = "fulcio" },
			map[string]any{"exp": now.Add(25 * time.Hour).Unix()},
			"",
		},
		"from the future": {nil, map[string]any{"iat": now.Add(2 * time.Minute).Unix()}, fault.TokenNotYetValid},
		"future, lenient": {
			func(c *oidc.IssuerConfig) { c.Compat = "fulcio" },
			map[string]any{"iat": now.Add(time.Hour).Unix()},
			"",
		},
		"not before": {nil, map[string]any{"nbf": now.Add(2 * time.Minute).Unix()}, fault.TokenNotYetValid},
		"not before, lenient": {
			func(c *oidc.IssuerConfig) { c.Compat = "fulcio" },
			map[string]any{"nbf": now.Add(4 * time.Minute).Unix()},
			"",
		},
		"expired":       {nil, map[string]any{"exp": now.Add(-time.Second).Unix()}, fault.TokenExpired},
		"no iat":        {nil, map[string]any{"iat": nil}, fault.ClaimMissing},
		"no exp":        {nil, map[string]any{"exp": nil}, fault.ClaimMissing},
		"exp is a text": {nil, map[string]any{"exp": "soon"}, fault.ClaimInvalid},
		"algorithm": {
			func(c *oidc.IssuerConfig) { c.TokenAlgorithms = []string{"RS256"} }, nil,
			fault.AlgorithmNotAllowed,
		},
	} {
		v := verifier(t, one(p, c.change), oidc.Options{})
		if _, err := v.Identify(t.Context(), p.Token(c.claims)); reason(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
