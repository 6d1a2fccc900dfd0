package embedded

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// The files of a log directory beside those of static-ct-api.
const (
	keyFile    = "log.key.pem"
	publicFile = "log.pub.pem"
	originFile = "origin"
	lockFile   = "lock"
)

// lockDir reserves the directory for this process.
func lockDir(dir string) (*durable.FileLock, error) {
	l, err := durable.TryLock(filepath.Join(dir, lockFile))
	if errors.Is(err, durable.ErrLocked) {
		err = fmt.Errorf("the log in %s is in use by another process; stop it, or configure a different directory", dir)
	}
	return l, err
}

// claimOrigin writes the origin on the first start and requires the same origin later: a monitor takes checkpoints with
// two origins for two logs.
func claimOrigin(c Config) error {
	path := filepath.Join(c.Dir, originFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return durable.WriteFile(path, []byte(c.Origin+"\n"), 0o644)
	}
	if err != nil {
		return err
	}
	if have := strings.TrimSpace(string(data)); have != c.Origin {
		return otherOrigin(c, have)
	}
	return nil
}

// Local returns the configuration of the log in a directory, as far as the directory has it.
func Local(dir string) (Config, error) {
	data, err := os.ReadFile(filepath.Join(dir, originFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("%s does not contain a log; name the directory of ct.embedded.dir", dir)
	}
	c := Config{Dir: dir, Origin: strings.TrimSpace(string(data))}
	if err == nil {
		err = c.Check()
	}
	return c, err
}

func otherOrigin(c Config, have string) error {
	return fault.BadSetting(fmt.Sprintf("the log in %s has the origin %q, not %q", c.Dir, have, c.Origin),
		"a log cannot change its origin: write the old origin, or use a new directory", "origin")
}

func keyMissing(path string) error {
	return fault.BadSetting("the key is missing, but the log has entries",
		"restore the key, or use a new directory", "dir").In(path)
}

func parseKey(path string, data []byte) (*ecdsa.PrivateKey, error) {
	block, err := pemfile.Only(data, "PRIVATE KEY")
	if err != nil {
		return nil, fault.BadContent(err, "restore it", "dir").In(path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := k.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, fault.BadSetting("the file has no P-256 key", "restore it", "dir").In(path)
	}
	return key, nil
}

// openKey reads the log's key, or makes one. It restores the file of the public key.
func openKey(dir string) (key *ecdsa.PrivateKey, id [32]byte, err error) {
	path := filepath.Join(dir, keyFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, e := os.Stat(filepath.Join(dir, "checkpoint")); e == nil {
			return nil, id, keyMissing(path)
		}
		if key, err = newKey(path); err != nil {
			return nil, id, err
		}
	case err != nil:
		return nil, id, err
	default:
		if key, err = parseKey(path, data); err != nil {
			return nil, id, err
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, id, err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	return key, sha256.Sum256(spki), durable.WriteFile(filepath.Join(dir, publicFile), public, 0o644)
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, durable.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// mkdirSynced makes a directory with its parents and returns when their names are on disk.
func mkdirSynced(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := mkdirSynced(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // a public log
		return err
	}
	return durable.SyncDir(parent)
}
