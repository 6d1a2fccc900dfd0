package loglist_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	ecKey := func(c elliptic.Curve) []byte { return pki.PublicPEM(newKey(t, c).Public()) }
	p256 := ecKey(elliptic.P256())
	rsaKey := func(bits int) []byte {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return pki.PublicPEM(k.Public())
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(p256)
	for _, row := range []struct {
		name string
		data []byte
		want string // in the error
	}{
		{"P-256", p256, ""},
		{"P-384", ecKey(elliptic.P384()), ""},
		{"RSA 2048", rsaKey(2048), ""},
		{"text before, blank after", []byte("the lab's key\n" + string(p256) + "\n \n"), ""},
		{"P-521", ecKey(elliptic.P521()), "P-521"},
		{"RSA 1024", rsaKey(1024), "1024 bits"},
		{"Ed25519", pki.PublicPEM(ed), "ed25519"},
		{"two blocks", append(append([]byte{}, p256...), p256...), "exactly one"},
		{"text after", []byte(string(p256) + "x"), "exactly one"},
		{"private key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes}), "a PRIVATE KEY, not"},
		{"cut short", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: block.Bytes[:40]}), "log key"},
		{"DER", block.Bytes, "no PEM block"},
		{"nothing", nil, "no PEM block"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			key, err := loglist.ParseKey(row.data)
			if (err == nil) != (row.want == "") || (key == nil) != (row.want != "") ||
				err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("key %T, error %v", key, err)
			}
		})
	}
}

// A key that parses is one that a log may have.
func FuzzParseKey(f *testing.F) {
	f.Add(pki.PublicPEM(newKey(f, elliptic.P256()).Public()))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := loglist.ParseKey(data)
		if (err == nil) != (key != nil) {
			t.Fatalf("key %T and error %v", key, err)
		}
	})
}
