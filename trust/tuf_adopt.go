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

// AdoptTUF makes the anchor of a repository that has none out of what is served. Nothing beside the keys says whether
// that is authentic, so the caller does: fingerprint is the SHA-256, in hexadecimal, of the 1.root.json that clients
// were given. All else must follow from it, and each private key in the directory must be one that the newest root
// names.
func AdoptTUF(o TUFOptions, fingerprint string) (*Repository, error) {
	r := newRepository(o)
	err := r.load()
	if none := (*NoAnchorError)(nil); !errors.As(err, &none) {
		if err == nil || r.root != nil {
			err = errors.New("the repository has its copy beside the keys already; there is nothing to adopt")
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

// RestoreTUF writes the repository as the anchor has it: each file that is missing or differs, and it removes roots
// that do not follow from the others. It returns the paths that it changed, below the directory of the repository.
// Metadata that is newer than the anchor and verifies is an error: another machine has published it, and clients may
// have seen it.
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
	if err := os.MkdirAll(r.path("repository/targets"), 0o755); err != nil { //nolint:gosec // it is served to everybody
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
	return append(paths(c.Write), c.Remove...), r.carryOut(c)
}

// entryRank orders files so that what names others comes after them.
func entryRank(name string) int {
	switch {
	case name == timestampFile:
		return 2
	case strings.HasSuffix(name, rootSuffix):
		return 1
	}
	return 0
}

// refuseNewer errs where the folder has a root or a timestamp that verifies and is newer than the anchor.
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
		return fmt.Errorf("repository/%s verifies and is newer than what was published from here: another machine "+
			"published it; restore from there, or remove the rest of what does not verify", name)
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
