package file

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/x509"
	encasn1 "encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// KeyOptions for [ParseKey].
type KeyOptions struct {
	// Key is the content of a file with one private key. It is one of these:
	//   - PEM: PKCS#8 (RFC 5958), PKCS#8 encrypted with PBES2 (RFC 8018 §6.2), SEC 1 (RFC 5915) or PKCS#1 (RFC 8017).
	//     The last two may have OpenSSL's old encryption with PEM headers (RFC 1421).
	//   - PKCS#12 (RFC 7292) in DER.
	//   - age-encryption.org/v1, binary or armored, of an unencrypted key in PEM.
	Key []byte
	// Password decrypts an encrypted key; it is ignored for an unencrypted key.
	Password []byte
	// AgeIdentities is the content of a file that age-keygen wrote. It decrypts a key that age encrypted to a
	// recipient.
	AgeIdentities []byte
	// Warn is called with a problem of a key that works, and with the remedy. Optional.
	Warn func(problem, fix string)
}

// Limits of the parameters of a file, before it is known to be authentic. The slowest key derivation takes a few
// seconds.
const (
	maxKey        = 16 << 10   // bytes of a private key in DER; RSA with 4096 bits has 2.4 kB
	maxIterations = 10_000_000 // of a hash in a key derivation; OpenSSL writes 2048, OWASP advises 600,000
	maxScrypt     = 1 << 23    // N·r·p of scrypt, which takes 128·N·r bytes of memory: 1 GiB
	maxAgeLogN    = 20         // the same bound for age, whose r is 8; age writes 18
)

// Commands that convert a key to an accepted format.
const (
	toPKCS8 = "\"openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -iter 600000 -in KEY -out NEW\""
	encrypt = "encrypt it with " + toPKCS8
	convert = "convert it with " + toPKCS8
)

// ParseKey returns the key as a signer. Its errors are [*pemfile.Error] values; they say what to do.
func ParseKey(o KeyOptions) (crypto.Signer, error) {
	if o.Warn == nil {
		o.Warn = func(string, string) {}
	}
	switch {
	case isAge(o.Key):
		return o.parseAge()
	case isPKCS12(o.Key):
		return o.parsePKCS12()
	case len(o.AgeIdentities) > 0:
		return nil, &pemfile.Error{
			Problem: "an age identity is set, but the private key is not encrypted with age",
			Fix:     "encrypt it with \"age -r RECIPIENT -o NEW KEY\", or remove the identity",
		}
	case bytes.HasPrefix(o.Key, []byte{0x30}):
		return nil, &pemfile.Error{
			Problem: "the file is DER, but not PKCS#12",
			Fix:     "convert it with \"openssl pkcs8 -topk8 -v2 aes-256-cbc -inform der -in KEY -out NEW\"",
		}
	}
	return o.parsePEM()
}

// parsePEM reads the single private key of a file in PEM.
func (o KeyOptions) parsePEM() (crypto.Signer, error) {
	block, err := only(o.Key)
	if err != nil {
		return nil, err
	}
	fail := func(problem, fix string) error { return &pemfile.Error{Line: block.Line, Problem: problem, Fix: fix} }
	legacy := block.Headers["DEK-Info"] != ""
	encrypted := legacy || block.Type == "ENCRYPTED PRIVATE KEY"
	switch {
	case len(block.Bytes) > maxKey:
		return nil, fail(fmt.Sprintf("the private key has more than %d bytes", maxKey),
			"use an ECDSA or Ed25519 key, or an RSA key of 2048 to 4096 bits")
	case encrypted && len(o.Password) == 0:
		return nil, fail("the private key is encrypted", "set its password")
	case !encrypted && len(o.Password) > 0:
		o.Warn("a password is set, but the private key is not encrypted", encrypt+", or remove the password")
	}
	der := block.Bytes
	switch {
	case legacy:
		der, err = o.decryptLegacy(block)
	case encrypted:
		der, err = o.decryptPKCS8(der)
	}
	if err == nil {
		var key crypto.Signer
		if key, err = parseDER(block.Type, der); err == nil {
			return key, nil
		}
		if encrypted { // the cause may quote bytes of the key
			err = errPassword
		}
	}
	var e *pemfile.Error
	if errors.As(err, &e) {
		at := *e
		at.Line = block.Line
		return nil, &at
	}
	return nil, fail(err.Error(), "restore the file")
}

// errPassword is the error for decrypted bytes that are not a private key. Neither the old PEM encryption nor PBES2 has
// integrity protection, so that a wrong password and a damaged file cannot be told apart.
var errPassword = &pemfile.Error{
	Problem: "the private key cannot be decrypted: wrong password, or the encrypted bytes are damaged",
	Fix:     "set the password that the key was encrypted with, or restore the file",
}

