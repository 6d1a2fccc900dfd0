// Package pemfile reads files in PEM, the textual encoding of RFC 7468, without losing anything.
//
// The decoder of the standard library silently skips what it cannot decode: a file with one damaged character gives
// fewer blocks and no error. Here each BEGIN line either leads to a decoded block, or to an error with its line and a
// remedy. Text is allowed before, between and after the blocks, as OpenSSL, PKCS #12 tools and CA bundles write it
// (RFC 7468 §5.2: subject, issuer, bag attributes, comments), but nothing that looks like a part of a block. A
// byte-order mark at the beginning of a line is ignored, and lines may end in CR LF.
//
// No error contains a byte of a body, which may be a private key.
package pemfile

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/input"
)

// Block is one PEM block.
type Block struct {
	Type    string            // the label, such as "CERTIFICATE"
	Headers map[string]string // RFC 1421 §4.6 headers of old encrypted keys; usually nil
	Bytes   []byte            // the decoded body
	Line    int               // of the BEGIN line in the file, from 1
	rest    []byte            // offset in the file after the END line
}

// Error is an error in a file, with its place and its remedy.
type Error struct {
	Line    int // from 1; 0 is the file as a whole
	Problem string
	Fix     string
}

// Error returns place, problem and remedy on one line.
func (e *Error) Error() string { return e.What() + "; " + e.Fix }

// What returns place and problem.
func (e *Error) What() string {
	if e.Line == 0 {
		return e.Problem
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Problem)
}

// Remedy returns what to do.
func (e *Error) Remedy() string { return e.Fix }

const (
	begin = "-----BEGIN "
	end   = "-----END "
	dash  = "-----"
	mark  = "\xef\xbb\xbf" // the byte-order mark in UTF-8

	restore = "restore the file from where it came from"
)

// Decode returns all blocks of data, at least one. Its errors are [*Error] values.
func Decode(data []byte) ([]Block, error) {
	if err := encoded(data); err != nil {
		return nil, err
	}
	var blocks []Block
	in := lines{rest: data}
	for in.next() {
		label, ok := labelOf(in.line, begin)
		if !ok {
			if err := in.text(); err != nil {
				return nil, err
			}
			continue
		}
		b, err := in.block(label)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, b)
	}
	if len(blocks) == 0 {
		return nil, &Error{Problem: "no PEM block", Fix: "write the path of a file with -----BEGIN … -----"}
	}
	return blocks, nil
}

// encoded detects files in a text encoding that does not extend ASCII.
func encoded(data []byte) error {
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return &Error{Problem: "the file is text in UTF-16", Fix: "save it in UTF-8 or ASCII"}
	case len(data) > 0 && data[0] == 0x30 && !bytes.Contains(data, []byte(begin)):
		var der asn1.RawValue
		if rest, err := asn1.Unmarshal(data, &der); err == nil && len(rest) == 0 {
			return &Error{
				Problem: "no PEM block: the file is DER",
				Fix:     "convert it to PEM, with openssl and -inform der",
			}
		}
	}
	return nil
}

// lines reads a file line by line.
type lines struct {
	rest []byte
	line []byte // without line end, byte-order mark and trailing white space
	n    int    // its number, from 1
}

func (l *lines) next() bool {
	if len(l.rest) == 0 {
		return false
	}
	l.line, l.rest, _ = bytes.Cut(l.rest, []byte{'\n'})
	l.line = bytes.TrimPrefix(l.line, []byte(mark))
	l.line = bytes.TrimRight(l.line, " \t\r")
	l.n++
	return true
}

// labelOf returns the label of a BEGIN or an END line (RFC 7468 §3).
func labelOf(line []byte, start string) (string, bool) {
	label, ok := bytes.CutPrefix(line, []byte(start))
	if !ok {
		return "", false
	}
	label, ok = bytes.CutSuffix(label, []byte(dash))
	if !ok || bytes.Contains(label, []byte(dash)) {
		return "", false
	}
	for _, c := range label {
		if c < ' ' || c > '~' {
			return "", false
		}
	}
	return string(label), true
}

// text checks a line that is outside of all blocks.
func (l *lines) text() error {
	begins, ends := bytes.Contains(l.line, []byte(dash+"BEGIN")), bytes.Contains(l.line, []byte(dash+"END"))
	fail := func(problem, fix string) error { return &Error{Line: l.n, Problem: problem, Fix: fix} }
	switch {
	case bytes.HasPrefix(bytes.TrimLeft(l.line, " \t"), []byte("#")) && !binary(l.line):
		return nil // a comment, or a block that was commented out
	case begins && ends:
		return fail("BEGIN and END of a PEM block are on one line: its line ends are missing",
			"put back the line ends, one after each 64 characters")
	case begins && bytes.HasPrefix(bytes.TrimLeft(l.line, " \t"), []byte(begin)):
		return fail("the BEGIN line is indented or damaged", "begin the line with -----BEGIN and end it with -----")
	case begins:
		return fail("there is something before or after -----BEGIN on its line",
			"put -----BEGIN at the beginning of a line of its own")
	case ends:
		return fail("an END line without a BEGIN line before it", restore)
	case binary(l.line):
		return fail("bytes that are not text, outside of a PEM block", restore)
	case len(l.line) >= 40 && strayBase64(bytes.TrimLeft(l.line, " \t")):
		return fail("a line of base64 outside of a PEM block: its BEGIN line is missing or damaged", restore)
	}
	return nil
}

