package monitor_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const origin = "log.test/2026"

// follow creates a follower that starts at the first entry.
func follow(t *testing.T, o monitor.Options, f monitor.FollowerOptions) *monitor.Follower {
	t.Helper()
	l, err := monitor.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	out, err := monitor.Follow(l, f)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// all reads up to the head and returns the indices of the entries, which must be in order.
func all(t *testing.T, f *monitor.Follower) (got []uint64, err error) {
	t.Helper()
	for more := true; more && err == nil; {
		more, err = f.Next(t.Context(), func(e *monitor.Entry) error {
			if len(got) > 0 && e.Index != got[len(got)-1]+1 {
				t.Errorf("entry %d after %d", e.Index, got[len(got)-1])
			}
			got = append(got, e.Index)
			return nil
		})
	}
	return got, err
}

func newStatic(t *testing.T) *ct.Static {
	t.Helper()
	s, err := ct.NewStatic(t.TempDir(), origin)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fill(t *testing.T, s *ct.Static, n int) {
	t.Helper()
	for range n {
		i := s.Size()
		e := ct.StaticEntry{
			Timestamp: 1000 + i, IssuerKeyHash: [32]byte{1}, TBS: fmt.Appendf(nil, "tbs %d", i),
			Certificate: []byte("pre"), Chain: [][32]byte{{2}},
		}
		if i%7 == 3 {
			e.TBS = nil
		}
		if _, err := s.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Publish(); err != nil {
		t.Fatal(err)
	}
}

// G6: a static-ct log is read from its directory and over HTTP, in one piece and in steps, over a restart, at every
// width that a tile can have; and what was read is proven each time.
func TestStatic(t *testing.T) {
	t.Parallel()
	s := newStatic(t)
	server := httptest.NewServer(http.FileServer(http.Dir(s.Dir)))
	t.Cleanup(server.Close)
	packed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(filepath.Join(s.Dir, filepath.FromSlash(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(data)
		_ = z.Close()
	}))
	t.Cleanup(packed.Close)
	ways := map[string]*monitor.Follower{
		"packed": follow(t, monitor.Options{Log: loglist.Log{
			Key: s.Key.Public(), Origin: origin,
			MonitoringURL: packed.URL,
		}}, monitor.FollowerOptions{}),
		"directory": follow(t, monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: origin}, Dir: s.Dir},
			monitor.FollowerOptions{}),
		"monitoring": follow(t, monitor.Options{Log: loglist.Log{
			Key: s.Key.Public(), Origin: origin,
			MonitoringURL: server.URL,
		}}, monitor.FollowerOptions{}),
		"submission": follow(t, monitor.Options{Log: loglist.Log{
			Key: s.Key.Public(), Origin: origin,
			URL: server.URL + "/",
		}}, monitor.FollowerOptions{}),
		"steps": follow(t, monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: origin}, Dir: s.Dir},
			monitor.FollowerOptions{Step: 100}),
	}
	read := uint64(0)
	for _, more := range []int{0, 1, 1, 253, 1, 1, 255, 300, 0, 70000} {
		fill(t, s, more)
		for name, f := range ways {
			got, err := all(t, f)
			if err != nil {
				t.Fatalf("%s at %d: %v", name, s.Size(), err)
			}
			if uint64(len(got)) != s.Size()-read || len(got) > 0 && got[0] != read || f.State().Size != s.Size() {
				t.Fatalf("%s: %d entries, want those from %d to %d", name, len(got), read, s.Size())
			}
			state, err := json.Marshal(f.State())
			if err != nil {
				t.Fatal(err)
			}
			var back monitor.State
			if err := json.Unmarshal(state, &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(f.State().Head, back.Head); diff != "" || back.Size != f.State().Size {
				t.Errorf("the state changes when it is kept: %s", diff)
			}
			f.Restore(back)
		}
		read = s.Size()
	}
}

