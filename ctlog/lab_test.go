package ctlog_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// authority makes precertificates.
type authority struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key := newKey(t, elliptic.P256())
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab root"}, IsCA: true,
		BasicConstraintsValid: true,
		NotBefore:             time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{key, root}
}

var algECDSA = []byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02") // ecdsa-with-SHA256

func (a authority) precert(t testing.TB) tbs.Precertificate {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(newKey(t, elliptic.P256()).Public())
	if err != nil {
		t.Fatal(err)
	}
	serial := append([]byte{1}, make([]byte, 16)...)
	_, _ = rand.Read(serial[1:])
	from := time.Now().UTC().Truncate(time.Second).Add(-30 * time.Second)
	body, err := tbs.New(tbs.Template{
		Serial: serial, SignatureAlgorithm: algECDSA, Issuer: a.root.RawSubject, NotBefore: from,
		NotAfter: from.Add(10 * time.Minute),
		SPKI:     spki, SubjectKeyID: []byte("12345678901234567890"),
	})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(body.Precert())
	sig, err := ecdsa.SignASN1(rand.Reader, a.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	der, err := tbs.Certificate(body.Precert(), algECDSA, sig)
	if err != nil {
		t.Fatal(err)
	}
	return tbs.Precertificate{
		DER: der, Chain: [][]byte{a.root.Raw}, NotBefore: from, NotAfter: from.Add(10 * time.Minute),
		Entry: tbs.Entry{IssuerKeyHash: sha256.Sum256(a.root.RawSubjectPublicKeyInfo), TBS: body.WithoutSCTList()},
	}
}

// logLab is an RFC 6962 log that issues an SCT for every submission, unless the test replaces the answer.
type logLab struct {
	*httptest.Server
	key    *ecdsa.PrivateKey
	roots  atomic.Pointer[[][]byte]
	answer atomic.Pointer[answer]
	calls  atomic.Int64 // of add-pre-chain
}

// answer replaces the log's answer to add-pre-chain; honest returns the correct SCT.
type answer func(w http.ResponseWriter, r *http.Request, honest func(edit) map[string]any)

// edit changes an SCT before it is signed.
type edit func(s *tbs.SCT, e *tbs.Entry)

func newLog(t testing.TB, roots ...*x509.Certificate) *logLab {
	t.Helper()
	l := &logLab{key: newKey(t, elliptic.P256())}
	l.setRoots(roots...)
	l.Server = httptest.NewServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *logLab) setRoots(roots ...*x509.Certificate) {
	all := [][]byte{}
	for _, r := range roots {
		all = append(all, r.Raw)
	}
	l.roots.Store(&all)
}

func (l *logLab) set(a answer) { l.answer.Store(&a) }

func (l *logLab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client left
	}
	var request struct{ Chain [][]byte }
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/lab/ct/v1/get-roots":
		_ = json.NewEncoder(w).Encode(map[string]any{"certificates": *l.roots.Load()})
		return
	case r.Method == http.MethodGet && r.URL.Path == "/lab/ct/v1/get-sth":
		_ = json.NewEncoder(w).Encode(l.head())
		return
	case r.Method != http.MethodPost || r.URL.Path != "/lab/ct/v1/add-pre-chain":
		http.NotFound(w, r)
		return
	case json.Unmarshal(body, &request) != nil || len(request.Chain) != 2:
		http.Error(w, "no chain", http.StatusBadRequest)
		return
	}
	l.calls.Add(1)
	honest := func(change edit) map[string]any {
		s, err := l.sign(request.Chain, change)
		if err != nil {
			panic(err)
		}
		sig := append([]byte{s.Hash, s.Sig, byte(len(s.Signature) >> 8), byte(len(s.Signature))}, s.Signature...)
		return map[string]any{
			"sct_version": 0, "id": s.LogID[:], "timestamp": s.Timestamp,
			"extensions": base64.StdEncoding.EncodeToString(s.Extensions), "signature": sig,
		}
	}
	if a := l.answer.Load(); a != nil && *a != nil {
		(*a)(w, r, honest)
		return
	}
	_ = json.NewEncoder(w).Encode(honest(nil))
}

// head returns the head of a log without entries (RFC 6962 §3.5).
func (l *logLab) head() map[string]any {
	now, root := uint64(time.Now().UnixMilli()), sha256.Sum256(nil)
	input := binary.BigEndian.AppendUint64([]byte{0, 1}, now)
	digest := sha256.Sum256(append(append(input, make([]byte, 8)...), root[:]...))
	signature, err := ecdsa.SignASN1(rand.Reader, l.key, digest[:])
	if err != nil {
		panic(err)
	}
	signed := append([]byte{4, 3, byte(len(signature) >> 8), byte(len(signature))}, signature...)
	return map[string]any{"tree_size": 0, "timestamp": now, "sha256_root_hash": root[:], "tree_head_signature": signed}
}

// sign issues an SCT as a log does: from the submitted precertificate only.
func (l *logLab) sign(chain [][]byte, change edit) (tbs.SCT, error) {
	issuer, err := x509.ParseCertificate(chain[1])
	if err != nil {
		return tbs.SCT{}, err
	}
	bare, _, err := tbs.WithoutSCTList(chain[0])
	if err != nil {
		return tbs.SCT{}, err
	}
	e := tbs.Entry{IssuerKeyHash: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), TBS: bare}
	return signSCT(l.key, e, change)
}

func signSCT(key *ecdsa.PrivateKey, e tbs.Entry, change edit) (tbs.SCT, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return tbs.SCT{}, err
	}
	s := tbs.SCT{
		LogID: sha256.Sum256(spki), Timestamp: uint64(time.Now().UnixMilli()),
		Extensions: []byte{0, 0, 5, 1, 2, 3, 4, 5}, Hash: 4, Sig: 3,
	}
	if change != nil {
		change(&s, &e)
	}
	input, err := tbs.SignatureInput(s.Timestamp, s.Extensions, e)
	if err != nil {
		return s, err
	}
	digest := sha256.Sum256(input)
	s.Signature, err = ecdsa.SignASN1(rand.Reader, key, digest[:])
	return s, err
}

// member opens the log for a set.
func (l *logLab) asLog(t testing.TB, name string) ctlog.Log {
	t.Helper()
	r, err := remote.Open(remote.Config{Name: name, URL: l.URL + "/lab/"}, remote.Options{
		PublicKeyPEM: pki.PublicPEM(l.key.Public()), UserAgent: "lab",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return ctlog.Log{Log: r.Log, Submitter: r}
}

func newSet(t testing.TB, o ctlog.Options) *ctlog.Set {
	t.Helper()
	if o.Policy.Attempt == 0 {
		o.Policy.Attempt = 2 * time.Second
	}
	s, err := ctlog.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Wait)
	return s
}

// submitterFunc is a log in this process.
type submitterFunc func(context.Context, tbs.Precertificate) ([]byte, error)

func (f submitterFunc) Submit(ctx context.Context, p tbs.Precertificate) ([]byte, error) {
	return f(ctx, p)
}

// gauge returns the value of a metric of the set, by its name and labels; NaN if there is none.
func gauge(t testing.TB, s *ctlog.Set, name string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.Collectors()...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, label := range m.GetLabel() {
				key += " " + label.GetValue()
			}
			if key == name {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return math.NaN()
}
