package oidc

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
)

// stateFile keeps an issuer's last good keys over a restart, under the digest of the settings that vouch for them:
// after a change of these settings the file is not found. Public keys only: whoever can write the file can forge
// tokens, so it belongs to the operator alone.
type stateFile struct {
	dir    string
	issuer string
	trust  string // see [route]
	log    *slog.Logger
}

// savedKeys is the content of a file.
type savedKeys struct {
	Issuer     string          `json:"issuer"`
	Settings   string          `json:"settings"` // digest of the settings that the keys were fetched under
	Fetched    time.Time       `json:"fetched"`
	Algorithms []string        `json:"algorithms"`
	Keys       json.RawMessage `json:"keys"`
}

const (
	statePrefix = "provider-keys-"
	oldPrefix   = "issuer-" // of files that did not name their settings: never read
	stateSuffix = ".json"
	maxState    = 2 * maxBody
)

func (s stateFile) path() string { return filepath.Join(s.dir, statePrefix+s.trust+stateSuffix) }

// load returns nil when there is nothing good: then the provider is asked. What is there and is not good is logged.
func (s stateFile) load(now time.Time) *keyring {
	ring, err := s.read(now)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("kept keys of an identity provider are not used", "issuer", s.issuer, "file", s.path(),
			"cause", err.Error())
	}
	return ring
}

// read checks everything that can be checked of a kept file before its keys count.
func (s stateFile) read(now time.Time) (*keyring, error) {
	if err := s.ours(); err != nil {
		return nil, err
	}
	data, err := readFile(s.path(), maxState)
	if err != nil {
		return nil, err
	}
	return s.parse(data, now)
}

// ours refuses files that another user may have written: whoever can do that could forge tokens. A group may own the
// directory, as that of a volume in Kubernetes, because a file that it puts there has another owner.
func (s stateFile) ours() error {
	dir, err := os.Stat(s.dir)
	if err != nil {
		return err
	}
	if dir.Mode().Perm()&0o002 != 0 && dir.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("everybody can write in %s; chmod o-w it", s.dir)
	}
	file, err := os.Lstat(s.path())
	if err != nil {
		return err
	}
	if file.Mode().Perm()&0o022 != 0 && file.Mode().IsRegular() {
		return fmt.Errorf("others than the owner can write %s; remove it", s.path())
	}
	if uid, known := owner.Of(file); known && uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user (id %d); remove it", s.path(), uid)
	}
	return nil
}

// parse is read for bytes.
func (s stateFile) parse(data []byte, now time.Time) (*keyring, error) {
	var saved savedKeys
	if err := json.Unmarshal(data, &saved); err != nil {
		return nil, errors.New("the file is not JSON of the right shape")
	}
	if saved.Issuer != s.issuer || saved.Settings != s.trust {
		return nil, errors.New("the file is of another issuer or of other settings")
	}
	unknown := func(a string) bool { return !slices.Contains(algorithms, a) }
	if len(saved.Algorithms) == 0 || slices.ContainsFunc(saved.Algorithms, unknown) {
		return nil, errors.New("the file names algorithms that are not those of tokens")
	}
	set, err := parseKeys(saved.Keys)
	if err != nil {
		return nil, err
	}
	ring := &keyring{
		fetched: saved.Fetched, algs: saved.Algorithms, keys: set.keys, unusable: set.unusable, raw: saved.Keys,
		size: len(saved.Keys),
	}
	if age := ring.age(now); age > usableFor {
		return nil, fmt.Errorf("the keys are of %s: too old, or from the future",
			saved.Fetched.UTC().Format(time.RFC3339))
	}
	return ring, nil
}

func (s stateFile) save(r *keyring) {
	data, err := json.Marshal(savedKeys{
		Issuer: s.issuer, Settings: s.trust, Fetched: r.fetched,
		Algorithms: r.algs, Keys: r.raw,
	})
	if err == nil {
		err = durable.WriteFile(s.path(), data, 0o600)
	}
	if err != nil {
		s.log.Warn("the keys of an identity provider cannot be kept", "issuer", s.issuer, "cause", err.Error())
	}
}

// sweepState removes files that nothing reads any more: those of other settings, once their keys are too old to count.
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
