package find_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/find"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/collected"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/signlog"
)

const issuer = "https://accounts.example.com"

// lab is a log on disk with an index of it.
type lab struct {
	t   *testing.T
	pki *pki.PKI
	dir string // of the index
	log *ct.Static
}

func newLab(t *testing.T) *lab {
	t.Helper()
	log, err := ct.NewStatic(t.TempDir(), "mayfly.test/ct")
	must(t, err)
	l := &lab{t: t, pki: pki.New(pki.Options{}), dir: filepath.Join(t.TempDir(), "index"), log: log}
	must(t, log.Publish())
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// certificate signs a certificate for an e-mail address.
func (l *lab) certificate(serial int64, email, issuer string, precert bool) []byte {
	l.t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(9 * time.Minute), EmailAddresses: []string{email},
	}
	text, err := asn1.MarshalWithParams(issuer, "utf8")
	must(l.t, err)
	c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: text}}
	if precert {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{
			Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: asn1.NullBytes,
		})
	}
	der, err := x509.CreateCertificate(rand.Reader, c, l.pki.Intermediate, pki.NewKey(pki.P256).Public(), l.pki.Key)
	must(l.t, err)
	return der
}

// add logs a precertificate and returns its index.
func (l *lab) add(serial int64, email, issuer string) uint64 {
	l.t.Helper()
	der := l.certificate(serial, email, issuer, true)
	bare, _, err := tbs.WithoutSCTList(der)
	must(l.t, err)
	index, err := l.log.Add(ct.StaticEntry{
		Timestamp: uint64(time.Now().UnixMilli()), TBS: bare, Certificate: der,
		IssuerKeyHash: sha256.Sum256(l.pki.Intermediate.RawSubjectPublicKeyInfo),
	})
	must(l.t, err)
	return index
}

func (l *lab) sources() ([]find.Source, error) {
	log, err := monitor.Open(monitor.Options{
		Log: loglist.Log{Name: "embedded", Origin: l.log.Origin, Key: l.log.Key.Public()}, Dir: l.log.Dir,
	})
	return []find.Source{{Log: log, Kind: find.Certificates}}, err
}

// open opens the index and brings it up to date.
func (l *lab) open() *find.Index {
	l.t.Helper()
	must(l.t, l.log.Publish())
	x, err := find.Open(find.Config{Dir: l.dir}, find.Options{Sources: l.sources, Step: 100})
	must(l.t, err)
	l.t.Cleanup(func() { _ = x.Close() })
	must(l.t, x.Update(l.t.Context()))
	return x
}

func search(t *testing.T, x *find.Index, query string) *find.Answer {
	t.Helper()
	v, err := url.ParseQuery(query)
	must(t, err)
	q, err := find.ParseQuery(v)
	must(t, err)
	a, err := x.Find(t.Context(), q)
	must(t, err)
	return a
}

// Every certificate is found by each of its names, and only it; an answer continues where the one before ended. The
// index continues after a restart, and is the same when it is made again.
func TestFind(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const many = 600 // more than two bundles, and several steps
	for n := range int64(many) {
		l.add(n+1, fmt.Sprintf("user%d@example.com", n%5), issuer+fmt.Sprint(n%2))
	}
	x := l.open()
	for range 2 {
		if a := search(t, x, "serial=0:05"); len(a.Entries) != 1 || a.Entries[0].Index != 4 ||
			a.Entries[0].Certificates[0].Serial != fmt.Sprintf("%040x", 5) || a.Entries[0].Logged == nil ||
			a.Logs[0].Size != many {
			t.Errorf("by serial number: %+v", a)
		}
		seen, query, pages := map[uint64]bool{}, "identity=user3@example.com&limit=50", 0
		for after := ""; ; pages++ {
			a := search(t, x, query+"&after="+after)
			for _, e := range a.Entries {
				if e.Index%5 != 3 || e.Certificates[0].Identities[0] != "user3@example.com" || seen[e.Index] {
					t.Errorf("entry %d: %+v", e.Index, e)
				}
				seen[e.Index] = true
			}
			if after = a.Next; after == "" {
				break
			}
		}
		if len(seen) != many/5 || pages != 2 {
			t.Errorf("%d entries on %d pages", len(seen), pages+1)
		}
		if a := search(t, x, "identity=user3@example.com&issuer="+
			url.QueryEscape(issuer+"1")); len(a.Entries) != many/10 {
			t.Errorf("by identity and issuer: %d entries", len(a.Entries))
		}
		for _, none := range []string{
			"identity=user@example.com", "identity=USER3@example.com", "serial=0", "serial=0500",
			"digest=" + strings.Repeat("ab", 32),
		} {
			if a := search(t, x, none); len(a.Entries) != 0 || a.Next != "" {
				t.Errorf("%s: %+v", none, a.Entries)
			}
		}
		must(t, x.Close())
		must(t, os.RemoveAll(l.dir))
		x = l.open()
	}
	must(t, x.Close())
	l.add(many+1, "user3@example.com", issuer)
	x = l.open()
	if a := search(t, x, "identity=user3@example.com&limit=1000"); len(a.Entries) != many/5+1 {
		t.Errorf("after a restart: %d entries", len(a.Entries))
	}
}