// binary reports whether line has control characters.
func binary(line []byte) bool {
	return bytes.ContainsFunc(line,
		func(r rune) bool { return r < ' ' && r != '\t' && r != '\r' && r != '\f' || r == 0x7f })
}

// strayBase64 reports whether line is one word of base64, and not a row of "=" below a title.
func strayBase64(line []byte) bool {
	body := bytes.TrimRight(line, "=")
	if len(line)-len(body) > 2 {
		return false
	}
	for _, c := range body {
		if !base64Char(c) {
			return false
		}
	}
	return true
}

func base64Char(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/'
}

// block reads the block whose BEGIN line is the current one.
func (l *lines) block(label string) (Block, error) {
	b := Block{Type: label, Line: l.n}
	what := fmt.Sprintf("the %.40q block that begins on line %d", label, b.Line)
	if label == "" {
		what = fmt.Sprintf("the block that begins on line %d", b.Line)
	}
	fail := func(problem string) error { return &Error{Line: l.n, Problem: problem, Fix: restore} }
	body := make([]byte, 0, max(0, bytes.Index(l.rest, []byte(dash))))
	headers := false // the last line was a header, so another header or an empty line must follow
	for l.next() {
		if bytes.HasPrefix(l.line, []byte(dash)) {
			other, ok := labelOf(l.line, end)
			switch {
			case !ok:
				return b, fail(what + " has no END line before this one")
			case other != label:
				return b, fail(fmt.Sprintf("%s ends as %.40q", what, other))
			}
			return l.decode(b, body, what)
		}
		if key, value, ok := bytes.Cut(l.line, []byte(": ")); ok && len(body) == 0 && (headers || b.Headers == nil) {
			if b.Headers == nil {
				b.Headers = map[string]string{}
			}
			b.Headers[string(bytes.TrimSpace(key))] = string(bytes.TrimSpace(value))
			headers = true
			continue
		}
		if headers && len(l.line) > 0 {
			return b, fail("no empty line after the headers, in " + what)
		}
		headers = false
		for i, c := range l.line {
			switch {
			case c == ' ' || c == '\t':
			case base64Char(c) || c == '=':
				body = append(body, c)
			default:
				return b, fail(fmt.Sprintf("character %d is not base64, in %s", i+1, what))
			}
		}
	}
	return b, &Error{Line: b.Line, Problem: what + " has no END line: the file is cut off", Fix: restore}
}

// decode decodes the text of a block.
func (l *lines) decode(b Block, body []byte, what string) (Block, error) {
	b.Bytes = make([]byte, base64.StdEncoding.DecodedLen(len(body)))
	n, err := base64.StdEncoding.Decode(b.Bytes, body)
	switch {
	case err != nil:
		return b, &Error{Line: b.Line, Problem: what +
			" is damaged: characters of its base64 are missing, or there are too many", Fix: restore}
	case n == 0:
		return b, &Error{Line: b.Line, Problem: what + " is empty", Fix: restore}
	}
	b.Bytes, b.rest = b.Bytes[:n], l.rest
	return b, nil
}

// Only returns the one block of data, which has one of the types; none means any. Only white space may follow it: two
// readers of the same file cannot see two different blocks. Its errors are [*Error] values.
func Only(data []byte, types ...string) (Block, error) {
	blocks, err := Decode(data)
	if err != nil {
		return Block{}, err
	}
	b := blocks[0]
	switch rest := bytes.TrimSpace(b.rest); {
	case len(types) > 0 && !slices.Contains(types, b.Type):
		return Block{}, other(b, types...)
	case len(blocks) > 1:
		return Block{}, &Error{
			Line: blocks[1].Line, Problem: fmt.Sprintf("%d PEM blocks; exactly one is expected", len(blocks)),
			Fix: "keep the one that is meant",
		}
	case len(rest) > 0:
		return Block{}, &Error{
			Problem: fmt.Sprintf("%d bytes after the PEM block; exactly one block is expected", len(rest)),
			Fix:     "remove what follows the END line",
		}
	}
	return b, nil
}

// other returns the error for a block of another type than the accepted ones.
func other(b Block, types ...string) error {
	e := &Error{
		Line:    b.Line,
		Problem: fmt.Sprintf("the PEM block is a %.40s, not a %s", b.Type, strings.Join(types, " or a ")),
		Fix:     "write the path of a file that holds one",
	}
	switch {
	case b.Type == "PKCS7" || b.Type == "CMS":
		e.Fix = "convert it with \"openssl pkcs7 -print_certs\""
	case b.Type == "TRUSTED CERTIFICATE":
		e.Fix = "convert it with \"openssl x509\""
	case strings.HasSuffix(b.Type, "PRIVATE KEY"):
		e.Fix = "keep private keys in a file of their own"
	}
	return e
}

