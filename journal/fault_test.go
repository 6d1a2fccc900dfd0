package journal_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
)

// badDisk is a disk whose operations fail on demand. A failing write still writes a part.
type badDisk struct {
	mu    sync.Mutex
	file  *os.File
	short int   // bytes that a write gets to the file before it fails; -1: all of them, then no failure
	write error // of the next writes
	sync  error
	hang  chan struct{} // a sync waits for it
}

func (d *badDisk) set(f func(*badDisk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// wrap is Options.Disk of a journal, which calls it again at each repair.
func (d *badDisk) wrap(f *os.File) journal.Disk {
	d.set(func(d *badDisk) { d.file = f })
	return d
}

func (d *badDisk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.write == nil && d.short < 0 {
		return d.file.Write(p)
	}
	n, err := d.file.Write(p[:min(max(d.short, 0), len(p))])
	if err == nil {
		err = d.write
	}
	return n, err
}

func (d *badDisk) Sync() error {
	d.mu.Lock()
	hang := d.hang
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sync != nil {
		return d.sync
	}
	return d.file.Sync()
}

// G4: the disk fails in every way: no record is acknowledged that does not count, the health shows that the journal
// cannot be written, and the journal recovers without help and is intact.
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(*badDisk)
		cause  string
		torn   bool
	}{
		"no space":      {func(d *badDisk) { d.write = syscall.ENOSPC }, "no space", false},
		"half a record": {func(d *badDisk) { d.write, d.short = syscall.ENOSPC, 100 }, "no space", true},
		"short write":   {func(d *badDisk) { d.short = 10 }, io.ErrShortWrite.Error(), true},
		"input/output":  {func(d *badDisk) { d.write = syscall.EIO }, "input/output", false},
		"sync":          {func(d *badDisk) { d.sync = syscall.EIO }, "input/output", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "journal.jsonl")
			d := &badDisk{short: -1}
			j := open(t, journal.Config{File: path}, journal.Options{Disk: d.wrap})
			must(t, j.Append(t.Context(), intent(1)))
			d.set(c.damage)
			err := j.Append(t.Context(), outcome(1))
			if err == nil || !strings.Contains(err.Error(), c.cause) {
				t.Fatalf("acknowledged: %v", err)
			}
			if h := j.Health(); h.OK || h.Cause == "" {
				t.Errorf("%+v", h)
			}
			if err := j.Append(t.Context(), intent(2)); err == nil {
				t.Error("acknowledged while broken")
			}
			failed := outcome(1)
			failed.Result, failed.Reason = journal.Failed, "JOURNAL_UNAVAILABLE"
			j.Note(failed) // kept until the disk is back
			d.set(func(d *badDisk) { d.write, d.sync, d.short = nil, nil, -1 })
			eventually(t, "the journal recovers", func() bool { return j.Health().OK })
			must(t, j.Append(t.Context(), intent(3)))
			shut(t, j, 2)
			if got := found(t, path, journal.VerifyOptions{}); got != "" {
				t.Error(got)
			}
			entries := all(t, path)
			if got := kinds(entries); got != "start intent recovered outcome intent stop" {
				t.Fatalf("records %s", got)
			}
			if entries[3].Result != journal.Failed || !strings.Contains(entries[2].Text, c.cause) {
				t.Errorf("%+v\n%+v", entries[2].Record, entries[3].Record)
			}
			aside, err := filepath.Glob(path + ".torn-*")
			must(t, err)
			if (len(aside) > 0) != c.torn {
				t.Errorf("set aside: %v", aside)
			}
		})
	}
}

