package provider

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/oidc/token"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// E10: parsing arbitrary bytes as keys returns an error or keys that may verify tokens.
func FuzzKeys(f *testing.F) {
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"1"}]}`)
	f.Add(`{"issuer":"https://a","jwks_uri":"https://a/keys","id_token_signing_alg_values_supported":["none","RS256"]}`)
	f.Add(`{"keys":[{"kty":"oct","k":"AA"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseUsableKeys([]byte(text))
		if err == nil && len(set.keys) == 0 {
			t.Error("no key and no error")
		}
		for _, k := range set.keys {
			if weakness(k.Key) != "" || !k.IsPublic() || k.Use == "enc" {
				t.Errorf("%+v", k)
			}
		}
		if d, err := parseDiscovery([]byte(text), "https://a"); err == nil &&
			(d.Issuer != "https://a" || len(d.Algorithms) == 0) {
			t.Errorf("%+v", d)
		}
	})
}

// D2: an algorithm fits a key only under a name that fully determines the type and the curve or parameter set of
// exactly this key; EdDSA, which does not, is accepted for the one curve that it can mean here (RFC 9864 §2.2).
func FuzzFits(f *testing.F) {
	names := map[pki.KeyType]string{
		pki.P256: "ES256", pki.P384: "ES384", pki.P521: "ES512", pki.Ed25519: "EdDSA Ed25519",
		pki.RSA2048: "RS256 RS384 RS512 PS256 PS384 PS512",
		pki.MLDSA44: "ML-DSA-44", pki.MLDSA65: "ML-DSA-65", pki.MLDSA87: "ML-DSA-87",
	}
	keys := map[pki.KeyType]any{}
	for kind := range names {
		keys[kind] = pki.NewKey(kind).Public()
	}
	for _, header := range append(token.Algorithms(), "ESP256", "Ed448", "ML-DSA", "none", "") {
		for _, jwk := range []string{"", header, "ES256", "Ed25519"} {
			f.Add(header, jwk)
		}
	}
	f.Fuzz(func(t *testing.T, header, jwk string) {
		if !token.IsAlgorithm(header) {
			return // refused before a key is looked for
		}
		for kind, key := range keys {
			want := slices.Contains(strings.Fields(names[kind]), header) &&
				(jwk == "" || token.SameAlgorithm(jwk, header))
			got := fits(header, publicKey{JSONWebKey: jose.JSONWebKey{Key: key, Algorithm: jwk}})
			if got != want {
				t.Errorf("%s key, header %q, JWK %q: %t", kind, header, jwk, got)
			}
		}
	})
}
