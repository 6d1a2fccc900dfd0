package file_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer/file"
)

// Keys and forms that "openssl" makes. $KEY is the private key in PKCS#8, $CERT a certificate for it, $OUT the result.
var (
	opensslKeys = map[string]string{
		"p256":    "EC -pkeyopt ec_paramgen_curve:P-256",
		"p384":    "EC -pkeyopt ec_paramgen_curve:P-384",
		"p521":    "EC -pkeyopt ec_paramgen_curve:P-521",
		"rsa2048": "RSA -pkeyopt rsa_keygen_bits:2048",
		"rsa3072": "RSA -pkeyopt rsa_keygen_bits:3072",
		"rsa4096": "RSA -pkeyopt rsa_keygen_bits:4096",
		"ed25519": "ED25519",
	}
	opensslForms = map[string]string{
		"pkcs8.pem":       "pkey -in $KEY -out $OUT",
		"pkcs8-text.pem":  "pkey -in $KEY -text -out $OUT",
		"traditional.pem": "pkey -in $KEY -traditional -out $OUT",
		"scrypt.pem":      "pkcs8 -topk8 -scrypt -in $KEY -out $OUT -passout pass:secure",
		"scrypt-cost.pem": "pkcs8 -topk8 -scrypt -scrypt_N 32768 -scrypt_r 4 -scrypt_p 2 -in $KEY -out $OUT " +
			"-passout pass:secure",
		"pbes2-default.pem":               "pkcs8 -topk8 -in $KEY -out $OUT -passout pass:secure",
		"pbes2-des3.pem":                  "pkcs8 -topk8 -v2 des3 -in $KEY -out $OUT -passout pass:secure",
		"pbes2-iterations.pem":            "pkcs8 -topk8 -iter 100000 -in $KEY -out $OUT -passout pass:secure",
		"genpkey.pem":                     "pkey -in $KEY -aes256 -out $OUT -passout pass:secure",
		"legacy-des3.pem":                 "pkey -in $KEY -traditional -des3 -out $OUT -passout pass:secure",
		"legacy-aes128.pem":               "pkey -in $KEY -traditional -aes128 -out $OUT -passout pass:secure",
		"legacy-aes192.pem":               "pkey -in $KEY -traditional -aes192 -out $OUT -passout pass:secure",
		"legacy-aes256.pem":               "pkey -in $KEY -traditional -aes256 -out $OUT -passout pass:secure",
		"pkcs12.p12":                      pkcs12 + "",
		"pkcs12-sha512.p12":               pkcs12 + " -macalg sha512",
		"pkcs12-des3.p12":                 pkcs12 + " -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1",
		"pkcs12-certs-plain.p12":          pkcs12 + " -certpbe NONE",
		"pkcs12-iterations.p12":           pkcs12 + " -iter 100000",
		"pbes2-hmacWithSHA1-aes128.pem":   pbes2("hmacWithSHA1", "aes-128-cbc"),
		"pbes2-hmacWithSHA1-aes192.pem":   pbes2("hmacWithSHA1", "aes-192-cbc"),
		"pbes2-hmacWithSHA1-aes256.pem":   pbes2("hmacWithSHA1", "aes-256-cbc"),
		"pbes2-hmacWithSHA224-aes128.pem": pbes2("hmacWithSHA224", "aes-128-cbc"),
		"pbes2-hmacWithSHA224-aes192.pem": pbes2("hmacWithSHA224", "aes-192-cbc"),
		"pbes2-hmacWithSHA224-aes256.pem": pbes2("hmacWithSHA224", "aes-256-cbc"),
		"pbes2-hmacWithSHA256-aes128.pem": pbes2("hmacWithSHA256", "aes-128-cbc"),
		"pbes2-hmacWithSHA256-aes192.pem": pbes2("hmacWithSHA256", "aes-192-cbc"),
		"pbes2-hmacWithSHA256-aes256.pem": pbes2("hmacWithSHA256", "aes-256-cbc"),
		"pbes2-hmacWithSHA384-aes128.pem": pbes2("hmacWithSHA384", "aes-128-cbc"),
		"pbes2-hmacWithSHA384-aes192.pem": pbes2("hmacWithSHA384", "aes-192-cbc"),
		"pbes2-hmacWithSHA384-aes256.pem": pbes2("hmacWithSHA384", "aes-256-cbc"),
		"pbes2-hmacWithSHA512-aes128.pem": pbes2("hmacWithSHA512", "aes-128-cbc"),
		"pbes2-hmacWithSHA512-aes192.pem": pbes2("hmacWithSHA512", "aes-192-cbc"),
		"pbes2-hmacWithSHA512-aes256.pem": pbes2("hmacWithSHA512", "aes-256-cbc"),
		"pbes2-hmacWithSHA512-256.pem":    pbes2("hmacWithSHA512-256", "aes-256-cbc"),
	}
)

