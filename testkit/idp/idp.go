// Package idp is an identity provider for tests: discovery, keys and tokens over real HTTP on loopback, with faults.
package idp

import (
	"compress/gzip"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// Fault is a way in which the provider misbehaves.
type Fault string

// The faults.
const (
	None         Fault = ""
	Error500     Fault = "error 500"
	Hang         Fault = "hang"
	Garbage      Fault = "garbage"
	Huge         Fault = "huge body" // 256 MiB, as fast as the client reads
	Bomb         Fault = "compressed zeroes"
	Drip         Fault = "a byte now and then"
	NoKeys       Fault = "no keys"
	WrongIssuer  Fault = "wrong issuer"
	RedirectAway Fault = "redirect to another host"
	RedirectLoop Fault = "redirect to itself"
	TooManyKeys  Fault = "100 keys"
	WeakKeys     Fault = "RSA 1024 only"
)

// Options are the options of [New].
type Options struct {
	Audience string // "" is "sigstore"
	Now      func() time.Time
	Path     string                          // the path of the issuer URL, with its leading slash
	TLS      bool                            // serves https with a certificate that verifies under [Provider.CA]
	Clients  *x509.CertPool                  // with TLS: the CAs of accepted client certificates
	Wrap     func(http.Handler) http.Handler // wraps the provider's handler
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
	sent    atomic.Int64
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
	var h http.Handler = p
	if o.Wrap != nil {
		h = o.Wrap(p)
	}
	p.server = httptest.NewUnstartedServer(h)
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0) // tests disconnect on purpose
	if o.Clients != nil {
		p.server.TLS = &tls.Config{
			ClientCAs: o.Clients, ClientAuth: tls.RequireAndVerifyClientCert,
			MinVersion: tls.VersionTLS12,
		}
	}
	if o.TLS {
		p.server.StartTLS()
	} else {
		p.server.Start()
	}
	t.Cleanup(func() {
		close(p.release)
		p.server.Close()
	})
	return p
}

// URL returns the issuer URL.
func (p *Provider) URL() string { return p.server.URL + p.o.Path }

// CA returns the CA certificate, in PEM, under which the provider's certificate verifies.
func (p *Provider) CA() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw}))
}

// Sent returns the number of body bytes that the provider has sent.
func (p *Provider) Sent() int64 { return p.sent.Load() }

// JWKS returns the provider's key set.
func (p *Provider) JWKS() []byte {
	key, kid := p.Key()
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: kid, Use: "sig"}}})
	if err != nil {
		panic(err)
	}
	return data
}

// Requests returns the number of requests to the provider.
func (p *Provider) Requests() int64 { return p.asked.Load() }

// SetFault changes the behaviour of the provider from now on.
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

// Token signs claims. Missing standard claims get default values; a claim with the value nil is left out.
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
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: s.Alg, Key: jose.JSONWebKey{Key: s.Key, KeyID: s.KeyID}},
		nil)
	if err != nil {
		panic(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		panic(err)
	}
	return token
}

// Key returns the signing key and its key ID.
func (p *Provider) Key() (crypto.Signer, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key, p.kid
}

// misbehave handles the request for the faults that replace the provider's response.
func (p *Provider) misbehave(w http.ResponseWriter, r *http.Request, fault Fault) bool {
	switch fault {
	case Error500:
		http.Error(w, "canary-of-the-provider", http.StatusInternalServerError)
		return true
	case Hang:
		select {
		case <-r.Context().Done():
		case <-p.release:
		}
		return true
	case Garbage:
		_, _ = w.Write([]byte("<html>canary-of-the-provider"))
		return true
	case Huge:
		for range 256 {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return true
			}
		}
		return true
	case Bomb:
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		for range 256 {
			if _, err := z.Write(make([]byte, 1<<20)); err != nil {
				return true
			}
		}
		_ = z.Close()
		return true
	case Drip:
		for {
			if _, err := w.Write([]byte(" ")); err != nil {
				return true
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return true
			case <-p.release:
				return true
			case <-time.After(20 * time.Millisecond):
			}
		}
	case RedirectAway:
		http.Redirect(w, r, "http://localhost:1/", http.StatusFound)
		return true
	case RedirectLoop:
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
		return true
	}
	return false
}

// ServeHTTP serves discovery and keys.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked.Add(1)
	p.mu.Lock()
	fault, key, kid := p.fault, p.key, p.kid
	p.mu.Unlock()
	issuer := p.URL()
	w = counter{w, &p.sent}
	if p.misbehave(w, r, fault) {
		return
	}
	if fault == WrongIssuer {
		issuer = "https://other.example.com"
	}
	if strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration") {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": issuer, "jwks_uri": p.server.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"ES256", "RS256"},
		})
		return
	}
	// The Kubernetes API server does the same: the key set has its own media type, and the client must accept it.
	if accept := r.Header.Get("Accept"); accept != "" && !strings.Contains(accept, "application/jwk-set+json") &&
		!strings.Contains(accept, "*/*") {
		http.Error(w, "only application/jwk-set+json", http.StatusNotAcceptable)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	switch fault {
	case NoKeys:
	case WeakKeys:
		weak := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: weak, KeyID: kid, Use: "sig"})
	case TooManyKeys:
		for i := range 100 {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: fmt.Sprint(kid, i), Use: "sig"})
		}
	default:
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: kid, Use: "sig"})
	}
	_ = json.NewEncoder(w).Encode(set)
}

// counter counts the bytes written.
type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// Unwrap supports [http.ResponseController].
func (c counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
