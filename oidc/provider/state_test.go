package provider

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// E6: a state file is used only if all checks succeed; the failed check is logged.
func TestKeptFile(t *testing.T) {
	t.Parallel()
	ring := ringOf(t)
	for name, c := range map[string]struct {
		harm func(t *testing.T, s stateFile)
		want string // in the log; "": the keys are used
	}{
		"as written": {func(*testing.T, stateFile) {}, ""},
		"another issuer in it": {func(t *testing.T, s stateFile) {
			rewrite(t, s, func(k *savedKeys) { k.Issuer = "https://other.example.com" })
		}, "another issuer"},
		"other settings in it": {func(t *testing.T, s stateFile) {
			rewrite(t, s, func(k *savedKeys) { k.Settings = strings.Repeat("0", 64) })
		}, "other settings"},
		"too old": {func(t *testing.T, s stateFile) {
			rewrite(t, s, func(k *savedKeys) { k.Fetched = k.Fetched.Add(-usableFor - time.Minute) })
		}, "too long ago"},
		"in the future": {func(t *testing.T, s stateFile) {
			rewrite(t, s, func(k *savedKeys) { k.Fetched = k.Fetched.Add(time.Hour) })
		}, "in the future"},
		"algorithm none": {func(t *testing.T, s stateFile) {
			rewrite(t, s, func(k *savedKeys) { k.Algorithms = []string{"none"} })
		}, "algorithms"},
		"no algorithm": {func(t *testing.T, s stateFile) {
			rewrite(t, s, func(k *savedKeys) { k.Algorithms = nil })
		}, "algorithms"},
		"no keys": {func(t *testing.T, s stateFile) {
			rewrite(t, s, func(k *savedKeys) { k.Keys = json.RawMessage(`{"keys":[]}`) })
		}, "no usable key"},
		"cut": {func(t *testing.T, s stateFile) {
			data, err := os.ReadFile(s.path())
			if err != nil {
				t.Fatal(err)
			}
			put(t, s.path(), data[:len(data)/2])
		}, "not JSON"},
		"too large": {func(t *testing.T,
			s stateFile,
		) {
			put(t, s.path(), bytes.Repeat([]byte(" "), maxState+1))
		}, "limit"},
		"a file that others can write": {
			func(t *testing.T, s stateFile) { chmod(t, s.path(), 0o620) },
			"users other than its owner",
		},
		"a directory that others can write": {
			func(t *testing.T, s stateFile) { chmod(t, s.dir, 0o777) },
			"every user may write",
		},
		"a directory that a group can write": {func(t *testing.T, s stateFile) { chmod(t, s.dir, 0o770) }, ""},
		"of another user": {func(t *testing.T, s stateFile) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			if err := os.Chown(s.path(), 12345, -1); err != nil {
				t.Fatal(err)
			}
		}, "another user"},
		"a pipe": {func(t *testing.T, s stateFile) {
			if err := os.Remove(s.path()); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(s.path(), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s := stateFile{
				dir: dir, issuer: "https://idp.example.com", digest: strings.Repeat("a", 64),
				log: slog.New(slog.NewTextHandler(&log, nil)),
			}
			s.save(ring)
			if log.Len() > 0 {
				t.Fatal(log.String())
			}
			c.harm(t, s)
			got := s.load(time.Now())
			switch {
			case c.want == "" && (got == nil || got.keys[0].thumbprint != ring.keys[0].thumbprint ||
				!got.fetched.Equal(ring.fetched)):
				t.Errorf("%+v, %s", got, log.String())
			case c.want != "" && (got != nil || !strings.Contains(log.String(), c.want)):
				t.Errorf("%+v, %s", got, log.String())
			}
		})
	}
}

func rewrite(t *testing.T, s stateFile, f func(*savedKeys)) {
	t.Helper()
	data, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	var k savedKeys
	if err := json.Unmarshal(data, &k); err != nil {
		t.Fatal(err)
	}
	f(&k)
	if data, err = json.Marshal(k); err != nil {
		t.Fatal(err)
	}
	put(t, s.path(), data)
}

func put(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// State files of other settings are removed when their keys are too old; all other files in the directory stay.
func TestSweepState(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{
		statePrefix + "old.json": 3 * usableFor, oldPrefix + "0123.json": 3 * usableFor,
		statePrefix + "new.json": time.Hour, "another.json": 3 * usableFor, statePrefix + "x": 3 * usableFor,
	} {
		put(t, filepath.Join(dir, name), nil)
		if err := os.Chtimes(filepath.Join(dir, name), now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	sweepState(dir, now)
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(all) != 3 {
		t.Errorf("%v, %v", all, err)
	}
}

// E6 // E10: parsing arbitrary bytes as a state file returns an error or keys that may verify tokens, of this issuer
// and these settings.
func FuzzKeptFile(f *testing.F) {
	s := stateFile{issuer: "https://idp.example.com", digest: "aa"}
	now := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	const keys = `{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"1"}]}`
	f.Add(`{"issuer":"https://idp.example.com","settings":"aa","fetched":"2026-11-29T23:00:00Z","algorithms":["ES256"],"keys":` + keys + `}`)
	f.Add(`{"issuer":"https://idp.example.com","settings":"aa","fetched":"2026-12-29T23:00:00Z","algorithms":["none"],"keys":` + keys + `}`)
	f.Fuzz(func(t *testing.T, text string) {
		ring, err := s.parse([]byte(text), now)
		if err != nil {
			return
		}
		if len(ring.keys) == 0 || len(ring.algorithms) == 0 || ring.age(now) > usableFor {
			t.Errorf("%q: %+v", text, ring)
		}
		for _, k := range ring.keys {
			if weakness(k.Key) != "" || !k.IsPublic() {
				t.Errorf("%q: %+v", text, k)
			}
		}
	})
}
