package pop_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // what must be refused
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// p1363 converts an ASN.1 signature to the concatenation of r and s.
func p1363(t testing.TB, k *ecdsa.PrivateKey, signature []byte) []byte {
	t.Helper()
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signature, &v); err != nil {
		t.Fatal(err)
	}
	size := (k.Curve.Params().BitSize + 7) / 8
	return append(v.R.FillBytes(make([]byte, size)), v.S.FillBytes(make([]byte, size))...)
}

// D18: a signature as the concatenation of r and s, as WebCrypto and .NET write it, of exactly the length of the curve.
func TestRawSignatures(t *testing.T) {
	t.Parallel()
	p := policy(t)
	for _, c := range []struct {
		curve elliptic.Curve
		hash  crypto.Hash
		size  int
	}{
		{elliptic.P256(), crypto.SHA256, 64},
		{elliptic.P384(), crypto.SHA384, 96},
		{elliptic.P521(), crypto.SHA512, 132},
	} {
		k := ec(t, c.curve)
		verify := func(signature []byte, text string) error {
			_, err := p.VerifySignature(pop.Proof{
				PublicKey: pki.PublicPEM(k.Public()), Signature: signature,
				Challenge: text, ChallengeClaim: "email",
			})
			return err
		}
		raw := p1363(t, k, sign(t, k, c.hash, challenge))
		if len(raw) != c.size {
			t.Fatalf("%d bytes", len(raw))
		}
		if err := verify(raw, challenge); err != nil {
			t.Errorf("%d bytes: %v", len(raw), err)
		}
		half := len(raw) / 2
		for name, signature := range map[string][]byte{
			"a byte more":          append(bytes.Clone(raw), 0),
			"a byte less":          raw[:len(raw)-1],
			"zeros before":         append(make([]byte, 2), raw...),
			"one zero before each": bytes.Join([][]byte{{0}, raw[:half], {0}, raw[half:]}, nil),
			"a zero before s":      bytes.Join([][]byte{raw[:half], {0}, raw[half:]}, nil),
			"r and s exchanged":    append(bytes.Clone(raw[half:]), raw[:half]...),
			"r zero":               append(make([]byte, half), raw[half:]...),
			"s zero":               append(bytes.Clone(raw[:half]), make([]byte, half)...),
			"all zero":             make([]byte, len(raw)),
			"all ones":             bytes.Repeat([]byte{0xff}, len(raw)),
			"order as s": append(bytes.Clone(raw[:half]),
				c.curve.Params().N.FillBytes(make([]byte, half))...),
		} {
			if err := verify(signature, challenge); reason(err) != fault.ProofInvalid {
				t.Errorf("%d bytes, %s: %v", c.size, name, err)
			}
		}
		if err := verify(raw, "bob@example.com"); reason(err) != fault.ProofInvalid {
			t.Errorf("another text: %v", err)
		}
		for i := range raw {
			changed := bytes.Clone(raw)
			changed[i] ^= 1
			if err := verify(changed, challenge); err == nil {
				t.Errorf("byte %d changed, and it verifies", i)
			}
		}
	}
}

// FuzzRawSignature: of all signatures of 64 bytes and all ASN.1 signatures, only the two forms of the genuine one
// verify.
func FuzzRawSignature(f *testing.F) {
	p, k := policy(f), ec(f, elliptic.P256())
	der := sign(f, k, crypto.SHA256, challenge)
	raw := p1363(f, k, der)
	key := pki.PublicPEM(k.Public())
	f.Add(der)
	f.Add(raw)
	order := k.Params().N
	f.Fuzz(func(t *testing.T, signature []byte) {
		_, err := p.VerifySignature(pop.Proof{
			PublicKey: key, Signature: signature, Challenge: challenge,
			ChallengeClaim: "email",
		})
		if err != nil {
			return
		}
		again := signature
		if len(signature) != len(raw) {
			again = p1363(t, k, signature)
		}
		// the signature with n - s in place of s also verifies, as with every ECDSA verifier
		s := new(big.Int).Sub(order, new(big.Int).SetBytes(again[32:]))
		if !bytes.Equal(again, raw) && !bytes.Equal(append(bytes.Clone(again[:32]), s.FillBytes(make([]byte, 32))...),
			raw) {
			t.Errorf("another signature verifies: %x", signature)
		}
	})
}

