package pop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
)

// A9: the accepted encoding of an EC key is that of the standard library, and a change of any byte is detected.
func TestCanonicalEC(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		want, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		got, err := marshalEC(&k.PublicKey)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, %v; want %x", curve.Params().Name, got, err, want)
		}
		for i := range want {
			changed := bytes.Clone(want)
			changed[i] ^= 1
			if canonical(changed, k.Public()) == nil {
				t.Errorf("%s: byte %d changed, and it is canonical", curve.Params().Name, i)
			}
		}
		if canonical(append(bytes.Clone(want), 0), k.Public()) == nil ||
			canonical(want[:len(want)-1], k.Public()) == nil {
			t.Errorf("%s: another length is canonical", curve.Params().Name)
		}
	}
	if _, err := marshalEC(&ecdsa.PublicKey{Curve: elliptic.P224()}); err == nil {
		t.Error("P-224 is encoded")
	}
}
