//go:build !notink

package tink

import (
	"bytes"
	"crypto"
	stdecdsa "crypto/ecdsa"
	stded25519 "crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/key"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/signature/ecdsa"
	"github.com/tink-crypto/tink-go/v2/signature/ed25519"
	tinkapi "github.com/tink-crypto/tink-go/v2/tink"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// plain is a key-encryption key whose ciphertext can be read.
type plain struct{}

var _ tinkapi.AEAD = plain{}

func (plain) Encrypt(text, _ []byte) ([]byte, error) {
	return []byte("vault:v1:" + base64.StdEncoding.EncodeToString(text)), nil
}

func (plain) Decrypt(sealed, _ []byte) ([]byte, error) {
	text, ok := strings.CutPrefix(string(sealed), "vault:v1:")
	if !ok {
		return nil, errors.New("refused")
	}
	return base64.StdEncoding.DecodeString(text)
}

// decryptPlain decrypts with the key-encryption key of the tests.
func decryptPlain(sealed []byte) ([]byte, error) { return plain{}.Decrypt(sealed, nil) }

// The files of testdata were written by Tink's Java library 1.18.0 with the call that tinkey uses
// (KeysetHandle.write with a JsonKeysetWriter), and the templates that they are named after. Their ciphertext is
// "vault:v1:" and the keyset in base64.
func TestJavaKeysets(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"ecdsa_p256": "P-256", "ecdsa_p384": "P-384", "ecdsa_p384_sha384": "P-384", "ecdsa_p521": "P-521",
		"ed25519": "Ed25519", "ed25519_raw": "Ed25519",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTransit(t, fixture(t, name))
			opened, err := s.settings.Open(t.Context(), signer.Options{})
			if err != nil {
				t.Fatal(err)
			}
			got := "Ed25519"
			switch k := opened.Signer.(type) {
			case *stdecdsa.PrivateKey:
				got = k.Params().Name
			case stded25519.PrivateKey:
			default:
				t.Errorf("%T", k)
			}
			if got != want {
				t.Errorf("a key of type %s, want %s", got, want)
			}
			// The public key is that which the keyset itself has beside the private key.
			handle, err := keyset.Read(keyset.NewJSONReader(bytes.NewReader(fixture(t, name))), plain{})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(publicPoint(t, handle), point(t, opened.Signer.Public())) {
				t.Error("the public key is another one")
			}
		})
	}
}

// publicPoint is the public key in a keyset, as a point or as the bytes of an Ed25519 key.
func publicPoint(t *testing.T, handle *keyset.Handle) []byte {
	t.Helper()
	public, err := handle.Public()
	if err != nil {
		t.Fatal(err)
	}
	primary, err := public.Primary()
	if err != nil {
		t.Fatal(err)
	}
	switch k := primary.Key().(type) {
	case *ecdsa.PublicKey:
		return k.PublicPoint()
	case *ed25519.PublicKey:
		return k.KeyBytes()
	}
	t.Fatalf("%T", primary.Key())
	return nil
}

func point(t *testing.T, public crypto.PublicKey) []byte {
	t.Helper()
	switch k := public.(type) {
	case *stdecdsa.PublicKey:
		out, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return out
	case stded25519.PublicKey:
		return k
	}
	t.Fatalf("%T", public)
	return nil
}

// keysetOf is the encrypted keyset of a key of the standard library.
func keysetOf(t testing.TB, private crypto.Signer) []byte {
	t.Helper()
	secret := func(data []byte) secretdata.Bytes {
		return secretdata.NewBytesFromData(data, insecuresecretdataaccess.Token{})
	}
	var k key.Key
	switch p := private.(type) {
	case *stdecdsa.PrivateKey:
		of := map[int]struct {
			curve ecdsa.CurveType
			hash  ecdsa.HashType
		}{256: {ecdsa.NistP256, ecdsa.SHA256}, 384: {ecdsa.NistP384, ecdsa.SHA384}, 521: {ecdsa.NistP521, ecdsa.SHA512}}
		params, err := ecdsa.NewParameters(of[p.Params().BitSize].curve, of[p.Params().BitSize].hash, ecdsa.DER,
			ecdsa.VariantNoPrefix)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if k, err = ecdsa.NewPrivateKey(secret(raw), 0, params); err != nil {
			t.Fatal(err)
		}
	case stded25519.PrivateKey:
		params, err := ed25519.NewParameters(ed25519.VariantNoPrefix)
		if err != nil {
			t.Fatal(err)
		}
		if k, err = ed25519.NewPrivateKey(secret(p.Seed()), 0, params); err != nil {
			t.Fatal(err)
		}
	}
	m := keyset.NewManager()
	id, err := m.AddKey(k)
	if err := errors.Join(err, m.SetPrimary(id)); err != nil {
		t.Fatal(err)
	}
	handle, err := m.Handle()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := handle.Write(keyset.NewJSONWriter(&out), plain{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A CA issues with the key of a keyset while the service is down, and does not start with another key than that of the
// chain.
func TestIssue(t *testing.T) {
	t.Parallel()
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.Ed25519} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{Key: kind})
			s := newTransit(t, keysetOf(t, p.Key))
			if err := os.WriteFile(s.settings.Chain, p.ChainPEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			opened, err := signer.Open(t.Context(), &s.settings, signer.Options{})
			if err != nil {
				t.Fatal(err)
			}
			down := status(503, "sealed")
			s.answer.Store(&down)
			authority, err := ca.New(ca.Options{Chain: opened.Chain, Signer: opened.Signer})
			if err != nil {
				t.Fatal(err)
			}
			client := pki.NewKey(pki.P256)
			spki, err := x509.MarshalPKIXPublicKey(client.Public())
			if err != nil {
				t.Fatal(err)
			}
			id := identity.Identity{
				Issuer: "https://issuer.example", Subject: "s",
				SAN: identity.SAN{Kind: identity.Email, Value: "alice@example.com"},
			}
			id.Extensions.Set(identity.Issuer, id.Issuer)
			issued, err := authority.Issue(t.Context(),
				ca.Request{Identity: &id, SPKI: spki, PublicKey: client.Public()})
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(issued.DER)
			if err != nil {
				t.Fatal(err)
			}
			if err := leaf.CheckSignatureFrom(p.Chain[0]); err != nil {
				t.Error(err)
			}
			if err := opened.Usable(t.Context()); err != nil || opened.Close() != nil {
				t.Errorf("%v", err)
			}
			// The service gives the keyset of another key.
			other, err := decryptPlain(sealedOf(t, keysetOf(t, pki.NewKey(kind))))
			if err != nil {
				t.Fatal(err)
			}
			lie := plaintext(base64.StdEncoding.EncodeToString(other))
			s.answer.Store(&lie)
			wrong, err := signer.Open(t.Context(), &s.settings, signer.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ca.New(ca.Options{Chain: wrong.Chain, Signer: wrong.Signer}); err == nil ||
				!strings.Contains(err.Error(), "the key is not the key of certificate 1") {
				t.Errorf("%v", err)
			}
		})
	}
}

