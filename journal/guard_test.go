package journal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

// copyDir copies the files of a journal.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, e.Name()), data, 0o600)
	}))
}

// replace replaces path with another file, as sed -i does.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path+"-new", data, 0o600))
	must(t, os.Rename(path+"-new", path))
}

// overwrite changes a file in place.
func overwrite(t *testing.T, path string, at int64, data string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte(data), at)
	must(t, err)
	must(t, f.Close())
}

// resealed changes the record in a line and computes its sum again.
func resealed(line []byte) []byte {
	body, _, _ := bytes.Cut(bytes.Replace(line, []byte("alice"), []byte("elice"), 1), []byte(`,"sum":`))
	sum := sha256.Sum256(body)
	return append(bytes.Clone(body), `,"sum":"`+hex.EncodeToString(sum[:])+"\"}\n"...)
}

// G5: another process changes the files of a journal while the CA writes them. The journal reports it at once, also if
// nothing is written; nothing is appended until the file has the acknowledged records again; then the journal continues
// and is intact.
func TestChangedWhileWritten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, path string)
		says   string // in the alarm; "": none
		stops  bool   // until the files are put back
	}{
		"edited, as sed -i does": {func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			replace(t, path, bytes.Replace(data, []byte("alice"), []byte("elice"), 1))
		}, "was replaced by another file", true},
		"edited in its place": {func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			overwrite(t, path, int64(bytes.Index(data, []byte("alice"))), "elice")
		}, "after record", true},
		"edited, with a sum that is right": {func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			lines := bytes.SplitAfter(data, []byte("\n"))
			lines[1] = resealed(lines[1])
			overwrite(t, path, 0, string(bytes.Join(lines, nil)))
		}, "does not follow the record before it", true},
		"rewritten to its end, with sums that are right": {func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			lines := bytes.SplitAfter(data, []byte("\n"))
			sum := ""
			for i := 1; i < len(lines)-1; i++ { // each is chained to the one before anew
				if sum != "" {
					at := bytes.Index(lines[i], []byte(`"prev":"`)) + len(`"prev":"`)
					copy(lines[i][at:], sum)
				}
				lines[i] = resealed(lines[i])
				r, err := journal.ParseRecord(lines[i])
				must(t, err)
				sum = r.Sum
			}
			overwrite(t, path, 0, string(bytes.Join(lines, nil)))
		}, "it ends with record", true},
		"truncated": {func(t *testing.T, path string) {
			st, err := os.Stat(path)
			must(t, err)
			must(t, os.Truncate(path, st.Size()-200))
		}, "another process writes to it", true},
		"emptied, as copytruncate does": {
			func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) },
			"another process writes to it", true,
		},
		"moved away": {
			func(t *testing.T, path string) { must(t, os.Rename(path, path+"-away")) },
			"was moved or removed", true,
		},
		"moved away, an empty file in its place": {func(t *testing.T, path string) {
			must(t, os.Rename(path, path+"-away"))
			must(t, os.WriteFile(path, nil, 0o600))
		}, "was replaced by another file", true},
		"moved away, a link to it in its place": {func(t *testing.T, path string) {
			must(t, os.Rename(path, path+"-away"))
			must(t, os.Symlink(path+"-away", path))
		}, "was replaced by another file", true},
		"replaced by an older copy": {func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			lines := bytes.SplitAfter(data, []byte("\n"))
			replace(t, path, bytes.Join(lines[:3], nil))
		}, "was replaced by another file", true},
		"replaced by another whole journal, with its head": {func(t *testing.T, path string) {
			other := filepath.Join(t.TempDir(), "other")
			j := open(t, journal.Config{File: other}, journal.Options{})
			for n := range 20 {
				must(t, j.Append(t.Context(), intent(n)))
			}
			shut(t, j, 0)
			for _, suffix := range []string{"", ".head"} {
				data, err := os.ReadFile(other + suffix)
				must(t, err)
				replace(t, path+suffix, data)
			}
		}, "was replaced by another file", true},
		"appended to": {func(t *testing.T, path string) {
			extend(t, path, "{}\n")
		}, "another process writes to it", false}, // what is behind the acknowledged end is set aside
		"replaced by its like": {func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			replace(t, path, data)
		}, "was replaced by another file", false},
		"touched, and with another mode": {func(t *testing.T, path string) {
			must(t, os.Chtimes(path, time.Now(), time.Now()))
			must(t, os.Chmod(path, 0o640))
		}, "", false},
		"the head removed": {
			func(t *testing.T, path string) { must(t, os.Remove(path+".head")) },
			"written again", false,
		},
		"the head edited": {func(t *testing.T, path string) {
			overwrite(t, path+".head", 0, "00000000000000000001")
		}, "written again", false},
		"the head replaced": {func(t *testing.T, path string) {
			replace(t, path+".head", []byte("x"))
		}, "written again", false},
		"the lock removed": {
			func(t *testing.T, path string) { must(t, os.Remove(path+".lock")) },
			"could have opened the journal", false,
		},
		"a closed file edited": {func(t *testing.T, path string) {
			all, err := journal.Segments(path)
			must(t, err)
			data, err := os.ReadFile(all[0].Path)
			must(t, err)
			replace(t, all[0].Path, bytes.Replace(data, []byte("alice"), []byte("elice"), 1))
		}, "the CA continues", false},
		"a closed file edited at its end": {func(t *testing.T, path string) {
			all, err := journal.Segments(path)
			must(t, err)
			data, err := os.ReadFile(all[0].Path)
			must(t, err)
			lines := bytes.SplitAfter(data, []byte("\n"))
			lines[len(lines)-2] = resealed(lines[len(lines)-2])
			replace(t, all[0].Path, bytes.Join(lines, nil))
		}, "the CA continues", false},
		"a closed file touched": {func(t *testing.T, path string) {
			all, err := journal.Segments(path)
			must(t, err)
			must(t, os.Chmod(all[0].Path, 0o640))
		}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "journal.jsonl")
			var mu sync.Mutex
			var told []string
			alarms := func() string {
				mu.Lock()
				defer mu.Unlock()
				return strings.Join(told, "\n")
			}
			skew := newSkew()
			j := open(t, journal.Config{File: path, MaxSize: "64KiB"},
				journal.Options{Now: skew.now, Changed: func(what string) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, what)
				}})
			for n := range 150 { // one closed file, and more
				must(t, j.Append(t.Context(), intent(n)))
			}
			must(t, j.Append(t.Context(), intent(1000)))
			keep := t.TempDir()
			copyDir(t, dir, keep)
			c.change(t, path)
			before, err := os.ReadFile(path)
			if err != nil {
				before = nil
			}
			skew.add(time.Minute) // the next look is due
			if c.says != "" {
				eventually(t, "it is noticed while nothing is written",
					func() bool { return strings.Contains(alarms(), c.says) })
			}
			if c.stops {
				eventually(t, "the report says so", func() bool { return !j.Health().OK })
				if err := j.Append(t.Context(), intent(2000)); err == nil {
					t.Error("a record was acknowledged")
				}
				if after, err := os.ReadFile(path); err == nil && !bytes.HasPrefix(before, after) {
					t.Errorf("something was appended: %d bytes, then %d", len(before), len(after))
				}
				must(t, os.RemoveAll(path))
				copyDir(t, keep, dir)
			}
			eventually(t, "the journal goes on", func() bool {
				return j.Append(t.Context(), intent(3000)) == nil || j.Append(t.Context(), intent(3001)) == nil
			})
			shut(t, j, 0)
			if c.says == "" && alarms() != "" {
				t.Errorf("an alarm: %s", alarms())
			}
			whole := found(t, path, journal.VerifyOptions{}) == ""
			if want := !strings.HasPrefix(name, "a closed file edited"); whole != want {
				t.Errorf("afterwards the journal is whole: %t: %s", whole, found(t, path, journal.VerifyOptions{}))
			}
		})
	}
}

// skew is a clock that can be advanced.
type skew struct {
	mu sync.Mutex
	by time.Duration
}

func newSkew() *skew { return &skew{} }

func (s *skew) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.by)
}

func (s *skew) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by += d
}

// Without Options.Changed, the health has a warning until the process ends.
func TestChangedStaysInTheReport(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j := open(t, journal.Config{File: path}, journal.Options{})
	data, err := os.ReadFile(path)
	must(t, err)
	replace(t, path, data)
	eventually(t, "it goes on, with a warning", func() bool {
		h := j.Health()
		return h.OK && strings.Contains(h.Warning, "was replaced by another file")
	})
	must(t, j.Append(t.Context(), intent(1)))
	shut(t, j, 0)
}