// A signature is found by what was signed, and by the certificate with which it was made; the log of certificates
// beside it has the certificate.
func TestFindSignatures(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.add(7, "alice@example.com", issuer)
	signatures := signlog.New(t)
	der := l.certificate(7, "alice@example.com", issuer, false)
	for n := range 3 {
		signatures.Add(fmt.Sprint("artifact ", n), der)
	}
	signatures.Add("artifact 1", l.certificate(8, "bob@example.com", issuer, false))
	x, err := find.Open(find.Config{Dir: l.dir}, find.Options{Sources: func() ([]find.Source, error) {
		out, err := l.sources()
		return append(out, find.Source{Log: signatures.Open(), Kind: find.Signatures}), err
	}})
	must(t, err)
	defer x.Close() //nolint:errcheck // only read
	must(t, l.log.Publish())
	must(t, x.Update(t.Context()))
	sum := sha256.Sum256([]byte("artifact 1"))
	a := search(t, x, fmt.Sprintf("digest=%x", sum))
	if len(a.Entries) != 2 || a.Entries[0].Index != 1 ||
		a.Entries[1].Certificates[0].Identities[0] != "bob@example.com" ||
		a.Entries[0].Digest != fmt.Sprintf("sha256:%x", sum) || a.Entries[0].Log != "rekor" {
		t.Errorf("by digest: %+v", a.Entries)
	}
	for _, query := range []string{"identity=alice@example.com", "serial=07"} {
		kinds := map[find.Kind]int{}
		for _, e := range search(t, x, query).Entries {
			kinds[e.Kind]++
		}
		if kinds[find.Signatures] != 3 || kinds[find.Certificates] != 1 {
			t.Errorf("%s: %v", query, kinds)
		}
	}
	var text strings.Builder
	must(t, a.Write(&text))
	for _, want := range []string{"bob@example.com", "signature", fmt.Sprintf("sha256:%x", sum), "rekor 1"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %s in\n%s", want, text.String())
		}
	}
}

// An entry that is changed after it was proven is not in an answer. A log that has another history is not indexed.
func TestFindChanged(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for n := range int64(300) {
		l.add(n+1, "alice@example.com", issuer)
	}
	x := l.open()
	name := filepath.Join(l.log.Dir, "tile", "data", "000")
	data, err := os.ReadFile(name)
	must(t, err)
	changed := strings.ReplaceAll(string(data), "alice", "malic")
	must(t, os.WriteFile(name, []byte(changed), 0o644))
	v := url.Values{"serial": {fmt.Sprintf("%x", 256)}}
	q, err := find.ParseQuery(v)
	must(t, err)
	if _, err := x.Find(t.Context(), q); fault.From(err).Reason != fault.LogUnavailable {
		t.Errorf("a changed entry: %v", err)
	}
	must(t, x.Close())

	other, err := ct.NewStatic(l.log.Dir, l.log.Origin)
	must(t, err)
	other.Key = l.log.Key
	l.log = other
	l.add(1000, "mallory@example.com", issuer)
	must(t, l.log.Publish())
	x, err = find.Open(find.Config{Dir: l.dir}, find.Options{Sources: l.sources})
	must(t, err)
	defer x.Close() //nolint:errcheck // only read
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); x.Run(ctx) }()
	for end := time.Now().Add(30 * time.Second); x.Warning() == "" && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	<-done
	if !strings.Contains(x.Warning(), "remove the directory of the index") {
		t.Errorf("the warning is %q", x.Warning())
	}
	if a := search(t, x, "identity=mallory@example.com"); len(a.Entries) != 0 {
		t.Errorf("%+v", a.Entries)
	}
}

