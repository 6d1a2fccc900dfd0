package embedded

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/owner"
	"github.com/mayfly-ca/mayfly/loglist"
)

// The files of the shards, beside those of the first one.
const (
	stateFile    = "shards.json"
	stateLock    = "shards.lock"
	shardsDir    = "shards"
	stateVersion = 1
)

// Overlap is how long a shard goes on after the next one has taken over: more than the life of a certificate, so that at every
// moment one shard's validity covers a certificate from now to its end.
const Overlap = 20 * time.Minute

// Shard is one log of several that follow each other: what the file shards.json says of it.
type Shard struct {
	Name   string `json:"name"` // "" is the first one
	Origin string `json:"origin"`
	LogID  string `json:"log_id"` // hexadecimal
	// Window is the shard's validity. The shard issues SCTs only within it, for certificates that expire within it.
	loglist.Window
	Created time.Time `json:"created"`
	Closed  time.Time `json:"closed,omitzero"` // when its last checkpoint was published
}

// Describe returns the description of a shard, with the public key from the shard's file. Its errors are each a
// [fault.Setting] under "dir".
func (c Config) Describe(s Shard) (loglist.Log, error) {
	key, err := readPublic(c.ShardDir(s))
	if err != nil {
		if bad, ok := errors.AsType[*fault.Setting](err); ok && errors.Is(err, fs.ErrNotExist) {
			bad.Fix = "the log makes its key when the CA starts for the first time"
		}
		return loglist.Log{}, err
	}
	return s.describe(key), nil
}

func (s Shard) describe(key crypto.PublicKey) loglist.Log {
	return loglist.Log{Name: s.Label(), Origin: s.Origin, Key: key, Window: s.Window}
}

// Label is what metrics, messages and readiness call the shard.
func (s Shard) Label() string {
	if s.Name == "" {
		return "embedded"
	}
	return "embedded-" + s.Name
}

// Path is the shard's path below that of the first: "" or "/NAME".
func (s Shard) Path() string {
	if s.Name == "" {
		return ""
	}
	return "/" + s.Name
}

// ended reports whether nothing can be logged any more that began before the end.
func (s Shard) ended(now time.Time) bool {
	return !s.NotAfter.IsZero() && now.After(s.NotAfter.Add(time.Minute))
}

// ShardDir is the shard's directory.
func (c Config) ShardDir(s Shard) string {
	if s.Name == "" {
		return c.Dir
	}
	return filepath.Join(c.Dir, shardsDir, s.Name)
}

// PublicKeyFile is where the shard's public key is, in PEM.
func (c Config) PublicKeyFile(s Shard) string { return filepath.Join(c.ShardDir(s), publicFile) }

func (c Config) originOf(name string) string {
	if name == "" {
		return c.Origin
	}
	return c.Origin + "/" + name
}

// shardName is what a shard may be called: a word of a path that is none of the log's own.
var shardName = regexp.MustCompile(`^[0-9a-z][0-9a-z-]{0,31}$`)

func checkName(name string) error {
	if !shardName.MatchString(name) || slices.Contains([]string{"checkpoint", "tile", "issuer", "ct"}, name) {
		return fault.BadSetting(fmt.Sprintf("%q cannot be the name of a shard", name), "write up to 32 lower-case letters, digits and hyphens, and none of checkpoint, tile, issuer and ct", "name")
	}
	return nil
}

// state is the file shards.json.
type state struct {
	Version int     `json:"version"`
	Shards  []Shard `json:"shards"`
}

// Shards returns the shards of the log in c.Dir, oldest first. A log that was never rotated is one shard without bounds; one that
// was never opened has no LogID yet.
func (c Config) Shards() ([]Shard, error) {
	data, err := os.ReadFile(filepath.Join(c.Dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return []Shard{{Origin: c.Origin}}, nil
	}
	if err != nil {
		return nil, err
	}
	return c.parseState(data)
}

// parseState MUST refuse what [Config.save] does not write: every name becomes a path.
func (c Config) parseState(data []byte) ([]Shard, error) {
	path := filepath.Join(c.Dir, stateFile)
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w; restore it", path, err)
	}
	if s.Version > stateVersion {
		return nil, fmt.Errorf("%s was written by a newer mayfly (version %d, this one knows %d); use that version", path, s.Version, stateVersion)
	}
	if s.Version < 1 || len(s.Shards) == 0 || s.Shards[0].Name != "" {
		return nil, fmt.Errorf("%s does not begin with the first shard; restore it", path)
	}
	names := map[string]bool{}
	for i, one := range s.Shards {
		if err := checkName(one.Name); i > 0 && err != nil {
			return nil, fmt.Errorf("%s: %q cannot be the name of a shard; restore the file", path, one.Name)
		}
		id, err := hex.DecodeString(one.LogID)
		if names[one.Name] || err != nil || len(id) != 32 {
			return nil, fmt.Errorf("%s: shard %d has no name or no log ID of its own; restore the file", path, i)
		}
		names[one.Name] = true
		if want := c.originOf(one.Name); one.Origin != want {
			return nil, otherOrigin(Config{Dir: c.ShardDir(one), Origin: want}, one.Origin)
		}
	}
	if err := inOrder(s.Shards); err != nil {
		return nil, fmt.Errorf("%s: %w; restore the file", path, err)
	}
	return s.Shards, nil
}

func (c Config) save(shards []Shard) error {
	data, err := json.MarshalIndent(state{Version: stateVersion, Shards: shards}, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(c.Dir, stateFile), append(data, '\n'), 0o644)
}

// checkOwner refuses root in a directory of somebody else: the CA could not read the keys that root makes.
func (c Config) checkOwner() error {
	st, err := os.Stat(c.Dir)
	if err != nil {
		return nil //nolint:nilerr // it will be made
	}
	if uid, known := owner.Of(st); known && os.Geteuid() == 0 && uid != 0 {
		return fmt.Errorf("%s belongs to the user with the id %d, who could not read what root makes there; "+
			"run this as that user (sudo -u '#%d')", c.Dir, uid, uid)
	}
	return nil
}

// change runs edit over the shards and saves what it returns, alone among processes.
func (c Config) change(edit func([]Shard) ([]Shard, error)) error {
	if err := mkdirSynced(c.Dir); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, stateLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()                                                     //nolint:errcheck // the lock goes with the file
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil { //nolint:gosec // a file descriptor fits
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	shards, err := c.Shards()
	if err != nil {
		return err
	}
	if shards, err = edit(shards); err != nil {
		return err
	}
	return c.save(shards)
}

// schedule is a way to cut time into periods.
type schedule struct {
	next func(time.Time) time.Time // the first boundary after a time
	name func(time.Time) string    // of the period that begins there
}

func schedules() map[string]schedule {
	months := func(n int) func(time.Time) time.Time {
		return func(t time.Time) time.Time {
			t = t.UTC()
			return time.Date(t.Year(), (t.Month()-1)/time.Month(n)*time.Month(n)+1+time.Month(n), 1, 0, 0, 0, 0, time.UTC) //nolint:gosec // 1 to 12
		}
	}
	return map[string]schedule{
		"yearly":    {months(12), func(t time.Time) string { return t.Format("2006") }},
		"quarterly": {months(3), func(t time.Time) string { return fmt.Sprintf("%dq%d", t.Year(), (t.Month()+2)/3) }},
		"monthly":   {months(1), func(t time.Time) string { return t.Format("2006-01") }},
	}
}