// decryptLegacy decrypts OpenSSL's old PEM encryption (RFC 1421 §4.6.1.3).
func (o KeyOptions) decryptLegacy(block pemfile.Block) ([]byte, error) {
	if err := approved("the old PEM encryption (DEK-Info)"); err != nil {
		return nil, err
	}
	o.Warn("the private key is encrypted in the old PEM form (DEK-Info), which has a weak key "+
		"derivation and no integrity", convert)
	//nolint:staticcheck // deprecated for its weakness, of which the operator is warned; Fulcio reads such files
	der, err := x509.DecryptPEMBlock(&pem.Block{Type: block.Type, Headers: block.Headers, Bytes: block.Bytes},
		o.Password)
	switch {
	case errors.Is(err, x509.IncorrectPasswordError):
		return nil, errPassword
	case err != nil:
		return nil, &pemfile.Error{
			Problem: "the headers of the private key are damaged, or name a cipher that is not supported",
			Fix:     "restore the file, or " + convert,
		}
	}
	return der, nil
}

// parseDER parses a private key that is not encrypted.
func parseDER(kind string, der []byte) (crypto.Signer, error) {
	var key crypto.PrivateKey
	var err error
	switch kind {
	case "PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	default:
		return nil, &pemfile.Error{
			Problem: fmt.Sprintf("private keys of the type %.40q are not supported", kind), Fix: convert,
		}
	}
	if form := expandedMLDSA(der); err != nil && form != "" {
		return nil, &pemfile.Error{
			Problem: "the ML-DSA private key has " + form + "; only keys in the seed format (RFC 9881 section 6) are " +
				"supported",
			Fix: "convert it with OpenSSL 3.5 or later: \"openssl pkey -provparam ml-dsa.output_formats=seed-only " +
				"-in KEY -out NEW\"",
		}
	}
	if err != nil {
		return nil, &pemfile.Error{
			Problem: "the private key cannot be parsed: the file is damaged, or contains another type of key",
			Fix:     "restore the file",
		}
	}
	return signing(key)
}

// expandedMLDSA says how a PKCS#8 key has an ML-DSA key in another form than its seed; "" if it does not. The three
// forms are a CHOICE (RFC 9881 §6): seed [0], expandedKey OCTET STRING, both SEQUENCE.
func expandedMLDSA(der []byte) string {
	input := cryptobyte.String(der)
	var info, algorithm, private cryptobyte.String
	var version int
	var id encasn1.ObjectIdentifier
	if !input.ReadASN1(&info, asn1.SEQUENCE) || !info.ReadASN1Integer(&version) ||
		!info.ReadASN1(&algorithm, asn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&id) ||
		!info.ReadASN1(&private, asn1.OCTET_STRING) || !slices.Contains(mldsaIDs, id.String()) {
		return ""
	}
	switch {
	case private.PeekASN1Tag(asn1.OCTET_STRING):
		return "the expanded key alone"
	case private.PeekASN1Tag(asn1.SEQUENCE):
		return "both the seed and the expanded key"
	}
	return ""
}

// mldsaIDs are the object identifiers of ML-DSA-44, ML-DSA-65 and ML-DSA-87 (RFC 9881 §2).
var mldsaIDs = []string{"2.16.840.1.101.3.4.3.17", "2.16.840.1.101.3.4.3.18", "2.16.840.1.101.3.4.3.19"}

// signing returns key as a signer.
func signing(key crypto.PrivateKey) (crypto.Signer, error) {
	if s, ok := key.(crypto.Signer); ok {
		return s, nil
	}
	return nil, &pemfile.Error{
		Problem: fmt.Sprintf("a key of type %T cannot sign", key), Fix: "use an ECDSA, RSA or Ed25519 key",
	}
}

// approved returns an error if FIPS 140-3 is enforced and does not allow this form of encryption.
func approved(what string) error {
	if !fips140.Enforced() {
		return nil
	}
	return &pemfile.Error{
		Problem: what + " of the private key is not approved, and GODEBUG=fips140=only enforces FIPS 140-3",
		Fix: "convert the key on a machine where FIPS 140-3 is not enforced, with OpenSSL 3.2 or later: " +
			"\"openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -saltlen 16 -iter 600000 -in KEY -out NEW\"",
	}
}

// only returns the single private key block. It skips certificates and the EC PARAMETERS block that some tools write
// before the key.
func only(data []byte) (pemfile.Block, error) {
	blocks, err := pemfile.Decode(data)
	if err != nil {
		return pemfile.Block{}, err
	}
	var found *pemfile.Block
	for i, b := range blocks {
		fail := func(problem, fix string) (pemfile.Block, error) {
			return pemfile.Block{}, &pemfile.Error{Line: b.Line, Problem: problem, Fix: fix}
		}
		switch {
		case b.Type == "EC PARAMETERS":
		case !strings.HasSuffix(b.Type, "PRIVATE KEY"):
			return fail(fmt.Sprintf("found a block %.40q instead of a private key", b.Type),
				"write the path of a file that contains only the private key")
		case found != nil:
			return fail("more than one private key", "keep the key that belongs to the certificate")
		default:
			found = &blocks[i]
		}
	}
	if found == nil {
		return pemfile.Block{}, &pemfile.Error{
			Problem: "the file contains no private key in PEM",
			Fix:     "write the path of a file that contains the private key",
		}
	}
	return *found, nil
}
