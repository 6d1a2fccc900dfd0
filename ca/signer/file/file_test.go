package file_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/youmark/pkcs8"

	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// TestOpen reads each supported form of a key, with the additional text that tools write.
func TestOpen(t *testing.T) {
	t.Parallel()
	ec := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER := must[[]byte](t)(x509.MarshalECPrivateKey(ec))
	pk8 := block("PRIVATE KEY", must[[]byte](t)(x509.MarshalPKCS8PrivateKey(ec)))
	sealed := block("ENCRYPTED PRIVATE KEY", must[[]byte](t)(pkcs8.MarshalPrivateKey(ec, []byte("secure"), nil)))
	legacy := func(kind string, der []byte, cipher x509.PEMCipher) string {
		//nolint:staticcheck // what old recipes make
		b := must[*pem.Block](t)(x509.EncryptPEMBlock(rand.Reader, kind, der, []byte("secure"), cipher))
		return string(pem.EncodeToMemory(b))
	}
	parameters := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	for name, c := range map[string]struct {
		text, password string
		key            crypto.Signer
		warnings       string // a part of the only one
		err            string
	}{
		"PKCS #8": {pk8, "", ec, "", ""},
		"PKCS #8, Ed25519": {
			block("PRIVATE KEY", must[[]byte](t)(x509.MarshalPKCS8PrivateKey(ed))), "", ed, "",
			"",
		},
		"SEC 1":                  {parameters + block("EC PRIVATE KEY", ecDER), "", ec, "", ""},
		"PKCS #1":                {block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), "", rsaKey, "", ""},
		"encrypted":              {sealed, "secure", ec, "", ""},
		"byte-order mark, CR LF": {"\xef\xbb\xbf" + strings.ReplaceAll(pk8, "\n", "\r\n"), "", ec, "", ""},
		"bag attributes": {"Bag Attributes\n    friendlyName: ca\nKey Attributes: <No Attributes>\n" +
			pk8, "", ec, "", ""},
		"old form, DES": {
			legacy("EC PRIVATE KEY", ecDER, x509.PEMCipher3DES), "secure", ec,
			"openssl pkcs8 -topk8", "",
		},
		"old form, AES": {legacy("EC PRIVATE KEY", ecDER, x509.PEMCipherAES256), "secure", ec, "DEK-Info", ""},
		"old form, RSA": {
			legacy("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), x509.PEMCipherAES128),
			"secure", rsaKey, "DEK-Info", "",
		},
		"a password too many": {pk8, "secure", ec, "a password is set, but the private key is not encrypted", ""},

		"no password":    {sealed, "", nil, "", "the private key is encrypted; set its password"},
		"wrong password": {sealed, "open", nil, "", "wrong password, or the encrypted bytes are damaged"},
		"old form, no password": {
			legacy("EC PRIVATE KEY", ecDER, x509.PEMCipherAES256), "", nil, "",
			"set its password",
		},
		"old form, wrong password": {
			legacy("EC PRIVATE KEY", ecDER, x509.PEMCipherAES256), "open", nil, "DEK-Info",
			"wrong password, or the encrypted bytes are damaged",
		},
		"damaged": {
			strings.Replace(pk8, "\nM", "\n!", 1), "", nil, "",
			"line 2: character 1 is not base64",
		},
		"other DER": {
			block("PRIVATE KEY", []byte{0x30, 0}), "", nil, "",
			"line 1: the private key cannot be parsed",
		},
		"two": {pk8 + pk8, "", nil, "", "line 6: more than one private key"},
		"certificate": {
			block("CERTIFICATE", []byte{0}), "", nil, "",
			`found a block "CERTIFICATE" instead of a private key`,
		},
		"parameters only": {parameters, "", nil, "", "no private key in PEM"},
		"of OpenSSH":      {block("OPENSSH PRIVATE KEY", []byte{0}), "", nil, "", "are not supported; convert"},
		"nothing":         {"", "", nil, "", "no PEM block"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var warnings []string
			got, err := file.ParseKey(file.KeyOptions{
				Key: []byte(c.text), Password: []byte(c.password),
				Warn: func(problem, fix string) {
					warnings = append(warnings, problem+"; "+fix)
				},
			})
			var located *pemfile.Error
			if (err == nil) != (c.err == "") || err != nil &&
				(!errors.As(err, &located) || located.Fix == "" || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("%v, want %q", err, c.err)
			}
			if c.key != nil && !c.key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(got.Public()) { //nolint:forcetypeassert // each key has it
				t.Error("another key")
			}
			if text := strings.Join(warnings, "\n"); !strings.Contains(text, c.warnings) || len(warnings) > 1 ||
				(c.warnings == "") != (text == "") {
				t.Errorf("warnings %q, want %q", text, c.warnings)
			}
			if _, again := file.ParseKey(file.KeyOptions{
				Key:      []byte(c.text),
				Password: []byte(c.password),
			}); (again == nil) != (err == nil) {
				t.Errorf("without Warn: %v", again)
			}
		})
	}
}

// FuzzOpen: no error has a part of the key or of the password, and no file takes longer than the bounds allow.
func FuzzOpen(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(block("PRIVATE KEY", der)), "")
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: "+
		"DES-CBC,0123456789ABCDEF\n\nAAAAAAAAAAA=\n-----END EC PRIVATE KEY-----\n"), "a long password")
	names, err := filepath.Glob("testdata/openssl/p256.*")
	if err != nil || len(names) == 0 {
		f.Fatalf("%d files, %v", len(names), err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "secure")
	}
	f.Add(seal(f, block("PRIVATE KEY", der), true, passphrase(f, "secure", 2)), "secure")
	f.Fuzz(func(t *testing.T, data []byte, password string) {
		signer, err := file.ParseKey(file.KeyOptions{Key: data, Password: []byte(password)})
		if (signer == nil) != (err != nil) {
			t.Fatalf("%T, %v", signer, err)
		}
		if err == nil {
			return
		}
		if len(password) > 12 && strings.Contains(err.Error(), password) {
			t.Errorf("the password is in %q", err)
		}
		for _, line := range strings.Fields(string(data)) {
			if len(line) >= 48 && strings.Contains(err.Error(), line) {
				t.Errorf("a line of the key is in %q", err)
			}
		}
	})
}

// TestReadsOpenSSL reads the files that the repository keeps of real tools.
func TestReadsOpenSSL(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/*.pem")
	if err != nil || len(names) < 4 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.ParseKey(file.KeyOptions{Key: data, Password: []byte("secure")}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
