package trust_test

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/trust"
)

func publishRoot(t *testing.T, r *trust.Repository, data []byte) {
	t.Helper()
	if _, err := r.Publish(data); err != nil {
		t.Fatal(err)
	}
}

// A client that was set up once follows every publication and the rotation of every key, over HTTP.
func TestTUF(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := trust.TUFOptions{Dir: dir, Password: []byte("secret")}
	r, err := trust.InitTUF(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.InitTUF(o); err == nil {
		t.Error("a second init passes")
	}
	first, err := os.ReadFile(filepath.Join(dir, "repository", "1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(dir, "repository"))))
	t.Cleanup(s.Close)
	one := testdata(t, "trusted_root.json")
	publishRoot(t, r, one)
	fetched := func(want []byte) {
		t.Helper()
		got, err := trust.Fetch(t.Context(), s.URL, first, "test")
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	fetched(one)
	for _, role := range append(trust.Roles(), "root") {
		if r, err = trust.OpenTUF(o); err != nil {
			t.Fatal(err)
		}
		if err := r.Rotate(role); err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		fetched(one)
	}
	two, err := material().TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	publishRoot(t, r, two)
	fetched(two)
	if key, err := os.ReadFile(filepath.Join(dir, "keys", "root.pem")); err != nil ||
		!bytes.Contains(key, []byte("ENCRYPTED PRIVATE KEY")) {
		t.Errorf("root key: %v", err)
	}
	if _, err := trust.Fetch(t.Context(), s.URL, []byte("{}"), "test"); err == nil {
		t.Error("an invalid root passes")
	}
	if _, err := trust.Fetch(t.Context(), "http://tuf.example.com", first, "test"); err == nil {
		t.Error("plain http to another host passes")
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := trust.Fetch(stopped, s.URL, first, "test"); err == nil {
		t.Error("a canceled fetch passes")
	}
}

// Changes without the keys are refused by Check and by clients.
func TestTUFChanged(t *testing.T) {
	t.Parallel()
	for _, change := range []string{
		"timestamp.json", "2.snapshot.json", "2.targets.json",
		"targets/*.trusted_root.json", "2.root.json",
	} {
		dir := t.TempDir()
		o := trust.TUFOptions{Dir: dir}
		r, err := trust.InitTUF(o)
		if err != nil {
			t.Fatal(err)
		}
		publishRoot(t, r, testdata(t, "trusted_root.json"))
		if strings.HasSuffix(change, "root.json") {
			if err := r.Rotate("timestamp"); err != nil {
				t.Fatal(err)
			}
			change = "timestamp.json"
		}
		names, err := filepath.Glob(filepath.Join(dir, "repository", change))
		if err != nil || len(names) != 1 {
			t.Fatal(change, names, err)
		}
		data, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		// The first digit after "expires", or the first of the file, is replaced.
		i := max(0, bytes.Index(data, []byte(`"expires": "20`))) + len(`"expires": "20`)
		data[i] ^= 1
		if err := os.WriteFile(names[0], data, 0o600); err != nil {
			t.Fatal(err)
		}
		if again, err := trust.OpenTUF(o); err == nil && again.Check() == nil {
			t.Errorf("%s: changed and accepted", change)
		}
	}
}

// A renewal needs only the keys of snapshot and timestamp. An error names a missing key.
func TestTUFOffline(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	o := trust.TUFOptions{Dir: dir, Now: func() time.Time { return now }}
	r, err := trust.InitTUF(o)
	if err != nil {
		t.Fatal(err)
	}
	publishRoot(t, r, testdata(t, "trusted_root.json"))
	for _, role := range []string{"root", "targets"} {
		if err := os.Remove(filepath.Join(dir, "keys", role+".pem")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Publish(); err != nil {
		t.Fatal(err)
	}
	for _, i := range r.Info() {
		if want := i.Role == "snapshot" || i.Role == "timestamp"; i.HasKey != want {
			t.Errorf("%+v", i)
		}
	}
	if _, err := r.Publish(testdata(t, "trusted_root.json")); err == nil ||
		!strings.Contains(err.Error(), "the key of targets is missing") {
		t.Errorf("publish without the key of targets: %v", err)
	}
	if r, err = trust.OpenTUF(o); err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate("timestamp"); err == nil || !strings.Contains(err.Error(), "the key of root is missing") {
		t.Errorf("rotate without the key of root: %v", err)
	}
	for _, data := range []string{"", "{}", `{"mediaType":"x"}`, "[]"} {
		if _, err := r.Publish([]byte(data)); err == nil {
			t.Errorf("%q is published", data)
		}
	}
}

// The next command completes a rotation that crashed between writing the new root and its key.
func TestTUFCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := trust.TUFOptions{Dir: dir}
	r, err := trust.InitTUF(o)
	if err != nil {
		t.Fatal(err)
	}
	publishRoot(t, r, testdata(t, "trusted_root.json"))
	old, err := os.ReadFile(filepath.Join(dir, "keys", "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate("root"); err != nil {
		t.Fatal(err)
	}
	keys := func(name string) string { return filepath.Join(dir, "keys", name) }
	if err := os.Rename(keys("root.pem"), keys("root.next.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keys("root.pem"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err = trust.OpenTUF(o); err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate("snapshot"); err != nil {
		t.Error(err)
	}
}

// A file that is larger than what is read back is not published.
func TestTUFTooLarge(t *testing.T) {
	t.Parallel()
	o := trust.TUFOptions{Dir: t.TempDir()}
	r, err := trust.InitTUF(o)
	if err != nil {
		t.Fatal(err)
	}
	config, err := trust.Services{CA: "https://ca.example.com", Operator: "test"}.SigningConfig()
	if err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, o.Dir)
	large := slices.Concat(config, bytes.Repeat([]byte(" "), 5_000_000))
	if _, err := r.Publish(large); err == nil || !strings.Contains(err.Error(), "has more than 5000000 bytes") {
		t.Errorf("%v", err)
	}
	if !maps.Equal(before, snapshot(t, o.Dir)) {
		t.Error("the directory changed")
	}
	if _, err := trust.OpenTUF(o); err != nil {
		t.Error(err)
	}
}
