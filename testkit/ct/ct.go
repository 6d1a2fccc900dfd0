// Package ct is an RFC 6962 log for tests, with faults. It checks submissions with certificate-transparency-go and
// shares no code with the product.
package ct

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	cttypes "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
)

// Options are the options of [New].
type Options struct {
	Roots []*x509.Certificate
	// Extensions are part of every SCT; a static-ct log puts the leaf index there.
	Extensions []byte
	// Latency is the delay before each response.
	Latency time.Duration
	// MostEntries is the largest number of entries in one response of get-entries; 0 is 100.
	MostEntries int
}

// Log is a running log.
type Log struct {
	o       Options
	server  *httptest.Server
	key     *ecdsa.PrivateKey
	spki    []byte
	release chan struct{}
	mu      sync.Mutex
	fault   Fault
	skew    time.Duration
	calls   int
	entries [][]byte
	last    *cttypes.AddChainResponse
	tree    tree
}

// New starts a log that ends with the test.
func New(t testing.TB, o Options) *Log {
	t.Helper()
	if o.MostEntries == 0 {
		o.MostEntries = 100
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{o: o, key: key, release: make(chan struct{})}
	if l.spki, err = x509.MarshalPKIXPublicKey(l.key.Public()); err != nil {
		t.Fatal(err)
	}
	l.server = httptest.NewServer(l)
	t.Cleanup(func() {
		close(l.release)
		l.server.Close()
	})
	return l
}

// URL returns the base URL of the log.
func (l *Log) URL() string { return l.server.URL }

// Key returns the log's public key.
func (l *Log) Key() crypto.PublicKey { return l.key.Public() }

// PublicKeyPEM returns the log's public key in PEM.
func (l *Log) PublicKeyPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: l.spki})
}

// Entries returns the accepted precertificates, in DER.
func (l *Log) Entries() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([][]byte(nil), l.entries...)
}

// Calls returns the number of requests to add-pre-chain.
func (l *Log) Calls() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// SetSkew sets the log's clock ahead of the local clock by the given duration: SCT timestamps and the Date header of
// responses.
func (l *Log) SetSkew(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.skew = d
}

func (l *Log) now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clock()
}

// clock returns the log's current time. The caller holds the mutex.
func (l *Log) clock() time.Time { return time.Now().Add(l.skew) }

// ServeHTTP serves the log's endpoints. With the fault of a hanging log, the two endpoints that the CA requests hang.
func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", l.now().UTC().Format(http.TimeFormat))
	switch r.Method + " " + r.URL.Path {
	case "POST /ct/v1/add-pre-chain":
		l.addPreChain(w, r)
	case "GET /ct/v1/get-roots":
		l.getRoots(w, r)
	case "POST /ct/v1/add-chain":
		l.addChain(w, r)
	default:
		l.serveTree(w, r)
	}
}

// SetFault changes the behaviour of the log from now on.
func (l *Log) SetFault(f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
	l.tree.frozen = l.tree.sth(l)
}

func (l *Log) getRoots(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	fault := l.fault
	l.mu.Unlock()
	if fault == Hang || fault == Reset {
		l.instead(w, r, fault)
		return
	}
	out := map[string][]string{"certificates": {}}
	for _, c := range l.o.Roots {
		if fault != UnknownRoot {
			out["certificates"] = append(out["certificates"], base64.StdEncoding.EncodeToString(c.Raw))
		}
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (l *Log) addPreChain(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client disconnected
	}
	l.mu.Lock()
	fault := l.fault
	l.calls++
	l.mu.Unlock()
	if l.o.Latency > 0 {
		select {
		case <-time.After(l.o.Latency):
		case <-r.Context().Done():
			return
		}
	}
	if l.instead(w, r, fault) {
		return
	}
	var in cttypes.AddChainRequest
	if err := json.Unmarshal(body, &in); err != nil || len(in.Chain) < 2 {
		http.Error(w, "not a chain", http.StatusBadRequest)
		return
	}
	leaf, err := leafOf(in.Chain, cttypes.PrecertLogEntryType, l.now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	leaf.TimestampedEntry.Extensions = l.o.Extensions
	l.mu.Lock()
	l.entries = append(l.entries, in.Chain[0])
	if fault != Withhold {
		err = l.tree.add(leaf, in.Chain)
	}
	l.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if fault == ResetAfter {
		reset(w)
		return
	}
	l.answer(w, leaf, fault)
}

// leafOf verifies the certificate under its issuer and builds the Merkle tree leaf.
func leafOf(chain [][]byte, kind cttypes.LogEntryType, now time.Time) (*cttypes.MerkleTreeLeaf, error) {
	var certs []*ctx509.Certificate
	for _, der := range chain {
		c, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			return nil, err
		}
		certs = append(certs, c)
	}
	for i := range len(certs) - 1 {
		if err := certs[i].CheckSignatureFrom(certs[i+1]); err != nil {
			return nil, err
		}
	}
	return cttypes.MerkleTreeLeafFromChain(certs, kind, uint64(now.UnixMilli())) //nolint:gosec // after 1970
}

func (l *Log) answer(w http.ResponseWriter, leaf *cttypes.MerkleTreeLeaf, fault Fault) {
	spoil(leaf, fault)
	sct := cttypes.SignedCertificateTimestamp{
		SCTVersion: cttypes.V1, Timestamp: leaf.TimestampedEntry.Timestamp,
		Extensions: l.o.Extensions,
	}
	sct.LogID.KeyID = sha256.Sum256(l.spki)
	leaf.TimestampedEntry.Extensions = sct.Extensions
	input, err := cttypes.SerializeSCTSignatureInput(sct, cttypes.LogEntry{Leaf: *leaf})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if fault == BadSignature {
		input = append(input, 0)
	}
	signature, err := tls.CreateSignature(*l.key, tls.SHA256, input)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	encoded, err := tls.Marshal(signature)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := cttypes.AddChainResponse{
		SCTVersion: cttypes.V1, ID: sct.LogID.KeyID[:], Timestamp: sct.Timestamp, Signature: encoded,
		Extensions: base64.StdEncoding.EncodeToString(sct.Extensions),
	}
	switch fault {
	case OtherLog:
		out.ID = make([]byte, 32)
	case Version2:
		out.SCTVersion = 1
	case TrailingBytes:
		out.Signature = append(out.Signature, 0)
	case UnsignedExtensions:
		out.Extensions = "AAAFAAAAAAE="
	}
	honest := out
	l.mu.Lock()
	last := l.last
	l.last = &honest
	l.mu.Unlock()
	if fault == Replay && last != nil {
		out = *last
	}
	encode(w, out, fault)
}

// spoil changes the entry that the SCT will cover.
func spoil(leaf *cttypes.MerkleTreeLeaf, fault Fault) {
	e := leaf.TimestampedEntry
	switch fault {
	case OtherPrecert:
		e.PrecertEntry.TBSCertificate = append([]byte(nil), e.PrecertEntry.TBSCertificate...)
		e.PrecertEntry.TBSCertificate[len(e.PrecertEntry.TBSCertificate)-1] ^= 1
	case OtherIssuer:
		e.PrecertEntry.IssuerKeyHash[0] ^= 1
	case X509Entry:
		e.EntryType, e.X509Entry = cttypes.X509LogEntryType, &cttypes.ASN1Cert{Data: e.PrecertEntry.TBSCertificate}
	case Future:
		e.Timestamp += 24 * 3600 * 1000
	case Past:
		e.Timestamp = 1
	}
}
