// Package idp is an identity provider for tests: discovery, keys and tokens over real HTTP on loopback, with faults.
package idp

import (
	"crypto"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// Fault is how the provider misbehaves.
type Fault string

// The faults.
const (
	None         Fault = ""
	Error500     Fault = "error 500"
	Hang         Fault = "hang"
	Garbage      Fault = "garbage"
	Huge         Fault = "huge body"
	NoKeys       Fault = "no keys"
	WrongIssuer  Fault = "wrong issuer"
	RedirectAway Fault = "redirect to another host"
)

// Options for [New].
type Options struct {
	Audience string // "" is sigstore
	Now      func() time.Time
}

// Provider is a running provider.
type Provider struct {
	o       Options
	server  *httptest.Server
	release chan struct{}
	mu      sync.Mutex
	key     crypto.Signer
	kid     string
	fault   Fault
	asked   atomic.Int64
}

// New starts a provider that ends with the test.
func New(t testing.TB, o Options) *Provider {
	t.Helper()
	if o.Audience == "" {
		o.Audience = "sigstore"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Provider{o: o, release: make(chan struct{})}
	p.Rotate()
	p.server = httptest.NewServer(p)
	t.Cleanup(func() {
		close(p.release)
		p.server.Close()
	})
	return p
}

// URL is the issuer.
func (p *Provider) URL() string { return p.server.URL }

// Requests is how often the provider was asked for anything.
func (p *Provider) Requests() int64 { return p.asked.Load() }

// SetFault changes how the provider behaves from now on.
func (p *Provider) SetFault(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// Rotate replaces the signing key.
func (p *Provider) Rotate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key, p.kid = pki.NewKey(pki.P256), fmt.Sprintf("key-%d", time.Now().UnixNano())
}

// Token signs claims. Those that every token has stand in for missing ones; a nil claim is left out.
func (p *Provider) Token(claims map[string]any) string {
	p.mu.Lock()
	key, kid := p.key, p.kid
	p.mu.Unlock()
	now := p.o.Now()
	all := map[string]any{
		"iss": p.URL(), "aud": p.o.Audience, "sub": "subject-1", "email": "alice@example.com", "email_verified": true,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return Signing{Key: key, Alg: jose.ES256, KeyID: kid}.Token(all)
}

// Signing is how a token is signed.
type Signing struct {
	Key   any
	Alg   jose.SignatureAlgorithm
	KeyID string
}

// Token signs claims, or panics.
func (s Signing) Token(claims map[string]any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: s.Alg, Key: jose.JSONWebKey{Key: s.Key, KeyID: s.KeyID}}, nil)
	if err != nil {
		panic(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		panic(err)
	}
	return token
}

// Key returns the signing key and its id.
func (p *Provider) Key() (crypto.Signer, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key, p.kid
}

// ServeHTTP serves discovery and keys.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked.Add(1)
	p.mu.Lock()
	fault, key, kid := p.fault, p.key, p.kid
	p.mu.Unlock()
	issuer := p.server.URL
	switch fault {
	case Error500:
		http.Error(w, "canary-of-the-provider", http.StatusInternalServerError)
		return
	case Hang:
		select {
		case <-r.Context().Done():
		case <-p.release:
		}
		return
	case Garbage:
		_, _ = w.Write([]byte("<html>canary-of-the-provider"))
		return
	case Huge:
		for range 3 << 10 {
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				return
			}
		}
		return
	case RedirectAway:
		http.Redirect(w, r, "http://localhost:1/", http.StatusFound)
		return
	case WrongIssuer:
		issuer = "https://other.example.com"
	case None, NoKeys:
	}
	if r.URL.Path == "/.well-known/openid-configuration" {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": issuer, "jwks_uri": p.server.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256", "RS256"},
		})
		return
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	if fault != NoKeys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: kid, Use: "sig"})
	}
	_ = json.NewEncoder(w).Encode(set)
}
