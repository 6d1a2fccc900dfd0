package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
)

// certify encodes extensions with the standard library.
func certify(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute)}
	for len(der) > 0 {
		var x pkix.Extension
		if der, err = asn1.Unmarshal(der, &x); err != nil {
			t.Fatal(err)
		}
		c.ExtraExtensions = append(c.ExtraExtensions, x)
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func full(san identity.SAN) identity.Identity {
	id := identity.Identity{SAN: san}
	for x := range identity.Known() {
		id.Extensions.Set(x, "value of "+x.String()+" ü")
	}
	return id
}

// A17: every kind of name is decoded exactly as it was encoded.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, san := range []identity.SAN{
		{Kind: identity.Email, Value: "Alice+x@Example.com"},
		{Kind: identity.URI, Value: "https://github.com/o/r/.github/workflows/x.yml@refs/heads/main"},
		{Kind: identity.OtherName, Value: "älice!example.com"},
	} {
		id := full(san)
		der, err := id.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := identity.Parse(certify(t, der))
		if err != nil {
			t.Fatal(err)
		}
		if got.SAN != id.SAN || got.Extensions != id.Extensions || got.Subject != id.Extensions.Get(identity.Subject) {
			t.Errorf("%+v became %+v", id, got)
		}
	}
}

// A17 // D12: the exact encodings: arcs 1 to 6 are bare text, the later ones a UTF8String; the otherName of the type
// username.
func TestEncoding(t *testing.T) {
	t.Parallel()
	id := identity.Identity{SAN: identity.SAN{Kind: identity.OtherName, Value: "alice!127.0.0.1"}}
	id.Extensions.Set(identity.IssuerV1, "i")
	id.Extensions.Set(identity.Issuer, "i")
	got, err := id.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const general = "\xa0\x1f\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x07\xa0\x11\x0c\x0falice!127.0.0.1"
	for _, part := range []string{
		general, "\x30\x0f\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x01\x04\x01i",
		"\x30\x11\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x08\x04\x03\x0c\x01i",
	} {
		if !strings.Contains(string(got), part) {
			t.Errorf("no %x in %x", part, got)
		}
	}
}

// A17: a value that cannot be encoded exactly is refused, and the error names the field.
func TestCheck(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*identity.Identity){
		"san":           func(x *identity.Identity) { x.SAN.Value = "" },
		"issuer":        func(x *identity.Identity) { x.Extensions.Set(identity.Issuer, "") },
		"build-trigger": func(x *identity.Identity) { x.Extensions.Set(identity.BuildTrigger, "a\nb") },
		"subject":       func(x *identity.Identity) { x.Extensions.Set(identity.Subject, "\xff") },
		"issuer-v1": func(x *identity.Identity) {
			x.Extensions.Set(identity.IssuerV1, strings.Repeat("x", identity.MaxExtension+1))
		},
	} {
		id := full(identity.SAN{Kind: identity.Email, Value: "a@example.com"})
		change(&id)
		var v *identity.ValueError
		if _, err := id.Marshal(); !errors.As(err, &v) || v.Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range []identity.SAN{
		{Kind: identity.Email, Value: "ü@example.com"},
		{Kind: identity.URI, Value: "no-scheme"},
		{Kind: identity.URI, Value: "https://x/\x7f"},
		{Value: "x"},
	} {
		id := full(s)
		if id.Check() == nil {
			t.Errorf("%+v passes", s)
		}
	}
}

func FuzzMarshal(f *testing.F) {
	f.Add("a@example.com", "https://issuer.example.com", uint8(1))
	f.Add("https://x/y", "i", uint8(2))
	f.Fuzz(func(t *testing.T, san, issuer string, kind uint8) {
		id := identity.Identity{SAN: identity.SAN{Kind: identity.Kind(kind%3 + 1), Value: san}}
		id.Extensions.Set(identity.Issuer, issuer)
		der, err := id.Marshal()
		if err != nil {
			return
		}
		for rest := der; len(rest) > 0; {
			var x pkix.Extension
			if rest, err = asn1.Unmarshal(rest, &x); err != nil {
				t.Fatalf("%q: %v", san, err)
			}
		}
	})
}

// A10: only an OID below a private enterprise number that is not reserved is accepted, in its canonical form.
func FuzzParseArc(f *testing.F) {
	for _, s := range []string{
		"1.3.6.1.4.1.99999.1", "1.3.6.1.4.1.57264.1.9", "1.3.6.1.4.1.11129.2.4.2", "2.5.29.17",
		"1.3.6.1.4.1.01.1", "1.3.6.1.4.1.4294967296.1", "1.3.6.1.4.1.99999",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		oid, err := identity.ParseArc(s)
		if err != nil {
			return
		}
		if oid.String() != s || !strings.HasPrefix(s, "1.3.6.1.4.1.") || strings.HasPrefix(s, "1.3.6.1.4.1.57264.") ||
			strings.HasPrefix(s, "1.3.6.1.4.1.11129.") {
			t.Errorf("%s is %s", s, oid)
		}
	})
}

// A17 // D12: an invisible character is refused in a name and in an extension.
func TestHiddenCharacters(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"ali\u200bce", "\u202eecila", "\u2067alice", "a\u00adb", "a\x00b", "a\nb", "a\u0085b",
		"a\u2028b", "\ufeffa", "a\U000e0041",
	} {
		in := func(name, extension string, custom []identity.Custom) error {
			id := identity.Identity{SAN: identity.SAN{Kind: identity.OtherName, Value: name}, Custom: custom}
			id.Extensions.Set(identity.Issuer, "https://issuer.example.com")
			id.Extensions.Set(identity.BuildTrigger, extension)
			return id.Check()
		}
		if in("alice!example.com", "push", nil) != nil {
			t.Fatal("an ordinary identity is refused")
		}
		if in(text, "push", nil) == nil || in("alice!example.com", text, nil) == nil ||
			in("alice!example.com", "push", []identity.Custom{{Value: text}}) == nil {
			t.Errorf("%+q passes", text)
		}
	}
}
