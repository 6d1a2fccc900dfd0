package trust

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// tree returns every file of a directory except the lock, by path.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" {
			return err
		}
		data, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		out[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// served returns the files of the repository that clients can download.
func served(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for name, data := range tree(t, filepath.Join(dir, "repository")) {
		if !strings.HasPrefix(filepath.Base(name), ".") {
			out[filepath.ToSlash(name)] = []byte(data)
		}
	}
	return out
}

// If a command crashes or fails at any of its writes, clients accept the repository, and the next command either
// completes the change or starts from the old state. By default, each write of publish meets a crash and a failure,
// and each write of the other commands one of the two; "make crash" tests both for all commands.
func TestTUFCrashAtEachWrite(t *testing.T) {
	t.Parallel()
	root, err := os.ReadFile(filepath.Join("testdata", "trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	origin := filepath.Join(t.TempDir(), "tuf")
	r, err := InitTUF(TUFOptions{Dir: origin})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Publish(root); err != nil {
		t.Fatal(err)
	}
	before := tree(t, origin)
	commands := map[string]func(r *Repository) error{
		"publish": func(r *Repository) error { _, err := r.Publish(append(root, '\n')); return err },
		"renew":   func(r *Repository) error { _, err := r.Publish(); return err },
	}
	for _, role := range Roles() {
		commands["rotate "+role] = func(r *Repository) error { return r.Rotate(role) }
	}
	for name, command := range commands {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "tuf")
			both := name == "publish" || os.Getenv("MAYFLY_CRASH") != ""
			for _, crash := range []bool{true, false} {
				for at := 1; ; at++ {
					if !both && crash != (at%2 == 0) {
						continue
					}
					put(t, dir, before)
					r, err := OpenTUF(TUFOptions{Dir: dir})
					if err != nil {
						t.Fatal(err)
					}
					writes := 0
					r.writeFile = func(name string, data []byte, mode fs.FileMode) error {
						if writes++; writes == at {
							if crash {
								panic("crash")
							}
							return errors.New("no space left")
						}
						return durable.WriteFile(name, data, mode)
					}
					func() {
						defer func() { _ = recover() }()
						err = command(r)
					}()
					if writes < at {
						if err != nil || at < 5 {
							t.Fatalf("after %d writes: %v", writes, err)
						}
						break
					}
					after := served(t, dir)
					if err := r.accepts(after, time.Now()); err != nil {
						t.Errorf("crash %t at write %d: %v", crash, at, err)
					}
					if decided := tree(t, dir)["keys/commit.json"] != ""; !crash && !decided &&
						!equalTrees(before, tree(t, dir)) {
						t.Errorf("a failure at write %d changed files", at)
					}
					if !crash && at%3 != 0 {
						continue // the next command is tested after each crash and after some failures
					}
					again, err := OpenTUF(TUFOptions{Dir: dir})
					if err == nil {
						err = command(again)
					}
					if err == nil {
						err = again.Check()
					}
					if err != nil {
						t.Errorf("crash %t at write %d, the next command: %v", crash, at, err)
					}
				}
			}
		})
	}
}

func equalTrees(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name, data := range a {
		if b[name] != data {
			return false
		}
	}
	return true
}

// If two commands run at once, the second one to commit fails, and does not overwrite the change of the first.
func TestTUFConcurrent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, err := InitTUF(TUFOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	two, err := OpenTUF(TUFOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Publish(); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	if _, err := two.Publish(); err == nil || !strings.Contains(err.Error(), "another command has changed") {
		t.Errorf("the second command: %v", err)
	}
	lock, err := one.takeLock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	if _, err := one.Publish(); err == nil || !strings.Contains(err.Error(), "another command is changing") {
		t.Errorf("a locked repository: %v", err)
	}
	if !equalTrees(before, tree(t, dir)) {
		t.Error("a refused command wrote something")
	}
}
