package canary

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"slices"

	"github.com/mayfly-ca/mayfly/pop"
)

// keyKinds are the kinds of keys for which a run can request a certificate, the cheapest first, by their names in
// client_algorithms.
var keyKinds = []struct {
	name string
	make func() (crypto.Signer, error)
	hash crypto.Hash // of a proof; 0: the signature scheme hashes
}{
	{"ecdsa-sha2-256-nistp256", ecdsaKey(elliptic.P256()), crypto.SHA256},
	{"ed25519", func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}, 0},
	{"ecdsa-sha2-384-nistp384", ecdsaKey(elliptic.P384()), crypto.SHA384},
	{"ecdsa-sha2-512-nistp521", ecdsaKey(elliptic.P521()), crypto.SHA512},
	{"mldsa-44", mldsaKey(mldsa.MLDSA44), 0},
	{"mldsa-65", mldsaKey(mldsa.MLDSA65), 0},
	{"mldsa-87", mldsaKey(mldsa.MLDSA87), 0},
	{"rsa-sign-pkcs1-2048-sha256", rsaKey(2048), crypto.SHA256},
	{"rsa-sign-pss-2048-sha256", rsaKey(2048), crypto.SHA256},
	{"rsa-sign-pkcs1-3072-sha256", rsaKey(3072), crypto.SHA256},
	{"rsa-sign-pss-3072-sha256", rsaKey(3072), crypto.SHA256},
	{"rsa-sign-pkcs1-4096-sha256", rsaKey(4096), crypto.SHA256},
	{"rsa-sign-pss-4096-sha256", rsaKey(4096), crypto.SHA256},
}

func ecdsaKey(curve elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(curve, rand.Reader) }
}

func mldsaKey(set func() mldsa.Parameters) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return mldsa.GenerateKey(set()) }
}

func rsaKey(bits int) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, bits) }
}

// clientKey is the key for which runs request certificates. It stays the same until a configuration does not permit it.
type clientKey struct {
	name string // in client_algorithms
	key  crypto.Signer
	hash crypto.Hash
}

// errNoKey cannot occur with a policy that permits a proof.
var errNoKey = errors.New("client_algorithms permits no key for which a proof can be made")

// forPolicy returns k if the policy permits it, or a new key.
func (k *clientKey) forPolicy(p *pop.Policy) (*clientKey, error) {
	permitted := p.Algorithms()
	for _, kind := range keyKinds {
		if !slices.Contains(permitted, kind.name) {
			continue
		}
		if k != nil && k.name == kind.name {
			return k, nil
		}
		key, err := kind.make()
		return &clientKey{kind.name, key, kind.hash}, err
	}
	return nil, errNoKey
}

// prove returns the proof of possession over a challenge.
func (k *clientKey) prove(challenge string) (out pop.Proof, err error) {
	message := []byte(challenge)
	if k.hash != 0 {
		h := k.hash.New()
		h.Write(message)
		message = h.Sum(nil)
	}
	out.Challenge = challenge
	if out.PublicKey, err = x509.MarshalPKIXPublicKey(k.key.Public()); err != nil {
		return out, err
	}
	out.Signature, err = k.key.Sign(rand.Reader, message, k.hash)
	return out, err
}
