package trust_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/trust"
)

// Two machines publish different content under the same version with the same keys. Clients that have the one cannot
// get the other, so a command refuses to continue from metadata that differs from what it published.
func TestTUFSameVersion(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other := filepath.Join(t.TempDir(), "other")
	place(t, other, l.good)
	for dir, extra := range map[string]string{l.dir: " ", other: "\n\n"} {
		r, err := trust.OpenTUF(trust.TUFOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Publish(append([]byte(extra), l.publish...)); err != nil {
			t.Fatal(err)
		}
	}
	mine := snapshot(t, l.dir)
	for file, data := range snapshot(t, other) {
		if strings.HasPrefix(file, "repository/") {
			mine[file] = data
		}
	}
	place(t, l.dir, mine)
	if _, err := trust.OpenTUF(l.o); err == nil || !strings.Contains(err.Error(), "differs from the published file") {
		t.Errorf("metadata of the same version with other content: %v", err)
	}
}

// Timestamp and snapshot describe the file below them by its version, length and SHA-256 (TUF specification §4.4,
// §4.6), so that a mirror cannot replace it.
func TestTUFDescribesFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, file := range []string{"timestamp.json", "snapshot.json"} {
		var in struct {
			Signed struct {
				Meta map[string]struct {
					Version int
					Length  int
					Hashes  map[string]string
				}
			}
		}
		for name, data := range l.good {
			if name == "repository/"+file || strings.HasSuffix(name, "."+file) {
				if err := json.Unmarshal([]byte(data), &in); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(in.Signed.Meta) != 1 {
			t.Fatalf("%s describes %d files", file, len(in.Signed.Meta))
		}
		for name, m := range in.Signed.Meta {
			found := false
			for path, data := range l.good {
				sum := sha256.Sum256([]byte(data))
				if strings.HasSuffix(path, "."+name) && len(data) == m.Length &&
					m.Hashes["sha256"] == hex.EncodeToString(sum[:]) {
					found = true
				}
			}
			if !found {
				t.Errorf("%s: no %s has the described length and hash: %+v", file, name, m)
			}
		}
	}
}

// What was signed is verified before it is written: if the clock leaps while a command signs, so that the new metadata
// is expired, nothing is written.
func TestTUFVerifiesBeforeWriting(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	refused, written := 0, 0
	for leap := range 60 {
		place(t, l.dir, l.good)
		asked := 0
		now := func() time.Time {
			if asked++; asked > leap {
				return time.Now().AddDate(40, 0, 0)
			}
			return time.Now()
		}
		err := func() error {
			r, err := trust.OpenTUF(trust.TUFOptions{Dir: l.dir, Now: now})
			if err == nil {
				_, err = r.Publish(l.publish)
			}
			return err
		}()
		leapt := asked > leap
		after := snapshot(t, l.dir)
		if err != nil {
			if refused++; !maps.Equal(after, l.good) {
				t.Errorf("leap after %d readings: refused (%v) and written", leap, err)
			}
			continue
		}
		written++
		var in struct{ Signed struct{ Expires time.Time } }
		if err := json.Unmarshal([]byte(after["repository/timestamp.json"]), &in); err != nil {
			t.Fatal(err)
		}
		if leapt && in.Signed.Expires.Before(now()) {
			t.Errorf("leap after %d of %d readings: an expired timestamp was written", leap, asked)
		}
	}
	if refused == 0 || written == 0 {
		t.Errorf("%d refused, %d written", refused, written)
	}
}
