package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha512" // hashes of proofs
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// newWire creates the keys and the values that replace ${name} in a request. Tokens are created when they are sent.
func newWire(t *testing.T, s wireServer, provider *idp.Provider) *wire {
	t.Helper()
	w := &wire{server: s, issuer: provider.URL(), values: map[string]func() string{}}
	w.tokens(provider)
	constant := func(name, value string) { w.values[name] = func() string { return value } }
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		name string
		key  crypto.Signer
		hash crypto.Hash
	}{
		{"", pki.NewKey(pki.P256), crypto.SHA256},
		{"-p384", pki.NewKey(pki.P384), crypto.SHA384},
		{"-p521", pki.NewKey(pki.P521), crypto.SHA512},
		{"-p224", p224, crypto.SHA256},
		{"-rsa", pki.NewKey(pki.RSA2048), crypto.SHA256},
		{"-ed25519", pki.NewKey(pki.Ed25519), 0},
	} {
		der := must(x509.MarshalPKIXPublicKey(k.key.Public()))
		text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		constant("pem"+k.name, quoted(text))
		constant("pem64"+k.name, b64(text))
		constant("der64"+k.name, b64(string(der)))
		constant("proof"+k.name, b64(string(sign(k.key, "alice@example.com", k.hash))))
		constant("csr64"+k.name, b64(csr(k.key, "CERTIFICATE REQUEST", 0)))
	}
	w.oddities(constant)
	return w
}

func (w *wire) tokens(provider *idp.Provider) {
	now := func() int64 { return time.Now().Unix() }
	for name, claims := range map[string]func() map[string]any{
		"token":              func() map[string]any { return nil },
		"token-audience":     func() map[string]any { return map[string]any{"aud": "someone-else"} },
		"token-audiences":    func() map[string]any { return map[string]any{"aud": []string{"a", "sigstore"}} },
		"token-expired":      func() map[string]any { return map[string]any{"exp": now() - 100, "iat": now() - 400} },
		"token-early":        func() map[string]any { return map[string]any{"nbf": now() + 1000} },
		"token-issuer":       func() map[string]any { return map[string]any{"iss": "https://issuer.example.com"} },
		"token-no-email":     func() map[string]any { return map[string]any{"email": nil} },
		"token-unverified":   func() map[string]any { return map[string]any{"email_verified": false} },
		"token-true-text":    func() map[string]any { return map[string]any{"email_verified": "true"} },
		"token-bad-email":    func() map[string]any { return map[string]any{"email": "alice"} },
		"token-number-email": func() map[string]any { return map[string]any{"email": 5} },
		"token-umlaut":       func() map[string]any { return map[string]any{"email": "älice@example.com"} },
		"token-no-sub":       func() map[string]any { return map[string]any{"sub": nil} },
	} {
		w.values[name] = func() string { return provider.Token(claims()) }
	}
	w.values["token-cut"] = func() string { t := provider.Token(nil); return t[:strings.LastIndex(t, ".")] }
	w.values["token-changed"] = func() string { t := provider.Token(nil); return t[:len(t)-8] + "AAAAAAAA" }
	w.values["token-unknown"] = func() string {
		return idp.Signing{Key: pki.NewKey(pki.P256), Alg: jose.ES256, KeyID: "unknown"}.Token(map[string]any{
			"iss": provider.URL(), "aud": "sigstore", "sub": "subject-1", "email": "alice@example.com",
			"email_verified": true, "iat": now(), "exp": now() + 300,
		})
	}
	w.values["token-hmac"] = func() string {
		return idp.Signing{Key: []byte(strings.Repeat("k", 32)), Alg: jose.HS256}.Token(map[string]any{
			"iss": provider.URL(), "aud": "sigstore", "sub": "subject-1", "email": "alice@example.com",
			"email_verified": true, "iat": now(), "exp": now() + 300,
		})
	}
}