// G4: many callers while the disk fails from time to time: exactly the acknowledged records are in the journal.
func TestFlappingDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	d := &badDisk{short: -1}
	j := open(t, journal.Config{File: path, MaxSize: "64KiB"}, journal.Options{Disk: d.wrap})
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var refused atomic.Int32
	var callers sync.WaitGroup
	stop := make(chan struct{})
	for i := range 8 {
		callers.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				r := intent(i*1_000_000 + n)
				if j.Append(t.Context(), r) != nil {
					refused.Add(1)
					time.Sleep(time.Millisecond) // as a client would
					continue
				}
				mu.Lock()
				acknowledged[r.Serial] = true
				mu.Unlock()
			}
		})
	}
	for i := range 6 {
		d.set(func(d *badDisk) {
			if d.sync = syscall.EIO; i%2 == 0 {
				d.sync, d.write, d.short = nil, syscall.ENOSPC, 150
			}
		})
		eventually(t, "the journal notices", func() bool { return !j.Health().OK })
		d.set(func(d *badDisk) { d.write, d.sync, d.short = nil, nil, -1 })
		eventually(t, "the journal recovers", func() bool { return j.Health().OK })
	}
	close(stop)
	callers.Wait()
	shut(t, j, 0)
	if got := found(t, path, journal.VerifyOptions{}); got != "" {
		t.Error(got)
	}
	for _, e := range all(t, path) {
		if e.Kind == journal.Intent && !acknowledged[e.Serial] {
			t.Errorf("record %d counts, and its caller was told that it does not", e.Seq)
		}
		delete(acknowledged, e.Serial)
	}
	if len(acknowledged) > 0 || refused.Load() == 0 {
		t.Errorf("%d acknowledged records are missing; %d were refused", len(acknowledged), refused.Load())
	}
}

// G4: the record of a signature is written although its caller has given up and the write failed at first.
func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	d := &badDisk{short: -1}
	j := open(t, journal.Config{File: path}, journal.Options{Disk: d.wrap})
	must(t, j.Append(t.Context(), intent(1)))
	hang := make(chan struct{})
	d.set(func(d *badDisk) { d.hang, d.sync = hang, syscall.EIO })
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("gone")
	time.AfterFunc(10*time.Millisecond, func() { cancel(left) })
	if err := j.Append(ctx, outcome(1)); !errors.Is(err, left) {
		t.Fatal(err)
	}
	close(hang)
	eventually(t, "the journal notices", func() bool { return !j.Health().OK })
	d.set(func(d *badDisk) { d.hang, d.sync = nil, nil })
	eventually(t, "the journal recovers", func() bool { return j.Health().OK })
	shut(t, j, 2)
	if got := found(t, path, journal.VerifyOptions{}); got != "" {
		t.Error(got)
	}
	if e := all(t, path)[3]; e.Kind != journal.Outcome || e.Result != journal.Failed || e.Signatures != 2 {
		t.Errorf("%+v", e.Record)
	}
}

// Denials that come faster than they can be written are counted; an alarm or a signature is always written.
func TestDropped(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	d := &badDisk{short: -1}
	j := open(t, journal.Config{File: path}, journal.Options{Disk: d.wrap})
	d.set(func(d *badDisk) { d.write = syscall.ENOSPC })
	if j.Append(t.Context(), intent(1)) == nil {
		t.Fatal("acknowledged")
	}
	for range 5000 {
		j.Note(&journal.Record{Kind: journal.Outcome, Result: journal.Denied, Reason: "RATE_LIMITED"})
	}
	j.Note(&journal.Record{Kind: journal.Alarm, Text: "kept"})
	d.set(func(d *badDisk) { d.write = nil })
	eventually(t, "the journal recovers", func() bool { return j.Health().OK })
	shut(t, j, 0)
	s, findings, err := journal.Verify(path, journal.VerifyOptions{})
	must(t, err)
	dropped := 0
	for _, e := range all(t, path) {
		if e.Kind == journal.Dropped {
			dropped += e.Count
		}
	}
	if s.Results[journal.Denied]+dropped != 5000 || dropped == 0 || s.Kinds[journal.Alarm] != 1 || len(findings) > 0 {
		t.Errorf("%+v, %d dropped, %v", s, dropped, findings)
	}
}

