//go:build !notink

package tink

import (
	"bytes"
	"crypto"
	stdecdsa "crypto/ecdsa"
	stded25519 "crypto/ed25519"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/signature/ecdsa"
	"github.com/tink-crypto/tink-go/v2/signature/ed25519"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

var parse = parseKeyset

// parseKeyset returns the primary key of an encrypted keyset in JSON. Its errors are [*pemfile.Error] values, or errors
// of decrypt.
func parseKeyset(data []byte, decrypt func([]byte) ([]byte, error)) (crypto.Signer, error) {
	if len(data) > maxKeyset {
		return nil, &pemfile.Error{
			Problem: fmt.Sprintf("the keyset has more than %d bytes", maxKeyset), Fix: "keep only the key of the CA",
		}
	}
	if err := recognize(data); err != nil {
		return nil, err
	}
	kek := &aead{decrypt: decrypt}
	handle, err := keyset.Read(keyset.NewJSONReader(bytes.NewReader(data)), kek)
	switch {
	case kek.failed != nil: // Tink keeps only the text of an error
		return nil, kek.failed
	case err != nil && !kek.called:
		return nil, &pemfile.Error{Problem: "is not an encrypted Tink keyset in JSON", Fix: howToMake}
	}
	var primary *keyset.Entry
	if err == nil {
		primary, err = handle.Primary()
	}
	if err != nil { // the cause can contain decrypted bytes
		return nil, &pemfile.Error{
			Problem: "the decrypted data is not a valid keyset with an enabled primary key",
			Fix:     "restore the file, or promote a key with \"tinkey promote-key\"",
		}
	}
	token := insecuresecretdataaccess.Token{}
	switch k := primary.Key().(type) {
	case *ecdsa.PrivateKey:
		curve, ok := map[ecdsa.CurveType]elliptic.Curve{
			ecdsa.NistP256: elliptic.P256(), ecdsa.NistP384: elliptic.P384(), ecdsa.NistP521: elliptic.P521(),
		}[k.Parameters().(*ecdsa.Parameters).CurveType()] //nolint:forcetypeassert // the parameters of an ECDSA key
		if !ok {
			return nil, &pemfile.Error{Problem: "the curve of the primary key is not supported", Fix: howToMake}
		}
		key, err := stdecdsa.ParseRawPrivateKey(curve, k.PrivateKeyValue().Data(token))
		if err != nil {
			return nil, &pemfile.Error{Problem: "the primary key is not a valid ECDSA key", Fix: "restore the file"}
		}
		return key, nil
	case *ed25519.PrivateKey:
		return stded25519.NewKeyFromSeed(k.PrivateKeyBytes().Data(token)), nil
	}
	return nil, &pemfile.Error{Problem: "the primary key is of the type " + typeOf(handle), Fix: howToMake}
}

const howToMake = "make it with \"tinkey create-keyset --key-template ECDSA_P384 --out-format json " +
	"--master-key-uri KEK --out KEYSET\"; the templates ECDSA_P256, ECDSA_P521 and ED25519 work too"

// recognize returns an error that explains what a file is if it is a common mistake.
func recognize(data []byte) error {
	var top map[string]json.RawMessage
	if json.Unmarshal(data, &top) != nil {
		return &pemfile.Error{
			Problem: "is not JSON",
			Fix: "convert a binary keyset with \"tinkey convert-keyset --in-format binary --out-format json\" and the " +
				"options --in, --out, --master-key-uri and --new-master-key-uri",
		}
	}
	if top["encryptedKeyset"] == nil && top["key"] != nil {
		return &pemfile.Error{
			Problem: "the keyset is not encrypted",
			Fix: "encrypt it with \"tinkey convert-keyset --in KEYSET --new-master-key-uri KEK --out NEW\", and " +
				"destroy the old file",
		}
	}
	return nil
}

// typeOf returns the type of the primary key, such as RsaSsaPkcs1PrivateKey.
func typeOf(handle *keyset.Handle) string {
	info := handle.KeysetInfo()
	for _, k := range info.GetKeyInfo() {
		if k.GetKeyId() == info.GetPrimaryKeyId() {
			url := k.GetTypeUrl()
			return fmt.Sprintf("%.60q, which a CA of this program does not use",
				url[strings.LastIndexByte(url, '.')+1:])
		}
	}
	return "unknown"
}

// aead gives Tink the key-encryption key as an AEAD.
type aead struct {
	decrypt func([]byte) ([]byte, error)
	called  bool
	failed  error
}

var _ tink.AEAD = (*aead)(nil)

// Decrypt implements [tink.AEAD]. A keyset has no associated data.
func (a *aead) Decrypt(ciphertext, _ []byte) (plaintext []byte, err error) {
	a.called = true
	if len(ciphertext) == 0 {
		a.failed = &pemfile.Error{Problem: "the encrypted keyset is empty", Fix: howToMake}
		return nil, a.failed
	}
	plaintext, a.failed = a.decrypt(ciphertext)
	return plaintext, a.failed
}

// Encrypt implements [tink.AEAD]. A CA writes no keyset.
func (*aead) Encrypt([]byte, []byte) ([]byte, error) {
	return nil, &pemfile.Error{Problem: "encrypting a keyset is not supported", Fix: howToMake}
}
