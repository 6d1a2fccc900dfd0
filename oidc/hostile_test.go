package oidc_test

import (
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

const issuerOfKeys = "https://idp.example.com"

// issuerWith returns a verifier for an issuer with the given keys.
func issuerWith(t *testing.T, keys ...jose.JSONWebKey) *oidc.Verifier {
	t.Helper()
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return verifier(t, oidc.Config{Issuers: map[string]oidc.IssuerConfig{issuerOfKeys: {
		ClientID: "sigstore", Type: "email", StaticKeys: &provider.StaticKeysConfig{JWKS: string(data)},
	}}}, oidc.Options{})
}

func goodClaims() map[string]any {
	now := time.Now().Unix()
	return map[string]any{
		"iss": issuerOfKeys, "aud": "sigstore", "sub": "s", "email": "a@example.com",
		"email_verified": true, "iat": now, "exp": now + 60,
	}
}

// raw returns a token with any header and signature.
func raw(header map[string]any, sign func(input string) []byte) string {
	h, _ := json.Marshal(header)       //nolint:errchkjson // texts and numbers
	c, _ := json.Marshal(goodClaims()) //nolint:errchkjson // texts and numbers
	e := base64.RawURLEncoding.EncodeToString
	input := e(h) + "." + e(c)
	return input + "." + e(sign(input))
}

// D1 // D2 // D3: hundreds of tokens that the issuer has not signed, in the forms of known attacks on verifiers, are
// refused.
func TestHostileTokens(t *testing.T) {
	t.Parallel()
	algs := []string{
		"none", "None", "NONE", "nOnE", "", " ", "HS256", "HS384", "HS512", "hs256", "HS1", "RS256", "rs256", "RS384",
		"RS512", "RS1", "RSA", "RSA1_5", "RSA-OAEP",
		"PS256", "PS384", "PS512", "ps512", "ES256", "es256", "ES384", "ES512", "ES256K", "ES521", "EdDSA", "eddsa",
		"Ed25519", "Ed448", "A128KW", "dir", "PBES2-HS256+A128KW",
		"ES256\x00", "ES256 ", "RS256,none", "*",
	}
	attacker := pki.NewKey(pki.P256)
	count := 0
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.RSA2048, pki.Ed25519} {
		key := pki.NewKey(kind)
		v := issuerWith(t, jose.JSONWebKey{Key: key.Public(), KeyID: "k1", Use: "sig"})
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		secrets := map[string][]byte{
			"nothing": nil, "DER": der,
			"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "empty": {},
		}
		jwk := jose.JSONWebKey{Key: attacker.Public(), KeyID: "k1"}
		for _, alg := range algs {
			for name, secret := range secrets {
				for _, kid := range []any{"k1", nil, "other", ""} {
					header := map[string]any{
						"alg": alg, "typ": "JWT", "jwk": jwk,
						"jku": "https://evil.example.com/keys", "x5u": "https://evil.example.com/cert",
						"x5c": []string{"AA=="},
					}
					if kid != nil {
						header["kid"] = kid
					}
					token := raw(header, func(input string) []byte {
						if name == "nothing" {
							return []byte("x")
						}
						mac := hmac.New(sha256.New, secret)
						mac.Write([]byte(input))
						return mac.Sum(nil)
					})
					count++
					_, err := v.Identify(t.Context(), token)
					if r := reason(err); !slices.Contains([]fault.Reason{
						fault.AlgorithmNotAllowed,
						fault.SignatureInvalid, fault.TokenMalformed, fault.KeyIDUnknown,
					}, r) {
						t.Errorf("alg %q over a %s key, HMAC with %s, kid %v: %v", alg, kind, name, kid, err)
					}
				}
			}
		}
	}
	if count < 3000 {
		t.Errorf("only %d tokens", count)
	}
}

