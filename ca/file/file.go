// Package file opens a CA key that stands in a file.
//
// It MUST NOT put any byte of the key or the password into an error.
package file

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Options for [Open].
type Options struct {
	// Key is one private key in PEM: PKCS#8 (RFC 5958), PKCS#8 encrypted with a password, SEC 1 (RFC 5915) or PKCS#1 (RFC 8017).
	Key []byte
	// Password decrypts an encrypted key; empty for one that is not.
	Password []byte
}

// Open returns the key as a signer. A password without an encrypted key, or the reverse, is an error that says so.
func Open(o Options) (crypto.Signer, error) {
	block, err := only(o.Key)
	if err != nil {
		return nil, err
	}
	encrypted := strings.HasPrefix(block.Type, "ENCRYPTED ") || block.Headers["DEK-Info"] != ""
	switch {
	case encrypted && len(o.Password) == 0:
		return nil, errors.New("the private key is encrypted; set its password")
	case !encrypted && len(o.Password) > 0:
		return nil, errors.New("a password is set, but the private key is not encrypted; remove the password or encrypt the key")
	}
	key, err := parse(block, o.Password)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}

// only returns the one private key block. Elliptic-curve tools write an EC PARAMETERS block before it; certificates are not keys.
func only(data []byte) (*pem.Block, error) {
	var found *pem.Block
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		switch {
		case block.Type == "EC PARAMETERS":
		case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, fmt.Errorf("found a %s where a PRIVATE KEY belongs", block.Type)
		case found != nil:
			return nil, errors.New("more than one private key")
		default:
			found = block
		}
	}
	if found == nil {
		return nil, errors.New("no private key in PEM")
	}
	return found, nil
}

func parse(block *pem.Block, password []byte) (crypto.PrivateKey, error) {
	switch block.Type {
	case "PRIVATE KEY":
		return hidden(x509.ParsePKCS8PrivateKey(block.Bytes))
	case "EC PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, errLegacy
		}
		return hidden(x509.ParseECPrivateKey(block.Bytes))
	case "RSA PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, errLegacy
		}
		return hidden(x509.ParsePKCS1PrivateKey(block.Bytes))
	case "ENCRYPTED PRIVATE KEY":
		key, err := cryptoutils.UnmarshalPEMToPrivateKey(pem.EncodeToMemory(block), cryptoutils.StaticPasswordFunc(password))
		if err != nil {
			return nil, errors.New("the private key cannot be decrypted: wrong password or damaged file")
		}
		return key, nil
	}
	return nil, fmt.Errorf("private keys of the form %q are not read; convert to PKCS#8 with \"openssl pkcs8 -topk8\"", block.Type)
}

// errLegacy: the encryption inside PEM headers (RFC 1421) has no integrity and a weak key derivation.
var errLegacy = errors.New("the private key is encrypted in the old PEM way; convert to PKCS#8 with \"openssl pkcs8 -topk8\"")

// hidden drops the parser's text, which may quote bytes of the key.
func hidden[K any](key K, err error) (crypto.PrivateKey, error) {
	if err != nil {
		return nil, errors.New("the private key cannot be parsed; is the file damaged?")
	}
	return key, nil
}
