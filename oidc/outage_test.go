package oidc_test

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/spans"
)

// farm is a host with very many providers that share one key. Every path is an issuer; those with "hang" in the path
// never answer.
type farm struct {
	server  *httptest.Server
	release chan struct{}
	key     crypto.Signer
	jwks    []byte
	hanging atomic.Int64 // requests that hang at present
	most    atomic.Int64 // largest number of requests at once
	running atomic.Int64
	pause   func() // before each answer; nil: none
}

func newFarm(t *testing.T) *farm {
	t.Helper()
	f := &farm{release: make(chan struct{}), key: pki.NewKey(pki.P256)}
	var err error
	if f.jwks,
		err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: f.key.Public(), KeyID: "k1",
		Use: "sig",
	}}}); err != nil {
		t.Fatal(err)
	}
	f.server = httptest.NewServer(f)
	t.Cleanup(func() {
		close(f.release)
		f.server.Close()
	})
	return f
}

func (f *farm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := f.running.Add(1)
	defer f.running.Add(-1)
	for m := f.most.Load(); n > m && !f.most.CompareAndSwap(m, n); m = f.most.Load() {
	}
	if strings.Contains(r.URL.Path, "hang") {
		f.hanging.Add(1)
		defer f.hanging.Add(-1)
		select {
		case <-f.release:
		case <-r.Context().Done():
		}
		return
	}
	if f.pause != nil {
		f.pause()
	}
	if issuer, ok := strings.CutSuffix(r.URL.Path, "/.well-known/openid-configuration"); ok {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]}`,
			f.server.URL+issuer, f.server.URL+issuer+"/keys")
		return
	}
	_, _ = w.Write(f.jwks)
}

// token returns a token of the issuer with this path.
func (f *farm) token(path string) string {
	now := time.Now().Unix()
	return idp.Signing{Key: f.key, Alg: "ES256", KeyID: "k1"}.Token(map[string]any{
		"iss": f.server.URL + path, "aud": "sigstore", "sub": "s", "email": "a@example.com", "email_verified": true,
		"iat": now, "exp": now + 3600,
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// E5 // E8: fifty invented providers that do not answer take only slots of unproven providers. Entries, known good
// providers and their refreshes, other patterns, and clients with other addresses on the same pattern get slots.
func TestHangingInventions(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	c := oidc.IssuerConfig{ClientID: "sigstore", Type: "email"}
	long := c
	long.Outbound.Timeout = 5 * time.Second
	var shift atomic.Int64
	v := verifier(t, oidc.Config{
		Issuers:     map[string]oidc.IssuerConfig{f.server.URL + "/exact": c, f.server.URL + "/late": c},
		MetaIssuers: map[string]oidc.IssuerConfig{f.server.URL + "/one/*": long, f.server.URL + "/two/*": c},
	}, oidc.Options{Now: func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }})
	attacker, client := netip.MustParseAddr("192.0.2.66"), netip.MustParseAddr("192.0.2.1")
	must := func(from netip.Addr, path string) {
		t.Helper()
		if _, err := v.IdentifyFrom(t.Context(), from, f.token(path)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	must(attacker, "/exact")
	must(attacker, "/one/known")
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var refused atomic.Int64
	for i := range 50 {
		flood.Go(func() {
			_, err := v.IdentifyFrom(ctx, attacker, f.token(fmt.Sprintf("/one/hang-%d", i)))
			if failure := fault.From(err); failure.Reason == fault.ProviderUnavailable {
				refused.Add(1)
				if failure.RetryAfter < time.Second {
					t.Errorf("to be tried again after %s", failure.RetryAfter)
				}
			}
		})
	}
	eventually(t, "the flood hangs", func() bool { return f.hanging.Load() > 0 && refused.Load() > 0 })
	shift.Store(int64(10 * time.Minute)) // the known keys are due for a refresh
	before := v.Fetches()
	must(attacker, "/exact")
	must(attacker, "/one/known")
	must(attacker, "/late")    // an entry that has not been fetched yet
	must(attacker, "/two/new") // another pattern
	must(client, "/one/new")   // another address
	if n := f.hanging.Load(); n == 0 || n > 4 {
		t.Errorf("%d fetches for one source, pattern and host hang at once", n)
	}
	if p := before[3]; p.Class != "unproven" || p.Running == 0 || p.LastRefused.IsZero() {
		t.Errorf("%+v", p)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(v.Collectors()...)
	got, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, family := range got {
		seen[family.GetName()] = true
	}
	for _, name := range []string{
		"mayfly_oidc_fetches_running", "mayfly_oidc_fetches_queued",
		"mayfly_oidc_fetches_refused_total",
	} {
		if !seen[name] {
			t.Errorf("no metric %s", name)
		}
	}
	stop()
	flood.Wait()
}

// E5: of a thousand entries at start, most of which do not answer, only the quota is fetched at once; a client of an
// entry that answers does not wait for the others.
func TestManyEntriesAtStart(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	c := oidc.Config{Issuers: map[string]oidc.IssuerConfig{
		f.server.URL + "/good": {ClientID: "sigstore", Type: "email"},
	}}
	for i := range 1000 {
		c.Issuers[fmt.Sprintf("%s/hang-%d", f.server.URL, i)] = oidc.IssuerConfig{
			ClientID: "sigstore", Type: "email", Outbound: provider.OutboundConfig{Timeout: 30 * time.Second},
		}
	}
	v := verifier(t, c, oidc.Options{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	v.Start(ctx)
	eventually(t, "the slots for a start are taken", func() bool { return f.hanging.Load() >= 10 })
	began := time.Now()
	if _, err := v.Identify(t.Context(), f.token("/good")); err != nil {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if n := f.most.Load(); n > 26 {
		t.Errorf("%d requests at once", n)
	}
}

// E4 // E7: tokens that no key verifies cause a limited number of fetches, however many follow one another, and
// whatever is wrong with them: key ID, signature, or algorithm.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(p *idp.Provider, i int) string{
		"unknown id": func(p *idp.Provider, i int) string {
			return sign(p, idp.Signing{Key: pki.NewKey(pki.P256), Alg: "ES256", KeyID: fmt.Sprint("forged-", i)})
		},
		"known id": func(p *idp.Provider, _ int) string {
			_, kid := p.Key()
			return sign(p, idp.Signing{Key: pki.NewKey(pki.P256), Alg: "ES256", KeyID: kid})
		},
		"no id": func(p *idp.Provider, _ int) string {
			return sign(p, idp.Signing{Key: pki.NewKey(pki.P256), Alg: "ES256"})
		},
		"another algorithm": func(p *idp.Provider, _ int) string {
			_, kid := p.Key()
			return sign(p, idp.Signing{Key: pki.NewKey(pki.P384), Alg: "ES384", KeyID: kid})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := idp.New(t, idp.Options{})
			now := time.Now()
			// the rate limiter does not refill meanwhile
			v := verifier(t, one(p, nil), oidc.Options{Now: func() time.Time { return now }})
			if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
				t.Fatal(err)
			}
			before := p.Requests()
			for i := range 50 {
				if _, err := v.Identify(t.Context(), forge(p, i)); err == nil || fault.From(err).Kind != fault.Invalid {
					t.Fatalf("a forged token: %v", err)
				}
			}
			if n := p.Requests() - before; n != 6 {
				t.Errorf("%d requests to the provider; want three fetches of two each", n)
			}
			if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
				t.Errorf("a good token afterwards: %v", err)
			}
		})
	}
}

func sign(p *idp.Provider, s idp.Signing) string {
	now := time.Now().Unix()
	return s.Token(map[string]any{
		"iss": p.URL(), "aud": "sigstore", "sub": "s", "email": "a@example.com", "email_verified": true,
		"iat": now, "exp": now + 300,
	})
}

// E7: if a provider replaces its key by one of the same kind under the same key ID, the next token is accepted, and
// tokens of the former key are refused.
func TestSameKeyID(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]idp.Signing{
		"same kind":    {Key: pki.NewKey(pki.P256), Alg: "ES256", KeyID: "k1"},
		"another kind": {Key: pki.NewKey(pki.P384), Alg: "ES384", KeyID: "k1"},
		"no id":        {Key: pki.NewKey(pki.P256), Alg: "ES256"},
	} {
		former := idp.Signing{Key: pki.NewKey(pki.P256), Alg: "ES256", KeyID: next.KeyID}
		var current atomic.Pointer[idp.Signing]
		current.Store(&former)
		p := idp.New(t, idp.Options{Wrap: func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/keys" {
					fmt.Fprintf(w,
						`{"issuer":"http://%s","jwks_uri":"http://%s/keys","id_token_signing_alg_values_supported":[%q]}`, r.Host, r.Host, current.Load().Alg)
					return
				}
				s := current.Load()
				_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: s.Key.(crypto.Signer).Public(), KeyID: s.KeyID}}})
			})
		}})
		v := verifier(t, one(p, nil), oidc.Options{})
		if _, err := v.Identify(t.Context(), sign(p, former)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		current.Store(&next)
		if _, err := v.Identify(t.Context(), sign(p, next)); err != nil {
			t.Errorf("%s: the new key: %v", name, err)
		}
		if _, err := v.Identify(t.Context(), sign(p, former)); err == nil {
			t.Errorf("%s: the former key still counts", name)
		}
	}
}

// E10: the number of keys in a set is not limited, but their bytes are, and so is the number of keys that are tried for
// a token without a key ID.
func TestLargeKeySets(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	key, kid := p.Key()
	set := func(n int) string {
		var all jose.JSONWebKeySet
		for i := range n {
			all.Keys = append(all.Keys, jose.JSONWebKey{
				Key:   pki.NewKey(pki.P256).Public(),
				KeyID: fmt.Sprint("other-", i),
			})
		}
		all.Keys = append(all.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: kid})
		data, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, c := range []struct {
		keys               int
		withKeyID, without fault.Reason
	}{{63, "", ""}, {64, "", fault.KeyIDUnknown}, {1000, "", fault.KeyIDUnknown}} {
		v := verifier(t,
			one(p, func(i *oidc.IssuerConfig) { i.StaticKeys = &provider.StaticKeysConfig{JWKS: set(c.keys)} }),
			oidc.Options{})
		if _, err := v.Identify(t.Context(), p.Token(nil)); reason(err) != c.withKeyID {
			t.Errorf("%d other keys: %v", c.keys, err)
		}
		if _, err := v.Identify(t.Context(), sign(p, idp.Signing{Key: key, Alg: "ES256"})); reason(err) != c.without {
			t.Errorf("%d other keys, a token that names none: %v", c.keys, err)
		}
	}
	padded := func(size int) *idp.Provider {
		return idp.New(t, idp.Options{TLS: true, Path: "/id/1", Wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(w, r)
				if r.URL.Path == "/keys" {
					_, _ = w.Write([]byte(strings.Repeat(" ", size)))
				}
			})
		}})
	}
	for size, want := range map[int][2]fault.Reason{ // for an exact entry, and below a pattern
		100 << 10: {"", ""}, 200 << 10: {"", fault.ProviderUnavailable},
		2 << 20: {fault.ProviderUnavailable, fault.ProviderUnavailable},
	} {
		p := padded(size)
		c := oidc.IssuerConfig{ClientID: "sigstore", Type: "email", CACert: p.CA()}
		for i, config := range []oidc.Config{
			{Issuers: map[string]oidc.IssuerConfig{p.URL(): c}},
			{MetaIssuers: map[string]oidc.IssuerConfig{strings.TrimSuffix(p.URL(), "1") + "*": c}},
		} {
			if _, err := verifier(t, config, oidc.Options{}).Identify(t.Context(),
				p.Token(nil)); reason(err) != want[i] {
				t.Errorf("%d bytes, pattern %t: %v", size, i == 1, err)
			}
		}
	}
}

// E10 // E11: client and operator are told that keys are too weak, and no retry is suggested.
func TestWeakKeys(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	p.SetFault(idp.WeakKeys)
	v := verifier(t, one(p, nil), oidc.Options{})
	for range 2 { // the second time is during the back-off
		_, err := v.Identify(t.Context(), p.Token(nil))
		failure := fault.From(err)
		if failure.Reason != fault.ProviderKeysUnusable || failure.Kind != fault.Invalid ||
			failure.Meta["issuer"] != p.URL() || strings.Contains(failure.Public, "try again") {
			t.Errorf("%+v", failure)
		}
	}
	if s := v.Status()[0]; s.OK || !strings.Contains(s.Cause, "1024 bits") {
		t.Errorf("%+v", s)
	}
	p.SetFault(idp.None)
	v.Probe(t.Context())
	// With one weak key beside a good one, only tokens that name the weak key are refused.
	weak := `{"kty":"RSA","kid":"weak","n":"` + strings.Repeat("_", 171) + `","e":"AQAB"}`
	mixed := strings.Replace(string(p.JWKS()), `{"keys":[`, `{"keys":[`+weak+`,`, 1)
	v = verifier(t, one(p, func(c *oidc.IssuerConfig) { c.StaticKeys = &provider.StaticKeysConfig{JWKS: mixed} }),
		oidc.Options{})
	if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
		t.Errorf("with a weak key in the set: %v", err)
	}
	if _, err := v.Identify(t.Context(), sign(p,
		idp.Signing{
			Key: pki.NewKey(pki.RSA2048), Alg: "RS256",
			KeyID: "weak",
		})); reason(err) != fault.ProviderKeysUnusable {
		t.Errorf("the weak key: %v", err)
	}
}

// RFC 9864 §2.2: a key and a discovery document may call the algorithm Ed25519 while tokens call it EdDSA.
func TestEd25519Name(t *testing.T) {
	t.Parallel()
	key := pki.NewKey(pki.Ed25519)
	for _, name := range []string{"EdDSA", "Ed25519", "ES256"} {
		p := idp.New(t, idp.Options{Wrap: func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/keys" {
					fmt.Fprintf(w,
						`{"issuer":"http://%s","jwks_uri":"http://%s/keys","id_token_signing_alg_values_supported":[%q]}`, r.Host, r.Host, name)
					return
				}
				_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: name}}})
			})
		}})
		_, err := verifier(t, one(p, nil), oidc.Options{}).Identify(t.Context(),
			sign(p, idp.Signing{Key: key, Alg: jose.EdDSA, KeyID: "k1"}))
		if (err == nil) != (name != "ES256") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// jwks-url sets the URL of the keys, without a discovery document or in place of the URL in the document.
func TestJWKSURL(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	var asked atomic.Value
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.String())
		_, _ = w.Write(p.JWKS())
	}))
	t.Cleanup(elsewhere.Close)
	iss := "https://idp.example.com" // not to be reached
	entry := oidc.IssuerConfig{ClientID: "sigstore", Type: "email", JWKSURL: elsewhere.URL + "/jwks?tenant=1"}
	v := verifier(t, oidc.Config{Issuers: map[string]oidc.IssuerConfig{iss: entry}}, oidc.Options{})
	if _, err := v.Identify(t.Context(), p.Token(map[string]any{"iss": iss})); err != nil ||
		asked.Load() != "/jwks?tenant=1" || p.Requests() != 0 {
		t.Errorf("%v, requested %v, %d requests to the issuer", err, asked.Load(), p.Requests())
	}
	both := one(p, func(c *oidc.IssuerConfig) {
		c.DiscoveryURL, c.JWKSURL = p.URL()+"/.well-known/openid-configuration", elsewhere.URL+"/both"
	})
	if _, err := verifier(t, both, oidc.Options{}).Identify(t.Context(), p.Token(nil)); err != nil ||
		asked.Load() != "/both" || p.Requests() != 1 {
		t.Errorf("with discovery-url: %v, requested %v, %d requests to the issuer", err, asked.Load(), p.Requests())
	}
	for name, c := range map[string]oidc.Config{
		"for a pattern": {MetaIssuers: map[string]oidc.IssuerConfig{"https://*.example.com": entry}},
		"over plain http": {Issuers: map[string]oidc.IssuerConfig{iss: {
			ClientID: "x", Type: "email",
			JWKSURL: "http://keys.example.com/jwks",
		}}},
		"with static-keys": {Issuers: map[string]oidc.IssuerConfig{iss: {
			ClientID: "x", Type: "email",
			JWKSURL: "https://keys.example.com", StaticKeys: &provider.StaticKeysConfig{JWKS: string(p.JWKS())},
		}}},
		"with a user": {Issuers: map[string]oidc.IssuerConfig{iss: {
			ClientID: "x", Type: "email",
			JWKSURL: "https://u@keys.example.com",
		}}},
	} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), "jwks-url") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// E13: if the discovery document of an issuer with a bearer token names another host for the keys, the same path on the
// issuer's own host is tried first, with the token. The other host is tried only if that fails, and never gets the
// token.
func TestKeysOnAnotherHost(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("POD"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		own, other int // status of the responses for the keys
		token      string
		wanted, ok bool
	}{
		"on the own host too":      {own: 200, other: 200, token: token, ok: true},
		"public on the other host": {own: 404, other: 200, token: token, wanted: true, ok: true},
		"refused on both":          {own: 403, other: 403, token: token, wanted: true, ok: false},
		"without a token":          {own: 200, other: 200, ok: true}, // an API server with public keys
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			seen := map[string]string{} // by path and host: the Authorization header
			handler := func(host string, status int, next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					seen[host+r.URL.Path] = r.Header.Get("Authorization")
					mu.Unlock()
					if r.URL.Path == "/openid/v1/jwks" && status != http.StatusOK {
						w.WriteHeader(status)
						return
					}
					next.ServeHTTP(w, r)
				})
			}
			var p, other *idp.Provider
			keys := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(p.JWKS()) })
			other = idp.New(t, idp.Options{
				TLS:  true,
				Wrap: func(http.Handler) http.Handler { return handler("other ", c.other, keys) },
			})
			p = idp.New(t, idp.Options{TLS: true, Wrap: func(http.Handler) http.Handler {
				return handler("own ", c.own, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/openid/v1/jwks" {
						keys(w, r)
						return
					}
					fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]}`,
						p.URL(), other.URL()+"/openid/v1/jwks")
				}))
			}})
			v := verifier(t, one(p, func(i *oidc.IssuerConfig) {
				i.Type, i.CACert, i.Outbound.BearerTokenFile, i.Outbound.PrivateNetwork = "kubernetes",
					p.CA()+other.CA(), c.token, true
			}), oidc.Options{})
			account := map[string]any{
				"sub":           "system:serviceaccount:ns:sa",
				"kubernetes.io": map[string]any{"namespace": "ns", "serviceaccount": map[string]any{"name": "sa"}},
			}
			if _, err := v.Identify(t.Context(), p.Token(account)); (err == nil) != c.ok {
				t.Errorf("%v", err)
			}
			want := ""
			if c.token != "" {
				want = "Bearer POD"
			}
			mu.Lock()
			defer mu.Unlock()
			if got := seen["own /openid/v1/jwks"]; got != want {
				t.Errorf("the own host was shown %q", got)
			}
			if got, asked := seen["other /openid/v1/jwks"]; asked != c.wanted || got != "" {
				t.Errorf("the other host got a request: %t, with %q", asked, got)
			}
		})
	}
}