// D2 // D3: a token with the attacker's key in its header, a key of another kind, a key that is not for signatures, and
// an encrypted token are refused.
func TestForeignKeys(t *testing.T) {
	t.Parallel()
	key, attacker := pki.NewKey(pki.P256), pki.NewKey(pki.P256)
	sign := func(k crypto.Signer, kid string, options *jose.SignerOptions) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k, KeyID: kid}},
			options)
		if err != nil {
			t.Fatal(err)
		}
		claims, _ := json.Marshal(goodClaims()) //nolint:errchkjson // texts and numbers
		jws, err := s.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		text, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	v := issuerWith(t, jose.JSONWebKey{Key: key.Public(), KeyID: "k1", Use: "sig"})
	if _, err := v.Identify(t.Context(), sign(key, "k1", nil)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		token string
		want  fault.Reason
	}{
		"embedded key": {sign(attacker, "", &jose.SignerOptions{EmbedJWK: true}), fault.SignatureInvalid},
		"same key id":  {sign(attacker, "k1", nil), fault.SignatureInvalid},
		"critical header": {
			sign(key, "k1", (&jose.SignerOptions{}).WithHeader("crit", []string{"exp"})),
			fault.TokenMalformed,
		},
		"unencoded": {
			sign(key, "k1", (&jose.SignerOptions{}).WithBase64(true).WithHeader("b64", false)),
			fault.TokenMalformed,
		},
		"encrypted": {strings.Repeat("AAAA.", 4) + "AAAA", fault.TokenMalformed},
		"signature of DER": {raw(map[string]any{"alg": "ES256", "kid": "k1"}, func(input string) []byte {
			sum := sha256.Sum256([]byte(input))
			sig, err := key.Sign(nil, sum[:], crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			return sig
		}), fault.SignatureInvalid},
	} {
		if _, err := v.Identify(t.Context(), c.token); reason(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// E10: all keys with the key ID are tried, and no others; a key for encryption is not tried.
	twice := issuerWith(t, jose.JSONWebKey{Key: attacker.Public(), KeyID: "k1"},
		jose.JSONWebKey{Key: key.Public(), KeyID: "k1"},
		jose.JSONWebKey{Key: attacker.Public(), KeyID: "k2", Use: "enc"})
	if _, err := twice.Identify(t.Context(), sign(key, "k1", nil)); err != nil {
		t.Errorf("a key id that two keys have: %v", err)
	}
	if _, err := twice.Identify(t.Context(), sign(attacker, "k2", nil)); reason(err) != fault.KeyIDUnknown {
		t.Errorf("a key for encryption: %v", err)
	}
	other := issuerWith(t, jose.JSONWebKey{Key: key.Public(), KeyID: "k1", Algorithm: "ES384"})
	if _, err := other.Identify(t.Context(), sign(key, "k1", nil)); reason(err) != fault.AlgorithmNotAllowed {
		t.Errorf("a key for another algorithm: %v", err)
	}
}

// D6: a token of one issuer is not accepted by another entry, however its iss is written.
func TestIssuerConfusion(t *testing.T) {
	t.Parallel()
	a, b := idp.New(t, idp.Options{}), idp.New(t, idp.Options{})
	c := email(a)
	c.Issuers[b.URL()] = c.Issuers[a.URL()]
	v := verifier(t, c, oidc.Options{})
	for _, p := range []*idp.Provider{a, b} {
		other := a.URL()
		if p == a {
			other = b.URL()
		}
		if _, err := v.Identify(t.Context(), p.Token(nil)); err != nil {
			t.Fatal(err)
		}
		for iss, want := range map[string][]fault.Reason{
			other: {fault.KeyIDUnknown, fault.SignatureInvalid}, other + "/": {fault.IssuerNotTrusted},
			strings.ToUpper(other): {fault.IssuerNotTrusted}, other + "#": {fault.IssuerNotTrusted},
			other + "?": {fault.IssuerNotTrusted}, " " + other: {fault.IssuerNotTrusted},
			other + "\x00": {fault.IssuerNotTrusted},
			strings.Replace(other, "http://", "http://x@", 1):   {fault.IssuerNotTrusted},
			strings.Replace(other, "127.0.0.1", "localhost", 1): {fault.IssuerNotTrusted}, "": {fault.ClaimMissing},
		} {
			if _, err := v.Identify(t.Context(),
				p.Token(map[string]any{"iss": iss})); !slices.Contains(want, reason(err)) {
				t.Errorf("iss %q: %v", iss, err)
			}
		}
	}
}

// D13: two subjects of one issuer never get the same name.
func TestInjective(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	alphabet := []string{"a", "b", "/", "-", ".", "..", "%2f", "!", "@", "é", "x", "A", " ", "#", "?", ":"}
	text := func() string {
		var b strings.Builder
		for range 1 + r.IntN(4) {
			b.WriteString(alphabet[r.IntN(len(alphabet))])
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		config oidc.IssuerConfig
		claims func(x, y string) map[string]any
	}{
		"username": {
			oidc.IssuerConfig{Type: "username", SubjectDomain: "example.com"},
			func(x, y string) map[string]any { return map[string]any{"sub": x + y} },
		},
		"uri": {
			oidc.IssuerConfig{Type: "uri", SubjectDomain: "https://example.com"},
			func(x, y string) map[string]any { return map[string]any{"sub": "https://example.com/" + x + y} },
		},
		"spiffe": {
			oidc.IssuerConfig{Type: "spiffe", SPIFFETrustDomain: "td"},
			func(x, y string) map[string]any { return map[string]any{"sub": "spiffe://td/" + x + y} },
		},
		"chainguard": {
			oidc.IssuerConfig{Type: "chainguard-identity"},
			func(x, y string) map[string]any { return map[string]any{"sub": x + y} },
		},
		"kubernetes": {oidc.IssuerConfig{Type: "kubernetes"}, func(x, y string) map[string]any {
			return map[string]any{
				"sub":           x + y,
				"kubernetes.io": map[string]any{"namespace": x, "serviceaccount": map[string]any{"name": y}},
			}
		}},
		"buildkite": {oidc.IssuerConfig{Type: "buildkite-job"}, func(x, y string) map[string]any {
			return map[string]any{"sub": x + "|" + y, "organization_slug": x, "pipeline_slug": y}
		}},
	} {
		c.config.ClientID = "x"
		e, err := oidc.NewExplainer(oidc.Config{Issuers: map[string]oidc.IssuerConfig{"https://issuer.example.com": c.config}})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]string{}
		for range 4000 {
			x, y := text(), text()
			claims := c.claims(x, y)
			claims["iss"] = "https://issuer.example.com"
			d, err := e.Decide(claims)
			if err != nil {
				continue
			}
			who := fmt.Sprint(claims)
			if other, ok := seen[d.Identity.SAN.Value]; ok && other != who {
				t.Errorf("%s: %s and %s are both %s", name, other, who, d.Identity.SAN.Value)
				break
			}
			seen[d.Identity.SAN.Value] = who
		}
		if len(seen) < 5 {
			t.Errorf("%s: only %d names", name, len(seen))
		}
	}
}