// A partial tile may have been deleted: the full tile is read in its place.
func TestPartialTileReplaced(t *testing.T) {
	t.Parallel()
	s := newStatic(t)
	fill(t, s, 100)
	checkpoint, err := os.ReadFile(filepath.Join(s.Dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s, 200)
	for _, name := range []string{"tile/data/000.p", "tile/0/000.p"} {
		if err := os.RemoveAll(filepath.Join(s.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "checkpoint"), checkpoint, 0o600); err != nil {
		t.Fatal(err)
	}
	f := follow(t, monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: origin}, Dir: s.Dir},
		monitor.FollowerOptions{})
	if got, err := all(t, f); err != nil || len(got) != 100 {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

// G6: each kind of modification of a static-ct log's storage is detected, and the affected entry is named.
func TestStaticChanged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(t *testing.T, s *ct.Static)
		want   error
		text   string
		step   uint64
	}{
		{
			"an entry altered",
			func(t *testing.T, s *ct.Static) { patch(t, s, "tile/data/001", 3) },
			monitor.ErrMismatch,
			"entry 256 in tile/data/001", 0,
		},
		{
			"an entry altered, in steps", func(t *testing.T, s *ct.Static) { patch(t, s, "tile/data/001", 3) },
			monitor.ErrMismatch, "entry 256 in tile/data/001", 100,
		},
		{
			"the last entry altered", func(t *testing.T, s *ct.Static) { patch(t, s, "tile/data/002.p/88", -40) },
			monitor.ErrMismatch, "entry 599", 0,
		},
		{
			"a bundle cut", func(t *testing.T, s *ct.Static) { cut(t, s, "tile/data/001") },
			monitor.ErrMismatch, "bundle 1", 0,
		},
		{
			"a bundle gone", func(t *testing.T, s *ct.Static) { remove(t, s, "tile/data/001") }, monitor.ErrMismatch,
			"bundle 1 is missing", 0,
		},
		{
			"the size altered",
			func(t *testing.T, s *ct.Static) { swap(t, s, "\n600\n", "\n599\n") },
			monitor.ErrBadHead,
			"does not verify", 0,
		},
		{
			"another origin",
			func(t *testing.T, s *ct.Static) { swap(t, s, origin, "log.test/2027") },
			monitor.ErrBadHead,
			"log.test/2027", 0,
		},
		{
			"no signature of ours", func(t *testing.T, s *ct.Static) { swap(t, s, "— "+origin, "— cosigner") },
			monitor.ErrBadHead, "no signature", 0,
		},
		{"no checkpoint", func(t *testing.T, s *ct.Static) { remove(t, s, "checkpoint") }, os.ErrNotExist, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStatic(t)
			fill(t, s, 600)
			c.change(t, s)
			f := follow(t, monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: origin}, Dir: s.Dir},
				monitor.FollowerOptions{Step: c.step})
			_, err := all(t, f)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
			if monitor.Misbehaved(err) == errors.Is(c.want, os.ErrNotExist) {
				t.Errorf("convicts: %v", monitor.Misbehaved(err))
			}
		})
	}
}

func change(t *testing.T, s *ct.Static, name string, how func([]byte) []byte) {
	t.Helper()
	name = filepath.Join(s.Dir, name)
	data, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, how(data), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func patch(t *testing.T, s *ct.Static, name string, at int) {
	t.Helper()
	change(t, s, name, func(data []byte) []byte {
		if at < 0 {
			at += len(data)
		}
		data[at] ^= 1
		return data
	})
}

func cut(t *testing.T, s *ct.Static, name string) {
	t.Helper()
	change(t, s, name, func(data []byte) []byte { return data[:len(data)/2] })
}

func swap(t *testing.T, s *ct.Static, from, to string) {
	t.Helper()
	change(t, s, "checkpoint", func(data []byte) []byte { return []byte(strings.Replace(string(data), from, to, 1)) })
}

func remove(t *testing.T, s *ct.Static, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(s.Dir, name)); err != nil {
		t.Fatal(err)
	}
}

