package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// AdoptTUF creates a missing anchor from DIR/repository. Because nothing in DIR/keys shows that DIR/repository is
// authentic, the caller passes fingerprint: the SHA-256, in hexadecimal, of the 1.root.json that clients have. All
// other metadata must verify from this root, and each private key in the directory must be one that the newest root
// names.
func AdoptTUF(o TUFOptions, fingerprint string) (*Repository, error) {
	r := newRepository(o)
	err := r.load()
	if none := (*NoAnchorError)(nil); !errors.As(err, &none) {
		if err == nil || r.root != nil {
			err = errors.New("the repository already has its copy in keys/published; there is nothing to adopt")
		}
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	if err := r.adoptServed(fingerprint); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	return r, nil
}

func (r *Repository) adoptServed(fingerprint string) error {
	f, err := r.open("repository")
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	read := f.read
	first, err := read(rootFile(1))
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(first); !strings.EqualFold(fingerprint, hex.EncodeToString(sum[:])) {
		return fmt.Errorf("repository/1.root.json has the SHA-256 %x, not the given one; nothing was adopted", sum)
	}
	if r.now, err = verified(first, read); err != nil {
		return fmt.Errorf("nothing was adopted: %w", err)
	}
	if err := r.strayRoots(f, r.now); err != nil {
		return fmt.Errorf("nothing was adopted: %w", err)
	}
	if err := r.parse(); err != nil {
		return err
	}
	for _, role := range Roles() {
		if !r.hasKey(role) {
			continue
		}
		if _, err := r.signersOf(role); err != nil {
			return fmt.Errorf("nothing was adopted: %w", err)
		}
	}
	return r.commit()
}

// RestoreTUF restores the repository from the anchor: it writes each file that is missing or differs, and removes root
// metadata that does not verify from the anchor. It returns the paths of the changed files, relative to the directory
// of the repository. If metadata verifies and is newer than the anchor, RestoreTUF returns an error, because another
// machine has published this metadata and clients may have seen it.
func RestoreTUF(o TUFOptions) ([]string, error) {
	r := newRepository(o)
	changed, err := r.restore()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	return changed, nil
}

func (r *Repository) restore() ([]string, error) {
	if err := r.recover(); err != nil {
		return nil, err
	}
	if err := r.load(); err == nil || r.root == nil {
		return nil, err // nothing is wrong, or there is nothing to restore from
	}
	if err := os.MkdirAll(r.path("repository/targets"), 0o755); err != nil { //nolint:gosec // the content is public
		return nil, err
	}
	f, err := r.open("repository")
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	if err := r.refuseNewer(f); err != nil {
		return nil, err
	}
	var c commitment
	names := slices.Sorted(maps.Keys(r.anchor))
	slices.SortStableFunc(names, func(a, b string) int { return entryRank(a) - entryRank(b) })
	for _, name := range names {
		if data, err := f.read(name); err == nil && bytes.Equal(data, r.anchor[name]) {
			continue
		}
		c.Write = append(c.Write, commitWrite{"repository/" + name, 0o644, r.anchor[name]})
	}
	entries, err := fs.ReadDir(f.FS(), ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		number, ok := strings.CutSuffix(e.Name(), rootSuffix)
		if _, err := strconv.ParseInt(number, 10, 64); ok && err == nil && r.anchor[e.Name()] == nil {
			c.Remove = append(c.Remove, "repository/"+e.Name())
		}
	}
	for _, w := range c.Write {
		if err := r.replaceable(w.Path); err != nil {
			return nil, err
		}
	}
	lock, err := r.takeLock()
	if err != nil {
		return nil, err
	}
	defer lock.Unlock() //nolint:errcheck // the lock file has no content
	return append(paths(c.Write), c.Remove...), r.apply(c)
}

// entryRank orders files so that a file that names other files is written after them.
func entryRank(name string) int {
	switch {
	case name == timestampFile:
		return 2
	case strings.HasSuffix(name, rootSuffix):
		return 1
	}
	return 0
}

// refuseNewer returns an error if the directory has a root or a timestamp that verifies and is newer than the anchor.
func (r *Repository) refuseNewer(f folder) error {
	tm, err := trustedmetadata.New(r.anchor[rootFile(1)])
	if err != nil {
		return err
	}
	tm.RefTime = time.Time{}
	for v := int64(2); v <= r.root.Signed.Version; v++ {
		if _, err := tm.UpdateRoot(r.anchor[rootFile(v)]); err != nil {
			return err
		}
	}
	newer := func(name string) error {
		return fmt.Errorf("repository/%s verifies and is newer than the copy in keys/published: another machine "+
			"published it; restore from that machine, or remove the files that do not verify", name)
	}
	next := rootFile(r.root.Signed.Version + 1)
	if data, err := f.read(next); err == nil {
		if _, err := tm.UpdateRoot(data); err == nil {
			return newer(next)
		}
	}
	if data, err := f.read(timestampFile); err == nil {
		if t, err := tm.UpdateTimestamp(data); err == nil && t.Signed.Version > r.timestamp.Signed.Version {
			return newer(timestampFile)
		}
	}
	return nil
}