// F2 // G4: a flood of unauthenticated requests does not fill the disk: beyond a bound they are counted, in few
// records. Repeated denials of a verified identity are counted as well, with the identity. Every signature has its
// record.
func TestUnauthenticatedAreCounted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j := open(t, journal.Config{File: path}, journal.Options{})
	const unauthenticated, known = 20_000, 3000
	for i := range unauthenticated {
		j.Note(&journal.Record{Kind: journal.Outcome, Result: journal.Denied, Reason: "TOKEN_MALFORMED"})
		if i%100 == 0 { // room in the queue for all of the others
			must(t, j.Append(t.Context(), &journal.Record{Kind: journal.Event}))
		}
	}
	for i := range known {
		j.Note(&journal.Record{
			Kind: journal.Outcome, Result: journal.Denied, Reason: "POLICY_DENIED", Issuer: "i",
			Subject: "s", ProviderKey: "k",
		})
		if i%100 == 0 {
			must(t, j.Append(t.Context(), &journal.Record{Kind: journal.Event}))
		}
	}
	must(t, j.Append(t.Context(), intent(1)))
	j.Note(&journal.Record{Kind: journal.Outcome, Result: journal.Failed, Serial: intent(1).Serial, Signatures: 1})
	shut(t, j, 1)
	if got := found(t, path, journal.VerifyOptions{}); got != "" {
		t.Error(got)
	}
	n, records, counted, repeated := map[string]int{}, 0, 0, 0
	for _, e := range all(t, path) {
		switch {
		case e.Kind != journal.Dropped:
			n[e.Reason]++
		case e.Reason == "":
			records, counted = records+1, counted+e.Count
		case e.Reason == "POLICY_DENIED" && e.Issuer == "i" && e.Subject == "s":
			repeated += e.Count
		default:
			t.Errorf("a record counts %+v", e.Record)
		}
	}
	if written := n["TOKEN_MALFORMED"]; written < 2000 || written > 6000 ||
		written+counted != unauthenticated || records > 60 {
		t.Errorf("%d written, %d counted in %d records", written, counted, records)
	}
	if written := n["POLICY_DENIED"]; written < 100 || written > 110 || written+repeated != known {
		t.Errorf("%d denials of a known caller written, %d counted", written, repeated)
	}
}

// G4: what a crash leaves at the end is set aside at the next start; a journal that lost acknowledged records is
// refused.
func TestTornTail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, path string)
		refuse string
	}{
		"half a line": {func(t *testing.T, path string) { extend(t, path, `{"seq":5,"time":"2026-`) }, ""},
		"zeroes":      {func(t *testing.T, path string) { extend(t, path, strings.Repeat("\x00", 4096)) }, ""},
		"a whole record that was not acknowledged": {func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			extend(t, path, string(data[:len(data)/2]))
		}, ""},
		"acknowledged records are gone": {func(t *testing.T, path string) {
			st, err := os.Stat(path)
			must(t, err)
			must(t, os.Truncate(path, st.Size()-10))
		}, "records are missing or damaged"},
		"the file is gone": {
			func(t *testing.T, path string) { must(t, os.Remove(path)) },
			"records are missing or damaged",
		},
		"a changed record": {func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, []byte(strings.Replace(string(data), "alice", "mallo", 1)), 0o600))
		}, "records are missing or damaged"},
		"a head that is nothing": {
			func(t *testing.T, path string) {
				must(t, os.WriteFile(path+".head", []byte("x"), 0o600))
			},
			"does not have a sequence number",
		},
		"no head, torn": {func(t *testing.T, path string) {
			must(t, os.Remove(path+".head"))
			extend(t, path, "{")
		}, "is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "journal.jsonl")
			j := open(t, journal.Config{File: path}, journal.Options{})
			must(t, j.Append(t.Context(), intent(1)))
			must(t, j.Append(t.Context(), outcome(1)))
			shut(t, j, 2)
			c.change(t, path)
			j, err := journal.Open(journal.Config{File: path}, journal.Options{})
			if c.refuse != "" {
				if err == nil || !strings.Contains(err.Error(), c.refuse) {
					t.Fatalf("opened: %v", err)
				}
				return
			}
			must(t, err)
			shut(t, j, 0)
			if got := kinds(all(t, path)); got != "start intent outcome stop recovered start stop" {
				t.Errorf("records %s", got)
			}
			if got := found(t, path, journal.VerifyOptions{}); got != "" {
				t.Error(got)
			}
			aside, err := filepath.Glob(path + ".torn-*")
			must(t, err)
			if len(aside) != 1 {
				t.Errorf("set aside: %v", aside)
			}
		})
	}
}