// formsOfEachKey are those whose content depends on the type of the key, and one of each kind of encryption.
var formsOfEachKey = []string{
	"pkcs8.pem", "pkcs8-text.pem", "traditional.pem", "pbes2-default.pem", "genpkey.pem",
	"legacy-aes256.pem", "pkcs12.p12",
}

const pkcs12 = "pkcs12 -export -inkey $KEY -in $CERT -out $OUT -passout pass:secure"

func pbes2(prf, cipher string) string {
	return "pkcs8 -topk8 -v2 " + cipher + " -v2prf " + prf + " -in $KEY -out $OUT -passout pass:secure"
}

// openssl runs a command whose words have no white space.
func openssl(t testing.TB, dir, command string, variables ...string) {
	t.Helper()
	words := strings.Fields(strings.NewReplacer(variables...).Replace(command))
	cmd := exec.CommandContext(t.Context(), "openssl", words...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(words, " "), err, out)
	}
}

// makeKey makes a key and what the forms need, in dir.
func makeKey(t testing.TB, dir, name string) {
	t.Helper()
	openssl(t, dir, "genpkey -algorithm "+opensslKeys[name]+" -out "+name+".key")
	openssl(t, dir, "pkey -in "+name+".key -pubout -out "+name+".pub")
	openssl(t, dir, "req -x509 -new -key "+name+".key -subj /CN=test -out "+name+".crt")
}

// makeForm writes a form of a key as NAME.FORM into dir, and reports whether openssl makes this form of this key.
func makeForm(t testing.TB, dir, name, form string) bool {
	t.Helper()
	if name == "ed25519" && (strings.HasPrefix(form, "legacy") || form == "traditional.pem") {
		return false // there is only PKCS#8 (RFC 8410 §7)
	}
	openssl(t, dir, opensslForms[form], "$KEY", name+".key", "$CERT", name+".crt", "$OUT", name+"."+form)
	return true
}

// checkForm reads a file that makeForm wrote, and compares the key with the public one beside it.
func checkForm(t *testing.T, dir, name, form string) {
	t.Helper()
	data := must[[]byte](t)(os.ReadFile(filepath.Join(dir, name+"."+form)))
	public := must[[]byte](t)(os.ReadFile(filepath.Join(dir, name+".pub")))
	block, _ := pem.Decode(public)
	want := must[any](t)(x509.ParsePKIXPublicKey(block.Bytes))
	old := strings.HasPrefix(form, "legacy") || form == "pbes2-des3.pem"
	protected := !strings.HasPrefix(form, "pkcs8") && form != "traditional.pem"
	var warnings []string
	o := file.KeyOptions{Key: data, Warn: func(problem, fix string) { warnings = append(warnings, problem+"; "+fix) }}
	if protected {
		o.Password = []byte("secure")
	}
	key, err := file.ParseKey(o)
	if err != nil {
		t.Errorf("%s, %s: %v", name, form, err)
		return
	}
	if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(want) { //nolint:forcetypeassert // each key has it
		t.Errorf("%s, %s: another key", name, form)
	}
	if (len(warnings) == 1) != old || old && !strings.Contains(warnings[0], "openssl pkcs8 -topk8 -v2 aes-256-cbc") {
		t.Errorf("%s, %s: warnings %q", name, form, warnings)
	}
	if !protected {
		return
	}
	for _, password := range []string{"", "wrong"} {
		o.Password = []byte(password)
		want := "; set "
		if password != "" {
			want = "cannot be decrypted: wrong password"
		}
		if _, err := file.ParseKey(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, %s with the password %q: %v", name, form, password, err)
		}
	}
}