func primes(t testing.TB, bits int) (*big.Int, *big.Int) {
	t.Helper()
	a, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	b, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// roca returns a modulus of the form that the faulty library produced: modulo each small prime it is a power of 65537
// (CVE-2017-15361).
func roca(t testing.TB) *big.Int {
	t.Helper()
	m := big.NewInt(2)
	for p := int64(3); p <= 167; p += 2 {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
		}
	}
	base := new(big.Int).Exp(big.NewInt(65537), big.NewInt(123456789), m)
	for {
		k, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(2047-m.BitLen()))) //nolint:gosec // small
		if err != nil {
			t.Fatal(err)
		}
		n := new(big.Int).Mul(k.SetBit(k, 2047-m.BitLen(), 1), m)
		n.Add(n, base)
		good := n.BitLen() == 2048
		for p := int64(3); p < 752 && good; p += 2 {
			good = new(big.Int).Mod(n, big.NewInt(p)).Sign() != 0
		}
		if good {
			return n
		}
	}
}

// A13: each weakness alone, in keys without any other weakness.
func TestWeakKeys(t *testing.T) {
	t.Parallel()
	p := policy(t)
	rsaOf := func(n *big.Int) crypto.PublicKey { return &rsa.PublicKey{N: n, E: 65537} }
	a, b := primes(t, 512)
	c, _ := primes(t, 1024)
	near := new(big.Int).Add(c, big.NewInt(2))
	for !near.ProbablyPrime(10) {
		near.Add(near, big.NewInt(2))
	}
	y := bytes.Repeat([]byte{0xff}, 32) // p + 3, which reduces to 3
	y[0], y[31] = 0xf0, 0x7f
	negative := bytes.Clone(y)
	negative[31] = 0xff
	for name, row := range map[string]struct {
		key  crypto.PublicKey
		want string
	}{
		"RSA of 1024 bits":                       {rsaOf(new(big.Int).Mul(a, b)), "1024 bits"},
		"ROCA":                                   {rsaOf(roca(t)), "ROCA"},
		"close primes":                           {rsaOf(new(big.Int).Mul(c, near)), "close together"},
		"Ed25519 not reduced":                    {ed25519.PublicKey(y), "not reduced"},
		"Ed25519 not reduced, x of other sign":   {ed25519.PublicKey(negative), "not reduced"},
		"Ed25519 prime itself, a point of order": {ed25519.PublicKey(append([]byte{0xed}, y[1:]...)), "not reduced"},
	} {
		_, err := p.VerifySignature(pop.Proof{
			PublicKey: pki.PublicPEM(row.key), Signature: []byte{1},
			Challenge: challenge, ChallengeClaim: "email",
		})
		if reason(err) != fault.KeyWeak || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %s", name, err, row.want)
		}
	}
}

