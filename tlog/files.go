package tlog

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
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

// The files of a log directory beside those of its read path.
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

// Local returns the configuration of the log of a kind in a directory, as far as the directory has it.
func Local(kind Kind, dir string) (Config, error) {
	data, err := os.ReadFile(filepath.Join(dir, originFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("%s does not contain a log; name the directory of %s.dir", dir,
			kind.setting())
	}
	c := Config{Kind: kind, Dir: dir, Origin: strings.TrimSpace(string(data))}
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

func parseKey(kind Kind, path string, data []byte) (crypto.Signer, error) {
	block, err := pemfile.Only(data, "PRIVATE KEY")
	if err != nil {
		return nil, fault.BadContent(err, "restore it", "dir").In(path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := k.(crypto.Signer)
	if err != nil || !ok {
		return nil, fault.BadSetting(kind.keyProblem(nil), "restore it", "dir").In(path)
	}
	if problem := kind.keyProblem(key.Public()); problem != "" {
		return nil, fault.BadSetting(problem, "restore it", "dir").In(path)
	}
	return key, nil
}

// openKey returns the key of the shard in dir: the one in the directory, or the configured one. Without either, it
// chooses a configured key that is not in used, or makes a key. It restores the file of the public key.
func (c Config) openKey(dir string, used map[string]bool) (key crypto.Signer, id [32]byte, err error) {
	path := filepath.Join(dir, keyFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(c.Keys) > 0:
		if key, err = c.configuredKey(dir, used); err != nil {
			return nil, id, err
		}
	case errors.Is(err, fs.ErrNotExist):
		if _, e := os.Stat(filepath.Join(dir, checkpointFile)); e == nil {
			return nil, id, keyMissing(path)
		}
		if key, err = c.writeKey(path); err != nil {
			return nil, id, err
		}
	case err != nil:
		return nil, id, err
	default:
		if key, err = parseKey(c.Kind, path, data); err != nil {
			return nil, id, err
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, id, err
	}
	if id, err = c.Kind.logID(c.Origin, key.Public()); err != nil {
		return nil, id, err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	return key, id, durable.WriteFile(filepath.Join(dir, publicFile), public, 0o644)
}

// configuredKey returns the configured key of the shard in dir, or for a new shard one that is not in used.
func (c Config) configuredKey(dir string, used map[string]bool) (crypto.Signer, error) {
	isNew := isNewShard(dir)
	var public crypto.PublicKey
	if !isNew {
		var err error
		if public, err = readPublic(c.Kind, dir); err != nil {
			return nil, err
		}
	}
	for _, key := range c.Keys {
		if problem := c.Kind.keyProblem(key.Public()); problem != "" {
			return nil, fault.BadSetting("a log cannot have this kind of key",
				"configure an Ed25519 or ECDSA key", "key")
		}
		id, err := c.Kind.logID(c.Origin, key.Public())
		if err != nil {
			return nil, err
		}
		same, ok := public.(interface{ Equal(crypto.PublicKey) bool })
		if isNew && !used[hex.EncodeToString(id[:])] || ok && same.Equal(key.Public()) {
			return key, nil
		}
	}
	if isNew {
		return nil, fault.BadSetting("every configured key is the key of another shard",
			"add a new key: two shards must not have the same", "key")
	}
	return nil, fault.BadSetting(fmt.Sprintf("none of the configured keys is the key in %s",
		filepath.Join(dir, publicFile)), "configure the key of this log, or use a new directory for a new log", "key")
}

// isNewShard reports whether the shard in dir has no key yet.
func isNewShard(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, publicFile))
	return errors.Is(err, fs.ErrNotExist)
}

func (c Config) writeKey(path string) (crypto.Signer, error) {
	key, err := c.Kind.newKey()
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
