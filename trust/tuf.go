package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The roles of a TUF repository, in the order in which they vouch for each other.
const (
	roleRoot      = metadata.ROOT
	roleTargets   = metadata.TARGETS
	roleSnapshot  = metadata.SNAPSHOT
	roleTimestamp = metadata.TIMESTAMP
)

// Roles lists the roles of a TUF repository, the most precious first.
func Roles() []string { return []string{roleRoot, roleTargets, roleSnapshot, roleTimestamp} }

// Lives says for how long what a role signs is good. A client refuses what is older.
type Lives map[string]time.Duration

// DefaultLives are a year, half a year, a month and a week.
func DefaultLives() Lives {
	const day = 24 * time.Hour
	return Lives{roleRoot: 365 * day, roleTargets: 182 * day, roleSnapshot: 30 * day, roleTimestamp: 7 * day}
}

// TUFOptions for a [Repository].
type TUFOptions struct {
	Dir      string
	Password []byte           // encrypts the keys in it; empty: they are not encrypted
	Lives    Lives            // nil: the default ones
	Now      func() time.Time // nil: time.Now
}

// Repository is a TUF repository on disk, for the trusted root and the signing configuration.
//
// DIR/repository is what a web server serves: N.root.json, N.targets.json, N.snapshot.json, timestamp.json and
// targets/DIGEST.NAME. DIR/keys has one private key for each role; those of root and targets can be kept elsewhere and put there
// when they are needed. timestamp.json is written last: a client that comes in the middle of a change meets the old state or the
// new one, as does whoever goes on after a crash.
type Repository struct {
	o         TUFOptions
	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	files     map[string][]byte // to be written, by name
}

// InitTUF makes a repository in a directory that has none, with a new key for each role.
func InitTUF(o TUFOptions) (*Repository, error) {
	r := newRepository(o)
	if r.exists() {
		return nil, fmt.Errorf("%s holds a repository already; publish changes it", o.Dir)
	}
	root := metadata.Root(r.until(roleRoot))
	r.root = root
	for _, role := range Roles() {
		key, err := r.newKey(role)
		if err != nil {
			return nil, err
		}
		if err := root.Signed.AddKey(key, role); err != nil {
			return nil, err
		}
		if err := r.promote(role); err != nil {
			return nil, err
		}
	}
	r.targets, r.snapshot, r.timestamp = metadata.Targets(), metadata.Snapshot(), metadata.Timestamp()
	r.targets.Signed.Version, r.snapshot.Signed.Version, r.timestamp.Signed.Version = 0, 0, 0
	if err := r.signRoot(root.Signed.Version); err != nil {
		return nil, err
	}
	return r, r.finish(r.signTargets)
}