// G6: a forked history, an older one, and a shorter one.
func TestStaticHistory(t *testing.T) {
	t.Parallel()
	s := newStatic(t)
	fill(t, s, 300)
	f := follow(t, monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: origin}, Dir: s.Dir},
		monitor.FollowerOptions{})
	if _, err := all(t, f); err != nil {
		t.Fatal(err)
	}
	at := f.State().Head
	publish := func(size uint64, root byte, later time.Duration) {
		t.Helper()
		sum := at.Root
		sum[0] ^= root
		note := ct.Checkpoint(ct.CheckpointOptions{
			Origin: origin, Key: s.Key, Size: size, Root: sum[:],
			Now: at.Time().Add(later),
		})
		if err := os.WriteFile(filepath.Join(s.Dir, "checkpoint"), note, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		size  uint64
		root  byte
		later time.Duration
		want  error
	}{
		{"the same size, another root", 300, 1, time.Second, monitor.ErrFork},
		{"fewer, later", 200, 0, time.Second, monitor.ErrShrunk},
		{"fewer, earlier, another tree", 200, 1, -time.Second, monitor.ErrFork},
		{"more, another tree", 301, 1, time.Second, nil}, // no tile has entry 300
	} {
		publish(c.size, c.root, c.later)
		_, err := all(t, f)
		if c.want != nil && !errors.Is(err, c.want) || err == nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if f.State().Head != at {
			t.Errorf("%s: the state moved", c.name)
		}
	}
}

func newRFC(t *testing.T) (*pki.PKI, *ct.Log, *monitor.Follower) {
	t.Helper()
	p := pki.New(pki.Options{})
	l := ct.New(t, ct.Options{MostEntries: 7})
	return p, l, follow(t, monitor.Options{Log: loglist.Log{Name: "rfc", Key: l.Key(), URL: l.URL()}},
		monitor.FollowerOptions{})
}

func add(t *testing.T, p *pki.PKI, l *ct.Log, n int) {
	t.Helper()
	for range n {
		i := l.Size()
		if err := l.Add(append([][]byte{p.Leaf(int64(i+1), i%3 != 0)}, p.ChainDER()...), i%3 != 0); err != nil {
			t.Fatal(err)
		}
	}
}

// G6: a head whose entries have not all been read commits the log as well: a larger head of another history is a fork,
// even if the entries read so far are the same in both histories.
func TestForkBeyondWhatWasRead(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	l := ct.New(t, ct.Options{})
	add(t, p, l, 6)
	f := follow(t, monitor.Options{Log: loglist.Log{Name: "rfc", Key: l.Key(), URL: l.URL()}},
		monitor.FollowerOptions{Step: 2})
	ignore := func(*monitor.Entry) error { return nil }
	if more, err := f.Next(t.Context(), ignore); err != nil || !more {
		t.Fatal(more, err)
	}
	l.Rewrite(5)
	add(t, p, l, 2)
	if _, err := f.Next(t.Context(), ignore); !errors.Is(err, monitor.ErrFork) {
		t.Errorf("%v", err)
	}
}

// G6: an RFC 6962 log that returns fewer entries than requested.
func TestRFC6962(t *testing.T) {
	t.Parallel()
	p, l, f := newRFC(t)
	read := 0
	for _, n := range []int{0, 1, 20, 0, 30} {
		add(t, p, l, n)
		got, err := all(t, f)
		if err != nil || len(got) != n || n > 0 && got[0] != uint64(read) {
			t.Fatalf("%v, %v", got, err)
		}
		read += n
	}
}