// wrap returns an ASN.1 element with the concatenation of parts as its content.
func wrap(t testing.TB, tag int, parts ...[]byte) []byte {
	t.Helper()
	out, err := asn1.Marshal(asn1.RawValue{
		Tag: tag, IsCompound: tag == asn1.TagSequence,
		Bytes: bytes.Join(parts, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// request builds a signing request with the given spki, unmodified, and the given signature algorithm.
func request(t testing.TB, k *ecdsa.PrivateKey, spki, algorithm []byte, h crypto.Hash) []byte {
	t.Helper()
	tbs := wrap(t, asn1.TagSequence, []byte{2, 1, 0}, []byte{0x30, 0}, spki, []byte{0xa0, 0})
	digest := h.New()
	digest.Write(tbs)
	signature, err := k.Sign(rand.Reader, digest.Sum(nil), h)
	if err != nil {
		t.Fatal(err)
	}
	der := wrap(t, asn1.TagSequence, tbs, algorithm, wrap(t, asn1.TagBitString, []byte{0}, signature))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

var (
	withSHA1   = []byte("\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01")
	withSHA256 = []byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02")
)

// A9: in each accepted form a key has one encoding; trailing data and extra elements are refused.
func TestOneEncoding(t *testing.T) {
	t.Parallel()
	p, k := policy(t), ec(t, elliptic.P256())
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	longer := wrap(t, asn1.TagSequence, spki[2:], []byte{5, 0})
	r := rsaKey(t, 2048)
	pkcs1 := x509.MarshalPKCS1PublicKey(&r.PublicKey)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	signature := sign(t, k, crypto.SHA256, challenge)
	for name, key := range map[string][]byte{
		"an element more, DER":   longer,
		"an element more, PEM":   block("PUBLIC KEY", longer),
		"an element more, PKCS1": block("RSA PUBLIC KEY", wrap(t, asn1.TagSequence, pkcs1[4:], []byte{2, 1, 1})),
		"bytes after the DER":    append(bytes.Clone(spki), 0),
		"bytes in the block":     block("PUBLIC KEY", append(bytes.Clone(spki), 0)),
		"bytes after the block":  append(block("PUBLIC KEY", spki), 'x'),
		"a damaged second block": append(block("PUBLIC KEY", spki), "-----BEGIN PUBLIC KEY-----\n"...),
	} {
		_, err := p.VerifySignature(pop.Proof{
			PublicKey: key, Signature: signature, Challenge: challenge,
			ChallengeClaim: "email",
		})
		if reason(err) != fault.KeyMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := request(t, k, spki, withSHA256, crypto.SHA256)
	if got, err := p.VerifyCSR(good); err != nil || !bytes.Equal(got.SPKI, spki) {
		t.Fatalf("the good request: %v", err)
	}
	for name, csr := range map[string][]byte{
		"an element more":       request(t, k, longer, withSHA256, crypto.SHA256),
		"bytes after the block": append(bytes.Clone(good), 'x'),
		"two blocks":            append(bytes.Clone(good), good...),
	} {
		if _, err := p.VerifyCSR(csr); reason(err) != fault.CSRMalformed {
			t.Errorf("request, %s: %v", name, err)
		}
	}
}

// D18: a proof over an empty challenge, and a request that is signed with a broken hash function, are refused.
func TestWorthlessProofs(t *testing.T) {
	t.Parallel()
	p := policy(t)
	for _, k := range []crypto.Signer{ec(t, elliptic.P256()), edKey(t), rsaKey(t, 2048)} {
		hash := crypto.SHA256
		if _, ok := k.(ed25519.PrivateKey); ok {
			hash = 0
		}
		_, err := p.VerifySignature(pop.Proof{
			PublicKey: pki.PublicPEM(k.Public()), Signature: sign(t, k, hash, ""),
			ChallengeClaim: "email",
		})
		if reason(err) != fault.ProofInvalid || !strings.Contains(err.Error(), "empty challenge") {
			t.Errorf("%T over the empty challenge: %v", k, err)
		}
	}
	k := ec(t, elliptic.P256())
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.VerifyCSR(request(t, k, spki, withSHA1, crypto.SHA1)); reason(err) != fault.ProofInvalid ||
		!strings.Contains(err.Error(), "SHA1") {
		t.Errorf("a request signed with SHA-1: %v", err)
	}
	_ = sha1.Size // links SHA-1, which crypto.SHA1.New needs
}

// "openssl req" signs a request for a P-384 or P-521 key with SHA-256, which the default list does not permit.
func TestHashOfOpenSSL(t *testing.T) {
	t.Parallel()
	for curve, want := range map[elliptic.Curve]string{
		elliptic.P384(): "openssl req -sha384",
		elliptic.P521(): "openssl req -sha512",
	} {
		k := ec(t, curve)
		spki, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		csr := request(t, k, spki, withSHA256, crypto.SHA256)
		_, err = policy(t).VerifyCSR(csr)
		if reason(err) != fault.KeyAlgorithmNotAllowed || !strings.Contains(fault.From(err).Meta["hint"], want) ||
			fault.From(err).Public != "signing algorithm not permitted: *ecdsa.PublicKey, SHA-256" {
			t.Errorf("%s: %v", curve.Params().Name, err)
		}
		if _, err := policy(t, "ecdsa-sha2-256-nistp384", "ecdsa-sha2-256-nistp521").VerifyCSR(csr); err != nil {
			t.Errorf("%s, permitted: %v", curve.Params().Name, err)
		}
		if _, err := policy(t, "ed25519").VerifyCSR(csr); fault.From(err).Meta["hint"] != "" {
			t.Errorf("%s: the hint does not help: %v", curve.Params().Name, err)
		}
	}
}
