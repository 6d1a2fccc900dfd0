package uses_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server/uses"
)

// withFile opens the counts in a file, without closing them at the end of the test.
func withFile(t *testing.T, c *clocks, name string) *uses.Local {
	t.Helper()
	o := c.options()
	o.File = name
	l, err := uses.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closed(t *testing.T, l *uses.Local) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// D20: uses outlast a restart, and so does the time from which they are known; what has expired does not.
func TestRestart(t *testing.T) {
	t.Parallel()
	c, name := newClocks(), filepath.Join(t.TempDir(), "uses")
	l := withFile(t, c, name)
	before := c.token(1)
	spend(t, l, before, uses.Unknown)
	c.pass(time.Second)
	once, thrice := c.token(1), c.token(3)
	for _, u := range []uses.Use{once, thrice, thrice} {
		spend(t, l, u, uses.Counted)
	}
	if _, err := uses.Open(uses.Options{File: name}); err == nil || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("two processes: %v", err)
	}
	closed(t, l)
	if _, err := l.Spend(t.Context(), thrice); fault.From(err).Reason != fault.BudgetUnavailable {
		t.Errorf("after the end: %v", err)
	}
	c.elapsed = 0
	l = withFile(t, c, name)
	spend(t, l, before, uses.Unknown)
	spend(t, l, once, uses.Replayed)
	spend(t, l, thrice, uses.Counted)
	spend(t, l, thrice, uses.Replayed)
	spend(t, l, c.token(1), uses.Counted)
	closed(t, l)
	c.pass(12 * time.Minute)
	l = withFile(t, c, name)
	if n, _ := l.Tokens(); n != 0 {
		t.Errorf("%d tokens after all have expired", n)
	}
	closed(t, l)
	// The tokens are not in the file any more: after a clock that was set back they are refused.
	c.wall = c.wall.Add(-12 * time.Minute)
	l = withFile(t, c, name)
	spend(t, l, once, uses.Unknown)
	closed(t, l)
}

// D20: whatever of the file is lost behind a use at a crash, the use is known after it; a part of a record or zeros at
// the end are accepted. Any other change of a byte stops the start, with a cure.
func TestDamage(t *testing.T) {
	t.Parallel()
	c, dir := newClocks(), t.TempDir()
	name := filepath.Join(dir, "uses")
	l := withFile(t, c, name)
	c.pass(time.Second)
	all := []uses.Use{c.token(1), c.token(2), c.token(1)}
	sizes := []int{}
	for _, u := range all {
		spend(t, l, u, uses.Counted)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(data))
	}
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, l)
	reopen := func(data []byte) (*uses.Local, error) {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		o := c.options()
		o.File = name
		return uses.Open(o)
	}
	for end := sizes[0]; end <= len(whole)+100; end += 7 {
		for _, zeros := range []int{0, 13, 64, 1000} {
			data := append(bytes.Clone(whole[:min(end, len(whole))]), make([]byte, zeros)...)
			if zeros > 0 && end < len(whole) {
				data = append(bytes.Clone(whole[:end/64*64]), make([]byte, zeros)...) // a sector is written as a whole
			}
			l, err := reopen(data)
			if err != nil {
				t.Fatalf("%d bytes and %d zeros: %v", end, zeros, err)
			}
			for i, u := range all {
				if known := l.Used(u.Key) == 1; known != (end/64*64 >= sizes[i]) {
					t.Errorf("%d bytes and %d zeros: token %d is known: %t", end, zeros, i, known)
				}
			}
			closed(t, l)
		}
	}
	for at := range whole {
		data := bytes.Clone(whole)
		data[at] ^= 0x10
		l, err := reopen(data)
		if err == nil {
			t.Errorf("byte %d was changed, and the file is accepted", at)
			closed(t, l)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "damaged at byte") ||
			!strings.Contains(text, "move the file away") {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	if _, err := reopen(uses.OfFormat(whole, uses.Format+1)); err == nil ||
		!strings.Contains(err.Error(), name+": a newer mayfly wrote the file (format 2;") {
		t.Errorf("a file of a newer format: %v", err)
	} else if data, err := os.ReadFile(name); err != nil || !bytes.Equal(data, uses.OfFormat(whole, uses.Format+1)) {
		t.Errorf("the file of a newer format changed: %v", err)
	}
	gap := bytes.Clone(whole)
	clear(gap[64:128])
	if _, err := reopen(gap); err == nil {
		t.Error("zeros before a record are accepted")
	}
	for _, short := range []string{"", "mayfly token use", strings.Repeat("x", 64)} {
		if _, err := reopen([]byte(short)); err == nil {
			t.Errorf("%q is accepted", short)
		}
	}
}

// D20: while the file cannot be written, nothing is counted, and uses that were refused for that do not count later.
// When it can be written again, the counts are complete.
func TestFileFails(t *testing.T) {
	t.Parallel()
	c, dir := newClocks(), filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "uses")
	l := withFile(t, c, name)
	c.pass(time.Second)
	u, lenient := c.token(2), c.token(1)
	lenient.IssueUncounted = true
	spend(t, l, u, uses.Counted)
	l.BreakFile()
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		spend(t, l, u, uses.Unavailable)
	}
	if _, err := l.Spend(t.Context(), u); fault.From(err).Reason != fault.BudgetUnavailable || l.Warning() == "" {
		t.Errorf("%v, %q", err, l.Warning())
	}
	spend(t, l, lenient, uses.Uncounted)
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if result, _ := l.Spend(t.Context(), u); result == uses.Counted {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the file is not written again")
		}
	}
	spend(t, l, u, uses.Replayed)
	spend(t, l, lenient, uses.Replayed)
	if w := l.Warning(); w != "" {
		t.Error(w)
	}
	closed(t, l)
	l = withFile(t, c, name)
	spend(t, l, u, uses.Replayed)
	spend(t, l, lenient, uses.Replayed)
	closed(t, l)
}