func extend(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, errors.Join(err, f.Close()))
}

// A journal that is moved away while it is written cannot be written until it is back.
func TestMovedAway(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	var skew atomic.Int64
	j := open(t, journal.Config{File: path},
		journal.Options{Now: func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }})
	must(t, os.Rename(path, path+"-elsewhere"))
	skew.Store(int64(2 * time.Second)) // it looks once a second
	if err := j.Append(t.Context(), intent(1)); err == nil || !strings.Contains(err.Error(), "moved or removed") {
		t.Fatal(err)
	}
	must(t, os.Rename(path+"-elsewhere", path))
	eventually(t, "the journal recovers", func() bool { return j.Health().OK })
	must(t, j.Append(t.Context(), intent(2)))
	shut(t, j, 0)
	if got := found(t, path, journal.VerifyOptions{}); got != "" {
		t.Error(got)
	}
}

// G4: a store that accepts small records and no large ones causes no busy loop: a repair that succeeds does not reset
// the delay. Records that were kept are written when the store accepts them.
func TestRepairsWait(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	d := &smallDisk{limit: 1500, times: make(chan time.Time, 4)}
	j := open(t, journal.Config{File: path}, journal.Options{Disk: func(f *os.File) journal.Disk { return d.wrap(f) }})
	large := outcome(1)
	large.Result, large.Text = journal.Failed, strings.Repeat("x", 2000)
	j.Note(large)
	var at []time.Time
	for range cap(d.times) {
		at = append(at, <-d.times)
	}
	if took := at[3].Sub(at[0]); took < 250*time.Millisecond {
		t.Errorf("four times in %s", took)
	}
	d.grow.Store(true)
	eventually(t, "the journal recovers", func() bool { return j.Append(t.Context(), intent(2)) == nil })
	shut(t, j, 1)
	if got := kinds(all(t, path)); !strings.HasSuffix(got, "outcome intent stop") {
		t.Errorf("records %s", got)
	}
}

// smallDisk accepts writes up to a limit, which a test can raise, and signals each refusal.
type smallDisk struct {
	file  *os.File
	limit int
	grow  atomic.Bool
	times chan time.Time
}

func (d *smallDisk) wrap(f *os.File) journal.Disk {
	d.file = f
	return d
}

func (d *smallDisk) Write(p []byte) (int, error) {
	if len(p) > d.limit && !d.grow.Load() {
		select {
		case d.times <- time.Now():
		default:
		}
		return 0, syscall.ENOSPC
	}
	return d.file.Write(p)
}

func (d *smallDisk) Sync() error { return d.file.Sync() }

// G4: a path that is not a regular file is refused with a remedy: a pipe would block, and a link would have a second
// lock.
func TestNotAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, pipe, link, dangling := filepath.Join(dir, "real"), filepath.Join(dir, "pipe"), filepath.Join(dir, "link"),
		filepath.Join(dir, "dangling")
	shut(t, open(t, journal.Config{File: file}, journal.Options{}), 0)
	must(t, syscall.Mkfifo(pipe, 0o600))
	must(t, os.Symlink(file, link))
	must(t, os.Symlink(filepath.Join(dir, "nowhere"), dangling))
	for path, want := range map[string]string{
		pipe: "write the path of a regular file", link: "write the path of a regular file",
		dangling: "write the path of a regular file", dir: "write the path of a regular file",
		filepath.Join(dir, "absent", "journal"): "create it", filepath.Join(file, "journal"): "create it",
	} {
		if _, err := journal.Open(journal.Config{File: path}, journal.Options{}); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
		if err := (journal.Config{File: path}).Inspect(); err == nil || !strings.Contains(err.Error(), want) { // G2
			t.Errorf("%s passes: %v", path, err)
		}
	}
}

// G4 // F9: a reader of standard output who hangs, or is gone, holds up no record: the copy is behind, which is
