package embedded_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/tlog"
)

// clock is a clock that the test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

func date(text string) time.Time {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return at
}

// journal records the events of a store.
type journal struct {
	mu      sync.Mutex
	reasons []string
}

func (j *journal) event(reason, _ string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.reasons = append(j.reasons, reason)
}

func (j *journal) has(reason string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Contains(j.reasons, reason)
}

func openStore(t *testing.T, c embedded.Config, o tlog.Options) *embedded.Store {
	t.Helper()
	o.Every = 10 * time.Millisecond
	s, err := embedded.OpenStore(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutStore(t, s) })
	return s
}

func shutStore(t *testing.T, s *embedded.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

func names(shards []embedded.OpenShard) string {
	var out []string
	for _, s := range shards {
		out = append(out, s.Label())
	}
	return strings.Join(out, " ")
}

// The schedule makes the next shard in time. The old shard ends 20 minutes after the new one has begun, and is closed
// then. // B6
func TestRotateByDate(t *testing.T) {
	t.Parallel()
	c := embedded.Config{Dir: t.TempDir(), Origin: origin, Rotate: "yearly"}
	at := &clock{at: date("2026-11-01T00:00:00Z")}
	told := &journal{}
	s := openStore(t, c, tlog.Options{Now: at.now, Event: told.event})
	if got := names(s.Open()); got != "embedded" {
		t.Fatal(got)
	}
	first := s.Open()[0]
	submit(t, first.Log, 0)

	at.set(date("2026-12-02T00:00:00Z")) // 30 days before the year ends
	<-s.Changes()
	until(t, "told", func() bool { return told.has("log-shard-made") })
	open := s.Open()
	if names(open) != "embedded-2027 embedded" {
		t.Fatal(names(open))
	}
	if next := date("2027-01-01T00:00:00Z"); !open[0].NotBefore.Equal(next) || !open[0].NotAfter.IsZero() ||
		!open[1].NotAfter.Equal(next.Add(20*time.Minute)) {
		t.Errorf("%+v", open)
	}
	if open[1].Log != first.Log || open[0].Log.ID() == first.Log.ID() || open[0].Origin != origin+"/2027" {
		t.Error("another first shard, or the same key")
	}
	submit(t, open[0].Log, 1)

	at.set(date("2027-01-01T00:22:00Z"))
	<-s.Changes()
	until(t, "told", func() bool { return told.has("log-shard-closed") })
	if names(s.Open()) != "embedded-2027" {
		t.Fatal(names(s.Open()))
	}
	if _, err := first.Log.Submit(t.Context(), precert(2)); err == nil {
		t.Error("a closed shard takes entries")
	}
	for path, want := range map[string]string{"/checkpoint": origin + "\n1\n", "/2027/checkpoint": origin + "/2027\n"} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), want) {
			t.Errorf("%s: %d %q", path, w.Code, w.Body)
		}
	}
	for _, path := range []string{ // C8
		"/2027", "/2027/", "/2027/log.key.pem", "/2027/../log.key.pem", "/2027/..%2f..%2flog.key.pem",
		"/shards/2027/log.key.pem", "/2027/2027/checkpoint",
		"/2027/.state/treeState", "/2028/checkpoint", "//2027/checkpoint", "/shards.json", "/shards.lock", "/.probe",
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusNotFound || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
	if len(s.Keys()) != 2 {
		t.Error("a key is forgotten")
	}
	shutStore(t, s)

	s = openStore(t, c, tlog.Options{Now: at.now})
	if got := s.Shards(); names(s.Open()) != "embedded-2027" || len(got) != 2 || got[0].Closed.IsZero() {
		t.Errorf("after a restart: %s, %+v", names(s.Open()), got)
	}
	if _, err := embedded.OpenStore(t.Context(), c, tlog.Options{}); err == nil ||
		!strings.Contains(err.Error(), "in use") {
		t.Errorf("a second process has the directory: %v", err)
	}
}