// E6 // E7: keys from a state file are used at once and fetched again at once. Until a fetch has succeeded, and
// whenever the provider does not answer, the status says which keys verify tokens.
func TestKeptKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := idp.New(t, idp.Options{})
	first := verifier(t, one(p, nil), oidc.Options{StateDir: dir})
	first.Probe(t.Context())
	first.Wait()
	if s := first.Status()[0]; !s.OK || s.Warning != "" || s.Fetched.IsZero() {
		t.Errorf("after a fetch: %+v", s)
	}
	p.SetFault(idp.Error500)
	v := verifier(t, one(p, nil), oidc.Options{StateDir: dir})
	if s := v.Status()[0]; !s.OK || !strings.Contains(s.Warning, "state_dir") {
		t.Errorf("before the first fetch: %+v", s)
	}
	if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
		t.Error(err)
	}
	before := p.Requests()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	v.Start(ctx)
	eventually(t, "fetched at once, though the keys are fresh",
		func() bool { return p.Requests() > before && v.Status()[0].Cause != "" })
	if s := v.Status()[0]; s.OK || !strings.Contains(s.Warning, "state_dir") {
		t.Errorf("while the provider is down: %+v", s)
	}
	p.SetFault(idp.None)
	eventually(t, "the warning ends with the first fetch",
		func() bool { s := v.Status()[0]; return s.OK && s.Warning == "" })
	p.SetFault(idp.Error500)
	v.Probe(t.Context())
	if s := v.Status()[0]; s.OK || !strings.Contains(s.Warning, "tokens are verified with keys that were fetched at") {
		t.Errorf("down again: %+v", s)
	}
}