// G6: the violations that an RFC 6962 log can commit.
func TestRFC6962Faults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(t *testing.T, p *pki.PKI, l *ct.Log)
		want error
		text string
	}{
		{"shrinks", func(_ *testing.T, _ *pki.PKI, l *ct.Log) { l.Truncate(10) }, monitor.ErrShrunk, "20 entries at"},
		{
			"rewrites the past", func(_ *testing.T, _ *pki.PKI, l *ct.Log) { l.Rewrite(3) }, monitor.ErrFork,
			"two heads over 20",
		},
		{
			"rewrites the past and goes on",
			func(t *testing.T, p *pki.PKI, l *ct.Log) { l.Rewrite(3); add(t, p, l, 5) },
			monitor.ErrFork, "does not continue",
		},
		{
			"serves other entries", func(t *testing.T, p *pki.PKI, l *ct.Log) { add(t, p, l, 5); l.Corrupt(22) },
			monitor.ErrMismatch, "entry 22",
		},
		{
			"forges a head",
			func(_ *testing.T, _ *pki.PKI, l *ct.Log) { l.SetFault(ct.ForgedHead) },
			monitor.ErrBadHead,
			"does not verify",
		},
		{
			"shows an old head",
			func(t *testing.T, p *pki.PKI, l *ct.Log) { l.SetFault(ct.StaleHead); add(t, p, l, 5) },
			nil, "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, l, f := newRFC(t)
			add(t, p, l, 20)
			if _, err := all(t, f); err != nil {
				t.Fatal(err)
			}
			c.do(t, p, l)
			got, err := all(t, f)
			if !errors.Is(err, c.want) || c.want != nil && !strings.Contains(err.Error(), c.text) ||
				err == nil && len(got) > 0 {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// A lagging replica is not a violation, and is read once it catches up. A directory cannot lag.
func TestStaleHead(t *testing.T) {
	t.Parallel()
	p, l, f := newRFC(t)
	add(t, p, l, 5)
	l.SetFault(ct.StaleHead)
	add(t, p, l, 5)
	l.SetFault(ct.None)
	if _, err := all(t, f); err != nil {
		t.Fatal(err)
	}
	s := newStatic(t)
	fill(t, s, 10)
	old, err := os.ReadFile(filepath.Join(s.Dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	s.Now = func() time.Time { return time.Now().Add(time.Minute) }
	fill(t, s, 10)
	web := httptest.NewServer(http.FileServer(http.Dir(s.Dir)))
	t.Cleanup(web.Close)
	f = follow(t, monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: origin}, Dir: s.Dir},
		monitor.FollowerOptions{})
	away := follow(t, monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: origin, MonitoringURL: web.URL}},
		monitor.FollowerOptions{})
	for _, one := range []*monitor.Follower{f, away} {
		if _, err := all(t, one); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "checkpoint"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := all(t, away); !errors.Is(err, monitor.ErrStale) || monitor.Misbehaved(err) {
		t.Errorf("%v", err)
	}
	if _, err := all(t, f); !errors.Is(err, monitor.ErrShrunk) {
		t.Errorf("a directory that an older copy took the place of: %v", err)
	}
}

// B11: redirects, oversized and malformed responses of a log are errors, and end in bounded time.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"flood": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		},
		"bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(make([]byte, 1<<24))
			_ = z.Close()
		},
		"nonsense": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"hangs":    func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"500":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(h)
			t.Cleanup(server.Close)
			s := newStatic(t)
			f := follow(t, monitor.Options{
				Log:       loglist.Log{Key: s.Key.Public(), Origin: origin, URL: server.URL},
				Transport: monitor.Transport{Timeout: 200 * time.Millisecond},
			},
				monitor.FollowerOptions{})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := f.Next(ctx, func(*monitor.Entry) error { return nil }); err == nil ||
				monitor.Misbehaved(err) || ctx.Err() != nil {
				t.Errorf("%v", err)
			}
		})
	}
}

// A state belongs to one log, and inconsistent states are refused.
func TestStateRefuses(t *testing.T) {
	t.Parallel()
	s := newStatic(t)
	l, err := monitor.Open(monitor.Options{
		Log: loglist.Log{Name: "x", Key: s.Key.Public(), Origin: origin},
		Dir: s.Dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := monitor.Follow(l, monitor.FollowerOptions{State: monitor.State{Log: [32]byte{1}}}); err == nil {
		t.Error("the state of another log was taken")
	}
	zero := strings.Repeat("0", 64)
	for _, text := range []string{
		`{"log":"` + zero + `","size":3,"head_size":3,"head_root":"` + zero + `"}`,
		`{"log":"` + zero + `","size":1,"hashes":["` + zero + `"],"head_size":0,"head_root":"` + zero + `"}`,
		`{"log":"00","head_root":"` + zero + `"}`,
		`{"log":"` + zero + `","size":1,"hashes":["xx"],"head_size":1,"head_root":"` + zero + `"}`,
		`[]`,
	} {
		var st monitor.State
		if err := json.Unmarshal([]byte(text), &st); err == nil {
			t.Errorf("%s passes", text)
		}
	}
}
