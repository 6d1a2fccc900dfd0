package oidc

import (
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// maxTokenAllocs is what parsing and verifying one token may allocate.
const maxTokenAllocs = 40

func TestTokenAllocations(t *testing.T) {
	key := pki.NewKey(pki.RSA2048)
	text := signedBy(t, "RS256", key)
	ring := &keyring{algs: algorithms, keys: []jose.JSONWebKey{{Key: key.Public()}}}
	n := testing.AllocsPerRun(100, func() {
		tok, err := parseToken(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := tok.verifyBy(ring); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%.0f allocations", n)
	if n > maxTokenAllocs {
		t.Errorf("a token allocates %.0f times; at most %d", n, maxTokenAllocs)
	}
}
