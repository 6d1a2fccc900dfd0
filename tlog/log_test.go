package tlog_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"go.uber.org/goleak"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/testkit/crash"
	"github.com/mayfly-ca/mayfly/tlog"
)

const origin = "rekor.mayfly.test"

// The test binary is also the program of the process that is killed.
func TestMain(m *testing.M) {
	if dir := crash.Dir(); dir != "" {
		addAll(dir)
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

func config(dir string) tlog.Config {
	return tlog.Config{Kind: tlog.Rekor, Dir: dir, Origin: origin}
}

func open(t testing.TB, c tlog.Config) *tlog.Log {
	t.Helper()
	l, err := tlog.Open(context.Background(), c, tlog.Options{Every: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, l) })
	return l
}

func shut(t testing.TB, l *tlog.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

// verify checks an inclusion as a client of Rekor does: with other code than the log's.
func verify(t testing.TB, key crypto.PublicKey, leaf []byte, in tlog.Inclusion) {
	t.Helper()
	hash := monitor.NoteHash(key)
	v, err := signature.LoadVerifier(key, hash)
	if err != nil {
		t.Fatal(err)
	}
	n, err := rekornote.NewNoteVerifier(origin, v)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _, err := log.ParseCheckpoint(in.Checkpoint, origin, n)
	if err != nil {
		t.Fatalf("%q: %v", in.Checkpoint, err)
	}
	if head.Size != in.Size || string(head.Hash) != string(in.Root) {
		t.Errorf("the checkpoint covers %d, the inclusion says %d", head.Size, in.Size)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, in.Index, head.Size, rfc6962.DefaultHasher.HashLeaf(leaf),
		in.Hashes, head.Hash); err != nil {
		t.Error(err)
	}
	if _, id, err := rekornote.KeyHash(origin, key); err != nil || string(id) != string(in.LogID[:]) {
		t.Errorf("log ID %x, want %x: %v", in.LogID, id, err)
	}
}

// monitored reads the whole log as a monitor does.
func monitored(t testing.TB, c tlog.Config, key crypto.PublicKey) []string {
	t.Helper()
	m, err := monitor.Open(monitor.Options{
		Log: loglist.Log{Name: "test", Key: key, Origin: origin}, Format: monitor.Opaque, Dir: c.Dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := monitor.Follow(m, monitor.FollowerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	if _, err := f.Next(t.Context(), func(e *monitor.Entry) error {
		all = append(all, string(e.Content))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Check(t.Context(), monitor.CheckOptions{
		Now: time.Now(), Found: func(f monitor.Finding) { t.Errorf("%+v", f) },
	}); err != nil {
		t.Error(err)
	}
	return all
}

// Every entry gets a proof under a checkpoint that other code verifies, also when many are added at once and when the
// log is opened again.
func TestAdd(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string][]crypto.Signer{"own key": nil, "configured key": {p384}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config(t.TempDir())
			c.Keys = keys
			var logged sync.Map
			for round := range 2 {
				l := open(t, c)
				var group sync.WaitGroup
				for i := range 80 {
					group.Go(func() {
						leaf := fmt.Sprintf("entry %d of round %d", i, round)
						in, err := l.Add(t.Context(), []byte(leaf))
						if err != nil {
							t.Error(err)
							return
						}
						verify(t, l.Key(), []byte(leaf), in)
						if other, twice := logged.LoadOrStore(in.Index, leaf); twice {
							t.Errorf("%q and %q have the index %d", leaf, other, in.Index)
						}
					})
				}
				group.Wait()
				shut(t, l)
				all := monitored(t, c, l.Key())
				if len(all) != 80*(round+1) {
					t.Fatalf("%d entries", len(all))
				}
				for i, have := range all {
					if want, _ := logged.Load(uint64(i)); want != have { //nolint:gosec // not negative
						t.Errorf("entry %d is %q, not %q", i, have, want)
					}
				}
			}
			if _, err := os.Stat(filepath.Join(c.Dir, "log.key.pem")); (err == nil) != (keys == nil) {
				t.Errorf("the key in the directory: %v", err)
			}
		})
	}
}

// A log whose key is configured is not opened with another one.
func TestConfiguredKey(t *testing.T) {
	t.Parallel()
	var keys []crypto.Signer
	for range 2 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	c := config(t.TempDir())
	c.Keys = keys[:1]
	l := open(t, c)
	if _, err := l.Add(t.Context(), []byte("entry")); err != nil {
		t.Fatal(err)
	}
	shut(t, l)
	if err := tlog.Inspect(c); err != nil {
		t.Error(err)
	}
	c.Keys = keys[1:]
	_, err := tlog.Open(t.Context(), c, tlog.Options{})
	if err == nil {
		t.Error("opened with another key")
	}
	if tlog.Inspect(c) == nil {
		t.Error("another key is not found")
	}
	r := tlog.Rotation{Name: "next", At: time.Now(), Unpublished: true}
	c.Keys = keys[:1]
	if _, err := c.MakeShard(r, time.Now()); err == nil {
		t.Error("a shard with the key of another one was made")
	}
	c.Keys = keys
	made, err := c.MakeShard(r, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Describe(made)
	if err != nil || !keys[1].Public().(*ecdsa.PublicKey).Equal(d.Key) || made.Origin != origin {
		t.Errorf("%+v %+v: %v", made, d, err)
	}
	s, err := tlog.OpenStore(t.Context(), c, tlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.Open()); n != 2 {
		t.Errorf("%d shards", n)
	}
	in, err := s.Add(t.Context(), []byte("entry"))
	if err != nil || in.Index != 0 { // the first of the new shard
		t.Errorf("%+v: %v", in, err)
	}
	verify(t, keys[1].Public(), []byte("entry"), in)
	if s.ShardHandler("next") == nil || s.ShardHandler("other") != nil {
		t.Error("the handlers of the shards are not those by name")
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Files that come from two states of a log are refused: the checkpoint has entries that the tree does not have, or
// others.
func TestMixedCopies(t *testing.T) {
	t.Parallel()
	for name, entries := range map[string]int{"fewer entries": 0, "other entries": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, other := config(t.TempDir()), config(t.TempDir())
			l := open(t, c)
			for i := range 3 {
				if _, err := l.Add(t.Context(), fmt.Appendf(nil, "entry %d", i)); err != nil {
					t.Fatal(err)
				}
			}
			shut(t, l)
			key, err := os.ReadFile(filepath.Join(c.Dir, "log.key.pem"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(other.Dir, "log.key.pem"), key, 0o600); err != nil {
				t.Fatal(err)
			}
			l = open(t, other)
			for i := range entries {
				if _, err := l.Add(t.Context(), fmt.Appendf(nil, "other %d", i)); err != nil {
					t.Fatal(err)
				}
			}
			shut(t, l)
			data, err := os.ReadFile(filepath.Join(c.Dir, "checkpoint"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(other.Dir, "checkpoint"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := tlog.Open(t.Context(), other, tlog.Options{}); err == nil {
				t.Error("opened")
			}
		})
	}
}

// A caller that stops waiting, or a log that is closed, ends the wait.
func TestAddEnds(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Interval = time.Hour
	l := open(t, c)
	if _, err := l.Add(t.Context(), []byte("first")); err != nil { // nothing was published before
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.Add(ctx, []byte("second")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	result := make(chan error, 1)
	go func() {
		in, err := l.Add(context.Background(), []byte("third"))
		if err == nil {
			verify(t, l.Key(), []byte("third"), in)
		}
		result <- err
	}()
	state := filepath.Join(c.Dir, ".state", "treeState")
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if data, err := os.ReadFile(state); err == nil && bytes.Contains(data, []byte(`"size":3`)) {
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Fatal("the third entry was not added")
		}
	}
	shut(t, l)
	if err := <-result; err != nil { // the last checkpoint covers it
		t.Error(err)
	}
	if _, err := l.Add(t.Context(), []byte("fourth")); err == nil {
		t.Error("a closed log accepts an entry")
	}
}

// BenchmarkAdd measures entries with proofs.
func BenchmarkAdd(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			l := open(b, config(b.TempDir()))
			leaf := make([]byte, 2000)
			b.SetParallelism(callers)
			var n sync.Mutex
			next := 0
			var group sync.WaitGroup
			b.ResetTimer()
			for range callers {
				group.Go(func() {
					for {
						n.Lock()
						i := next
						next++
						n.Unlock()
						if i >= b.N {
							return
						}
						if _, err := l.Add(context.Background(),
							append(fmt.Appendf(nil, "%d", i), leaf...)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// Close returns when no call of Append writes files any more, or when its context ends. After that no call begins.
func TestCloseAwaitsWriters(t *testing.T) {
	t.Parallel()
	errWriter := errors.New("written")
	for _, limit := range []time.Duration{time.Minute, 50 * time.Millisecond} {
		l, err := tlog.Open(t.Context(), config(t.TempDir()), tlog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		began, release := make(chan struct{}), make(chan struct{})
		added, closed := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := l.Append(t.Context(), func() (tlog.Entry, error) {
				close(began)
				<-release
				return nil, errWriter
			})
			added <- err
		}()
		<-began
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		go func() { closed <- l.Close(ctx) }()
		if limit == time.Minute {
			select {
			case err := <-closed:
				t.Errorf("Close returned while files were written: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			close(release)
			if err := <-closed; err != nil {
				t.Error(err)
			}
		} else {
			if err := <-closed; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Close: %v", err)
			}
			close(release)
		}
		cancel()
		if err := <-added; !errors.Is(err, errWriter) {
			t.Errorf("Append: %v", err)
		}
		if _, err := l.Append(t.Context(), func() (tlog.Entry, error) {
			t.Error("a call began after Close")
			return nil, errWriter
		}); err == nil {
			t.Error("a closed log accepts an entry")
		}
	}
}
