package embedded_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/tlog"
)

// A list of shards that another program changed, or that is an old copy, is refused: while the log runs and at a start.
// The shards in use stay in use, and the cause is reported.
func TestChangedShardsAreNotTakenUp(t *testing.T) {
	t.Parallel()
	type list struct {
		Version int              `json:"version"`
		Shards  []map[string]any `json:"shards"`
	}
	for _, row := range []struct {
		name   string
		change func(t *testing.T, dir string, l *list)
		start  bool // whether a start sees it as well
		want   string
	}{
		{
			"another key", func(_ *testing.T, _ string, l *list) { l.Shards[1]["log_id"] = strings.Repeat("ab", 32) },
			true, "key",
		},
		{
			"the same key twice", func(_ *testing.T, _ string, l *list) {
				l.Shards[1]["log_id"] = l.Shards[0]["log_id"]
			},
			true, "same key",
		},
		{"a missing shard", func(_ *testing.T, _ string, l *list) { l.Shards = l.Shards[:1] }, true, "shard"},
		{"another validity", func(_ *testing.T, _ string, l *list) {
			l.Shards[1]["not_before"] = time.Now().Add(90 * 24 * time.Hour).Format(time.RFC3339)
		}, true, "ends before"},
		{"a sooner validity", func(_ *testing.T, _ string, l *list) {
			l.Shards[1]["not_before"] = time.Now().Add(time.Hour).Format(time.RFC3339)
		}, false, "a different validity"},
		{"everybody may write", func(t *testing.T, dir string, _ *list) {
			if err := os.Chmod(filepath.Join(dir, "shards.json"), 0o666); err != nil { //nolint:gosec // that is the fault
				t.Fatal(err)
			}
		}, true, "every user may write"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := embedded.Config{Dir: t.TempDir(), Origin: "ca.example.com/ct"}
			s, err := embedded.OpenStore(t.Context(), c, tlog.Options{Every: 20 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close(t.Context()) }()
			if _, err := c.Log().MakeShard(tlog.Rotation{Name: "next", At: time.Now().Add(60 * 24 * time.Hour)},
				time.Now()); err != nil {
				t.Fatal(err)
			}
			wait := func(what string, holds func() bool) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("not %s: %q", what, s.Warning())
					}
				}
			}
			wait("made", func() bool { return len(s.Open()) == 2 })
			before := s.Shards()
			path := filepath.Join(c.Dir, "shards.json")
			data, err := os.ReadFile(path)
			var l list
			if err != nil || json.Unmarshal(data, &l) != nil {
				t.Fatal(err)
			}
			row.change(t, c.Dir, &l)
			if data, err = json.Marshal(l); err == nil {
				err = os.WriteFile(path, append(data, ' '), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			wait("noticed", func() bool { return strings.Contains(s.Warning(), row.want) })
			after := s.Shards()
			if len(after) != len(before) || after[1] != before[1] || len(s.Open()) != 2 {
				t.Errorf("%+v took the place of %+v", after, before)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if !row.start {
				return
			}
			if err := tlog.Inspect(c.Log()); err == nil {
				t.Error("a check passes")
			}
			if again, err := embedded.OpenStore(t.Context(), c, tlog.Options{}); err == nil {
				_ = again.Close(t.Context())
				t.Error("a start passes")
			}
		})
	}
}