// sealedOf is the ciphertext in an encrypted keyset.
func sealedOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var file struct{ EncryptedKeyset []byte }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.EncryptedKeyset
}

// The error for an invalid file says what to do. If possible, the file is refused without a call to the service.
func TestWrongFiles(t *testing.T) {
	t.Parallel()
	encrypted := func(text []byte) string {
		sealed, _ := plain{}.Encrypt(text, nil)
		return `{"encryptedKeyset":"` + base64.StdEncoding.EncodeToString(sealed) + `"}`
	}
	good := string(fixture(t, "ecdsa_p256"))
	whole, err := decryptPlain(sealedOf(t, []byte(good)))
	if err != nil {
		t.Fatal(err)
	}
	disabled := bytes.Replace(whole, []byte{0x10, 1, 0x18}, []byte{0x10, 2, 0x18}, 1) // status of the key
	if bytes.Equal(disabled, whole) {
		t.Fatal("the status is elsewhere")
	}
	for name, c := range map[string]struct {
		data, want string
		asked      bool // the service was
	}{
		"cleartext": {
			`{"primaryKeyId":1,"key":[{"keyData":{"value":"Y2FuYXJ5"}}]}`,
			"the keyset is not encrypted; encrypt it with \"tinkey convert-keyset", false,
		},
		"binary":     {string(sealedOf(t, []byte(good))), "is not JSON; convert a binary keyset", false},
		"PEM":        {"-----BEGIN PRIVATE KEY-----\ncanary\n", "is not JSON", false},
		"other JSON": {`{"canary":"canary"}`, "is not an encrypted Tink keyset in JSON; make it with", false},
		"a name twice": {
			`{"encryptedKeyset":"AA==","encryptedKeyset":"AA=="}`,
			"is not an encrypted Tink keyset", false,
		},
		"not base64":     {`{"encryptedKeyset":"?"}`, "is not an encrypted Tink keyset", false},
		"null":           {`null`, "is not an encrypted Tink keyset", false},
		"empty":          {`{"encryptedKeyset":""}`, "the encrypted keyset is empty", false},
		"no ciphertext":  {`{}`, "the encrypted keyset is empty", false},
		"large":          {good + strings.Repeat(" ", maxKeyset), "the keyset has more than 65536 bytes", false},
		"no keyset":      {encrypted([]byte("canary")), "the decrypted data is not a valid keyset", true},
		"empty keyset":   {encrypted(nil), "the decrypted data is not a valid keyset", true},
		"truncated":      {encrypted(whole[:len(whole)-9]), "the decrypted data is not a valid keyset", true},
		"disabled":       {encrypted(disabled), "with an enabled primary key", true},
		"another cipher": {`{"encryptedKeyset":"AAAA"}`, "refused", true},
		"RSA": {
			string(fixture(t, "rsa")),
			`the primary key is of the type "RsaSsaPkcs1PrivateKey", which a CA of this program does not use`, true,
		},
	} {
		asked := false
		got, err := parseKeyset([]byte(c.data), func(sealed []byte) ([]byte, error) {
			asked = true
			return decryptPlain(sealed)
		})
		if got != nil || err == nil || !strings.Contains(err.Error(), c.want) ||
			strings.Contains(err.Error(), "canary") ||
			asked != c.asked {
			t.Errorf("%s: %v, %v, asked: %t", name, got, err, asked)
		}
	}
}

// FuzzKeyset: neither a file nor what a service decrypts makes the reader panic, and a key that it returns signs.
func FuzzKeyset(f *testing.F) {
	for _, name := range []string{"ecdsa_p256", "ecdsa_p384", "ed25519", "rsa"} {
		data := fixture(f, name)
		text, err := decryptPlain(sealedOf(f, data))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, text)
	}
	f.Fuzz(func(t *testing.T, data, text []byte) {
		got, err := parseKeyset(data, func([]byte) ([]byte, error) { return text, nil })
		if (got == nil) == (err == nil) {
			t.Fatalf("%v, %v", got, err)
		}
		if err != nil {
			if _, ok := errors.AsType[*pemfile.Error](err); !ok {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		digest, opts := make([]byte, 32), crypto.SignerOpts(crypto.SHA256)
		if _, ok := got.(stded25519.PrivateKey); ok {
			opts = crypto.Hash(0)
		}
		if _, err := got.Sign(rand.Reader, digest, opts); err != nil {
			t.Error(err)
		}
	})
}
