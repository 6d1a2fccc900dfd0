package embedded_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"go.uber.org/goleak"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/crash"
	"github.com/mayfly-ca/mayfly/tlog"
)

const origin = "mayfly.test/ct"

// The test binary is also the program of the process that is killed.
func TestMain(m *testing.M) {
	if dir := crash.Dir(); dir != "" {
		submitAll(dir)
		return
	}
	if dir := os.Getenv("MAYFLY_TEST_ROTATE_DIR"); dir != "" {
		if _, err := (embedded.Config{Dir: dir, Origin: origin}).Log().MakeShard(rotationForTest(),
			time.Now()); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

func open(t testing.TB, dir string) *embedded.Log {
	t.Helper()
	l, err := embedded.Open(context.Background(), embedded.Config{Dir: dir, Origin: origin}, tlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, l) })
	return l
}

func shut(t testing.TB, l *embedded.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

func precert(n int) tbs.Precertificate {
	return tbs.Precertificate{
		DER: fmt.Appendf(nil, "precertificate %d", n), Chain: [][]byte{[]byte("issuing"), []byte("root")},
		Entry: tbs.Entry{IssuerKeyHash: [32]byte{1}, TBS: fmt.Appendf(nil, "tbs %d", n)},
	}
}

func get(t *testing.T, l *embedded.Log, path string) []byte {
	t.Helper()
	w := httptest.NewRecorder()
	l.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d", path, w.Code)
	}
	return w.Body.Bytes()
}

// head waits for a checkpoint over at least size entries and returns its size and root, after verifying its signature
// (c2sp.org/static-ct-api: a note whose signature is that of an RFC 6962 tree head).
func head(t *testing.T, l *embedded.Log, size uint64) (uint64, []byte) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		note := string(get(t, l, "/checkpoint"))
		text, signatures, _ := strings.Cut(note, "\n\n")
		lines := strings.Split(text, "\n")
		n, err := strconv.ParseUint(lines[1], 10, 64)
		if err != nil || lines[0] != origin {
			t.Fatalf("checkpoint %q", note)
		}
		if n < size && time.Since(start) < 10*time.Second {
			continue
		}
		root, err := base64.StdEncoding.DecodeString(lines[2])
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(signatures)
		blob, err := base64.StdEncoding.DecodeString(fields[2]) // the first line is the log's own
		if err != nil || fields[1] != origin {
			t.Fatalf("signature line %q", signatures)
		}
		signed := append([]byte{0, 1}, blob[4:12]...)
		signed = append(binary.BigEndian.AppendUint64(signed, n), root...)
		sum := sha256.Sum256(signed)
		if !ecdsa.VerifyASN1(l.Key().(*ecdsa.PublicKey), sum[:], blob[16:]) {
			t.Fatal("the checkpoint's signature does not verify")
		}
		return n, root
	}
}

// tree reads every leaf hash from level 0 and returns the root over them, computed here (RFC 6962 §2.1).
func tree(t *testing.T, l *embedded.Log, size uint64) (leaves [][]byte, root []byte) {
	t.Helper()
	for n := uint64(0); n*256 < size; n++ {
		path := fmt.Sprintf("/tile/0/%03d", n)
		if (n+1)*256 > size {
			path += fmt.Sprintf(".p/%d", size%256)
		}
		data := get(t, l, path)
		for i := 0; i+32 <= len(data); i += 32 {
			leaves = append(leaves, data[i:i+32])
		}
	}
	return leaves, rootOf(leaves)
}

func rootOf(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	return rfc6962.DefaultHasher.HashChildren(rootOf(leaves[:k]), rootOf(leaves[k:]))
}

// found proves that the entry of an SCT is in the log.
func found(t *testing.T, leaves [][]byte, p tbs.Precertificate, raw []byte) {
	t.Helper()
	sct, err := tbs.ParseSCT(raw)
	if err != nil {
		t.Fatal(err)
	}
	x := sct.Extensions
	if len(x) != 8 || !bytes.HasPrefix(x, []byte{0, 0, 5}) {
		t.Fatalf("extensions %x", x)
	}
	index := binary.BigEndian.Uint64(append([]byte{0, 0, 0}, x[3:]...))
	leaf := []byte{0, 0} // v1, timestamped_entry (RFC 6962 §3.4)
	leaf = binary.BigEndian.AppendUint64(leaf, sct.Timestamp)
	leaf = append(leaf, 0, 1) // precert_entry
	leaf = append(leaf, p.Entry.IssuerKeyHash[:]...)
	leaf = append(leaf, 0, byte(len(p.Entry.TBS)>>8), byte(len(p.Entry.TBS)))
	leaf = append(leaf, p.Entry.TBS...)
	leaf = append(leaf, 0, byte(len(x)))
	leaf = append(leaf, x...)
	if index >= uint64(len(leaves)) || !bytes.Equal(leaves[index], rfc6962.DefaultHasher.HashLeaf(leaf)) {
		t.Errorf("leaf %d of %d is not the entry", index, len(leaves))
	}
}

