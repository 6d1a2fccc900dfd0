package monitor_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// signed returns the entry of a valid precertificate that p issued.
func signed(t testing.TB, p *pki.PKI, n uint64) ct.StaticEntry {
	t.Helper()
	der := p.Leaf(int64(n+1), true)
	bare, _, err := tbs.WithoutSCTList(der)
	if err != nil {
		t.Fatal(err)
	}
	e := ct.StaticEntry{
		Timestamp: uint64(time.Now().UnixMilli()), IssuerKeyHash: sha256.Sum256(p.Intermediate.RawSubjectPublicKeyInfo),
		TBS: bare, Certificate: der,
	}
	for _, c := range p.ChainDER() {
		e.Chain = append(e.Chain, sha256.Sum256(c))
	}
	return e
}

// entries returns n such entries.
func entries(t testing.TB, p *pki.PKI, n uint64) (out []ct.StaticEntry) {
	t.Helper()
	for i := range n {
		out = append(out, signed(t, p, i))
	}
	return out
}

// precerts returns a log with such entries and their issuers.
func precerts(t testing.TB, p *pki.PKI, all []ct.StaticEntry) *ct.Static {
	t.Helper()
	s, err := ct.NewStatic(t.TempDir(), origin)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		put(t, s, e)
	}
	if err := errors.Join(s.Publish(), os.Mkdir(filepath.Join(s.Dir, "issuer"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, c := range p.ChainDER() {
		if err := os.WriteFile(filepath.Join(s.Dir, issuer(c)), c, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func put(t testing.TB, s *ct.Static, e ct.StaticEntry) {
	t.Helper()
	if _, err := s.Add(e); err != nil {
		t.Fatal(err)
	}
}

func issuer(der []byte) string {
	sum := sha256.Sum256(der)
	return "issuer/" + hex.EncodeToString(sum[:])
}

// check returns all findings, one per line.
func check(t *testing.T, s *ct.Static, o monitor.CheckOptions) string {
	t.Helper()
	l, err := monitor.Open(monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: s.Origin}, Dir: s.Dir})
	if err != nil {
		t.Fatal(err)
	}
	var found strings.Builder
	o.Found = func(f monitor.Finding) { found.WriteString(f.Where + ": " + f.Problem + "\n") }
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if _, err := l.Check(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return found.String()
}

// Each fault and the complete list of its findings.
func TestCheckFaults(t *testing.T) {
	t.Parallel()
	p, other := pki.New(pki.Options{}), pki.New(pki.Options{})
	all := entries(t, p, 600)
	reissue := func(change func(*ct.StaticEntry)) func(*testing.T, *ct.Static) {
		return func(t *testing.T, s *ct.Static) { // adds an entry that the log itself contributes
			e := signed(t, p, 600)
			change(&e)
			put(t, s, e)
			if err := s.Publish(); err != nil {
				t.Fatal(err)
			}
		}
	}
	head := func(size uint64, root []byte) func(*testing.T, *ct.Static) {
		return func(t *testing.T, s *ct.Static) {
			note := ct.Checkpoint(ct.CheckpointOptions{
				Origin: origin, Key: s.Key, Size: size,
				Root: root, Now: time.Now(),
			})
			change(t, s, "checkpoint", func([]byte) []byte { return note })
		}
	}
	in := func(name string, edit func([]byte) []byte) func(*testing.T, *ct.Static) {
		return func(t *testing.T, s *ct.Static) { change(t, s, name, edit) }
	}
	flip := func(name string, at int) func(*testing.T, *ct.Static) {
		return func(t *testing.T, s *ct.Static) { patch(t, s, name, at) }
	}
	without := func(names ...string) func(*testing.T, *ct.Static) {
		return func(t *testing.T, s *ct.Static) {
			for _, name := range names {
				remove(t, s, name)
			}
		}
	}
	const rootDiffers = "checkpoint: the entries give the root"
	for _, c := range []struct {
		name   string
		change func(*testing.T, *ct.Static)
		want   []string
	}{
		{"nothing", func(*testing.T, *ct.Static) {}, nil},
		{"no checkpoint", without("checkpoint"), []string{"checkpoint: open "}},
		{
			"another size",
			in("checkpoint", func(d []byte) []byte { return bytes.Replace(d, []byte("600"), []byte("599"), 1) }),
			[]string{"checkpoint: the log's head does not verify: the signature over size 599 does not verify"},
		},
		{
			"another origin", in("checkpoint",
				func(d []byte) []byte { return bytes.ReplaceAll(d, []byte(origin), []byte("log.test/2027")) }),
			[]string{`checkpoint: the log's head does not verify: the checkpoint has the origin "log.test/2027"`},
		},
		{
			"another key",
			in("checkpoint",
				func(d []byte) []byte { return bytes.Replace(d, []byte("— "+origin), []byte("— cosigner"), 1) }),
			[]string{"checkpoint: the log's head does not verify: the checkpoint has no signature"},
		},
		{
			"a checkpoint cut short", in("checkpoint", func(d []byte) []byte { return d[:len(d)-1] }),
			[]string{"checkpoint: truncated"},
		},
		{
			"a checkpoint cut in the middle", in("checkpoint", func(d []byte) []byte { return d[:20] }),
			[]string{"checkpoint: no blank line"},
		},
		{
			"characters that no note has", in("checkpoint",
				func(d []byte) []byte { return bytes.Replace(d, []byte("\n\n"), []byte("\nx\ry\n\n"), 1) }),
			[]string{"checkpoint: it contains characters"},
		},
		{"another history", head(600, make([]byte, 32)), []string{rootDiffers}},
		{
			"more than there is", head(601, make([]byte, 32)),
			[]string{
				"tile/data/002.p/89: open ", "tile/0/002.p/89: open ",
				"tile/0: neither the entries from 512 on nor their hashes",
			},
		},
		{"a hash altered", flip("tile/0/000", 40), []string{"tile/0/000: does not match the entries"}},
		{
			"a hash altered at the edge", flip("tile/0/002.p/88", 40),
			[]string{"tile/0/002.p/88: does not match the entries"},
		},
		{"a hash altered above", flip("tile/1/000.p/2", 3), []string{"tile/1/000.p/2: does not match the entries"}},
		{
			"a tile cut short", in("tile/0/001", func(d []byte) []byte { return d[:100] }),
			[]string{"tile/0/001: the tile has 100 bytes instead of 8192"},
		},
		{
			"a tile that is too long", in("tile/0/001", func(d []byte) []byte { return append(d, 0) }),
			[]string{"tile/0/001: "},
		},
		{
			"a tile that is too long at the edge", in("tile/1/000.p/2", func(d []byte) []byte { return append(d, 0) }),
			[]string{"tile/1/000.p/2: "},
		},
		{"a tile gone", without("tile/0/001"), []string{"tile/0/001: open "}},
		{"a tile gone above", without("tile/1/000.p/2"), []string{"tile/1/000.p/2: open "}},
		{
			"a timestamp altered", flip("tile/data/001", 1),
			[]string{
				"entry 256: the timestamp", "entry 256: the timestamp", "tile/0/001: does not match",
				"tile/1/000.p/2: does not match", rootDiffers,
			},
		},
		{
			"a bundle cut short", in("tile/data/001", func(d []byte) []byte { return d[:len(d)-7] }),
			[]string{"tile/data/001: entry 511: truncated"},
		},
		{
			"a bundle without its last entry", in("tile/data/000", firstEntry),
			[]string{"tile/data/000: the bundle has 1 entries, but the head covers 256 of the bundle"},
		},
		{"a bundle gone", without("tile/data/002.p/88"), []string{"tile/data/002.p/88: open "}},
		{
			"a bundle gone and its tile altered",
			func(t *testing.T, s *ct.Static) { remove(t, s, "tile/data/000"); patch(t, s, "tile/0/000", 0) },
			[]string{"tile/data/000: open ", "tile/1/000.p/2: does not match", rootDiffers},
		},
		{
			"a bundle and its tile gone", without("tile/data/001", "tile/0/001"),
			[]string{
				"tile/data/001: open ", "tile/0/001: open ",
				"tile/0: neither the entries from 256 on nor their hashes",
			},
		},
		{
			"what was logged altered", in("tile/data/000",
				func(d []byte) []byte { return bytes.Replace(d, []byte("rogue@"), []byte("third@"), 1) }),
			[]string{
				"entry 0: the precertificate without the poison is not what was logged",
				"tile/0/000: does not match", "tile/1/000.p/2: does not match", rootDiffers,
			},
		},
		{"a precertificate altered", in("tile/data/000", func(d []byte) []byte {
			at := bytes.Index(d, []byte("rogue@")) + 6
			return append(bytes.Clone(d[:at]), bytes.Replace(d[at:], []byte("rogue@"), []byte("third@"), 1)...)
		}), []string{
			"entry 0: the precertificate without the poison is not what was logged",
			"entry 0: the precertificate is not signed by",
		}},
		{
			"another leaf index", in("tile/data/000",
				func(d []byte) []byte { return bytes.Replace(d, ct.Extensions(7), ct.Extensions(8), 1) }),
			[]string{
				"entry 7: the extensions 0000050000000008 do not contain its index", "tile/0/000: does not match",
				"tile/1/000.p/2: does not match", rootDiffers,
			},
		},
		{
			"an issuer altered", flip(issuer(p.Intermediate.Raw), 30),
			[]string{": the content does not have the SHA-256 in the name (needed by entry "},
		},
		{"an issuer gone", without(issuer(p.Root.Raw)), []string{": open "}},
		{
			"the key of another issuer", reissue(func(e *ct.StaticEntry) { e.IssuerKeyHash[0] ^= 1 }),
			[]string{"entry 600: the issuer key hash is not that of"},
		},
		{
			"no issuer", reissue(func(e *ct.StaticEntry) { e.Chain = nil }),
			[]string{"entry 600: the chain has no issuer"},
		},
		{"an issuer that is not there", reissue(func(e *ct.StaticEntry) { e.Chain[1][0] ^= 1 }), []string{"issuer/"}},
		{
			"the signature of another issuer", reissue(func(e *ct.StaticEntry) { e.Certificate = other.Leaf(1, true) }),
			[]string{
				"entry 600: the precertificate without the poison",
				"entry 600: the precertificate is not signed by",
			},
		},
		{
			"no precertificate", reissue(func(e *ct.StaticEntry) { e.Certificate = []byte("x") }),
			[]string{"entry 600: the precertificate: "},
		},
		{
			"an entry of before its certificate",
			reissue(func(e *ct.StaticEntry) { e.Timestamp -= uint64((3 * time.Minute).Milliseconds()) }),
			[]string{"entry 600: the timestamp"},
		},
		{
			"an entry of tomorrow",
			reissue(func(e *ct.StaticEntry) { e.Timestamp += uint64((24 * time.Hour).Milliseconds()) }),
			[]string{"later than the checkpoint's", "outside the certificate's validity"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := precerts(t, p, all)
			c.change(t, s)
			got := strings.SplitAfter(strings.TrimSuffix(check(t, s, monitor.CheckOptions{}), "\n"), "\n")
			if got[0] == "" {
				got = nil
			}
			for i, line := range got {
				if i >= len(c.want) || !strings.Contains(line, c.want[i]) {
					t.Errorf("want %q, got %s", c.want, got)
					break
				}
			}
			if len(got) < len(c.want) {
				t.Errorf("want %q, got %s", c.want, got)
			}
		})
	}
}

// firstEntry truncates a bundle after its first entry, a precertificate with a chain of two.
func firstEntry(d []byte) []byte {
	n := 8 + 2 + 32
	for range 2 { // the TBSCertificate and the extensions, the precertificate and the chain
		n += 3 + int(d[n])<<16 + int(d[n+1])<<8 + int(d[n+2])
		n += 2 + int(d[n])<<8 + int(d[n+1])
	}
	return d[:n]
}

// The timestamps of the entries of a shard lie within its validity.
func TestCheckValidity(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	s := precerts(t, p, entries(t, p, 1))
	now := time.Now()
	for _, o := range []monitor.CheckOptions{{NotBefore: now.Add(time.Hour)}, {NotAfter: now.Add(-time.Hour)}} {
		if got := check(t, s, o); !strings.Contains(got, "outside the shard's window") {
			t.Error(got)
		}
	}
	if got := check(t, s, monitor.CheckOptions{NotBefore: now, NotAfter: now.Add(time.Hour)}); got != "" {
		t.Error(got)
	}
	if got := check(t, s, monitor.CheckOptions{Now: now.Add(-time.Hour)}); !strings.Contains(got, "later than") {
		t.Error(got)
	}
}

// A remote log is checked in the same way, and its origin and cosigners are returned.
func TestCheckRemote(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	s := precerts(t, p, entries(t, p, 300))
	change(t, s, "checkpoint", func(d []byte) []byte { return append(d, "— witness.test AAAAAAAA\n"...) })
	web := httptest.NewServer(http.FileServer(http.Dir(s.Dir)))
	t.Cleanup(web.Close)
	o := monitor.Options{Log: loglist.Log{Key: s.Key.Public(), MonitoringURL: web.URL}}
	var err error
	if o.Log.Origin, err = monitor.OriginOf(t.Context(), o); err != nil || o.Log.Origin != origin {
		t.Fatal(o.Log.Origin, err)
	}
	l, err := monitor.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	var done uint64
	got, err := l.Check(t.Context(), monitor.CheckOptions{
		Now: time.Now(), Found: func(f monitor.Finding) { t.Error(f) },
		Progress: func(n, of uint64) { done = n * 1000 / of },
	})
	if err != nil || got.Size != 300 || len(got.Cosigners) != 1 || got.Cosigners[0] != "witness.test" || done != 1000 {
		t.Errorf("%+v, %d, %v", got, done, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Check(ctx, monitor.CheckOptions{Found: func(f monitor.Finding) { t.Error(f) }}); !errors.Is(err,
		context.Canceled) {
		t.Error(err)
	}
	rfc, err := monitor.Open(monitor.Options{Log: loglist.Log{Key: s.Key.Public(), URL: web.URL}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rfc.Check(t.Context(), monitor.CheckOptions{}); err == nil {
		t.Error("a log that may be one of RFC 6962 was checked")
	}
}

// Entries can be read from any index to any other; the sequence ends at an entry that cannot be read.
func TestEntries(t *testing.T) {
	t.Parallel()
	s := newStatic(t)
	fill(t, s, 700)
	l, err := monitor.Open(monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: origin}, Dir: s.Dir})
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, to, last uint64 }{
		{0, 700, 700},
		{3, 4, 4},
		{255, 257, 257},
		{699, 9000, 700},
		{700, 701, 700},
		{5, 5, 5},
		{9000, 9001, 9000},
		{9, 3, 9},
	} {
		next := c.from
		for e, err := range l.Entries(t.Context(), h, c.from, c.to) {
			if err != nil || e.Index != next || e.Time().UnixMilli() != int64(1000+next) {
				t.Fatal(e, err)
			}
			next++
		}
		if next != c.last {
			t.Errorf("%+v: ended before %d", c, next)
		}
	}
	for range l.Entries(t.Context(), h, 0, 700) {
		break
	}
	remove(t, s, "tile/data/001")
	n, last := 0, error(nil)
	for _, last = range l.Entries(t.Context(), h, 0, 700) {
		n++
	}
	if n != 257 || !errors.Is(last, fs.ErrNotExist) {
		t.Errorf("%d, %v", n, last)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, last = range l.Entries(ctx, h, 0, 100) {
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Error(last)
	}
}

// A valid prefix is a URL to which paths can be appended.
func TestPrefix(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "ftp://x/", "https://user@x/", "https://x/?a", "https://x/#a", "x", "https://"} {
		if monitor.CheckPrefix(url) == nil {
			t.Errorf("%q passes", url)
		}
		if _, err := monitor.Open(monitor.Options{Log: loglist.Log{
			MonitoringURL: url, Origin: origin,
			Key: newStatic(t).Key.Public(),
		}}); err == nil {
			t.Errorf("%q is read", url)
		}
	}
}

// BenchmarkCheck measures the cost per entry.
func BenchmarkCheck(b *testing.B) {
	p := pki.New(pki.Options{})
	s := precerts(b, p, entries(b, p, 4096))
	l, err := monitor.Open(monitor.Options{Log: loglist.Log{Key: s.Key.Public(), Origin: origin}, Dir: s.Dir})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := l.Check(b.Context(), monitor.CheckOptions{
			Now:   time.Now(),
			Found: func(f monitor.Finding) { b.Error(f) },
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/4096, "µs/entry")
}
