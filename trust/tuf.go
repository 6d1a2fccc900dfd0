package trust

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// The roles of a TUF repository, in the order of delegation.
const (
	roleRoot      = metadata.ROOT
	roleTargets   = metadata.TARGETS
	roleSnapshot  = metadata.SNAPSHOT
	roleTimestamp = metadata.TIMESTAMP
)

// Roles lists the roles of a TUF repository in the order of delegation.
func Roles() []string { return []string{roleRoot, roleTargets, roleSnapshot, roleTimestamp} }

// Lives holds the lifetime of the metadata that each role signs. Clients refuse expired metadata.
type Lives map[string]time.Duration

// DefaultLives returns the default lifetimes: a year, half a year, a month and a week.
func DefaultLives() Lives {
	const day = 24 * time.Hour
	return Lives{roleRoot: 365 * day, roleTargets: 182 * day, roleSnapshot: 30 * day, roleTimestamp: 7 * day}
}

// TUFOptions are the options of a [Repository].
type TUFOptions struct {
	Dir      string
	Password []byte           // encrypts the private keys; empty: no encryption
	Lives    Lives            // nil: [DefaultLives]
	Now      func() time.Time // nil: time.Now
	// Offline is, for [InitTUF], another directory, which gets the keys of root and targets. [ReviewRequest] signs
	// there. Empty: all keys are in Dir.
	Offline string
}

// Repository is a TUF repository on disk, for the trusted root and the signing configuration.
//
// A web server serves DIR/repository: N.root.json, N.targets.json, N.snapshot.json, timestamp.json and
// targets/DIGEST.NAME. Others may be able to write there, so its content is not trusted before it is verified. DIR/keys
// is secret. It has one private key for each role, and in published/ the anchor: a copy of the repository as it was
// last verified. The keys of root and targets can be stored elsewhere and copied to DIR/keys when they are needed;
// published/ must stay there.
//
// A change MUST be based on metadata that verifies from the anchor and is not older than the anchor (TUF §5.3 to §5.6).
// New files are verified in memory as a client does before they are written. The files that clients read first are
// replaced last, so that clients see either the old state or the new one. The next command completes a change that a
// crash interrupted.
type Repository struct {
	o         TUFOptions
	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]

	anchor map[string][]byte // the copy in DIR/keys/published, by the name in the repository
	now    map[string][]byte // the repository, verified: every root, the newest metadata and each target file
	change change

	writeFile func(name string, data []byte, mode fs.FileMode) error
}

// change holds the files that a command has signed but not yet written.
type change struct {
	files map[string][]byte // by the name in the repository
	// names of those files that clients read first, in the order in which they are replaced
	entries []string
	keys    map[string][]byte    // new private keys in PEM, by role
	signers map[string]tufSigner // signers of keys, by role
}

// InitTUF creates a repository in a directory without one, with a new key for each role. With Offline, the keys of root
// and targets are never written to Dir.
func InitTUF(o TUFOptions) (*Repository, error) {
	r := newRepository(o)
	if name, err := r.occupied(); err != nil {
		return nil, err
	} else if name != "" {
		return nil,
			fmt.Errorf("%s already has a repository or its keys: %s; \"mayfly trust tuf publish\" changes it", o.Dir,
				name)
	}
	r.root = metadata.Root(r.until(roleRoot))
	for _, role := range Roles() {
		key, err := r.newKey(role)
		if err != nil {
			return nil, err
		}
		if err := r.root.Signed.AddKey(key, role); err != nil {
			return nil, err
		}
	}
	r.targets, r.snapshot, r.timestamp = metadata.Targets(), metadata.Snapshot(), metadata.Timestamp()
	r.targets.Signed.Version, r.snapshot.Signed.Version, r.timestamp.Signed.Version = 0, 0, 0
	if err := r.signRoot(r.root.Signed.Version); err != nil {
		return nil, err
	}
	if o.Offline == "" {
		return r, r.finish(r.signTargets, r.signSnapshot, r.signTimestamp)
	}
	return r, inOrder(r.signTargets, r.signSnapshot, r.signTimestamp, r.verify, r.moveOffline, r.copyAnchor)
}