// B1 // B2 // B5: with many concurrent callers, every SCT verifies and its entry is in the tree of the checkpoint, also
// after a restart.
func TestSubmit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir)
	scts := make([][]byte, 400)
	fill := func(l *embedded.Log, from, to int) {
		var all sync.WaitGroup
		for i := from; i < to; i++ {
			all.Go(func() {
				var err error
				if scts[i], err = l.Submit(t.Context(), precert(i)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	fill(l, 0, 300)
	shut(t, l)
	l = open(t, dir)
	fill(l, 300, 400)
	size, root := head(t, l, 400)
	leaves, computed := tree(t, l, size)
	if size != 400 || !bytes.Equal(root, computed) {
		t.Errorf("size %d, root %x, computed %x", size, root, computed)
	}
	for i, raw := range scts {
		sct, err := tbs.ParseSCT(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := sct.Verify(l.Key(), precert(i).Entry); err != nil || sct.LogID != l.ID() {
			t.Errorf("SCT %d: %v", i, err)
		}
		found(t, leaves, precert(i), raw)
	}
	sum := sha256.Sum256([]byte("issuing"))
	if got := get(t, l, "/issuer/"+hex.EncodeToString(sum[:])); string(got) != "issuing" {
		t.Errorf("issuer: %q", got)
	}
}

// A directory has one process at a time, one origin forever, and no new key for existing entries.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir)
	try := func(c embedded.Config, want string) {
		t.Helper()
		_, err := embedded.Open(t.Context(), c, tlog.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	try(embedded.Config{Dir: dir, Origin: origin}, "in use")
	shut(t, l)
	try(embedded.Config{Dir: dir, Origin: "other.test/ct"}, "cannot change its origin")
	if err := os.Remove(dir + "/log.key.pem"); err != nil {
		t.Fatal(err)
	}
	try(embedded.Config{Dir: dir, Origin: origin}, "restore the key")
	for _, c := range []embedded.Config{
		{Origin: origin},
		{Dir: dir},
		{Dir: dir, Origin: "https://x"},
		{Dir: dir, Origin: "a b"},
	} {
		if c.Check() == nil {
			t.Errorf("%+v passes", c)
		}
	}
}

// C8: only the public files of the log can be read, and nothing can be written.
func TestHandler(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir())
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/checkpoint", 200},
		{"HEAD", "/checkpoint", 200},
		{"GET", "/ct/v1/get-roots", 200},
		{"POST", "/ct/v1/add-pre-chain", 405},
		{"POST", "/checkpoint", 405},
		{"GET", "/log.key.pem", 404},
		{"GET", "/tile/../log.key.pem", 404},
		{"GET", "/tile/%2e%2e/log.key.pem", 404},
		{"GET", "/issuer/../log.key.pem", 404},
		{"GET", "/.state/treeState", 404},
		{"GET", "/tile/", 404},
		{"GET", "/tile/0/999", 404},
		{"GET", "/", 404},
		{"GET", "/origin", 404},
		{"GET", "/shards.json", 404},
		{"GET", "/shards/x/checkpoint", 404},
		{"GET", "/checkpoint.cosigned", 404},
		{"GET", "/tile/0/000/../../../log.key.pem", 404},
		{"GET", "/tile/data/..%2f..%2flog.key.pem", 404},
		{"GET", "/issuer/" + strings.Repeat("0", 64), 404},
		{"DELETE", "/tile/0/000", 405},
		{"OPTIONS", "/checkpoint", 204},
	} {
		w := httptest.NewRecorder()
		l.Handler().ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.code {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.code)
		}
	}
}

// Which files may be cached, and for how long (c2sp.org/static-ct-api, c2sp.org/tlog-tiles).
func TestReadPath(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir())
	var all sync.WaitGroup
	for n := range 300 {
		all.Go(func() { submit(t, l, n) })
	}
	all.Wait()
	head(t, l, 300)
	ask := func(method, path, span string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, path, nil)
		if span != "" {
			r.Header.Set("Range", span)
		}
		l.Handler().ServeHTTP(w, r)
		return w
	}
	sum := sha256.Sum256([]byte("issuing"))
	const ever = "public, max-age=31536000, immutable"
	for _, c := range []struct{ path, cache, kind string }{
		{"/checkpoint", "no-store", "text/plain; charset=utf-8"},
		{"/tile/0/000", ever, "application/octet-stream"},
		{"/tile/data/000", ever, "application/octet-stream"},
		{"/tile/0/001.p/44", "public, max-age=86400, immutable", "application/octet-stream"},
		{"/tile/1/000.p/1", "public, max-age=86400, immutable", "application/octet-stream"},
		{"/issuer/" + hex.EncodeToString(sum[:]), ever, "application/pkix-cert"},
		{"/ct/v1/get-roots", "no-cache", "application/json"},
		{"/tile/0/002", "no-store", "text/plain; charset=utf-8"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			h := ask(method, c.path, "").Header()
			if h.Get("Cache-Control") != c.cache || h.Get("Content-Type") != c.kind ||
				h.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s %s: %v", method, c.path, h)
			}
		}
	}
	r := ask(http.MethodGet, "/tile/0/000", "bytes=32-63")
	if part := r.Body.Bytes(); r.Code != http.StatusPartialContent ||
		!bytes.Equal(part, get(t, l, "/tile/0/000")[32:64]) {
		t.Errorf("range: %d, %d bytes", r.Code, len(part))
	}
}

func BenchmarkSubmit(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			l := open(b, b.TempDir())
			took := make([]time.Duration, b.N)
			var next atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for range callers {
				all.Go(func() {
					for n := next.Add(1) - 1; n < int64(b.N); n = next.Add(1) - 1 {
						began := time.Now()
						if _, err := l.Submit(b.Context(), precert(int(n))); err != nil {
							b.Error(err)
						}
						took[n] = time.Since(began)
					}
				})
			}
			all.Wait()
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "SCT/s")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
