package file

import (
	"bytes"
	"crypto"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// isPKCS12 reports whether data begins like a PFX (RFC 7292 §4): SEQUENCE { INTEGER 3, SEQUENCE. A private key in DER
// begins with the version 0 or 1.
func isPKCS12(data []byte) bool {
	in := cryptobyte.String(data)
	var rest, version cryptobyte.String
	var tag asn1.Tag
	if len(data) == 0 || data[0] != 0x30 {
		return false
	}
	if in.ReadASN1(&rest, asn1.SEQUENCE) {
		return rest.ReadASN1(&version, asn1.INTEGER) && bytes.Equal(version, []byte{3}) &&
			(rest.Empty() || rest.ReadAnyASN1(&version, &tag))
	}
	i := bytes.Index(data[:min(len(data), 16)], []byte{2, 1, 3, 0x30}) // truncated, or in BER
	return i >= 2 && i <= 6
}

const fromPKCS12 = "convert it with \"openssl pkcs12 -in KEY -nocerts -out NEW\""

var errPKCS12 = &pemfile.Error{
	Problem: "the PKCS#12 file is damaged, or not in DER",
	Fix:     "restore the file, or " + fromPKCS12,
}

// parsePKCS12 reads the key of a PKCS#12 file that has a password. Its certificates are not used, because the chain is
// in a separate file.
func (o KeyOptions) parsePKCS12() (crypto.Signer, error) {
	switch {
	case len(o.AgeIdentities) > 0:
		return nil, &pemfile.Error{
			Problem: "an age identity is set, but the private key is in a PKCS#12 file",
			Fix:     "set its password instead",
		}
	case len(o.Password) == 0:
		return nil, &pemfile.Error{Problem: "the private key is in a PKCS#12 file", Fix: "set its password"}
	}
	if err := approved("PKCS#12"); err != nil {
		return nil, err
	}
	w := work{}
	if !w.measure(o.Key, 0) {
		return nil, errPKCS12
	}
	if w.iterations > maxIterations {
		return nil, &pemfile.Error{Problem: expensive("too many iterations", maxIterations).Problem, Fix: fromPKCS12}
	}
	key, _, _, err := pkcs12.DecodeChain(o.Key, string(o.Password))
	var missing pkcs12.NotImplementedError
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, &pemfile.Error{
			Problem: "the PKCS#12 file cannot be decrypted: wrong password",
			Fix:     "set the password that the file was written with",
		}
	case errors.As(err, &missing):
		return nil, &pemfile.Error{Problem: "the PKCS#12 file uses an algorithm that is not supported", Fix: fromPKCS12}
	case err != nil: // the cause may quote bytes of the key
		return nil, &pemfile.Error{
			Problem: "the PKCS#12 file is damaged, or does not contain one private key and its certificate",
			Fix:     "write it with \"openssl pkcs12 -export -inkey KEY -in CERTIFICATE -out NEW\", or " + fromPKCS12,
		}
	}
	return signing(key)
}

// work adds up the iteration counts of a PKCS#12 file that can be read without its password: all those that are
// computed before the MAC shows that the file is authentic, and most of the others.
type work struct{ iterations int64 }

const maxDepth = 32 // of nested elements; a PKCS#12 file has about 15

// measure walks through DER and into OCTET STRINGs that contain DER. Each structure with an iteration count has the
// salt, an OCTET STRING, immediately before it: MacData, pkcs-12PbeParams (RFC 7292 §4 and appendix C), PBKDF2-params
// (RFC 8018 appendix A.2). It returns false if data is not DER, or if a count is not positive.
func (w *work) measure(data []byte, depth int) bool {
	in := cryptobyte.String(data)
	salt := false
	for !in.Empty() {
		var content cryptobyte.String
		var tag asn1.Tag
		element := in
		if depth > maxDepth || !in.ReadAnyASN1(&content, &tag) {
			return false
		}
		switch {
		case tag == asn1.INTEGER && salt:
			var n int64
			if !element.ReadASN1Integer(&n) || n < 1 {
				return false
			}
			w.iterations += min(n, maxIterations+1)
		case tag&0x20 != 0: // constructed
			if !w.measure(content, depth+1) {
				return false
			}
		case tag == asn1.OCTET_STRING && bytes.HasPrefix(content, []byte{0x30}):
			inner := work{}
			if inner.measure(content, depth+1) { // otherwise not DER: ciphertext
				w.iterations += inner.iterations
			}
		}
		salt = tag == asn1.OCTET_STRING
	}
	return true
}