// A shard that ends while the CA is down is closed at the next start, with a checkpoint over all entries.
func TestEndedWhileDown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := embedded.Config{Dir: dir, Origin: origin}
	l := open(t, dir)
	submit(t, l, 0)
	shut(t, l)
	now := time.Now()
	if _, err := c.Log().MakeShard(tlog.Rotation{Name: "next", At: now.Add(time.Hour), Unpublished: true},
		now); err != nil {
		t.Fatal(err)
	}
	told := &journal{}
	s := openStore(t, c, tlog.Options{Now: func() time.Time { return now.Add(24 * time.Hour) }, Event: told.event})
	until(t, "closed", func() bool { return told.has("log-shard-closed") && names(s.Open()) == "embedded-next" })
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/checkpoint", nil))
	if !strings.HasPrefix(w.Body.String(), origin+"\n1\n") {
		t.Errorf("%s", w.Body)
	}
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	lead := 10 * 24 * time.Hour
	for _, c := range []struct{ rotate, now, want string }{
		{"yearly", "2026-12-21T00:00:00Z", ""},
		{"yearly", "2026-12-22T00:00:00Z", "2027"},
		{"quarterly", "2026-06-21T12:00:00Z", "2026q3"},
		{"quarterly", "2026-12-30T00:00:00Z", ""}, // too late for the first of January
		{"monthly", "2026-11-21T00:00:00Z", "2026-12"},
		{"monthly", "2026-11-25T00:00:00Z", "2026-12"}, // more than half of the lead is left
		{"monthly", "2026-11-28T00:00:00Z", ""},
		{"", "2026-12-31T00:00:00Z", ""},
	} {
		config := embedded.Config{Dir: t.TempDir(), Origin: origin, Rotate: c.rotate, Lead: &lead}
		told := &journal{}
		s := openStore(t, config, tlog.Options{Now: func() time.Time { return date(c.now) }, Event: told.event})
		if c.want != "" {
			<-s.Changes()
		}
		shutStore(t, s) // after its first look
		got := ""
		if all := s.Shards(); len(all) == 2 {
			got = all[1].Name
		}
		if got != c.want {
			t.Errorf("%s at %s: %q, want %q", c.rotate, c.now, got, c.want)
		}
	}
}

// A manual rotation is refused if verifiers could not have the key in time; otherwise an open store uses the new shard.
func TestRotateByHand(t *testing.T) {
	t.Parallel()
	c := embedded.Config{Dir: t.TempDir(), Origin: origin}
	s := openStore(t, c, tlog.Options{})
	now := time.Now()
	for name, r := range map[string]tlog.Rotation{
		"soon": {At: now.Add(time.Hour)}, "past": {At: now.Add(-time.Hour), Unpublished: true},
		"name": {Name: "../x"}, "reserved": {Name: "tile"}, "upper": {Name: "X"},
	} {
		if _, err := c.Log().MakeShard(r, now); err == nil {
			t.Errorf("%s: made", name)
		}
	}
	if _, err := c.Log().PlanShard(tlog.Rotation{At: now.Add(time.Hour)}, now); !errors.Is(err, tlog.ErrTooSoon) {
		t.Error(err)
	}
	plan, err := c.Log().PlanShard(tlog.Rotation{Name: "next"}, now)
	if err != nil || len(plan) != 2 || plan[1].NotBefore.Before(now.Add(c.Log().LeadOrDefault())) {
		t.Fatalf("%v %+v", err, plan)
	}
	if len(s.Shards()) != 1 {
		t.Error("a plan has changed something")
	}
	made, err := c.Log().MakeShard(tlog.Rotation{Name: "next"}, now)
	if err != nil {
		t.Fatal(err)
	}
	<-s.Changes()
	if got := s.Open(); names(got) != "embedded-next embedded" || got[0].LogID != made.LogID {
		t.Errorf("%s", names(got))
	}
	if _, err := c.Log().MakeShard(tlog.Rotation{Name: "next"}, now); err == nil {
		t.Error("two shards of one name")
	}
	if _, err := c.Log().MakeShard(tlog.Rotation{At: plan[1].NotBefore, Name: "other"}, now); err == nil {
		t.Error("two shards become active at once")
	}
	shards, err := c.Log().Shards()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shards, s.Shards()); diff != "" {
		t.Error(diff)
	}
}

// A rotation by root is refused in the directory of another user, who could not read the key.
func TestRotateAsRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("this test changes the owner of a directory, which only root may")
	}
	c := embedded.Config{Dir: t.TempDir(), Origin: origin}
	if err := os.Chown(c.Dir, 4242, 4242); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Log().PlanShard(rotationForTest(), time.Now()); err == nil ||
		!strings.Contains(err.Error(), "sudo -u '#4242'") {
		t.Errorf("%v", err)
	}
	if files, err := os.ReadDir(c.Dir); err != nil || len(files) != 0 {
		t.Errorf("%v %v", files, err)
	}
}

