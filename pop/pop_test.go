package pop_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

const challenge = "alice@example.com"

func policy(t testing.TB, names ...string) *pop.Policy {
	t.Helper()
	p, err := pop.New(pop.Config{Algorithms: names}, pop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sign(t testing.TB, key crypto.Signer, h crypto.Hash, text string) []byte {
	t.Helper()
	message := []byte(text)
	if h != 0 {
		d := h.New()
		d.Write(message)
		message = d.Sum(nil)
	}
	sig, err := key.Sign(rand.Reader, message, h)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func ec(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func reason(err error) fault.Reason {
	if err == nil {
		return ""
	}
	return fault.From(err).Reason
}

// A9 // A13 // D18: possession of each type of key can be proven by a signature and by a CSR; another text, key or hash
// is refused.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	p := policy(t)
	for _, c := range []struct {
		name string
		key  crypto.Signer
		hash crypto.Hash
	}{
		{"ecdsa-sha2-256-nistp256", ec(t, elliptic.P256()), crypto.SHA256},
		{"ecdsa-sha2-384-nistp384", ec(t, elliptic.P384()), crypto.SHA384},
		{"ecdsa-sha2-512-nistp521", ec(t, elliptic.P521()), crypto.SHA512},
		{"rsa-sign-pkcs1-2048-sha256", rsaKey(t, 2048), crypto.SHA256},
		{"rsa-sign-pkcs1-3072-sha256", rsaKey(t, 3072), crypto.SHA256},
		{"ed25519", edKey(t), 0},
	} {
		proof := pop.Proof{
			PublicKey: pki.PublicPEM(c.key.Public()), Signature: sign(t, c.key, c.hash, challenge),
			Challenge: challenge, ChallengeClaim: "email",
		}
		got, err := p.VerifySignature(proof)
		if err != nil || got.Algorithm != c.name {
			t.Errorf("%s: %q, %v", c.name, got.Algorithm, err)
		}
		if der, err := x509.MarshalPKIXPublicKey(c.key.Public()); err != nil || string(der) != string(got.SPKI) {
			t.Errorf("%s: the key changed", c.name)
		}
		for what, change := range map[string]func(*pop.Proof){
			"another text":  func(x *pop.Proof) { x.Challenge = "bob@example.com" },
			"no signature":  func(x *pop.Proof) { x.Signature = nil },
			"another key's": func(x *pop.Proof) { x.Signature = sign(t, ec(t, elliptic.P256()), crypto.SHA256, challenge) }, "no challenge": func(x *pop.Proof) { x.Challenge = "" },
		} {
			bad := proof
			change(&bad)
			if _, err := p.VerifySignature(bad); reason(err) != fault.ProofInvalid &&
				!(what == "no challenge" && err != nil) {
				t.Errorf("%s: %s: %v", c.name, what, err)
			}
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, c.key)
		if err != nil {
			t.Fatal(err)
		}
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
		if got, err := p.VerifyCSR(block); err != nil || got.Algorithm != c.name {
			t.Errorf("%s: CSR: %q, %v", c.name, got.Algorithm, err)
		}
		csr[len(csr)-1] ^= 1
		if _, err := p.VerifyCSR(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})); err == nil {
			t.Errorf("%s: a changed CSR passes", c.name)
		}
	}
}

// A12 // A13: weak keys, keys of the CA, and keys that the configuration does not permit.
func TestRefusedKeys(t *testing.T) {
	t.Parallel()
	ours := ec(t, elliptic.P256())
	p, err := pop.New(pop.Config{}, pop.Options{Forbidden: []crypto.PublicKey{ours.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	r := rsaKey(t, 2048)
	small := new(big.Int).Mul(big.NewInt(3), new(big.Int).Lsh(big.NewInt(1), 2046))
	good := pki.PublicPEM(ec(t, elliptic.P256()).Public())
	for name, c := range map[string]struct {
		key  []byte
		want fault.Reason
	}{
		"ours":  {pki.PublicPEM(ours.Public()), fault.KeyWeak},
		"P-224": {pki.PublicPEM(ec(t, elliptic.P224()).Public()), fault.KeyWeak},
		"RSA 1024": {
			pki.PublicPEM(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}),
			fault.KeyWeak,
		},
		"RSA e=3":       {pki.PublicPEM(&rsa.PublicKey{N: r.N, E: 3}), fault.KeyWeak},
		"RSA even":      {pki.PublicPEM(&rsa.PublicKey{N: small.SetBit(small, 2047, 1), E: 65537}), fault.KeyWeak},
		"RSA 2056":      {pki.PublicPEM(&rsa.PublicKey{N: new(big.Int).SetBit(r.N, 2055, 1), E: 65537}), fault.KeyWeak},
		"Ed25519 zero":  {pki.PublicPEM(ed25519.PublicKey(make([]byte, 32))), fault.KeyWeak},
		"empty":         {nil, ""},
		"text":          {[]byte("hello"), fault.KeyMalformed},
		"two blocks":    {append(append([]byte{}, good...), good...), fault.KeyMalformed},
		"private block": {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), fault.KeyMalformed},
	} {
		_, err := p.VerifySignature(pop.Proof{
			PublicKey: c.key, Signature: []byte{1}, Challenge: challenge,
			ChallengeClaim: "email",
		})
		if err == nil || c.want != "" && reason(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	only := policy(t, "ed25519")
	k := ec(t, elliptic.P256())
	_, err = only.VerifySignature(pop.Proof{
		PublicKey: pki.PublicPEM(k.Public()),
		Signature: sign(t, k, crypto.SHA256, challenge), Challenge: challenge, ChallengeClaim: "email",
	})
	if reason(err) != fault.KeyAlgorithmNotAllowed ||
		!strings.HasPrefix(fault.From(err).Public, "signing algorithm not permitted") {
		t.Errorf("not on the list: %v", err)
	}
	if _, err := pop.New(pop.Config{Algorithms: []string{"ecdsa-sha2-256-nistp265"}}, pop.Options{}); err == nil ||
		!strings.Contains(err.Error(), "ecdsa-sha2-256-nistp256") {
		t.Errorf("a misspelt algorithm: %v", err)
	}
}

func FuzzVerifySignature(f *testing.F) {
	p := policy(f)
	k := ec(f, elliptic.P256())
	good := pki.PublicPEM(k.Public())
	f.Add(good, sign(f, k, crypto.SHA256, challenge))
	f.Add([]byte("-----BEGIN RSA PUBLIC KEY-----\nMAA=\n-----END RSA PUBLIC KEY-----\n"), []byte{})
	f.Fuzz(func(t *testing.T, key, signature []byte) {
		got, err := p.VerifySignature(pop.Proof{
			PublicKey: key, Signature: signature,
			Challenge: "a text that was not signed", ChallengeClaim: "email",
		})
		if err == nil {
			t.Errorf("a proof for %s passes", got.Algorithm)
		}
	})
}

func FuzzVerifyCSR(f *testing.F) {
	p := policy(f)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, ec(f, elliptic.P256()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := p.VerifyCSR(data); err == nil && len(k.SPKI) == 0 {
			t.Error("no key and no error")
		}
	})
}

func BenchmarkVerifySignature(b *testing.B) {
	p := policy(b)
	k := ec(b, elliptic.P256())
	proof := pop.Proof{
		PublicKey: pki.PublicPEM(k.Public()), Signature: sign(b, k, crypto.SHA256, challenge),
		Challenge: challenge, ChallengeClaim: "email",
	}
	for b.Loop() {
		if _, err := p.VerifySignature(proof); err != nil {
			b.Fatal(err)
		}
	}
}
