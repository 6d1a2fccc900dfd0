package ceremony

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// productRounds is the iteration count outside tests.
var productRounds = rounds

// The tests of this package derive some thirty keys, each of which takes seconds with all iterations and the race
// detector. TestKeyDerivation has all iterations.
func TestMain(m *testing.M) {
	rounds = 1000
	os.Exit(m.Run())
}

// The key that encrypts a private key is derived from the password with 600,000 iterations of PBKDF2, and the private
// key opens with this password alone.
func TestKeyDerivation(t *testing.T) { //nolint:paralleltest // it changes the iteration count of the package
	quick := rounds
	rounds = productRounds
	defer func() { rounds = quick }()
	key := pki.NewKey(pki.P256).(*ecdsa.PrivateKey) //nolint:forcetypeassert // of this type
	text, err := EncodeKey(key, []byte(password))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if count := []byte{2, 3, 0x09, 0x27, 0xc0}; block == nil || !bytes.Contains(block.Bytes, count) { // INTEGER 600000
		t.Errorf("the iteration count is not 600,000:\n%s", text)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := OpenKey(t.Context(), FileKey(path, "", secret.Typed([]byte(password))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(opened.Signer.Public()) {
		t.Error("another key")
	}
	if _, err := file.ParseKey(file.KeyOptions{Key: text, Password: []byte("another")}); err == nil {
		t.Error("opened with another password")
	}
}
