package provider

import (
	"crypto"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/oidc/token"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// maxTokenAllocs is the limit of allocations for parsing and verifying one token.
const maxTokenAllocs = 90

func TestTokenAllocations(t *testing.T) {
	key := pki.NewKey(pki.RSA2048)
	text := signedBy(t, "RS256", key)
	ring := &Keyring{
		algorithms: token.Algorithms(),
		keys:       []publicKey{{JSONWebKey: jose.JSONWebKey{Key: key.Public()}}},
	}
	n := testing.AllocsPerRun(100, func() {
		tok, err := token.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ring.Verify(tok); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%.0f allocations", n)
	if n > maxTokenAllocs {
		t.Errorf("a token allocates %.0f times; at most %d", n, maxTokenAllocs)
	}
}

// signedBy returns a token signed with key.
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
