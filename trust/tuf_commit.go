package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// commitFile has a change that is being written. The file is in DIR/keys, so its content is trusted.
const commitFile = "keys/commit.json"

// ErrBusy is wrapped by the errors of a command that meets another command, which changes the repository.
var ErrBusy = errors.New("run this command again when the other one has ended")

// lockFile is locked while a change is written.
const lockFile = "keys/lock"

// commitment is the content of the commit file: the files to write and to remove. Applying it twice has the same
// result.
type commitment struct {
	Write  []commitWrite `json:"write"`  // in the order of writing
	Remove []string      `json:"remove"` // paths below the directory
}

type commitWrite struct {
	Path string      `json:"path"` // relative to the directory, with slashes
	Mode fs.FileMode `json:"mode"`
	Data []byte      `json:"data"`
}

// verify returns an error unless clients accept the new files now. It also checks every intermediate state, in which a
// crash may leave the repository.
func (r *Repository) verify() error {
	files := maps.Clone(r.now)
	if files == nil {
		files = map[string][]byte{}
	}
	for name, data := range r.change.files {
		if !slices.Contains(r.change.entries, name) {
			files[name] = data
		}
	}
	for i, name := range r.change.entries {
		files[name] = r.change.files[name]
		at := r.o.Now()
		if i < len(r.change.entries)-1 {
			if r.now == nil {
				continue // a new repository has no clients yet
			}
			at = time.Time{} // an intermediate state may have expired metadata
		}
		if err := r.accepts(files, at); err != nil {
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	return nil
}

// commit writes the signed files. It first writes the files that no other file names yet, then the commit file with the
// whole change, and then the files that clients read first, the keys, and the anchor.
func (r *Repository) commit() (err error) {
	if err := os.MkdirAll(filepath.Join(r.o.Dir, "keys"), 0o700); err != nil {
		return err
	}
	lock, err := r.lockUnchanged()
	if err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // the lock file has no content
	c, after, err := r.commitment()
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	if err := r.writeAhead(c); err != nil {
		return fmt.Errorf("nothing was published: %w", err)
	}
	if err := r.apply(c); err != nil {
		return fmt.Errorf("the change is recorded in %s and the next command completes it: %w", commitFile, err)
	}
	r.anchor, r.now = after, after
	r.begin()
	return r.parse()
}

// commitment returns the change as a list of files, and the content of the repository after the change.
func (r *Repository) commitment() (commitment, map[string][]byte, error) {
	files := maps.Clone(r.now)
	if files == nil {
		files = map[string][]byte{}
	}
	maps.Copy(files, r.change.files)
	var c commitment
	after, err := verified(files[rootFile(1)], memory(files).read)
	if err != nil {
		return c, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(r.change.files)) {
		if !slices.Contains(r.change.entries, name) {
			c.Write = append(c.Write, commitWrite{"repository/" + name, 0o644, r.change.files[name]})
		}
	}
	for _, name := range r.change.entries {
		c.Write = append(c.Write, commitWrite{"repository/" + name, 0o644, r.change.files[name]})
	}
	for _, role := range slices.Sorted(maps.Keys(r.change.keys)) {
		c.Write = append(c.Write, commitWrite{"keys/" + role + ".pem", 0o600, r.change.keys[role]})
		if next := "keys/" + role + ".next.pem"; r.exists(next) {
			c.Remove = append(c.Remove, next)
		}
	}
	c.replaceAnchor(r.anchor, after)
	return c, after, nil
}

// replaceAnchor adds the change from one anchor to the next.
func (c *commitment) replaceAnchor(before, after map[string][]byte) {
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if !bytes.Equal(before[name], after[name]) {
			c.Write = append(c.Write, commitWrite{anchorDir + "/" + name, 0o600, after[name]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[name]; !ok {
			c.Remove = append(c.Remove, anchorDir+"/"+name)
		}
	}
}

// path returns the path of a file in the directory of the repository.
func (r *Repository) path(name string) string {
	return filepath.Join(r.o.Dir, filepath.FromSlash(name))
}

func (r *Repository) exists(name string) bool {
	_, err := os.Lstat(r.path(name))
	return err == nil
}

// writeAhead writes the files that no published file names yet, and then announces the change. After an error it
// removes the files that it wrote.
func (r *Repository) writeAhead(c commitment) (err error) {
	var made []string
	defer func() {
		if err == nil {
			return
		}
		for _, name := range made {
			err = errors.Join(err, os.Remove(r.path(name)))
		}
	}()
	for _, w := range c.Write {
		if err := r.replaceable(w.Path); err != nil {
			return err
		}
	}
	for _, w := range c.Write {
		name, ok := strings.CutPrefix(w.Path, "repository/")
		if !ok || slices.Contains(r.change.entries, name) {
			continue
		}
		fresh := !r.exists(w.Path)
		if err := r.write(w); err != nil {
			return err
		}
		if fresh {
			made = append(made, w.Path)
		}
	}
	return r.announce(c)
}

// announce writes the commit file: from then on the change will be completed, even after a crash.
func (r *Repository) announce(c commitment) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return r.write(commitWrite{commitFile, 0o600, data})
}

// replaceable returns an error if a file cannot be written because its path is a directory, a link or another special
// file.
func (r *Repository) replaceable(name string) error {
	full := r.path(name)
	if info, err := os.Lstat(full); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file; remove it", full)
	}
	for _, dir := range []string{"repository/targets", anchorDir, anchorDir + "/targets"} {
		if info, err := os.Lstat(r.path(dir)); err == nil && !info.IsDir() {
			return fmt.Errorf("%s is not a directory; remove it", r.path(dir))
		}
	}
	return nil
}

func (r *Repository) write(w commitWrite) error {
	full := r.path(w.Path)
	mode := fs.FileMode(0o700)
	if strings.HasPrefix(w.Path, "repository/") {
		mode = 0o755 // the content is public
	}
	if err := os.MkdirAll(filepath.Dir(full), mode); err != nil {
		return err
	}
	return r.writeFile(full, w.Data, w.Mode)
}

// apply writes and removes the files of a commitment, and then removes the commit file.
func (r *Repository) apply(c commitment) error {
	for _, w := range c.Write {
		if err := r.write(w); err != nil {
			return err
		}
	}
	for _, name := range append(slices.Clone(c.Remove), commitFile) {
		full := r.path(name)
		if err := os.Remove(full); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := durable.SyncDir(filepath.Dir(full)); err != nil {
			return err
		}
	}
	return nil
}

// unfinished returns an error if a change is being written or was interrupted by a crash.
func (r *Repository) unfinished() error {
	if !r.exists(commitFile) {
		return nil
	}
	return errors.New("a change was interrupted while it was written; \"mayfly trust tuf publish\" completes it")
}

// recover completes a change that a crash interrupted.
func (r *Repository) recover() error {
	if !r.exists(commitFile) {
		return nil
	}
	lock, err := r.takeLock()
	if err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // the lock file has no content
	data, err := os.ReadFile(r.path(commitFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another command has completed the change
	}
	if err != nil {
		return err
	}
	var c commitment
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("%s: %w", commitFile, err)
	}
	for _, name := range append(slices.Clone(c.Remove), paths(c.Write)...) {
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return fmt.Errorf("%s: %q is outside of the directory", commitFile, name)
		}
	}
	return r.apply(c)
}

func paths(all []commitWrite) []string {
	var out []string
	for _, w := range all {
		out = append(out, w.Path)
	}
	return out
}

// lockUnchanged locks the repository. It returns an error if another command has changed it since it was read.
func (r *Repository) lockUnchanged() (*durable.FileLock, error) {
	lock, err := r.takeLock()
	if err != nil {
		return nil, err
	}
	anchor, err := r.readAnchor()
	if err == nil && (!maps.EqualFunc(anchor, r.anchor, bytes.Equal) || r.unfinished() != nil) {
		err = fmt.Errorf("nothing was written: another command has changed the repository; %w", ErrBusy)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return lock, nil
}

// takeLock locks the repository against other commands until the lock is released.
func (r *Repository) takeLock() (*durable.FileLock, error) {
	l, err := durable.TryLock(r.path(lockFile))
	if errors.Is(err, durable.ErrLocked) {
		err = fmt.Errorf("another command is changing the repository; %w", ErrBusy)
	}
	return l, err
}