// E6: when discovery-url changes, keys from the former URL are no longer used: neither after a reload nor after a
// restart.
func TestMovedDiscovery(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := idp.New(t, idp.Options{})
	v := verifier(t, one(p, nil), oidc.Options{StateDir: dir})
	v.Probe(t.Context())
	moved := one(p, func(c *oidc.IssuerConfig) { c.DiscoveryURL = "http://127.0.0.1:1/moved" })
	next, err := v.With(moved)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next.Identify(t.Context(), p.Token(nil)); reason(err) != fault.ProviderUnavailable {
		t.Errorf("after a reload: %v", err)
	}
	v.Wait()
	if _, err := verifier(t, moved, oidc.Options{StateDir: dir}).Identify(t.Context(),
		p.Token(nil)); reason(err) != fault.ProviderUnavailable {
		t.Errorf("after a restart: %v", err)
	}
	if _, err := verifier(t, one(p, nil), oidc.Options{StateDir: dir}).Identify(t.Context(), p.Token(nil)); err != nil {
		t.Errorf("the former settings: %v", err)
	}
}

// The wait of a sampled request for a provider is a span, and so are the fetch that the request has started and its
// requests. They name the entry of the configuration, and not the host, the path or the token.
func TestProviderSpans(t *testing.T) {
	t.Parallel()
	p := idp.New(t, idp.Options{})
	v, err := oidc.New(one(p, nil), oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, recorder := spans.Request(t)
	if _, err := v.Identify(ctx, p.Token(nil)); err != nil {
		t.Fatal(err)
	}
	v.Wait()
	entry := " mayfly.entry=" + p.URL()
	want := []string{
		"provider wait" + entry, "provider fetch" + entry,
		"provider request http.response.status_code=200 mayfly.operation=discovery",
		"provider request http.response.status_code=200 mayfly.operation=keys",
	}
	got := recorder.Tree()
	for _, line := range want {
		if strings.Count(got, line+"\n") != 1 {
			t.Errorf("%q is missing", line)
		}
	}
	if strings.Count(got, "\n") != len(want) {
		t.Error(got)
	}
	if _, err := v.Identify(ctx, p.Token(nil)); err != nil || recorder.Tree() != got {
		t.Errorf("with cached keys: %v\n%s", err, recorder.Tree())
	}
}