// oddities adds keys, proofs and requests that each differ from valid ones in one property.
func (w *wire) oddities(constant func(name, value string)) {
	key := pki.NewKey(pki.P256)
	text := string(pem.EncodeToMemory(&pem.Block{
		Type:  "PUBLIC KEY",
		Bytes: must(x509.MarshalPKIXPublicKey(key.Public())),
	}))
	proof := b64(string(sign(key, "alice@example.com", crypto.SHA256)))
	constant("odd-proof", proof)
	constant("pem-twice", quoted(text+text))
	constant("pem-after-text", quoted("Here is my key:\n"+text))
	constant("pem-wrong-type", quoted(strings.ReplaceAll(text, "PUBLIC KEY", "CERTIFICATE")))
	constant("proof-url64", strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(proof), "="))
	constant("odd-pem", quoted(text))
	constant("proof-sub", b64(string(sign(key, "subject-1", crypto.SHA256))))
	constant("proof-sha384", b64(string(sign(key, "alice@example.com", crypto.SHA384))))
	p384 := pki.NewKey(pki.P384)
	constant("pem-p384-sha256",
		quoted(string(pem.EncodeToMemory(&pem.Block{
			Type:  "PUBLIC KEY",
			Bytes: must(x509.MarshalPKIXPublicKey(p384.Public())),
		}))))
	constant("proof-p384-sha256", b64(string(sign(p384, "alice@example.com", crypto.SHA256))))

	r := pki.NewKey(pki.RSA2048).(*rsa.PrivateKey)
	constant("pem-rsa-pkcs1",
		quoted(string(pem.EncodeToMemory(&pem.Block{
			Type:  "RSA PUBLIC KEY",
			Bytes: x509.MarshalPKCS1PublicKey(&r.PublicKey),
		}))))
	constant("proof-rsa-pkcs1", b64(string(sign(r, "alice@example.com", crypto.SHA256))))
	digest := digestOf("alice@example.com", crypto.SHA256)
	constant("proof-rsa-pss", b64(string(must(rsa.SignPSS(rand.Reader, r, crypto.SHA256, digest, nil)))))
	weak := &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 1023), big.NewInt(643)), E: 65537}
	constant("pem-rsa1024",
		quoted(string(pem.EncodeToMemory(&pem.Block{
			Type:  "PUBLIC KEY",
			Bytes: must(x509.MarshalPKIXPublicKey(weak)),
		}))))
	exponent := &rsa.PublicKey{N: r.N, E: 3}
	constant("pem-rsa-e3",
		quoted(string(pem.EncodeToMemory(&pem.Block{
			Type:  "PUBLIC KEY",
			Bytes: must(x509.MarshalPKIXPublicKey(exponent)),
		}))))

	constant("csr64-new", b64(csr(key, "NEW CERTIFICATE REQUEST", 0)))
	constant("csr64-pss", b64(csr(r, "CERTIFICATE REQUEST", x509.SHA256WithRSAPSS)))
	constant("csr64-sha384", b64(csr(key, "CERTIFICATE REQUEST", x509.ECDSAWithSHA384)))
	constant("csr64-p384-sha256", b64(csr(p384, "CERTIFICATE REQUEST", x509.ECDSAWithSHA256)))
	constant("csr64-rsa-sha512", b64(csr(r, "CERTIFICATE REQUEST", x509.SHA512WithRSA)))
	constant("csr64-type", b64(strings.ReplaceAll(csr(key, "CERTIFICATE REQUEST", 0),
		"CERTIFICATE REQUEST", "CERTIFICATE")))
	block, _ := pem.Decode([]byte(csr(key, "CERTIFICATE REQUEST", 0)))
	constant("csr64-der", b64(string(block.Bytes)))
	block.Bytes[len(block.Bytes)-1] ^= 1
	constant("csr64-signature", b64(string(pem.EncodeToMemory(block))))
}

func sign(key crypto.Signer, challenge string, hash crypto.Hash) []byte {
	if k, ok := key.(ed25519.PrivateKey); ok {
		return ed25519.Sign(k, []byte(challenge))
	}
	return must(key.Sign(rand.Reader, digestOf(challenge, hash), hash))
}

func digestOf(text string, hash crypto.Hash) []byte {
	h := hash.New()
	h.Write([]byte(text))
	return h.Sum(nil)
}

func csr(key crypto.Signer, kind string, alg x509.SignatureAlgorithm) string {
	der := must(x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{SignatureAlgorithm: alg, EmailAddresses: []string{"mallory@example.com"}}, key))
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// must returns v. It panics if err is not nil.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// quoted returns s escaped for use inside a JSON string.
func quoted(s string) string {
	data := must(json.Marshal(s))
	return string(data[1 : len(data)-1])
}

// describePEM returns a description of a certificate for the golden file, which does not depend on its bytes.
func describePEM(text string) string {
	block, _ := pem.Decode([]byte(strings.ReplaceAll(text, `\n`, "\n")))
	if block == nil {
		return "<no certificate>"
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "<no certificate: " + err.Error() + ">"
	}
	if c.IsCA {
		return "<certificate " + c.Subject.CommonName + ">"
	}
	return fmt.Sprintf("<certificate for %s, %s>", strings.Join(c.EmailAddresses, ","), c.PublicKeyAlgorithm)
}
