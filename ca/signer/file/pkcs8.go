package file

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // OpenSSL wrote such files; the operator is warned
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // HMAC-SHA1 is the default of PBKDF2 (RFC 8018 appendix A.2)
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	encoding "encoding/asn1"
	"fmt"
	"hash"
	"math"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/scrypt"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// The algorithms of PBES2 (RFC 8018 appendix A and B, RFC 7914 §7).
const (
	oidPBES2  = "1.2.840.113549.1.5.13"
	oidPBKDF2 = "1.2.840.113549.1.5.12"
	oidScrypt = "1.3.6.1.4.1.11591.4.11"
)

// prfs are the pseudorandom functions of PBKDF2 that OpenSSL writes, apart from those with MD5 and GOST R 34.11.
var prfs = map[string]func() hash.Hash{
	"1.2.840.113549.2.7":  sha1.New,
	"1.2.840.113549.2.8":  sha256.New224,
	"1.2.840.113549.2.9":  sha256.New,
	"1.2.840.113549.2.10": sha512.New384,
	"1.2.840.113549.2.11": sha512.New,
	"1.2.840.113549.2.12": sha512.New512_224,
	"1.2.840.113549.2.13": sha512.New512_256,
}

const (
	prfDefault = "1.2.840.113549.2.7"
	oidDES3    = "1.2.840.113549.3.7"
)

// ciphers of PBES2 with their key length in bytes, all in CBC mode with the padding of RFC 8018 §6.1.1.
var ciphers = map[string]struct {
	key int
	new func([]byte) (cipher.Block, error)
}{
	"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
	"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
	"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
	oidDES3:                   {24, des.NewTripleDESCipher},
}

// errDamaged is the error for an invalid EncryptedPrivateKeyInfo.
var errDamaged = &pemfile.Error{
	Problem: "the encrypted private key is damaged: it is not PKCS#8 (RFC 5958 section 3)", Fix: "restore the file",
}

// unsupported returns the error for an algorithm that is not supported.
func unsupported(what, oid string) error {
	return &pemfile.Error{
		Problem: fmt.Sprintf("the private key is encrypted with the %s %s, which is not supported", what, oid),
		Fix:     convert,
	}
}

// expensive returns the error for a key derivation above the limits.
func expensive(what string, limit int) *pemfile.Error {
	return &pemfile.Error{
		Problem: fmt.Sprintf("the key derivation of the private key asks for %s; the limit is %d", what, limit),
		Fix:     convert,
	}
}

// algorithm is an AlgorithmIdentifier (RFC 5280 §4.1.1.2).
type algorithm struct {
	oid        string
	parameters cryptobyte.String
}

func readAlgorithm(in *cryptobyte.String) (a algorithm, ok bool) {
	var seq cryptobyte.String
	var oid encoding.ObjectIdentifier
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadASN1ObjectIdentifier(&oid) {
		return a, false
	}
	return algorithm{oid.String(), seq}, true
}