// OpenTUF opens a repository.
func OpenTUF(o TUFOptions) (*Repository, error) {
	r := newRepository(o)
	if !r.exists() {
		return nil, fmt.Errorf("%s holds no repository; make one with \"mayfly trust tuf init --dir %s\"", o.Dir, o.Dir)
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	return r, nil
}

func newRepository(o TUFOptions) *Repository {
	if o.Now == nil {
		o.Now = time.Now
	}
	lives := DefaultLives()
	maps.Copy(lives, o.Lives)
	o.Lives = lives
	return &Repository{o: o, files: map[string][]byte{}}
}

func (r *Repository) until(role string) time.Time {
	return r.o.Now().Add(r.o.Lives[role]).UTC().Truncate(time.Second)
}

// Publish puts files into the repository, under the names that clients look for, and signs anew whatever ends soon. Without
// files it only does the latter, and needs no keys but those of snapshot and timestamp. It returns the names.
func (r *Repository) Publish(contents ...[]byte) ([]string, error) {
	var names []string
	for _, data := range contents {
		name, err := targetName(data)
		if err != nil {
			return nil, err
		}
		target, err := metadata.TargetFile().FromBytes(name, data, "sha256")
		if err != nil {
			return nil, err
		}
		r.targets.Signed.Targets[name] = target
		sum := sha256.Sum256(data)
		r.files["targets/"+hex.EncodeToString(sum[:])+"."+name] = data
		names = append(names, name)
	}
	if r.soon(roleRoot, r.root.Signed.Expires) && r.hasKey(roleRoot) {
		if err := r.signRoot(r.root.Signed.Version + 1); err != nil {
			return nil, err
		}
	}
	var steps []func() error
	if len(names) > 0 || r.soon(roleTargets, r.targets.Signed.Expires) && r.hasKey(roleTargets) {
		steps = append(steps, r.signTargets)
	}
	slices.Sort(names)
	return names, r.finish(steps...)
}

// finish takes the steps, signs what changes each time, writes everything, and proves it the way a client would.
func (r *Repository) finish(steps ...func() error) error {
	for _, step := range append(steps, r.signSnapshot, r.signTimestamp, r.commit, r.Check) {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// soon reports whether less than a third of a role's life is left.
func (r *Repository) soon(role string, expires time.Time) bool {
	return expires.Sub(r.o.Now()) < r.o.Lives[role]/3
}

// Rotate gives a role a new key. The root key must be there, as root says which keys count; a new root key is vouched for by
// the old one (TUF §6.1), so that clients follow.
func (r *Repository) Rotate(role string) error {
	if !slices.Contains(Roles(), role) {
		return fmt.Errorf("%q is no role; write one of root, targets, snapshot, timestamp", role)
	}
	signers, err := r.signers(roleRoot)
	if err != nil {
		return err
	}
	key, err := r.newKey(role)
	if err != nil {
		return err
	}
	for _, old := range slices.Clone(r.root.Signed.Roles[role].KeyIDs) {
		if err := r.root.Signed.RevokeKey(old, role); err != nil {
			return err
		}
	}
	if err := r.root.Signed.AddKey(key, role); err != nil {
		return err
	}
	if role == roleRoot {
		next, err := r.readKey(role, true)
		if err != nil {
			return err
		}
		signers = append(signers, next)
	}
	if err := r.signRootWith(r.root.Signed.Version+1, signers); err != nil {
		return err
	}
	// What the role has signed is signed anew by its new key, which goes into force with the new root.
	var steps []func() error
	if role == roleTargets {
		steps = append(steps, r.signTargets)
	}
	if err := r.finish(steps...); err != nil {
		return err
	}
	return r.promote(role)
}

// RoleInfo is the state of a role.
type RoleInfo struct {
	Role    string
	Version int64
	Expires time.Time
	Keys    []string // IDs
	HasKey  bool     // the private key is in the directory
	Soon    bool     // less than a third of its life is left
}

// Info lists the roles.
func (r *Repository) Info() []RoleInfo {
	var out []RoleInfo
	for _, i := range []RoleInfo{
		{Role: roleRoot, Version: r.root.Signed.Version, Expires: r.root.Signed.Expires},
		{Role: roleTargets, Version: r.targets.Signed.Version, Expires: r.targets.Signed.Expires},
		{Role: roleSnapshot, Version: r.snapshot.Signed.Version, Expires: r.snapshot.Signed.Expires},
		{Role: roleTimestamp, Version: r.timestamp.Signed.Version, Expires: r.timestamp.Signed.Expires},
	} {
		i.Keys, i.HasKey, i.Soon = r.root.Signed.Roles[i.Role].KeyIDs, r.hasKey(i.Role), r.soon(i.Role, i.Expires)
		out = append(out, i)
	}
	return out
}

// Targets lists the names of the published files with their SHA-256, in hexadecimal.
func (r *Repository) Targets() map[string]string {
	out := map[string]string{}
	for name, t := range r.targets.Signed.Targets {
		out[name] = t.Hashes["sha256"].String()
	}
	return out
}

func (r *Repository) signRoot(version int64) error {
	signers, err := r.signers(roleRoot)
	if err != nil {
		return err
	}
	return r.signRootWith(version, signers)
}

func (r *Repository) signRootWith(version int64, signers []tufSigner) error {
	r.root.Signed.Version, r.root.Signed.Expires = version, r.until(roleRoot)
	var err error
	r.files[fmt.Sprintf("%d.root.json", version)], err = signed(r.root, signers)
	return err
}

func (r *Repository) signTargets() error {
	r.targets.Signed.Version++
	r.targets.Signed.Expires = r.until(roleTargets)
	signers, err := r.signers(roleTargets)
	if err != nil {
		return err
	}
	r.files[fmt.Sprintf("%d.targets.json", r.targets.Signed.Version)], err = signed(r.targets, signers)
	return err
}

func (r *Repository) signSnapshot() error {
	r.snapshot.Signed.Version++
	r.snapshot.Signed.Expires = r.until(roleSnapshot)
	r.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"targets.json": metadata.MetaFile(r.targets.Signed.Version)}
	signers, err := r.signers(roleSnapshot)
	if err != nil {
		return err
	}
	r.files[fmt.Sprintf("%d.snapshot.json", r.snapshot.Signed.Version)], err = signed(r.snapshot, signers)
	return err
}

func (r *Repository) signTimestamp() error {
	r.timestamp.Signed.Version++
	r.timestamp.Signed.Expires = r.until(roleTimestamp)
	r.timestamp.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": metadata.MetaFile(r.snapshot.Signed.Version)}
	signers, err := r.signers(roleTimestamp)
	if err != nil {
		return err
	}
	r.files[timestampName], err = signed(r.timestamp, signers)
	return err
}

// signed is m with the signatures of all signers.
func signed[T metadata.Roles](m *metadata.Metadata[T], signers []tufSigner) ([]byte, error) {
	m.ClearSignatures()
	for _, s := range signers {
		if _, err := m.Sign(s); err != nil {
			return nil, err
		}
	}
	return m.ToBytes(true)
}
