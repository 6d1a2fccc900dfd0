package file_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	pkcs "github.com/youmark/pkcs8"

	"github.com/mayfly-ca/mayfly/ca/signer/file"
)

// seal encrypts text to a recipient.
func seal(t testing.TB, text string, armored bool, to age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	var dst io.Writer = &out
	closeArmor := func() error { return nil }
	if armored {
		w := armor.NewWriter(&out)
		dst, closeArmor = w, w.Close
	}
	w := must[io.WriteCloser](t)(age.Encrypt(dst, to))
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := closeArmor(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func passphrase(t testing.TB, text string, logN int) age.Recipient {
	t.Helper()
	r := must[*age.ScryptRecipient](t)(age.NewScryptRecipient(text))
	r.SetWorkFactor(logN)
	return r
}

func TestAge(t *testing.T) {
	t.Parallel()
	ec := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	plain := block("PRIVATE KEY", must[[]byte](t)(x509.MarshalPKCS8PrivateKey(ec)))
	twice := block("ENCRYPTED PRIVATE KEY", must[[]byte](t)(pkcs.MarshalPrivateKey(ec, []byte("secure"), nil)))
	id := must[*age.X25519Identity](t)(age.GenerateX25519Identity())
	other := must[*age.X25519Identity](t)(age.GenerateX25519Identity())
	hybrid := must[*age.HybridIdentity](t)(age.GenerateHybridIdentity())
	identities := func(text string) []byte { return []byte("# created: today\n" + text + "\n") }
	cut := func(b []byte) []byte { return b[:len(b)-10] }
	withPassword := func(key []byte, password string) file.KeyOptions {
		return file.KeyOptions{Key: key, Password: []byte(password)}
	}
	withIdentity := func(key []byte, text string) file.KeyOptions {
		return file.KeyOptions{Key: key, AgeIdentities: identities(text)}
	}
	for name, c := range map[string]struct {
		o   file.KeyOptions
		err string // "": the key is read
	}{
		"password, binary":  {withPassword(seal(t, plain, false, passphrase(t, "secure", 10)), "secure"), ""},
		"password, armored": {withPassword(seal(t, plain, true, passphrase(t, "secure", 10)), "secure"), ""},
		"identity":          {withIdentity(seal(t, plain, true, id.Recipient()), id.String()), ""},
		"hybrid identity":   {withIdentity(seal(t, plain, true, hybrid.Recipient()), hybrid.String()), ""},
		"second identity":   {withIdentity(seal(t, plain, false, id.Recipient()), other.String()+"\n"+id.String()), ""},

		"no password": {
			withPassword(seal(t, plain, true, id.Recipient()), ""),
			"the private key is encrypted with age; set its password, or",
		},
		"wrong password": {
			withPassword(seal(t, plain, true, passphrase(t, "secure", 10)), "wrong"),
			"wrong password, or the key is encrypted to an age recipient; set",
		},
		"a password for a recipient": {
			withPassword(seal(t, plain, true, id.Recipient()), "wrong"),
			"wrong password, or the key is encrypted to an age recipient; set",
		},
		"another identity": {
			withIdentity(seal(t, plain, true, id.Recipient()), other.String()),
			"none of the age identities decrypts the private key",
		},
		"identity for a password": {
			withIdentity(seal(t, plain, true, passphrase(t, "secure", 10)), other.String()),
			"none of the age identities decrypts",
		},
		"no identity": {
			withIdentity(seal(t, plain, true, id.Recipient()), "AGE-SECRET-KEY-1JUNK"),
			"the file has no age identity, or a line that is not one",
		},
		"cut off": {
			withPassword(cut(seal(t, plain, false, passphrase(t, "secure", 10))), "secure"),
			"the age-encrypted file is damaged",
		},
		"armor cut off": {
			withPassword(cut(seal(t, plain, true, passphrase(t, "secure", 10))), "secure"),
			"the age-encrypted file is damaged",
		},
		"expensive": {withPassword(bytes.Replace(seal(t, plain, false, passphrase(t, "secure", 10)),
			[]byte(" 10\n"), []byte(" 21\n"), 1), "secure"), "its work factor is above 20"},
		"encrypted twice": {
			withPassword(seal(t, twice, true, passphrase(t, "secure", 10)), "secure"),
			"in the age-encrypted file, line 1: the private key is encrypted",
		},
		"age in age": {
			withPassword(seal(t, string(seal(t, plain, true, id.Recipient())), true, passphrase(t, "secure", 10)),
				"secure"),
			"encrypted twice",
		},
		"too large": {withPassword(seal(t, strings.Repeat(" ", 64<<10), true, passphrase(t, "secure", 10)),
			"secure"), "too large for a private key"},
		"not a key": {
			withPassword(seal(t, "secret", true, passphrase(t, "secure", 10)), "secure"),
			"in the age-encrypted file, no PEM block",
		},
		"identity for PEM": {
			withIdentity([]byte(plain), id.String()),
			"an age identity is set, but the private key is not encrypted with age",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := file.ParseKey(c.o)
			if c.err == "" {
				if err != nil || !ec.PublicKey.Equal(key.Public()) {
					t.Fatalf("%v, %v", key, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v, want %q", err, c.err)
			}
		})
	}
}

// TestAgeFile reads a file that the program age wrote: age -p -a, with the password "secure". Its work factor makes
// this the slowest test of the package; TestAge has a wrong password.
func TestAgeFile(t *testing.T) {
	t.Parallel()
	data := must[[]byte](t)(os.ReadFile("testdata/age/p256.password.age"))
	public, _ := pem.Decode(must[[]byte](t)(os.ReadFile("testdata/age/p256.pub")))
	want := must[any](t)(x509.ParsePKIXPublicKey(public.Bytes))
	key, err := file.ParseKey(file.KeyOptions{Key: data, Password: []byte("secure")})
	if err != nil || !want.(*ecdsa.PublicKey).Equal(key.Public()) { //nolint:forcetypeassert // the name says the type
		t.Errorf("%v, %v", key, err)
	}
}