// TestOpenSSLMatrix reads every form of every key that the installed openssl makes.
func TestOpenSSLMatrix(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	for name := range opensslKeys {
		if testing.Short() && name != "p384" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			makeKey(t, dir, name)
			for form := range opensslForms {
				// The encryption does not depend on the type of the key: all of its forms are tried with one type.
				if name != "p384" && !slices.Contains(formsOfEachKey, form) {
					continue
				}
				if makeForm(t, dir, name, form) {
					checkForm(t, dir, name, form)
				}
			}
		})
	}
}

var remake = flag.Bool("remake", false, "write testdata/openssl again")

// TestOpenSSLFiles reads the files in testdata/openssl, which OpenSSL 3.0 made: for machines without openssl, and so
// that a new version of openssl does not hide a form of an old one. With -remake it makes them again.
func TestOpenSSLFiles(t *testing.T) {
	t.Parallel()
	const dir = "testdata/openssl"
	if *remake {
		for _, name := range []string{"p256", "p521", "rsa2048", "ed25519"} {
			makeKey(t, dir, name)
			for form := range opensslForms {
				if name == "p256" || form == "pbes2-default.pem" || form == "pkcs12.p12" {
					makeForm(t, dir, name, form)
				}
			}
			for _, suffix := range []string{".key", ".crt"} {
				if err := os.Remove(filepath.Join(dir, name+suffix)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	files := must[[]os.DirEntry](t)(os.ReadDir(dir))
	n := 0
	for _, f := range files {
		name, form, _ := strings.Cut(f.Name(), ".")
		if form != "pub" {
			checkForm(t, dir, name, form)
			n++
		}
	}
	if n < len(opensslForms) {
		t.Errorf("%d files for %d forms", n, len(opensslForms))
	}
}

// TestDamage: each form that is cut off or changed gives an error, and not the one for a wrong password where the
// format tells them apart.
func TestDamage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file   string
		change func([]byte) []byte
		err    string
	}{
		"PBES2 cut": {
			"p256.pbes2-default.pem", reencode(func(b []byte) []byte { return b[:len(b)-20] }),
			"is damaged: it is not PKCS#8",
		},
		"PBES2 changed": {
			"p256.pbes2-default.pem", reencode(func(b []byte) []byte { b[len(b)-20] ^= 1; return b }),
			"wrong password, or the encrypted bytes are damaged",
		},
		"PBES2, no salt": {
			"p256.pbes2-default.pem",
			reencode(func(b []byte) []byte { return bytes.Replace(b, []byte{4, 8}, []byte{5, 8}, 1) }),
			"is damaged: it is not PKCS#8",
		},
		"scrypt, N is 3": {
			"p256.scrypt.pem",
			reencode(func(b []byte) []byte {
				return bytes.Replace(b, []byte{2, 2, 0x40, 0}, []byte{2, 2, 0x40, 1}, 1)
			}), "is damaged: it is not PKCS#8",
		},
		"PKCS#12 cut": {
			"p256.pkcs12.p12", func(b []byte) []byte { return b[:len(b)-20] },
			"the PKCS#12 file is damaged",
		},
		"PKCS#12 changed": {"p256.pkcs12.p12", func(b []byte) []byte { b[200] ^= 1; return b }, "wrong password"},
		"legacy changed": {
			"p256.legacy-aes256.pem", reencode(func(b []byte) []byte { b[40] ^= 1; return b }),
			"wrong password, or the encrypted bytes are damaged",
		},
		"legacy cut": {
			"p256.legacy-aes256.pem", reencode(func(b []byte) []byte { return b[:len(b)-3] }),
			"the headers of the private key are damaged",
		},
		"PBES1": {"", nil, "old scheme 1.2.840.113549.1.5.3, which is not supported; convert it with"},
	} {
		var data []byte
		if c.file == "" {
			data = pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte(
				"\x30\x1f\x30\x1b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x03\x30\x0e\x04\x08saltsalt\x02\x02\x08\x00\x04\x00")})
		} else {
			data = c.change(must[[]byte](t)(os.ReadFile(filepath.Join("testdata/openssl", c.file))))
		}
		_, err := file.ParseKey(file.KeyOptions{Key: data, Password: []byte("secure")})
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
	}
}

