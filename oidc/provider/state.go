package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/owner"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// stateFile stores an issuer's last good keys, so that they survive a restart. The name of the file contains the digest
// of the settings, so that the file is not found after a change of the settings. It contains public keys only, but
// anyone who can write to it can forge tokens: only the operator may have write access.
type stateFile struct {
	dir    string
	issuer string
	digest string // see [route]
	log    *slog.Logger
}

// savedKeys is the content of a state file.
type savedKeys struct {
	Issuer     string          `json:"issuer"`
	Settings   string          `json:"settings"` // digest of the settings under which the keys were fetched
	Fetched    time.Time       `json:"fetched"`
	Algorithms []string        `json:"algorithms"`
	Keys       json.RawMessage `json:"keys"`
}

const (
	statePrefix = "provider-keys-"
	oldPrefix   = "issuer-" // of files of older versions, which are never read
	stateSuffix = ".json"
	maxState    = 2 * maxBody
)

func (s stateFile) path() string { return filepath.Join(s.dir, statePrefix+s.digest+stateSuffix) }

// load returns nil if there are no valid keys. A file that exists and is not valid is logged.
func (s stateFile) load(now time.Time) *Keyring {
	keyring, err := s.read(now)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("stored keys of an identity provider are not used", "issuer", s.issuer, "file", s.path(),
			"cause", err.Error())
	}
	return keyring
}

// read reads and checks the file.
func (s stateFile) read(now time.Time) (*Keyring, error) {
	if err := s.checkOwner(); err != nil {
		return nil, err
	}
	data, err := readFile(s.path(), maxState)
	if err != nil {
		return nil, err
	}
	return s.parse(data, now)
}

// checkOwner refuses a file that another user may have written, because that user could forge tokens. The directory may
// be writable for its group, as a Kubernetes volume is, because a file that a member of the group creates has another
// owner.
func (s stateFile) checkOwner() error {
	dir, err := os.Stat(s.dir)
	if err != nil {
		return err
	}
	if dir.Mode().Perm()&0o002 != 0 && dir.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("every user may write to %[1]s; run: chmod o-w %[1]s", s.dir)
	}
	file, err := os.Lstat(s.path())
	if err != nil {
		return err
	}
	if file.Mode().Perm()&0o022 != 0 && file.Mode().IsRegular() {
		return fmt.Errorf("users other than its owner may write to %s; remove the file", s.path())
	}
	if uid, known := owner.Of(file); known && uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user (ID %d); remove the file", s.path(), uid)
	}
	return nil
}

// parse checks the content of a file.
func (s stateFile) parse(data []byte, now time.Time) (*Keyring, error) {
	var saved savedKeys
	if err := json.Unmarshal(data, &saved); err != nil {
		return nil, errors.New("the file is not JSON in the expected form")
	}
	if saved.Issuer != s.issuer || saved.Settings != s.digest {
		return nil, errors.New("the file is of another issuer or of other settings")
	}
	unknown := func(a string) bool { return !token.IsAlgorithm(a) }
	if len(saved.Algorithms) == 0 || slices.ContainsFunc(saved.Algorithms, unknown) {
		return nil, errors.New("the file names algorithms that are not signature algorithms for tokens")
	}
	set, err := parseUsableKeys(saved.Keys)
	if err != nil {
		return nil, err
	}
	out := &Keyring{
		fetched: saved.Fetched, algorithms: saved.Algorithms, keys: set.keys, unusable: set.unusable, raw: saved.Keys,
		size: len(saved.Keys),
	}
	if age := out.age(now); age > usableFor {
		return nil, fmt.Errorf("the keys were fetched at %s: too long ago, or in the future",
			saved.Fetched.UTC().Format(time.RFC3339))
	}
	return out, nil
}

func (s stateFile) save(r *Keyring) {
	data, err := json.Marshal(savedKeys{
		Issuer: s.issuer, Settings: s.digest, Fetched: r.fetched,
		Algorithms: r.algorithms, Keys: r.raw,
	})
	if err == nil {
		err = durable.WriteFile(s.path(), data, 0o600)
	}
	if err != nil {
		s.log.Warn("the keys of an identity provider cannot be stored", "issuer", s.issuer, "cause", err.Error())
	}
}

// sweepState removes state files of other settings when their keys are too old to be used.
func sweepState(dir string, now time.Time) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range all {
		ours := strings.HasPrefix(e.Name(), statePrefix) || strings.HasPrefix(e.Name(), oldPrefix)
		if !ours || !strings.HasSuffix(e.Name(), stateSuffix) {
			continue
		}
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() && now.Sub(st.ModTime()) > 2*usableFor {
			_ = os.Remove(filepath.Join(dir, e.Name())) // the next start tries again
		}
	}
}