// Certificates returns the certificates of data, at least one, in their order. A block of another type, or without a
// certificate, is an error. Its errors are [*Error] values.
func Certificates(data []byte) ([]*x509.Certificate, error) {
	blocks, err := Decode(data)
	if err != nil {
		return nil, noCertificate(err)
	}
	return certificates(blocks)
}

// noCertificate changes the text of err for callers that expect certificates.
func noCertificate(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Problem == "no PEM block" {
		return &Error{
			Problem: "no certificate in PEM",
			Fix:     "write the path of a file with -----BEGIN CERTIFICATE-----",
		}
	}
	return err
}

func certificates(blocks []Block) ([]*x509.Certificate, error) {
	certs := make([]*x509.Certificate, 0, len(blocks))
	for i, b := range blocks {
		// the second is an old name of the first (RFC 7468 §5.1)
		if b.Type != "CERTIFICATE" && b.Type != "X509 CERTIFICATE" {
			return nil, other(b, "CERTIFICATE")
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, &Error{
				Line: b.Line, Problem: fmt.Sprintf("certificate %d is damaged: %v", i+1, err),
				Fix: restore + ", or remove the certificate",
			}
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// Roots returns the certificates of a bundle of CA certificates, at least one. Unlike
// [x509.CertPool.AppendCertsFromPEM] it skips no certificate: one that cannot be read is an error. Blocks of other
// types, such as revocation lists, are skipped. Its errors are [*Error] values.
func Roots(data []byte) ([]*x509.Certificate, error) {
	blocks, err := Decode(data)
	if err != nil {
		return nil, noCertificate(err)
	}
	of := slices.DeleteFunc(slices.Clone(blocks), func(b Block) bool {
		return !strings.HasSuffix(b.Type, "CERTIFICATE") && !strings.HasPrefix(b.Type, "PKCS")
	})
	if len(of) == 0 {
		return nil, other(blocks[0], "CERTIFICATE")
	}
	return certificates(of)
}

// Pool is [Roots] as a new pool.
func Pool(data []byte) (*x509.CertPool, error) {
	certs, err := Roots(data)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

// LoadPool is [Pool] of a file that a setting names. Without a name it returns nil, which means the CAs of the system.
// Its errors are [fault.Setting] values at the path of the setting.
func LoadPool(name string, setting ...string) (*x509.CertPool, error) {
	const fix = "write the path of CA certificates in PEM"
	if name == "" {
		return nil, nil //nolint:nilnil // nil is a pool in crypto/tls: that of the system
	}
	data, err := bounded.ReadFile(name, maxBundle)
	if err != nil {
		s := fault.BadFile(name, err, setting...)
		s.Fix = cmp.Or(s.Fix, fix)
		return nil, s
	}
	pool, err := Pool(data)
	if err != nil {
		return nil, fault.BadContent(err, fix, setting...).In(name)
	}
	return pool, nil
}

// maxBundle bounds a file of CA certificates: the bundle of a Linux distribution has about 220 kB.
const maxBundle = 4 << 20

// KeyPair returns a certificate chain and its private key for TLS, as [tls.X509KeyPair] does. Damage of either file is
// an [*Error].
func KeyPair(certificate, key []byte) (tls.Certificate, error) {
	for _, file := range []*[]byte{&certificate, &key} {
		blocks, err := Decode(*file)
		if err != nil {
			return tls.Certificate{}, err
		}
		var again []byte
		for _, b := range blocks {
			again = append(again, pem.EncodeToMemory(&pem.Block{Type: b.Type, Headers: b.Headers, Bytes: b.Bytes})...)
		}
		*file = again
	}
	return tls.X509KeyPair(certificate, key)
}

// Read returns the content of a file, as [input.Read] does: a file that is empty or too large is an error.
func Read(name string) ([]byte, error) { return input.Read(nil, name) }

// LoadKeyPair is [KeyPair] for two files. Its errors name the invalid file.
func LoadKeyPair(certificate, key string) (tls.Certificate, error) {
	var content [2][]byte
	for i, name := range []string{certificate, key} {
		var err error
		if content[i], err = os.ReadFile(name); err == nil {
			_, err = Decode(content[i])
		}
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return KeyPair(content[0], content[1])
}

// PublicKey returns the one public key of data, a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7). Its errors are [*Error]
// values.
func PublicKey(data []byte) (crypto.PublicKey, error) {
	b, err := Only(data, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return nil, &Error{Line: b.Line, Problem: "the public key is damaged, or of a kind that is not known: " +
			err.Error(), Fix: restore}
	}
	return key, nil
}
