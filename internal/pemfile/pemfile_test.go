package pemfile_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// certificate returns a new self-signed certificate, and its PEM block.
func certificate(t testing.TB, name string) (*x509.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(),
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestProducers reads files in the forms that common tools write.
func TestProducers(t *testing.T) {
	t.Parallel()
	a, one := certificate(t, "A")
	b, two := certificate(t, "B")
	for name, text := range map[string]string{
		"plain":            one + two,
		"byte-order mark":  "\xef\xbb\xbf" + one + "\xef\xbb\xbf" + two,
		"CR LF":            strings.ReplaceAll(one+two, "\n", "\r\n"),
		"no last line end": strings.TrimSuffix(one+two, "\n"),
		"spaces at ends":   strings.ReplaceAll(one+two, "\n", " \t\n"),
		"openssl s_client": " 0 s:CN = A\n   i:CN = A\n   a:PKEY: id-ecPublicKey, 256 (bit); " +
			"sigalg: ecdsa-with-SHA256\n" + one + " 1 s:CN = B\n" + two,
		"openssl pkcs12": "Bag Attributes\n    localKeyID: 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D " +
			"0E 0F 10 11 12 13 14 \n" +
			"    friendlyName: Gr\xfc\xdfe\nsubject=CN = A\n\nissuer=CN = A\n\n" + one +
			"Bag Attributes: <Empty Attributes>\nsubject=CN = B\nissuer=CN = B\n" + two,
		"openssl x509 -text": "Certificate:\n    Data:\n        Version: 3 (0x2)\n        Signature " +
			"Algorithm: ecdsa-with-SHA256\n" +
			"         ASN1 OID: prime256v1\n            04:c8:0d:5f:5c:6d\n" + one + two,
		"CA bundle": "##\n## Bundle of CA Root Certificates\n##\n\nGlobalSign Root CA\n==================\n" +
			one + "\n# Issuer: CN=B\n# Label: \"B\"\n" + two,
		"a long title": "An Organisation With A Very Long Name Root\n==========================================\n" +
			one + two,
		"commented out": "# " + strings.ReplaceAll(strings.TrimSpace(one), "\n", "\n# ") + "\n" + one + "  #" +
			strings.ReplaceAll(strings.TrimSpace(two), "\n", "\n#") + "\n" + two,
		"lines of 76":      refold(one, 76) + two,
		"one line of body": refold(one, 1<<20) + two,
		"indented body": strings.ReplaceAll(strings.ReplaceAll(one, "\n", "\n   "), "   -----END", "-----END") +
			"\n" + two,
		"the label of old":  strings.ReplaceAll(one, "CERTIFICATE", "X509 CERTIFICATE") + two,
		"empty line inside": strings.Replace(one, "CERTIFICATE-----\n", "CERTIFICATE-----\n\n", 1) + two,
	} {
		got, err := pemfile.Certificates([]byte(text))
		if err != nil || len(got) != 2 || !got[0].Equal(a) || !got[1].Equal(b) {
			t.Errorf("%s: %d certificates, %v", name, len(got), err)
		}
	}
}

// refold writes the body of one block in lines of n characters.
func refold(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	body := strings.Join(lines[1:len(lines)-1], "")
	var out strings.Builder
	for len(body) > n {
		fmt.Fprintln(&out, body[:n])
		body = body[n:]
	}
	return lines[0] + "\n" + out.String() + body + "\n" + lines[len(lines)-1] + "\n"
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	_, one := certificate(t, "A")
	_, two := certificate(t, "B")
	lines := strings.Split(one, "\n")
	n := len(lines) // of the first block: n-1 lines, the last one END
	for name, c := range map[string]struct{ text, want string }{
		"a character": {
			strings.Replace(one, "\nM", "\n!", 1) + two,
			`line 2: character 1 is not base64, in the "CERTIFICATE" block that begins on line 1; restore`,
		},
		"a dash": {strings.Replace(one, "\nM", "\n-", 1) + two, "line 2: character 1 is not base64"},
		"a colon": {
			strings.Replace(one, "\nMI", "\n: ", 1) + two,
			"line 3: no empty line after the headers",
		},
		"a missing character": {
			strings.Replace(one, "\nM", "\n", 1) + two,
			"line 1: the \"CERTIFICATE\" block that begins on line 1 is damaged",
		},
		"a missing line": {
			one + strings.Replace(two, "\n"+strings.Split(two, "\n")[2], "", 1),
			fmt.Sprintf("line %d: certificate 2 is damaged", n),
		},
		"no END": {
			one + strings.Replace(two, "-----END CERTIFICATE-----\n", "", 1),
			fmt.Sprintf("line %d: the \"CERTIFICATE\" block that begins on line %d has no END line: "+
				"the file is truncated", n, n),
		},
		"no END in the middle": {
			strings.Replace(one, "-----END CERTIFICATE-----\n", "", 1) + two,
			fmt.Sprintf("line %d: the \"CERTIFICATE\" block that begins on line 1 has no END line before this one",
				n-1),
		},
		"cut off":     {one + two[:100], "the file is truncated"},
		"other END":   {strings.Replace(one, "END CERT", "END CRET", 1) + two, `ends as "CRETIFICATE"`},
		"damaged END": {strings.Replace(one, "-----END", "----END", 1) + two, "is not base64"},
		"no BEGIN": {
			strings.Join(lines[1:], "\n") + two,
			"line 1: a line of base64 outside of a PEM block",
		},
		"damaged BEGIN": {
			one + strings.Replace(two, "-----B", "----B", 1),
			fmt.Sprintf("line %d: a line of base64 outside of a PEM block", n+1),
		},
		"misspelt BEGIN": {one + strings.Replace(two, "BEGIN", "BEGlN", 1), "a line of base64 outside"},
		"indented": {
			one + strings.Replace(two, "-----B", "  -----B", 1),
			fmt.Sprintf("line %d: the BEGIN line is indented", n),
		},
		"something before": {"x" + one + two, "line 1: there is text before or after -----BEGIN"},
		"something after": {
			strings.Replace(one, "TE-----\n", "TE----- x\n", 1) + two,
			"line 1: the BEGIN line is indented or damaged",
		},
		"two on a line": {strings.TrimSpace(one) + two, "has no END line before this one"},
		"line ends lost": {
			strings.ReplaceAll(one, "\n", " ") + "\n" + two,
			"line 1: BEGIN and END of a PEM block are on one line",
		},
		"line ends in words": {
			strings.ReplaceAll(one, "\n", `\n`),
			"line 1: BEGIN and END of a PEM block are on one line",
		},
		"line ends of old Macs": {
			strings.ReplaceAll(one, "\n", "\r"),
			"line 1: BEGIN and END of a PEM block are on one line",
		},
		"only an END":    {one + "-----END CERTIFICATE-----\n", "an END line without a BEGIN line"},
		"binary before":  {"\x00\x01\n" + one, "line 1: bytes that are not text"},
		"binary after":   {one + "\x00", "bytes that are not text"},
		"UTF-16":         {"\xff\xfe" + one, "text in UTF-16"},
		"DER":            {"\x30\x03\x02\x01\x00", "the file is DER"},
		"empty":          {"", "no certificate in PEM"},
		"text only":      {"hello\n", "no certificate in PEM"},
		"an empty block": {"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "is empty"},
		"a key": {
			one + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
			fmt.Sprintf(`line %d: the PEM block is a PRIVATE KEY, not a CERTIFICATE; keep private keys`, n),
		},
		"PKCS #7":                 {"-----BEGIN PKCS7-----\nAAAA\n-----END PKCS7-----\n", "openssl pkcs7 -print_certs"},
		"a certificate with text": {strings.ReplaceAll(one, "CERTIFICATE", "TRUSTED CERTIFICATE"), "openssl x509"},
	} {
		certs, err := pemfile.Certificates([]byte(c.text))
		var located *pemfile.Error
		if !errors.As(err, &located) || !strings.Contains(err.Error(), c.want) || certs != nil {
			t.Errorf("%s: %d certificates, %v\nwant %s", name, len(certs), err, c.want)
		}
		if pool, err := pemfile.Pool([]byte(c.text)); name != "a key" && (err == nil || pool != nil) {
			t.Errorf("%s: a pool of it", name)
		}
	}
}

// TestEveryByte damages a file with three certificates at each byte. The result is an error or all three certificates.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	var text string
	for _, name := range []string{"A", "B", "C"} {
		_, one := certificate(t, name)
		text += one
	}
	for i := range len(text) {
		for _, c := range []string{"", "!", "\n", " ", "-", "\x00", ":", "#", "A"} {
			damaged := text[:i] + c + text[i+1:]
			if certs, err := pemfile.Certificates([]byte(damaged)); err == nil && len(certs) != 3 {
				t.Fatalf("byte %d replaced by %q: %d certificates and no error", i, c, len(certs))
			}
		}
	}
	for i := range len(text) { // cut off at every byte except the end of a block
		certs, err := pemfile.Certificates([]byte(text[:i]))
		whole := strings.Count(text[:i], dashes+"END CERTIFICATE"+dashes)
		if err == nil && (len(certs) != whole || strings.Count(text[:i], dashes+"BEGIN ") != whole) {
			t.Fatalf("cut at byte %d: %d certificates and no error", i, len(certs))
		}
	}
}

const dashes = "-----"

// TestNoSecrets damages private keys. No error contains a part of the body.
func TestNoSecrets(t *testing.T) {
	t.Parallel()
	body := []string{
		"c2VjcmV0LWJ5dGVzLW9mLWEta2V5LW9uZS1saW5lLW9mLXNpeHR5LWZvdXItISE",
		"bW9yZS1zZWNyZXQtYnl0ZXMtb2YtYS1rZXk",
	}
	text := "-----BEGIN PRIVATE KEY-----\n" + strings.Join(body, "\n") + "=\n-----END PRIVATE KEY-----\n"
	for i := range len(text) {
		for _, c := range []string{"", "!", "\n", "-", "\x00", ": ", "-----END "} {
			_, err := pemfile.Only([]byte(text[:i]+c+text[i+1:]), "PUBLIC KEY")
			if err == nil {
				t.Fatalf("byte %d replaced by %q: accepted as a public key", i, c)
			}
			for _, line := range body {
				for from := 0; from+12 <= len(line); from++ {
					if strings.Contains(err.Error(), line[from:from+12]) {
						t.Fatalf("byte %d replaced by %q: %v", i, c, err)
					}
				}
			}
		}
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	text := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" +
		"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: " +
		"DES-EDE3-CBC,0123456789ABCDEF\n\nAAAA\nBBBB\n-----END EC PRIVATE KEY-----\n"
	got, err := pemfile.Decode([]byte(text))
	if err != nil || len(got) != 2 || got[1].Line != 4 ||
		got[1].Headers["DEK-Info"] != "DES-EDE3-CBC,0123456789ABCDEF" ||
		got[1].Headers["Proc-Type"] != "4,ENCRYPTED" || !bytes.Equal(got[1].Bytes, []byte{0, 0, 0, 4, 16, 65}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestOnly(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if got, err := pemfile.PublicKey([]byte("a comment\n" + text)); err != nil || !key.PublicKey.Equal(got) {
		t.Errorf("%v, %v", got, err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"two": {text + text, "line 5: 2 PEM blocks; exactly one"},
		"other": {
			strings.ReplaceAll(text, "PUBLIC", "PRIVATE"),
			`line 1: the PEM block is a PRIVATE KEY, not a PUBLIC KEY`,
		},
		"not a key": {
			"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
			"line 1: the public key is damaged",
		},
		"cut off":     {text[:60], "is truncated"},
		"nothing":     {"", "no PEM block"},
		"garbage end": {text + "\x01", "not text"},
		"text after":  {text + "\nx", "1 bytes after the PEM block"},
	} {
		if got, err := pemfile.PublicKey([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	a, one := certificate(t, "A")
	b, two := certificate(t, "B")
	want := x509.NewCertPool()
	want.AddCert(a)
	want.AddCert(b)
	list := "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
	if got, err := pemfile.Pool([]byte(one + list + two)); err != nil || !got.Equal(want) {
		t.Errorf("%v", err)
	}
	if got, err := pemfile.Pool([]byte(list)); err == nil || got != nil {
		t.Error("a pool without a certificate")
	}
}

func TestKeyPair(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(),
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	_, above := certificate(t, "above")
	chain := "\xef\xbb\xbf" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + above
	keyText := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	pair, err := pemfile.KeyPair([]byte(chain), []byte(keyText))
	if err != nil || len(pair.Certificate) != 2 || !key.Equal(pair.PrivateKey) {
		t.Errorf("%d certificates, %v", len(pair.Certificate), err)
	}
	var located *pemfile.Error
	damaged := strings.Replace(chain, above[30:40], "!", 1)
	if _, err := pemfile.KeyPair([]byte(damaged), []byte(keyText)); !errors.As(err, &located) {
		t.Errorf("a damaged certificate above the first: %v", err)
	}
	if _, err := pemfile.KeyPair([]byte(chain), []byte(keyText[:80])); !errors.As(err, &located) {
		t.Errorf("a key that is truncated: %v", err)
	}
}

// FuzzDecode compares Decode with encoding/pem: Decode returns every block that the standard library finds, or an
// error.
func FuzzDecode(f *testing.F) {
	_, one := certificate(f, "A")
	f.Add([]byte(one + one))
	f.Add([]byte("\xef\xbb\xbf" + one))
	f.Add([]byte("-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END A-----\n"))
	f.Add([]byte("text\n-----BEGIN A-----\nAA\n==\n-----END A-----\nmore"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := pemfile.Decode(data)
		var located *pemfile.Error
		switch {
		case err != nil && (!errors.As(err, &located) || located.Fix == "" || got != nil):
			t.Fatalf("%v without a place or a remedy", err)
		case err != nil:
			return
		case len(got) == 0:
			t.Fatal("neither blocks nor an error")
		}
		rest := bytes.ReplaceAll(data, []byte("\n\xef\xbb\xbf"), []byte("\n"))
		rest = bytes.TrimPrefix(rest, []byte("\xef\xbb\xbf"))
		for i := 0; ; i++ {
			var want *pem.Block
			if want, rest = pem.Decode(rest); want == nil {
				return // Decode may return more blocks, because the standard library skips some
			}
			for i < len(got) && (got[i].Type != want.Type || !bytes.Equal(got[i].Bytes, want.Bytes)) {
				got = append(got[:i], got[i+1:]...)
			}
			if i >= len(got) {
				t.Fatalf("a block of encoding/pem is missing: %q", want.Type)
			}
		}
	})
}

func TestLoadPool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	cert, text := certificate(t, "CA")
	pool, err := pemfile.LoadPool(file("ca.pem", []byte(text)), "ca_cert")
	if err != nil {
		t.Fatal(err)
	}
	want := x509.NewCertPool()
	want.AddCert(cert)
	if !pool.Equal(want) {
		t.Error("the pool is not the certificate of the file")
	}
	if pool, err := pemfile.LoadPool("", "ca_cert"); pool != nil || err != nil {
		t.Error("the system's CAs are not nil:", pool, err)
	}
	for name, problem := range map[string]string{
		file("empty", nil):                   "no certificate in PEM",
		file("large", make([]byte, 5<<20)):   "larger than",
		filepath.Join(dir, "does-not-exist"): "no such file",
	} {
		_, err := pemfile.LoadPool(name, "log", "ca_cert")
		s, ok := errors.AsType[*fault.Setting](err)
		if !ok || s.File != name || !slices.Equal(s.Path, []string{"log", "ca_cert"}) ||
			!strings.Contains(s.Problem, problem) || strings.Contains(s.Problem, name) || s.Fix == "" {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}