// A shards.json that this program would not write is refused: names in it become paths.
func TestShardsRefused(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("00", 32)
	shard := func(name, origin string) map[string]any {
		return map[string]any{"name": name, "origin": origin, "log_id": id}
	}
	for name, state := range map[string]any{
		"no JSON": "x", "none": map[string]any{"version": 1},
		"newer":         map[string]any{"version": 2, "shards": []any{shard("", origin)}},
		"not the first": map[string]any{"version": 1, "shards": []any{shard("a", origin+"/a")}},
		"traversal": map[string]any{
			"version": 1,
			"shards":  []any{shard("", origin), shard("../..", origin+"/../..")},
		},
		"twice": map[string]any{
			"version": 1,
			"shards":  []any{shard("", origin), shard("a", origin+"/a"), shard("a", origin+"/a")},
		},
		"other origin": map[string]any{"version": 1, "shards": []any{shard("", "other.test")}},
		"other key":    map[string]any{"version": 1, "shards": []any{shard("", origin)}},
	} {
		c := embedded.Config{Dir: t.TempDir(), Origin: origin}
		data, err := json.Marshal(state)
		if err == nil {
			err = os.WriteFile(filepath.Join(c.Dir, "shards.json"), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := embedded.OpenStore(t.Context(), c, tlog.Options{}); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func FuzzShards(f *testing.F) {
	f.Add([]byte(`{"version":1,"shards":[{"name":"","origin":"mayfly.test/ct","log_id":"` +
		strings.Repeat("00", 32) + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := embedded.Config{Dir: t.TempDir(), Origin: origin}
		if err := os.WriteFile(filepath.Join(c.Dir, "shards.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		shards, err := c.Log().Shards()
		if err != nil {
			return
		}
		for _, s := range shards {
			if dir := c.Log().ShardDir(s); !strings.HasPrefix(dir, c.Dir) || strings.Contains(dir, "..") {
				t.Errorf("%q", dir)
			}
		}
	})
}

// A process that is killed anywhere in a rotation leaves shards that can be opened, and the same rotation succeeds
// afterwards.
func TestRotationKilled(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if out, err := exec.CommandContext(t.Context(), strace, "-f", "-o", os.DevNull,
		"/bin/true").CombinedOutput(); err != nil {
		t.Skipf("processes cannot be traced here: %s", out)
	}
	killed := 0
	for _, call := range []string{"mkdirat", "renameat", "fsync"} {
		for n := 1; ; n++ {
			c := embedded.Config{Dir: filepath.Join(t.TempDir(), "log"), Origin: origin}
			s := openStore(t, c, tlog.Options{})
			before := s.Open()[0].LogID
			shutStore(t, s)
			cmd := exec.CommandContext(t.Context(), strace, "-f", "-o", os.DevNull, "-e", "trace="+call,
				"-e", "inject="+call+":signal=KILL:when="+strconv.Itoa(n), os.Args[0])
			cmd.Env = append(os.Environ(), "MAYFLY_TEST_ROTATE_DIR="+c.Dir, "GOMAXPROCS=1")
			_, err := cmd.Output()
			s = openStore(t, c, tlog.Options{})
			got := s.Shards()
			if got[0].LogID != before || len(got) > 2 || err == nil && len(got) != 2 {
				t.Fatalf("%s %d: %v, %+v", call, n, err, got)
			}
			if len(got) == 1 {
				if _, err := c.Log().MakeShard(rotationForTest(), time.Now()); err != nil {
					t.Fatalf("%s %d: the rotation cannot be done again: %v", call, n, err)
				}
				until(t, "taken up", func() bool { return len(s.Open()) == 2 })
			}
			for _, one := range s.Open() {
				if err := one.Log.Health(); err != nil {
					t.Error(err)
				}
			}
			shutStore(t, s)
			if err == nil {
				break // it was not killed: there are fewer such calls
			}
			killed++
		}
	}
	if killed < 6 {
		t.Errorf("killed at %d places only", killed)
	}
	t.Logf("killed at %d places", killed)
}

func rotationForTest() tlog.Rotation {
	return tlog.Rotation{Name: "next", At: time.Now().Add(time.Hour), Unpublished: true}
}
