package oidc

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// signedBy makes a token with go-jose.
func signedBy(t testing.TB, alg string, key crypto.Signer) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign([]byte(`{"iss":"https://idp.example.com"}`))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// joseVerifies is the answer of another implementation.
func joseVerifies(text, alg string, key crypto.PublicKey) bool {
	jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		return false
	}
	_, err = jws.Verify(key)
	return err == nil
}

var jwsKeys = map[string]pki.KeyType{
	"RS256": pki.RSA2048, "RS384": pki.RSA2048, "RS512": pki.RSA2048, "PS256": pki.RSA2048, "PS384": pki.RSA2048, "PS512": pki.RSA2048,
	"ES256": pki.P256, "ES384": pki.P384, "ES512": pki.P521, "EdDSA": pki.Ed25519,
}

// D1 // D2: our verification agrees with go-jose's: what each algorithm signs passes with its key, and with no other algorithm or
// key; no changed bit passes.
func TestVerifyJWS(t *testing.T) {
	t.Parallel()
	keys := map[pki.KeyType]crypto.Signer{}
	for _, kind := range jwsKeys {
		if keys[kind] == nil {
			keys[kind] = pki.NewKey(kind)
		}
	}
	if len(jwsKeys) != len(algorithms) {
		t.Fatalf("%d algorithms are tested, of %d", len(jwsKeys), len(algorithms))
	}
	for alg, kind := range jwsKeys {
		text := signedBy(t, alg, keys[kind])
		tok, err := parseToken(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range append([]string{"", "none", "HS256", "RS", "XX256", "es256", "ES2566"}, algorithms...) {
			for kind2, key := range keys {
				got := jws{other, tok.input, tok.signature}.verify(key.Public()) == nil
				if want := other == alg && kind2 == kind; got != want {
					t.Errorf("a token of %s, verified as %q with a %s key: %t", alg, other, kind2, got)
				}
			}
		}
		stranger := pki.NewKey(kind)
		if (jws{alg, tok.input, tok.signature}).verify(stranger.Public()) == nil {
			t.Errorf("%s: another key verifies it", alg)
		}
		for i := range tok.signature {
			changed := bytes.Clone(tok.signature)
			changed[i] ^= 1 << (i % 8)
			if (jws{alg, tok.input, changed}).verify(keys[kind].Public()) == nil {
				t.Errorf("%s: byte %d changed, and it verifies", alg, i)
			}
		}
		for _, bad := range [][]byte{nil, {}, tok.signature[1:], append([]byte{0}, tok.signature...), append(bytes.Clone(tok.signature), 0), make([]byte, len(tok.signature))} {
			if (jws{alg, tok.input, bad}).verify(keys[kind].Public()) == nil {
				t.Errorf("%s: a signature of %d bytes verifies", alg, len(bad))
			}
		}
		if (jws{alg, tok.input + "A", tok.signature}).verify(keys[kind].Public()) == nil || (jws{alg, tok.input, tok.signature}).verify(nil) == nil {
			t.Errorf("%s: another input or no key verifies", alg)
		}
	}
}

// D1 // D2: whatever the signature is, ours and go-jose give the same answer.
func FuzzVerifyJWS(f *testing.F) {
	keys := map[string]crypto.Signer{}
	shared := map[pki.KeyType]crypto.Signer{}
	for i, alg := range algorithms {
		kind := jwsKeys[alg]
		if shared[kind] == nil {
			shared[kind] = pki.NewKey(kind)
		}
		keys[alg] = shared[kind]
		text := signedBy(f, alg, keys[alg])
		sig, err := base64.RawURLEncoding.DecodeString(text[strings.LastIndexByte(text, '.')+1:])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, sig, []byte(`{"iss":"https://idp.example.com"}`))
	}
	f.Fuzz(func(t *testing.T, i int, sig, payload []byte) {
		alg := algorithms[uint(i)%uint(len(algorithms))]
		e := base64.RawURLEncoding.EncodeToString
		input := e(fmt.Appendf(nil, `{"alg":%q}`, alg)) + "." + e(payload)
		got := jws{alg, input, sig}.verify(keys[alg].Public()) == nil
		if want := joseVerifies(input+"."+e(sig), alg, keys[alg].Public()); got != want {
			t.Errorf("%s: we say %t, go-jose says %t", alg, got, want)
		}
	})
}

// Parsing and verification of a token: the cost of the signature and little else.
func BenchmarkToken(b *testing.B) {
	key := pki.NewKey(pki.RSA2048)
	text := signedBy(b, "RS256", key)
	ring := &keyring{algs: algorithms, keys: []jose.JSONWebKey{{Key: key.Public()}}}
	b.ReportAllocs()
	for b.Loop() {
		tok, err := parseToken(text)
		if err != nil {
			b.Fatal(err)
		}
		if err := tok.verifyBy(ring); err != nil {
			b.Fatal(err)
		}
	}
}
