// Package pemfile reads files in PEM, the textual encoding of RFC 7468, and reports every damaged block.
//
// The decoder of the standard library skips blocks that it cannot decode: if one character of a file is damaged, it
// returns fewer blocks and no error. In this package a block that cannot be decoded is an error, with its line and what
// to do. Text is allowed before, between and after the blocks, as OpenSSL, PKCS #12 tools and CA bundles write it (RFC
// 7468 §5.2: subject, issuer, bag attributes, comments), unless it looks like a part of a block. A byte-order mark at
// the beginning of a line is ignored, and lines may end in CR LF.
//
// An error MUST NOT contain any byte of the body of a block, which may be a private key.
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
	rest    []byte            // the file after the END line
}

// Error is an error in a file, with its line and what to do.
type Error struct {
	Line    int // from 1; 0 is the file as a whole
	Problem string
	Fix     string
}

// Error returns line, problem and fix.
func (e *Error) Error() string { return e.What() + "; " + e.Fix }

// What returns line and problem.
func (e *Error) What() string {
	if e.Line == 0 {
		return e.Problem
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Problem)
}

// Remedy returns the fix.
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

// encoded returns an error if data is UTF-16 or DER instead of PEM.
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

// text checks a line outside of a block.
func (l *lines) text() error {
	begins, ends := bytes.Contains(l.line, []byte(dash+"BEGIN")), bytes.Contains(l.line, []byte(dash+"END"))
	fail := func(problem, fix string) error { return &Error{Line: l.n, Problem: problem, Fix: fix} }
	switch {
	case bytes.HasPrefix(bytes.TrimLeft(l.line, " \t"), []byte("#")) && !binary(l.line):
		return nil // a comment, or a block that was commented out
	case begins && ends:
		return fail("BEGIN and END of a PEM block are on one line: the line ends are missing",
			"restore the line ends, one after each 64 characters")
	case begins && bytes.HasPrefix(bytes.TrimLeft(l.line, " \t"), []byte(begin)):
		return fail("the BEGIN line is indented or damaged", "begin the line with -----BEGIN and end it with -----")
	case begins:
		return fail("there is text before or after -----BEGIN on its line",
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

// strayBase64 reports whether line is one word of base64. A row of "=" below a title is not.
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

// block reads the block whose BEGIN line is the current line.
func (l *lines) block(label string) (Block, error) {
	b := Block{Type: label, Line: l.n}
	what := fmt.Sprintf("the %.40q block that begins on line %d", label, b.Line)
	if label == "" {
		what = fmt.Sprintf("the block that begins on line %d", b.Line)
	}
	fail := func(problem string) error { return &Error{Line: l.n, Problem: problem, Fix: restore} }
	body := make([]byte, 0, max(0, bytes.Index(l.rest, []byte(dash))))
	headers := false // the last line was a header; another header or an empty line must follow
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
	return b, &Error{Line: b.Line, Problem: what + " has no END line: the file is truncated", Fix: restore}
}

// decode decodes the body of a block whose lines have been read.
func (l *lines) decode(b Block, body []byte, what string) (Block, error) {
	b.Bytes = make([]byte, base64.StdEncoding.DecodedLen(len(body)))
	n, err := base64.StdEncoding.Decode(b.Bytes, body)
	switch {
	case err != nil:
		return b, &Error{Line: b.Line, Problem: what +
			" is damaged: its base64 has missing or extra characters", Fix: restore}
	case n == 0:
		return b, &Error{Line: b.Line, Problem: what + " is empty", Fix: restore}
	}
	b.Bytes, b.rest = b.Bytes[:n], l.rest
	return b, nil
}

// Only returns the single block of data, which must have one of the types; without types, any. Only white space may
// follow the block, so that no other program can read a different block from the same file. Its errors are [*Error]
// values.
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
			Fix: "keep only the intended block",
		}
	case len(rest) > 0:
		return Block{}, &Error{
			Problem: fmt.Sprintf("%d bytes after the PEM block; exactly one block is expected", len(rest)),
			Fix:     "remove the text after the END line",
		}
	}
	return b, nil
}

// other returns the error for a block of an unexpected type.
func other(b Block, types ...string) error {
	e := &Error{
		Line:    b.Line,
		Problem: fmt.Sprintf("the PEM block is a %.40s, not a %s", b.Type, strings.Join(types, " or a ")),
		Fix:     "write the path of a file that contains one",
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

// noCertificate returns err with a text about certificates if data has no block.
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
// [x509.CertPool.AppendCertsFromPEM] it skips no damaged certificate, but returns an error. Blocks of other types, such
// as revocation lists, are skipped. Its errors are [*Error] values.
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

// Pool returns the certificates of [Roots] in a new pool.
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

// LoadPool reads a pool from the file that a setting names (see [Pool]). If name is empty it returns nil, which means
// the CAs of the system. Its errors are [fault.Setting] values with the path of the setting.
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

// maxBundle is the size limit of a file of CA certificates in bytes. The file of a Linux distribution has about 220 kB.
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

// LoadKeyPair reads a key pair from two files (see [KeyPair]). Its errors name the file.
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
		return nil, &Error{Line: b.Line, Problem: "the public key is damaged, or of an unknown type: " +
			err.Error(), Fix: restore}
	}
	return key, nil
}
