package tlog

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
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/owner"
	"github.com/mayfly-ca/mayfly/loglist"
)

// The files of the shards, in the directory of the first one.
const (
	stateFile = "shards.json"
	stateLock = "shards.lock"
	shardsDir = "shards"
)

// Format is the version of the list of shards that this package reads and writes.
const Format = 1

// Overlap is how long a shard continues after the next one has become active. It is longer than the life of a
// certificate, so that at any time the window of one shard covers a certificate issued now.
const Overlap = 20 * time.Minute

// Shard is one of several logs that follow each other, as in the file shards.json.
type Shard struct {
	Kind   Kind   `json:"-"`
	Name   string `json:"name"` // empty for the first one
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
	key, err := readPublic(c.Kind, c.ShardDir(s))
	if err != nil {
		if bad, ok := errors.AsType[*fault.Setting](err); ok && isNewShard(c.ShardDir(s)) {
			bad.Fix = "the log makes its key when the CA starts for the first time"
		}
		return loglist.Log{}, err
	}
	return s.describe(key), nil
}

func (s Shard) describe(key crypto.PublicKey) loglist.Log {
	return loglist.Log{Name: s.Label(), Origin: s.Origin, Key: key, Window: s.Window}
}

// Label identifies the shard in metrics, messages and readiness reports.
func (s Shard) Label() string {
	if s.Name == "" {
		return s.Kind.label()
	}
	return s.Kind.label() + "-" + s.Name
}

// Path returns the shard's URL path below that of the first shard: empty or "/NAME".
func (s Shard) Path() string {
	if s.Name == "" {
		return ""
	}
	return "/" + s.Name
}

// ended reports whether the window has closed, also for submissions that began before.
func (s Shard) ended(now time.Time) bool {
	return !s.NotAfter.IsZero() && now.After(s.NotAfter.Add(time.Minute))
}

// ShardDir returns the shard's directory.
func (c Config) ShardDir(s Shard) string {
	if s.Name == "" {
		return c.Dir
	}
	return filepath.Join(c.Dir, shardsDir, s.Name)
}

// ShardsFile returns the path of the list of shards, which is written when a shard is added.
func (c Config) ShardsFile() string { return filepath.Join(c.Dir, stateFile) }

// PublicKeyFile returns the path of the shard's public key, in PEM.
func (c Config) PublicKeyFile(s Shard) string { return filepath.Join(c.ShardDir(s), publicFile) }

func (c Config) originOf(name string) string {
	if name == "" {
		return c.Origin
	}
	return c.Kind.originOf(c.Origin, name)
}

// shardName matches a name that may be a path segment. The log's own paths are reserved.
var shardName = regexp.MustCompile(`^[0-9a-z][0-9a-z-]{0,31}$`)

func checkName(name string) error {
	if !shardName.MatchString(name) || slices.Contains([]string{"checkpoint", "tile", "issuer", "ct", "api"}, name) {
		return fault.BadSetting(fmt.Sprintf("invalid shard name %q", name),
			"write up to 32 lower-case letters, digits and hyphens, but not checkpoint, tile, issuer, ct or api",
			"name")
	}
	return nil
}

// state is the file shards.json.
type state struct {
	Version int     `json:"version"`
	Shards  []Shard `json:"shards"`
}

// Shards returns the shards of the log in c.Dir, oldest first. A log that was never rotated has one shard with an
// unlimited window; a shard that was never opened has no LogID yet.
func (c Config) Shards() ([]Shard, error) {
	data, err := os.ReadFile(c.ShardsFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return c.parseState(data)
}

// parseState returns the shards of the file shards.json, or for nil those of a log that was never rotated. It MUST
// refuse a file that [Config.save] would not write: every name becomes a path.
func (c Config) parseState(data []byte) ([]Shard, error) {
	if data == nil {
		return []Shard{{Kind: c.Kind, Origin: c.Origin}}, nil
	}
	path := c.ShardsFile()
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fault.Cure(fmt.Errorf("%s: %w", path, err), "restore it")
	}
	if s.Version > Format {
		return nil,
			fmt.Errorf("%s was written by a newer mayfly (file version %d, this one supports %d); use that version",
				path,
				s.Version, Format)
	}
	if s.Version < 1 || len(s.Shards) == 0 || s.Shards[0].Name != "" {
		return nil, fmt.Errorf("%s does not begin with the first shard; restore it", path)
	}
	names := map[string]bool{}
	for i, one := range s.Shards {
		if err := checkName(one.Name); i > 0 && err != nil {
			return nil, fmt.Errorf("%s: invalid shard name %q; restore the file", path, one.Name)
		}
		id, err := hex.DecodeString(one.LogID)
		if names[one.Name] || err != nil || len(id) != 32 {
			return nil, fmt.Errorf("%s: shard %d has no name or no log ID of its own; restore the file", path, i)
		}
		names[one.Name] = true
		s.Shards[i].Kind = c.Kind
		if want := c.originOf(one.Name); one.Origin != want {
			return nil, otherOrigin(Config{Kind: c.Kind, Dir: c.ShardDir(one), Origin: want}, one.Origin)
		}
	}
	if err := checkOrder(s.Shards); err != nil {
		return nil, fault.Cure(fmt.Errorf("%s: %w", path, err), "restore the file")
	}
	return s.Shards, nil
}

func (c Config) save(shards []Shard) error {
	data, err := json.MarshalIndent(state{Version: Format, Shards: shards}, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(c.ShardsFile(), append(data, '\n'), 0o644)
}

// checkOwner returns an error for root in a directory of another user: the CA could not read the keys that root makes.
func (c Config) checkOwner() error {
	st, err := os.Stat(c.Dir)
	if err != nil {
		return nil //nolint:nilerr // the directory will be made
	}
	if uid, known := owner.Of(st); known && os.Geteuid() == 0 && uid != 0 {
		return fmt.Errorf("%s belongs to the user ID %d, who could not read files that root creates there; "+
			"run this command as that user (sudo -u '#%d')", c.Dir, uid, uid)
	}
	return nil
}

// change calls edit with the shards and saves the result, under a lock against other processes.
func (c Config) change(edit func([]Shard) ([]Shard, error)) error {
	if err := mkdirSynced(c.Dir); err != nil {
		return err
	}
	l, err := durable.WaitLock(filepath.Join(c.Dir, stateLock))
	if err != nil {
		return err
	}
	defer l.Unlock() //nolint:errcheck // the lock file has no content
	shards, err := c.Shards()
	if err != nil {
		return err
	}
	if shards, err = edit(shards); err != nil {
		return err
	}
	return c.save(shards)
}

// schedule divides time into periods.
type schedule struct {
	next func(time.Time) time.Time // returns the first boundary after a time
	name func(time.Time) string    // returns the name of the period that begins at a boundary
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
