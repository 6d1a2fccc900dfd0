package ceremony

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// iterations is the number of iterations in tests, of which many encrypt a key.
const iterations = 1000

// The key that encrypts a private key is derived from the password with 600,000 iterations of PBKDF2, and the private
// key opens with this password alone.
func TestKeyDerivation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key.pem")
	source := FileKey(path, "", secret.Typed([]byte(password)))
	source.Generate = "ecdsa-p256"
	made, err := OpenKey(t.Context(), source, Options{})
	if err != nil {
		t.Fatal(err)
	}
	text := made.output.data
	block, _ := pem.Decode(text)
	if count := []byte{2, 3, 0x09, 0x27, 0xc0}; block == nil || !bytes.Contains(block.Bytes, count) { // INTEGER 600000
		t.Errorf("the iteration count is not 600,000:\n%s", text)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := OpenKey(t.Context(), FileKey(path, "", secret.Typed([]byte(password))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !equalKeys(made.Signer.Public(), opened.Signer.Public()) {
		t.Error("another key")
	}
	if _, err := file.ParseKey(file.KeyOptions{Key: text, Password: []byte("another")}); err == nil {
		t.Error("opened with another password")
	}
}