// reencode changes the bytes of a PEM block.
func reencode(change func([]byte) []byte) func([]byte) []byte {
	return func(data []byte) []byte {
		b, _ := pem.Decode(data)
		b.Bytes = change(b.Bytes)
		return pem.EncodeToMemory(b)
	}
}

// TestCost: a file cannot make the start of the CA take minutes or gigabytes.
func TestCost(t *testing.T) {
	t.Parallel()
	iterations := []byte{2, 2, 8, 0}
	for name, c := range map[string]struct {
		file     string
		from, to []byte
	}{
		"PBKDF2": {"p256.pbes2-default.pem", iterations, []byte{2, 4, 0x7f, 0xff, 0xff, 0xff}},
		"PBKDF2, giant": {
			"p256.pbes2-default.pem", iterations,
			[]byte{2, 8, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		},
		"scrypt N": {
			"p256.scrypt.pem",
			[]byte{2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1},
			[]byte{2, 4, 0x40, 0, 0, 0, 2, 1, 8, 2, 1, 1},
		},
		"scrypt r": {
			"p256.scrypt.pem",
			[]byte{2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1},
			[]byte{2, 2, 0x40, 0, 2, 4, 0x40, 0, 0, 0, 2, 1, 1},
		},
		"scrypt p": {
			"p256.scrypt.pem",
			[]byte{2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1},
			[]byte{2, 2, 0x40, 0, 2, 1, 8, 2, 4, 0x40, 0, 0, 0},
		},
		"PKCS#12 MAC": {"p256.pkcs12.p12", iterations, []byte{2, 4, 0x7f, 0xff, 0xff, 0xff}},
	} {
		data := must[[]byte](t)(os.ReadFile(filepath.Join("testdata/openssl", c.file)))
		der := data
		block, _ := pem.Decode(data)
		if block != nil {
			der = block.Bytes
		}
		der, err := replaceDER(der, c.from, c.to)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		data = der
		if block != nil {
			block.Bytes = der
			data = pem.EncodeToMemory(block)
		}
		if _, err := file.ParseKey(file.KeyOptions{Key: data, Password: []byte("secure")}); err == nil ||
			!strings.Contains(err.Error(), "the key derivation of the private key asks for ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// replaceDER replaces the last occurrence of from within DER, and writes the lengths of the elements around it again.
func replaceDER(der, from, to []byte) ([]byte, error) {
	if !bytes.Contains(der, from) {
		return nil, fmt.Errorf("%x is not in the file", from)
	}
	var rebuild func([]byte) ([]byte, bool)
	rebuild = func(in []byte) ([]byte, bool) {
		if bytes.HasPrefix(in, from) {
			return append(bytes.Clone(to), in[len(from):]...), true
		}
		var out []byte
		for len(in) > 0 {
			head, content, rest := element(in)
			if content == nil {
				return nil, false
			}
			if bytes.HasPrefix(in, from) {
				return append(append(out, to...), in[len(from):]...), true
			}
			if (head&0x20 != 0 || head == 4) && bytes.Contains(content, from) && !bytes.Contains(rest, from) {
				inner, ok := rebuild(content)
				if !ok {
					return nil, false
				}
				return append(append(append(out, head), lengthOf(inner)...), append(inner, rest...)...), true
			}
			out = append(out, in[:len(in)-len(rest)]...)
			in = rest
		}
		return nil, false
	}
	out, ok := rebuild(der)
	if !ok {
		return nil, fmt.Errorf("%x is not an element", from)
	}
	return out, nil
}

func element(in []byte) (head byte, content, rest []byte) {
	if len(in) < 2 {
		return 0, nil, nil
	}
	n, at := int(in[1]), 2
	if n >= 0x80 {
		size := n & 0x7f
		n = 0
		for range size {
			n, at = n<<8|int(in[at]), at+1
		}
	}
	if at+n > len(in) {
		return 0, nil, nil
	}
	return in[0], in[at : at+n : at+n], in[at+n:]
}

func lengthOf(content []byte) []byte {
	switch n := len(content); {
	case n < 0x80:
		return []byte{byte(n)}
	case n < 0x100:
		return []byte{0x81, byte(n)}
	default:
		return []byte{0x82, byte(n >> 8), byte(n)}
	}
}
