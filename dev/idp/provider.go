// Package idp is the OpenID Connect provider of "mayfly dev": it signs in everyone, with any identity.
//
// It MUST NOT be reachable from another machine. Every request must name a loopback host, which also prevents DNS
// rebinding. The provider implements the authorization code flow with PKCE (RFC 6749, RFC 7636), the device flow (RFC
// 8628) and discovery, for one public client.
package idp

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/hostname"
)

// DefaultTokenLife is the lifetime of a token: long enough to install a client and to follow a tutorial.
const DefaultTokenLife = time.Hour

// Options are the options of [New].
type Options struct {
	Dir       string           // directory of the signing key, which only the owner can read
	Issuer    string           // issuer URL and address of the provider: http://HOST:PORT
	ClientID  string           // "" is "sigstore"
	TokenLife time.Duration    // 0 is [DefaultTokenLife]
	Now       func() time.Time // nil: time.Now
	Logger    *slog.Logger     // nil: none
}

// Provider is a running provider. It is safe for concurrent use.
type Provider struct {
	o      Options
	key    *rsa.PrivateKey
	public jose.JSONWebKey
	signer jose.Signer

	mu     sync.Mutex
	grants map[string]*grant // keyed by authorization code
	device map[string]*grant // keyed by device code
}

// New loads the provider's key, or generates one.
func New(o Options) (*Provider, error) {
	if o.ClientID == "" {
		o.ClientID = "sigstore"
	}
	if o.TokenLife <= 0 {
		o.TokenLife = DefaultTokenLife
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Issuer == "" {
		return nil, errors.New("the development provider has no address")
	}
	p := &Provider{o: o, grants: map[string]*grant{}, device: map[string]*grant{}}
	var err error
	if p.key, err = openKey(filepath.Join(o.Dir, "key.json")); err != nil {
		return nil, err
	}
	p.public = jose.JSONWebKey{Key: p.key.Public(), Algorithm: string(jose.RS256), Use: "sig"}
	thumb, err := p.public.Thumbprint(crypto.SHA256) // RFC 7638
	if err != nil {
		return nil, err
	}
	p.public.KeyID = fmt.Sprintf("%x", thumb[:8])
	p.signer, err = jose.NewSigner(jose.SigningKey{
		Algorithm: jose.RS256,
		Key:       jose.JSONWebKey{Key: p.key, KeyID: p.public.KeyID},
	},
		(&jose.SignerOptions{}).WithType("JWT"))
	return p, err
}

// openKey reads the key as a JWK (RFC 7517), or generates one. The key is RSA: every client supports RS256, and some
// support no other algorithm.
func openKey(path string) (*rsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		var k jose.JSONWebKey
		if json.Unmarshal(data, &k) == nil {
			if key, ok := k.Key.(*rsa.PrivateKey); ok && key.N.BitLen() >= 2048 {
				return key, nil
			}
		}
		return nil, fmt.Errorf("%s contains no RSA key; remove the file to create a new key", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	if data, err = json.Marshal(jose.JSONWebKey{Key: key, Algorithm: string(jose.RS256), Use: "sig"}); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return key, durable.WriteFile(path, data, 0o600)
}

// Token returns an ID token for an e-mail address (OpenID Connect Core 1.0 §2). Each member of claims replaces the
// default claim of that name; the value nil removes the claim. Values are encoded with [json.Marshal], so a
// [json.Number] is unchanged.
func (p *Provider) Token(email string, claims map[string]any) (string, error) {
	return p.token(email, "", claims)
}

func (p *Provider) token(email, nonce string, extra map[string]any) (string, error) {
	now := p.o.Now()
	c := map[string]any{
		"iss": p.o.Issuer, "aud": p.o.ClientID, "sub": email, "email": email, "email_verified": true,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(p.o.TokenLife).Unix(),
	}
	if nonce != "" {
		c["nonce"] = nonce
	}
	maps.Copy(c, extra)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	// The encoder of go-jose converts a json.Number to a string, but a NumericDate is a number (RFC 7519 §2).
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	signed, err := p.signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// Handler returns the HTTP handler of the provider.
func (p *Provider) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.discovery)
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{p.public}})
	})
	mux.HandleFunc("GET /authorize", p.askSignIn)
	mux.HandleFunc("POST /authorize", p.signIn)
	mux.HandleFunc("POST /token", p.exchange)
	mux.HandleFunc("POST /device/code", p.startDevice)
	mux.HandleFunc("GET /device", p.askDevice)
	mux.HandleFunc("POST /device", p.signInDevice)
	return loopbackOnly(mux)
}

// loopbackOnly refuses requests whose Host is not a loopback host.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hostname.IsLoopbackRequest(r.Host) {
			http.Error(w, "the development provider accepts loopback host names only", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy",
			"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		next.ServeHTTP(w, r)
	})
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	at := func(path string) string { return p.o.Issuer + path }
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer": p.o.Issuer, "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
		"device_authorization_endpoint": at("/device/code"), "jwks_uri": at("/keys"),
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"}, "scopes_supported": []string{"openid", "email"},
		"code_challenge_methods_supported":      []string{"S256"},
		"grant_types_supported":                 []string{"authorization_code", deviceGrant},
		"token_endpoint_auth_methods_supported": []string{"none", "client_secret_basic", "client_secret_post"},
		"claims_supported": []string{
			"iss", "sub", "aud", "exp", "iat", "nbf", "email",
			"email_verified", "nonce",
		},
	})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // an error means that the client disconnected
}
