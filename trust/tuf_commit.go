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

// commitFile has a change that is being written. It lies beside the keys, so what it says was verified.
const commitFile = "keys/commit.json"

// lockFile is locked while a change is written.
const lockFile = "keys/lock"

// commitment is the content of the commit file: what the directory holds when the change is done. It can be carried out
// again.
type commitment struct {
	Write  []commitWrite `json:"write"`  // in this order
	Remove []string      `json:"remove"` // paths below the directory
}

type commitWrite struct {
	Path string      `json:"path"` // below the directory, with slashes
	Mode fs.FileMode `json:"mode"`
	Data []byte      `json:"data"`
}

// verify errs unless clients accept what was signed, now, and every state on the way there, in which a crash may leave
// it.
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
			at = time.Time{} // what has expired is renewed step by step
		}
		if err := r.accepts(files, at); err != nil {
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	return nil
}

// commit writes what was signed: first the files that nothing names yet; then, with the whole change in the commit
// file, those that clients start from, the keys, and the anchor.
func (r *Repository) commit() (err error) {
	if err := os.MkdirAll(filepath.Join(r.o.Dir, "keys"), 0o700); err != nil {
		return err
	}
	lock, err := r.takeLock()
	if err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // the lock file has no content
	anchor, err := r.readAnchor()
	if err != nil {
		return err
	}
	if !maps.EqualFunc(anchor, r.anchor, bytes.Equal) || r.unfinished() != nil {
		return errors.New("nothing was written: another command changed the repository meanwhile; run this one again")
	}
	c, after := r.commitment()
	if err := r.writeAhead(c); err != nil {
		return fmt.Errorf("nothing was published: %w", err)
	}
	if err := r.carryOut(c); err != nil {
		return fmt.Errorf("the change is recorded in %s and is finished by the next command: %w", commitFile, err)
	}
	r.anchor, r.now = after, after
	r.begin()
	return r.parse()
}

// commitment is the change as a list of files, with the content of the repository afterwards.
func (r *Repository) commitment() (commitment, map[string][]byte) {
	files := maps.Clone(r.now)
	if files == nil {
		files = map[string][]byte{}
	}
	maps.Copy(files, r.change.files)
	next := Repository{now: files}
	after := map[string][]byte{}
	if all, err := verified(files[rootFile(1)], next.file); err == nil { // verify has shown that it is so
		after = all
	}
	var c commitment
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
		if next := "keys/" + role + ".next.pem"; r.there(next) {
			c.Remove = append(c.Remove, next)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if !bytes.Equal(r.anchor[name], after[name]) {
			c.Write = append(c.Write, commitWrite{anchorDir + "/" + name, 0o600, after[name]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.anchor)) {
		if _, ok := after[name]; !ok {
			c.Remove = append(c.Remove, anchorDir+"/"+name)
		}
	}
	return c, after
}

// file is a file of the verified repository.
func (r *Repository) file(name string) ([]byte, error) {
	data, ok := r.now[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return data, nil
}

// path is a path below the directory of the repository.
func (r *Repository) path(name string) string {
	return filepath.Join(r.o.Dir, filepath.FromSlash(name))
}

func (r *Repository) there(name string) bool {
	_, err := os.Lstat(r.path(name))
	return err == nil
}

// writeAhead writes the files of the repository that clients do not find yet, and then the commit file, with which the
// change is decided. After an error it removes what it wrote.
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
		fresh := !r.there(w.Path)
		if err := r.write(w); err != nil {
			return err
		}
		if fresh {
			made = append(made, w.Path)
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return r.write(commitWrite{commitFile, 0o600, data})
}

// replaceable errs where a file cannot be written because of what is in its place: somebody may have put a directory or
// a link where the change is to go.
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
		mode = 0o755 // it is served to everybody
	}
	if err := os.MkdirAll(filepath.Dir(full), mode); err != nil {
		return err
	}
	return r.writeFile(full, w.Data, w.Mode)
}

// carryOut does what a commit file says, and removes it.
func (r *Repository) carryOut(c commitment) error {
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

// unfinished errs where a change is being written, or a crash interrupted it.
func (r *Repository) unfinished() error {
	if !r.there(commitFile) {
		return nil
	}
	return errors.New("a change was interrupted while it was written; \"mayfly trust tuf publish\" finishes it")
}

// recover finishes a change that a crash interrupted.
func (r *Repository) recover() error {
	if !r.there(commitFile) {
		return nil
	}
	lock, err := r.takeLock()
	if err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // the lock file has no content
	data, err := os.ReadFile(r.path(commitFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // finished meanwhile
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
	return r.carryOut(c)
}

func paths(all []commitWrite) []string {
	var out []string
	for _, w := range all {
		out = append(out, w.Path)
	}
	return out
}

// takeLock keeps other commands from writing until the lock is released.
func (r *Repository) takeLock() (*durable.FileLock, error) {
	l, err := durable.TryLock(r.path(lockFile))
	if errors.Is(err, durable.ErrLocked) {
		err = errors.New("another command is changing the repository; run this one again when it has ended")
	}
	return l, err
}