// A file that is damaged or has another version is made again; a second process does not get the index.
func TestOpen(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.add(1, "alice@example.com", issuer)
	x := l.open()
	if _, err := find.Open(find.Config{Dir: l.dir}, find.Options{Sources: l.sources}); !errors.Is(err, find.ErrInUse) {
		t.Errorf("a second process: %v", err)
	}
	must(t, x.Close())
	name := filepath.Join(l.dir, find.File)
	good, err := os.ReadFile(name)
	must(t, err)
	half := append([]byte(nil), good...)
	for i := 0; i < len(half); i += 7 {
		half[i] ^= 0x55
	}
	for what, data := range map[string][]byte{
		"truncated": good[:100], "changed": half, "text": []byte(strings.Repeat("hello", 10000)),
	} {
		must(t, os.WriteFile(name, data, 0o600))
		x := l.open()
		if a := search(t, x, "identity=alice@example.com"); len(a.Entries) != 1 {
			t.Errorf("%s: %+v", what, a)
		}
		must(t, x.Close())
	}
}

func TestParseQuery(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	for query, want := range map[string]string{
		"":                                      "write one of",
		"digest=" + sum + "&serial=1":           "write one of",
		"digest=" + sum[:60]:                    "the digest is not",
		"digest=sha512:" + sum:                  "the digest is not",
		"digest=xyz":                            "the digest is not",
		"serial=x":                              "the serial number is not",
		"serial=" + sum:                         "more than 20 bytes",
		"issuer=a&serial=1":                     "issuer is allowed only",
		"serial=1&limit=0":                      "limit is not",
		"serial=1&limit=1001":                   "limit is not",
		"serial=1&after=x":                      "after is not",
		"serial=1&after=70000.1":                "after is not",
		"serial=1&serial=2":                     "serial is set more than once",
		"seriall=1":                             "unknown parameter",
		"identity=" + strings.Repeat("a", 3000): "more than 2048",
	} {
		v, err := url.ParseQuery(query)
		must(t, err)
		if _, err := find.ParseQuery(v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v", query, err)
		}
	}
	for _, query := range []string{
		"digest=" + sum, "digest=sha256%3A" + sum, "serial=00:ab:cd", "identity=a&issuer=b&limit=7&after=1.2",
	} {
		v, err := url.ParseQuery(query)
		must(t, err)
		q, err := find.ParseQuery(v)
		must(t, err)
		again, err := find.ParseQuery(q.Values())
		must(t, err)
		if fmt.Sprint(q) != fmt.Sprint(again) {
			t.Errorf("%s: %+v is %+v", query, q, again)
		}
	}
}

// A query that is accepted has one key, and is the same after its parameters were written and read again.
func FuzzParseQuery(f *testing.F) {
	for _, s := range []string{
		"digest=" + strings.Repeat("ab", 32), "serial=0:1", "identity=a&issuer=b&limit=1",
		"&&", "after=1.1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		v, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		q, err := find.ParseQuery(v)
		if err != nil {
			return
		}
		again, err := find.ParseQuery(q.Values())
		if err != nil || hex.EncodeToString(q.Serial) != hex.EncodeToString(again.Serial) ||
			q.Identity != again.Identity {
			t.Errorf("%+v: %v, %+v", q, err, again)
		}
	})
}

// F10: every metric is served.
func TestMetrics(t *testing.T) {
	t.Parallel()
	collected.All(t, "metrics.go", newLab(t).open().Collectors())
}

// The page answers in JSON, with an error that says what to do, and takes only GET.
func TestPage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.add(1, "alice@example.com", issuer)
	h := l.open().Handler(find.Server{
		Call: func(ctx context.Context, run func(context.Context) error) error { return run(ctx) },
		WriteError: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, fault.From(err).Reason.Message(), http.StatusBadRequest)
		},
	})
	get := func(method, target string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
		return w
	}
	var a find.Answer
	w := get(http.MethodGet, find.Path+"?identity=alice@example.com")
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != http.StatusOK || len(a.Entries) != 1 ||
		a.Entries[0].Certificates[0].Issuer != issuer {
		t.Errorf("status %d, %v, %s", w.Code, err, w.Body)
	}
	l.add(2, "bob@example.com", issuer)
	must(t, l.log.Publish())
	time.Sleep(100 * time.Millisecond)
	if w := get(http.MethodGet, find.Path+"?serial=2"); !strings.Contains(w.Body.String(), "bob@example.com") {
		t.Errorf("an entry that was just published is not found: %s", w.Body)
	}
	if w := get(http.MethodGet, find.Path+"?x=1"); w.Code != http.StatusBadRequest {
		t.Errorf("a bad query: status %d, %s", w.Code, w.Body)
	}
	if w := get(http.MethodPost, find.Path); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
		t.Errorf("POST: status %d", w.Code)
	}
}