// decryptPKCS8 decrypts an EncryptedPrivateKeyInfo (RFC 5958 §3) to the DER of a PrivateKeyInfo. The result is not
// authenticated, because PBES2 has no integrity protection.
func (o KeyOptions) decryptPKCS8(der []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var info, parameters, data cryptobyte.String
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() {
		return nil, errDamaged
	}
	scheme, ok := readAlgorithm(&info)
	if !ok || !info.ReadASN1(&data, asn1.OCTET_STRING) || !info.Empty() {
		return nil, errDamaged
	}
	if scheme.oid != oidPBES2 {
		return nil, unsupported("old scheme", scheme.oid)
	}
	if !scheme.parameters.ReadASN1(&parameters, asn1.SEQUENCE) || !scheme.parameters.Empty() {
		return nil, errDamaged
	}
	kdf, ok := readAlgorithm(&parameters)
	if !ok {
		return nil, errDamaged
	}
	with, ok := readAlgorithm(&parameters)
	if !ok || !parameters.Empty() {
		return nil, errDamaged
	}
	c, ok := ciphers[with.oid]
	if !ok {
		return nil, unsupported("cipher", with.oid)
	}
	var iv cryptobyte.String
	if !with.parameters.ReadASN1(&iv, asn1.OCTET_STRING) || !with.parameters.Empty() {
		return nil, errDamaged
	}
	if with.oid == oidDES3 {
		if err := approved("the cipher DES-EDE3-CBC"); err != nil {
			return nil, err
		}
		o.Warn("the private key is encrypted with DES-EDE3-CBC, an old cipher with blocks of 64 bits", convert)
	}
	key, err := o.derive(kdf, c.key)
	if err != nil {
		return nil, err
	}
	block, err := c.new(key)
	if err != nil || len(iv) != block.BlockSize() || len(data) == 0 || len(data)%block.BlockSize() != 0 {
		return nil, errDamaged
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	return unpad(plain, block.BlockSize())
}

// unpad removes the padding of RFC 8018 §6.1.1: n bytes of the value n.
func unpad(plain []byte, block int) ([]byte, error) {
	n := int(plain[len(plain)-1])
	if n == 0 || n > block {
		return nil, errPassword
	}
	for _, b := range plain[len(plain)-n:] {
		if subtle.ConstantTimeByteEq(b, byte(n)) == 0 {
			return nil, errPassword
		}
	}
	return plain[:len(plain)-n], nil
}

// derive makes a key of length bytes from the password.
func (o KeyOptions) derive(kdf algorithm, length int) ([]byte, error) {
	var in cryptobyte.String
	if !kdf.parameters.ReadASN1(&in, asn1.SEQUENCE) || !kdf.parameters.Empty() {
		return nil, errDamaged
	}
	switch kdf.oid {
	case oidPBKDF2:
		return o.pbkdf2(in, length)
	case oidScrypt:
		return o.scrypt(in, length)
	}
	return nil, unsupported("key derivation", kdf.oid)
}

// readKeyLength reads the optional key length of both key derivations. It must be the key length of the cipher.
func readKeyLength(in *cryptobyte.String, length int) bool {
	if !in.PeekASN1Tag(asn1.INTEGER) {
		return true
	}
	var n int
	return in.ReadASN1Integer(&n) && n == length
}

// pbkdf2 is RFC 8018 §5.2 with the parameters of appendix A.2.
func (o KeyOptions) pbkdf2(in cryptobyte.String, length int) ([]byte, error) {
	var salt cryptobyte.String
	var iterations int64
	if !in.ReadASN1(&salt, asn1.OCTET_STRING) || !in.ReadASN1Integer(&iterations) || iterations < 1 ||
		!readKeyLength(&in, length) {
		return nil, errDamaged
	}
	prf := algorithm{oid: prfDefault}
	if !in.Empty() {
		var ok bool
		if prf, ok = readAlgorithm(&in); !ok || !in.Empty() {
			return nil, errDamaged
		}
	}
	h, ok := prfs[prf.oid]
	switch {
	case !ok:
		return nil, unsupported("pseudorandom function", prf.oid)
	case iterations > maxIterations:
		return nil, expensive(fmt.Sprintf("%d iterations", iterations), maxIterations)
	}
	var err error
	switch {
	case prf.oid == prfDefault:
		err = approved("HMAC-SHA1 in the key derivation")
	case len(salt) < 16: // NIST SP 800-132 §5.1
		err = approved("a salt of less than 16 bytes in the key derivation")
	}
	if err != nil {
		return nil, err
	}
	key, err := pbkdf2.Key(h, string(o.Password), salt, int(iterations), length)
	if err != nil {
		return nil, unsupported("pseudorandom function", prf.oid)
	}
	return key, nil
}

// scrypt is RFC 7914 with the parameters of §7.1.
func (o KeyOptions) scrypt(in cryptobyte.String, length int) ([]byte, error) {
	var salt cryptobyte.String
	var n, r, p int64
	if !in.ReadASN1(&salt, asn1.OCTET_STRING) || !in.ReadASN1Integer(&n) || !in.ReadASN1Integer(&r) ||
		!in.ReadASN1Integer(&p) || !readKeyLength(&in, length) || !in.Empty() || n < 2 ||
		n&(n-1) != 0 || r < 1 || p < 1 {
		return nil, errDamaged
	}
	if err := approved("scrypt in the key derivation"); err != nil {
		return nil, err
	}
	if n > maxScrypt || r > maxScrypt || p > maxScrypt || n*r > math.MaxInt64/p || n*r*p > maxScrypt {
		return nil, expensive(fmt.Sprintf("scrypt with N·r·p = %d·%d·%d", n, r, p), maxScrypt)
	}
	key, err := scrypt.Key(o.Password, salt, int(n), int(r), int(p), length)
	if err != nil {
		return nil, errDamaged
	}
	return key, nil
}