// OpenTUF opens a repository. It completes a change that a crash interrupted, and verifies DIR/repository from the
// anchor, without checking expiry. A directory without an anchor is a [*NoAnchorError].
func OpenTUF(o TUFOptions) (*Repository, error) {
	r := newRepository(o)
	if err := r.recover(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	return r, nil
}

// InspectTUF reads a repository and changes nothing. If DIR/repository is invalid or expired, it returns an error
// together with the repository in the state of the anchor, or with nil if there is no valid anchor.
func InspectTUF(o TUFOptions) (*Repository, error) {
	r := newRepository(o)
	err := r.load()
	if err == nil {
		err = r.accepts(r.now, r.o.Now())
	}
	if err == nil {
		err = r.unfinished()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", o.Dir, err)
	}
	if r.root == nil {
		return nil, err
	}
	return r, err
}

func newRepository(o TUFOptions) *Repository {
	if o.Now == nil {
		o.Now = time.Now
	}
	lives := DefaultLives()
	maps.Copy(lives, o.Lives)
	o.Lives = lives
	r := &Repository{o: o, writeFile: durable.WriteFile}
	r.begin()
	return r
}

// begin discards files that were signed but not written.
func (r *Repository) begin() {
	r.change = change{files: map[string][]byte{}, keys: map[string][]byte{}, signers: map[string]tufSigner{}}
}

func (r *Repository) until(role string) time.Time {
	return r.o.Now().Add(r.o.Lives[role]).UTC().Truncate(time.Second)
}

// Publish adds files to the repository, under the names that clients look for, and renews metadata that expires soon.
// Without files it only renews metadata, and needs only the keys of snapshot and timestamp. It returns the names of the
// files. After an error nothing is written.
func (r *Repository) Publish(contents ...[]byte) ([]string, error) {
	if err := r.reset(); err != nil {
		return nil, err
	}
	files, err := named(contents)
	if err != nil {
		return nil, err
	}
	if _, err := r.setTargets(files); err != nil {
		return nil, err
	}
	if r.soon(roleRoot, r.root.Signed.Expires) && r.hasKey(roleRoot) {
		if err := r.signRoot(r.root.Signed.Version + 1); err != nil {
			return nil, err
		}
	}
	steps := []func() error{r.signSnapshot, r.signTimestamp}
	if len(files) > 0 || r.soon(roleTargets, r.targets.Signed.Expires) && r.hasKey(roleTargets) {
		steps = slices.Insert(steps, 0, r.signTargets)
	}
	return slices.Sorted(maps.Keys(files)), r.finish(steps...)
}

// finish runs the steps, verifies the signed files as a client does, and writes them.
func (r *Repository) finish(steps ...func() error) error {
	return inOrder(append(steps, r.verify, r.commit)...)
}

// inOrder runs the steps until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// soon reports whether less than a third of the metadata's lifetime is left.
func (r *Repository) soon(role string, expires time.Time) bool {
	return expires.Sub(r.o.Now()) < r.o.Lives[role]/3
}

// Rotate replaces the key of a role. The root key must be in DIR/keys, because the root metadata lists the keys of all
// roles. After an error nothing is written.
//
// The old root key signs the root metadata with the new key (TUF §6.1), so that clients accept it. For another role
// there are two new versions of the root metadata: the first names both keys, so that clients accept signatures of the
// old key until timestamp.json is replaced; the second names only the new key.
func (r *Repository) Rotate(role string) error {
	if !slices.Contains(Roles(), role) {
		return fmt.Errorf("%q is not a role; write one of root, targets, snapshot, timestamp", role)
	}
	if err := r.reset(); err != nil {
		return err
	}
	old := slices.Clone(r.root.Signed.Roles[role].KeyIDs)
	signers, err := r.signersOf(roleRoot)
	if err != nil {
		return err
	}
	key, err := r.newKey(role)
	if err != nil {
		return err
	}
	if err := r.root.Signed.AddKey(key, role); err != nil {
		return err
	}
	version := r.root.Signed.Version + 1
	if role == roleRoot {
		signers = append(signers, r.change.signers[role])
	} else {
		// The interim root does not expire later than its predecessor.
		if soonest := r.o.Now().Add(24 * time.Hour).UTC().Truncate(time.Second); r.root.Signed.Expires.Before(soonest) {
			r.root.Signed.Expires = soonest
		}
		if err := r.signRootWith(version, signers); err != nil {
			return err
		}
		version++
	}
	for _, id := range old {
		if err := r.root.Signed.RevokeKey(id, role); err != nil {
			return err
		}
	}
	steps := []func() error{r.signSnapshot, r.signTimestamp, func() error {
		r.root.Signed.Expires = r.until(roleRoot)
		return r.signRootWith(version, signers)
	}}
	if role == roleTargets {
		steps = slices.Insert(steps, 0, r.signTargets)
	}
	return r.finish(steps...)
}

// RoleInfo is the state of a role.
type RoleInfo struct {
	Role    string
	Version int64
	Expires time.Time
	Keys    []string // key IDs
	HasKey  bool     // the private key is in the directory
	Soon    bool     // less than a third of the lifetime is left
}

// Info returns the state of each role.
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

// Targets returns the names of the published files with their SHA-256 in hexadecimal.
func (r *Repository) Targets() map[string]string {
	out := map[string]string{}
	for name, t := range r.targets.Signed.Targets {
		out[name] = t.Hashes["sha256"].String()
	}
	return out
}

func (r *Repository) signRoot(version int64) error {
	signers, err := r.signersOf(roleRoot)
	if err != nil {
		return err
	}
	r.root.Signed.Expires = r.until(roleRoot)
	return r.signRootWith(version, signers)
}

func (r *Repository) signRootWith(version int64, signers []tufSigner) error {
	r.root.Signed.Version = version
	name := rootFile(version)
	r.change.entries = append(r.change.entries, name)
	var err error
	r.change.files[name], err = signed(r.root.Signed, signers)
	return err
}

func (r *Repository) signTargets() error {
	r.targets.Signed.Version++
	r.targets.Signed.Expires = r.until(roleTargets)
	signers, err := r.signersOf(roleTargets)
	if err != nil {
		return err
	}
	r.change.files[targetsFile(r.targets.Signed.Version)], err = signed(r.targets.Signed, signers)
	return err
}

func (r *Repository) signSnapshot() error {
	r.snapshot.Signed.Version++
	r.snapshot.Signed.Expires = r.until(roleSnapshot)
	targets, err := r.meta(targetsFile(r.targets.Signed.Version), r.targets.Signed.Version)
	if err != nil {
		return err
	}
	r.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{targetsMeta: targets}
	signers, err := r.signersOf(roleSnapshot)
	if err != nil {
		return err
	}
	r.change.files[snapshotFile(r.snapshot.Signed.Version)], err = signed(r.snapshot.Signed, signers)
	return err
}

func (r *Repository) signTimestamp() error {
	r.timestamp.Signed.Version++
	r.timestamp.Signed.Expires = r.until(roleTimestamp)
	snapshot, err := r.meta(snapshotFile(r.snapshot.Signed.Version), r.snapshot.Signed.Version)
	if err != nil {
		return err
	}
	r.timestamp.Signed.Meta = map[string]*metadata.MetaFiles{snapshotMeta: snapshot}
	signers, err := r.signersOf(roleTimestamp)
	if err != nil {
		return err
	}
	r.change.entries = append(r.change.entries, timestampFile)
	r.change.files[timestampFile], err = signed(r.timestamp.Signed, signers)
	return err
}

// meta returns the description of a metadata file for the role above it: version, length and hash.
func (r *Repository) meta(name string, version int64) (*metadata.MetaFiles, error) {
	data, ok := r.change.files[name]
	if !ok {
		data, ok = r.now[name]
	}
	if !ok {
		return nil, fmt.Errorf("%s is neither signed nor verified", name)
	}
	sum := sha256.Sum256(data)
	m := metadata.MetaFile(version)
	m.Length, m.Hashes = int64(len(data)), metadata.Hashes{"sha256": sum[:]}
	return m, nil
}

// signed returns a metadata file with content and new signatures. Unverified members of the file that content was read
// from are not copied.
func signed[T metadata.Roles](content T, signers []tufSigner) ([]byte, error) {
	m := &metadata.Metadata[T]{Signed: content, Signatures: []metadata.Signature{}}
	for _, s := range signers {
		if _, err := m.Sign(s); err != nil {
			return nil, err
		}
	}
	return m.ToBytes(true)
}
