package embedded_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io/fs"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// realPrecert is a precertificate as the standard library signs one.
func realPrecert(t testing.TB, p *pki.PKI, n int64) tbs.Precertificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(n + 1), NotBefore: now.Add(-30 * time.Second), NotAfter: now.Add(9 * time.Minute), EmailAddresses: []string{"a@example.com"},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: []byte{5, 0}}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.Intermediate, key.Public(), p.Key)
	if err != nil {
		t.Fatal(err)
	}
	bare, _, err := tbs.Unlisted(der)
	if err != nil {
		t.Fatal(err)
	}
	return tbs.Precertificate{
		DER: der, Chain: [][]byte{p.Intermediate.Raw, p.Root.Raw},
		Entry: tbs.Entry{IssuerKeyHash: sha256.Sum256(p.Intermediate.RawSubjectPublicKeyInfo), TBS: bare},
	}
}

// check returns all findings in one text, a line each.
func check(t *testing.T, l *embedded.Log, s embedded.Source) string {
	t.Helper()
	r, err := embedded.NewReader(s, origin, l.Key())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	_, err = r.Check(t.Context(), embedded.CheckOptions{Now: time.Now(), Found: func(f embedded.Finding) { lines = append(lines, f.Where+": "+f.Problem) }})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// Whatever is wrong with a log is found, where it is, all of it at once, and the rest is checked all the same.
func TestCheck(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	dir := t.TempDir()
	l := open(t, dir)
	var all sync.WaitGroup
	for n := range int64(600) {
		precert := realPrecert(t, p, n)
		all.Go(func() {
			if _, err := l.Submit(t.Context(), precert); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	head(t, l, 600)
	server := httptest.NewServer(http.StripPrefix("/ct", l.Handler()))
	t.Cleanup(server.Close)
	remote, err := embedded.NewRemote(server.URL+"/ct/", "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []embedded.Source{embedded.Dir(dir), remote} {
		if got := check(t, l, s); got != "" {
			t.Errorf("a log without faults, read from %s: %s", s, got)
		}
	}
	shut(t, l)

	change := func(name string, edit func([]byte) []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, edit(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flip := func(at int) func([]byte) []byte {
		return func(data []byte) []byte {
			data = bytes.Clone(data)
			data[at] ^= 1
			return data
		}
	}
	issuers, err := filepath.Glob(filepath.Join(dir, "issuer", "*"))
	if err != nil || len(issuers) != 2 {
		t.Fatalf("%v %v", issuers, err)
	}
	for _, c := range []struct {
		name, want string
		edit       func([]byte) []byte
	}{
		{"tile/0/000", "tile/0/000: is not what the entries give", flip(40)},
		{"tile/1/000.p/2", "tile/1/000.p/2: is not what the entries give", flip(3)},
		{"checkpoint", "checkpoint: the signature by mayfly.test/ct does not verify", func(d []byte) []byte { return bytes.Replace(d, []byte("600"), []byte("599"), 1) }},
		{"tile/data/001", "entry 256: its timestamp", flip(1)},
		{"tile/data/001", "tile/data/001: entry 511: ", func(d []byte) []byte { return d[:len(d)-7] }},
		{"issuer/" + filepath.Base(issuers[0]), "its content has another SHA-256", flip(30)},
	} {
		var before []byte
		change(c.name, func(d []byte) []byte { before = bytes.Clone(d); return c.edit(d) })
		if got := check(t, l, embedded.Dir(dir)); !strings.Contains(got, c.want) {
			t.Errorf("%s: want %q, got %s", c.name, c.want, got)
		}
		change(c.name, func([]byte) []byte { return before })
	}
	if got := check(t, l, embedded.Dir(dir)); got != "" {
		t.Errorf("put together again: %s", got)
	}
	// An entry is another one than was signed for: its own checks, its tile and the root say so.
	change("tile/data/000", func(d []byte) []byte { return bytes.Replace(d, []byte("a@example.com"), []byte("b@example.com"), 1) })
	change("tile/0/001", flip(0))
	for _, name := range []string{issuers[1], filepath.Join(dir, "tile/data/002.p/88")} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	got := check(t, l, embedded.Dir(dir))
	for _, want := range []string{
		"entry 0: its precertificate without the poison is not what was logged", "tile/0/000: is not", "tile/0/001: is not", "tile/data/002.p/88: ",
		"issuer/" + filepath.Base(issuers[1]) + ": entry 0 is", "checkpoint: the entries have the root",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q, got %s", want, got)
		}
	}
}

// A remote log that answers without end, elsewhere, or not at all is an error, not a hang.
func TestRemote(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/endless", http.StatusFound)
		case "/endless":
			for part := make([]byte, 1<<20); r.Context().Err() == nil; {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	remote, err := embedded.NewRemote(server.URL, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Read(t.Context(), "nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for path, want := range map[string]string{"redirect": "status 302", "endless": "longer than"} {
		if _, err := remote.Read(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, url := range []string{"", "ftp://x/", "https://user@x/", "https://x/?a", "x"} {
		if _, err := embedded.NewRemote(url, ""); err == nil {
			t.Errorf("%q passes", url)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte("mayfly.test/ct\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— mayfly.test/ct AAAA\n"), []byte{0})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, checkpoint, rest []byte) {
		s := fixed{checkpoint, rest}
		if name, err := embedded.OriginOf(t.Context(), s); err == nil && strings.Contains(name, "\n") {
			t.Errorf("%q", name)
		}
		r, err := embedded.NewReader(s, origin, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range r.Entries(t.Context(), embedded.Head{Size: 300}, 0, 300) {
			if err != nil {
				break
			}
		}
		found := false
		if _, err := r.Check(t.Context(), embedded.CheckOptions{Now: time.Now(), Found: func(embedded.Finding) { found = true }}); err == nil && !found {
			t.Error("a log without a signature passes")
		}
	})
}

// fixed is a log whose files all have the same content.
type fixed struct{ checkpoint, rest []byte }

func (s fixed) Read(_ context.Context, path string) ([]byte, error) {
	if path == "checkpoint" {
		return s.checkpoint, nil
	}
	return s.rest, nil
}

func (s fixed) String() string { return "fixed" }
