package pop_test

import (
	"crypto"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

func parameters() map[string]mldsa.Parameters {
	return map[string]mldsa.Parameters{
		"mldsa-44": mldsa.MLDSA44(), "mldsa-65": mldsa.MLDSA65(), "mldsa-87": mldsa.MLDSA87(),
	}
}

func latticeKey(t testing.TB, p mldsa.Parameters) *mldsa.PrivateKey {
	t.Helper()
	k, err := mldsa.GenerateKey(p)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// An ML-DSA key (RFC 9881) is certified with either form of proof if its parameter set is permitted, and only then.
func TestMLDSA(t *testing.T) {
	t.Parallel()
	for name, p := range parameters() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := latticeKey(t, p)
			proof := pop.Proof{
				PublicKey: pki.PublicPEM(key.Public()), Challenge: challenge, Signature: sign(t, key, 0, challenge),
			}
			csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
			if err != nil {
				t.Fatal(err)
			}
			request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
			spki, err := x509.MarshalPKIXPublicKey(key.Public())
			if err != nil {
				t.Fatal(err)
			}

			permitting := policy(t, name)
			for form, verify := range map[string]func() (pop.Key, error){
				"challenge": func() (pop.Key, error) { return permitting.VerifySignature(proof) },
				"request":   func() (pop.Key, error) { return permitting.VerifyCSR(request) },
			} {
				got, err := verify()
				if err != nil || got.Algorithm != name || !slices.Equal(got.SPKI, spki) {
					t.Errorf("%s: %q, %v", form, got.Algorithm, err)
				}
			}

			others := slices.DeleteFunc(slices.Sorted(maps.Keys(parameters())),
				func(n string) bool { return n == name })
			for what, p := range map[string]*pop.Policy{"the default": policy(t), "the others": policy(t, others...)} {
				if _, err := p.VerifySignature(proof); reason(err) != fault.KeyAlgorithmNotAllowed {
					t.Errorf("%s, challenge: %v", what, err)
				}
				if _, err := p.VerifyCSR(request); reason(err) != fault.KeyAlgorithmNotAllowed {
					t.Errorf("%s, request: %v", what, err)
				}
			}
		})
	}
}

// What is not a pure ML-DSA signature over exactly the challenge, with an empty context, proves nothing.
func TestMLDSAProofInvalid(t *testing.T) {
	t.Parallel()
	key := latticeKey(t, mldsa.MLDSA65())
	p := policy(t, "mldsa-44", "mldsa-65", "mldsa-87")
	public := pki.PublicPEM(key.Public())
	withContext, err := key.Sign(rand.Reader, []byte(challenge), &mldsa.Options{Context: "sigstore"})
	if err != nil {
		t.Fatal(err)
	}
	good := sign(t, key, 0, challenge)
	flipped := slices.Clone(good)
	flipped[len(flipped)/2] ^= 1
	prehashed := sign(t, key, 0, string(digest(challenge)))
	for what, signature := range map[string][]byte{
		"another text":      sign(t, key, 0, challenge+" "),
		"another key":       sign(t, latticeKey(t, mldsa.MLDSA65()), 0, challenge),
		"another level":     sign(t, latticeKey(t, mldsa.MLDSA87()), 0, challenge),
		"a context":         withContext,
		"a flipped bit":     flipped,
		"the hash":          prehashed,
		"too short":         good[:len(good)-1],
		"too long":          append(slices.Clone(good), 0),
		"longer than any":   make([]byte, 5<<10+1),
		"no signature":      nil,
		"only zero octets":  make([]byte, len(good)),
		"of 1024 zero bits": make([]byte, 128),
	} {
		_, err := p.VerifySignature(pop.Proof{PublicKey: public, Challenge: challenge, Signature: signature})
		if reason(err) != fault.ProofInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func digest(text string) []byte {
	h := crypto.SHA256.New()
	h.Write([]byte(text))
	return h.Sum(nil)
}

// A key in another encoding than its only DER encoding is refused, and a key of the CA is never certified.
func TestMLDSAKeyRefused(t *testing.T) {
	t.Parallel()
	key := latticeKey(t, mldsa.MLDSA44())
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	signature := sign(t, key, 0, challenge)
	p := policy(t, "mldsa-44")
	null := append([]byte{0x30, 0x82, 0, 0, 0x30, 0x0d}, spki[6:17]...) // the algorithm with a NULL as parameters
	null = append(append(null, 5, 0), spki[17:]...)
	null[2], null[3] = byte((len(null)-4)>>8), byte(len(null)-4)
	for what, der := range map[string][]byte{
		"one byte more": append(slices.Clone(spki), 0), "one byte less": spki[:len(spki)-1], "parameters": null,
	} {
		_, err := p.VerifySignature(pop.Proof{PublicKey: der, Challenge: challenge, Signature: signature})
		if reason(err) != fault.KeyMalformed {
			t.Errorf("%s: %v", what, err)
		}
	}
	own, err := pop.New(pop.Config{Algorithms: []string{"mldsa-44"}},
		pop.Options{Forbidden: []crypto.PublicKey{key.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = own.VerifySignature(pop.Proof{PublicKey: spki, Challenge: challenge, Signature: signature})
	if reason(err) != fault.KeyWeak || !strings.Contains(fmt.Sprint(err), "key of the CA") {
		t.Errorf("a key of the CA: %v", err)
	}
}