// The file becomes smaller when most of it is about expired tokens, while uses are counted, and no use is lost.
func TestCompaction(t *testing.T) {
	t.Parallel()
	c, name := newClocks(), filepath.Join(t.TempDir(), "uses")
	l := withFile(t, c, name)
	largest := int64(0)
	var last []uses.Use
	for range 6 {
		c.pass(15 * time.Minute)
		last = nil
		for range 6000 {
			last = append(last, c.token(2))
		}
		var wg sync.WaitGroup
		for part := range 100 {
			wg.Go(func() {
				for _, u := range last[part*60 : part*60+60] {
					if _, err := l.Spend(context.Background(), u); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, st.Size())
	}
	if largest > 3<<20 {
		t.Errorf("the file has grown to %d bytes", largest)
	}
	closed(t, l)
	l = withFile(t, c, name)
	for _, u := range last {
		if n := l.Used(u.Key); n != 1 {
			t.Fatalf("a token is known to be used %d times", n)
		}
	}
	closed(t, l)
}

// D20: a file is moved away when uses are counted elsewhere, and stays known. What counts in the file later begins
// again.
func TestRetire(t *testing.T) {
	t.Parallel()
	c, name := newClocks(), filepath.Join(t.TempDir(), "uses")
	if until, err := uses.Retire(name); err != nil || !until.IsZero() {
		t.Errorf("without a file: %s, %v", until, err)
	}
	if until, err := uses.Retire(filepath.Join(name, "uses")); err != nil || !until.IsZero() {
		t.Errorf("without a directory: %s, %v", until, err)
	}
	l := withFile(t, c, name)
	c.pass(time.Second)
	u := c.token(1)
	spend(t, l, u, uses.Counted)
	if _, err := uses.Retire(name); err == nil {
		t.Error("the file of a running process was moved away")
	}
	closed(t, l)
	first, err := uses.Retire(name)
	if err != nil || first.Before(time.Now()) || first.After(time.Now().Add(2*time.Minute)) {
		t.Errorf("%s, %v", first, err)
	}
	if again, err := uses.Retire(name); err != nil || !again.Equal(first) {
		t.Errorf("at the next start: %s, %v; want %s", again, err, first)
	}
	c.pass(time.Second)
	l = withFile(t, c, name)
	spend(t, l, u, uses.Unknown)
	closed(t, l)
}
