package oidc_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha512"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// suits has the names of the algorithms that a key may sign with.
var suits = map[pki.KeyType][]string{
	pki.P256: {"ES256"}, pki.P384: {"ES384"}, pki.P521: {"ES512"},
	pki.RSA2048: {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
	pki.Ed25519: {"EdDSA", "Ed25519"}, // one algorithm
	pki.MLDSA44: {"ML-DSA-44"}, pki.MLDSA65: {"ML-DSA-65"}, pki.MLDSA87: {"ML-DSA-87"},
}

// names are the names of algorithms in the header of a token, in a JWK, and in a list of permitted algorithms: those
// that are accepted, those that only COSE has (RFC 9864 §2.1), and others.
var names = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
	"ML-DSA-44", "ML-DSA-65", "ML-DSA-87",
	"Ed448", "ESP256", "ESP384", "ESP512", "ed25519", "eddsa", "ML-DSA", "ml-dsa-65", "HS256", "none",
}

// signAs signs as the algorithm demands if the key can; otherwise as the key alone demands.
func signAs(t *testing.T, key crypto.Signer, name, input string) []byte {
	t.Helper()
	hash := map[string]crypto.Hash{"384": crypto.SHA384, "512": crypto.SHA512}[name[max(0, len(name)-3):]]
	if hash == 0 {
		hash = crypto.SHA256
	}
	h := hash.New()
	h.Write([]byte(input))
	var signature []byte
	var err error
	switch k := key.(type) {
	case *rsa.PrivateKey:
		var o crypto.SignerOpts = hash
		if strings.HasPrefix(name, "PS") {
			o = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
		}
		signature, err = k.Sign(rand.Reader, h.Sum(nil), o)
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, h.Sum(nil))
		size := (k.Curve.Params().BitSize + 7) / 8
		signature, err = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), e
	case ed25519.PrivateKey, *mldsa.PrivateKey:
		signature, err = k.Sign(rand.Reader, []byte(input), crypto.Hash(0))
	}
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// keySetWith returns a set with one key, whose member alg is as given: also one that a library would not write.
func keySetWith(t *testing.T, key crypto.Signer, alg string) string {
	t.Helper()
	data, err := json.Marshal(jose.JSONWebKey{Key: key.Public(), KeyID: "k1", Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(data, &members); err != nil {
		t.Fatal(err)
	}
	if alg != "" {
		members["alg"] = alg
	}
	if data, err = json.Marshal(map[string]any{"keys": []any{members}}); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// D2: the algorithm in the header of a token, the algorithm in the JWK, the permitted algorithms and the key must all
// agree, under the names of RFC 7518, RFC 8037, RFC 9864 and RFC 9964. Every other combination is refused, although the
// signature is always one that the key made over exactly this token.
func TestAlgorithmNames(t *testing.T) {
	t.Parallel()
	same := func(a, b string) bool {
		pair := []string{"EdDSA", "Ed25519"}
		return a == b || slices.Contains(pair, a) && slices.Contains(pair, b)
	}
	for kind, fitting := range suits {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			key := pki.NewKey(kind)
			tokens := map[string]string{}
			for _, name := range names {
				tokens[name] = raw(map[string]any{"alg": name, "kid": "k1"},
					func(input string) []byte { return signAs(t, key, name, input) })
			}
			accepted := 0
			check := func(what, jwk, permitted string) {
				entry := oidc.IssuerConfig{
					ClientID: "sigstore", Type: "email",
					StaticKeys: &provider.StaticKeysConfig{JWKS: keySetWith(t, key, jwk)},
				}
				if permitted != "" {
					entry.TokenAlgorithms = []string{permitted}
				}
				v, err := oidc.New(oidc.Config{Issuers: map[string]oidc.IssuerConfig{issuerOfKeys: entry}},
					oidc.Options{})
				if err == nil {
					t.Cleanup(v.Wait)
				}
				for header, token := range tokens {
					want := slices.Contains(fitting, header) && (jwk == "" || same(jwk, header)) &&
						(permitted == "" || same(permitted, header))
					got := err
					if err == nil {
						_, got = v.Identify(t.Context(), token)
					}
					if (got == nil) != want {
						t.Errorf("%s, header %q, JWK %q, permitted %q: %v", what, header, jwk, permitted, got)
					}
					if want {
						accepted++
					}
				}
			}
			for _, name := range names {
				check("named in the JWK", name, "")
				check("named in the configuration", "", name)
			}
			if !strings.HasPrefix(string(kind), "ML-DSA") { // an AKP key without alg is none (RFC 9964)
				check("named nowhere", "", "")
			}
			if accepted < 2 {
				t.Errorf("only %d tokens were accepted", accepted)
			}
		})
	}
}

// A signature over other bytes is refused under each name of the algorithm, also if only one bit differs.
func TestAlgorithmNamesForged(t *testing.T) {
	t.Parallel()
	for kind, fitting := range suits {
		key := pki.NewKey(kind)
		v := issuerWith(t, jose.JSONWebKey{Key: key.Public(), KeyID: "k1", Use: "sig"})
		for _, name := range fitting {
			for what, change := range map[string]func(s []byte) []byte{
				"flipped":  func(s []byte) []byte { s[len(s)/2] ^= 1; return s },
				"cut":      func(s []byte) []byte { return s[:len(s)-1] },
				"extended": func(s []byte) []byte { return append(s, 0) },
				"zero":     func(s []byte) []byte { return make([]byte, len(s)) },
				"of other": func([]byte) []byte { return signAs(t, key, name, "other") },
			} {
				token := raw(map[string]any{"alg": name, "kid": "k1"},
					func(input string) []byte { return change(signAs(t, key, name, input)) })
				if _, err := v.Identify(t.Context(), token); reason(err) != fault.SignatureInvalid {
					t.Errorf("%s, %s: %v", name, what, err)
				}
			}
		}
	}
}

// A name that only COSE has, and Ed448, are refused with the name to use instead, in tokens and in the configuration.
func TestAlgorithmNameHints(t *testing.T) {
	t.Parallel()
	key := pki.NewKey(pki.P256)
	v := issuerWith(t, jose.JSONWebKey{Key: key.Public(), KeyID: "k1", Use: "sig"})
	for name, hint := range map[string]string{
		"ESP256": "ES256", "ESP384": "ES384", "ESP512": "ES512",
		"Ed448": "Ed25519",
	} {
		_, err := v.Identify(t.Context(), raw(map[string]any{"alg": name},
			func(input string) []byte { return signAs(t, key, name, input) }))
		if reason(err) != fault.AlgorithmNotAllowed || !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("a token with %s: %v", name, err)
		}
		for what, entry := range map[string]oidc.IssuerConfig{
			"token-algorithms": {ClientID: "sigstore", Type: "email", TokenAlgorithms: []string{name}},
			"algorithms": {ClientID: "sigstore", Type: "email", StaticKeys: &provider.StaticKeysConfig{
				JWKS: keySetWith(t, key, ""), Algorithms: []string{name},
			}},
		} {
			_, err := oidc.New(oidc.Config{Issuers: map[string]oidc.IssuerConfig{issuerOfKeys: entry}}, oidc.Options{})
			if !strings.Contains(fmt.Sprint(err), name) || !strings.Contains(fmt.Sprint(err), hint) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}
