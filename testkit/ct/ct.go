// Package ct is an RFC 6962 log for tests, with faults. It checks what it is given with certificate-transparency-go and shares
// no code with the product.
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
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	cttypes "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
)

// Fault is how the log misbehaves.
type Fault string

// The faults.
const (
	None         Fault = ""
	Error500     Fault = "error 500"
	TooMany      Fault = "429"
	Hang         Fault = "hang"
	Garbage      Fault = "garbage"
	BadSignature Fault = "bad signature"
	OtherLog     Fault = "another log's id"
	Future       Fault = "a timestamp of tomorrow"
	Withhold     Fault = "an SCT without an entry"
	ForgedHead   Fault = "a tree head of another key"
	StaleHead    Fault = "the tree head of when the fault began"
)

// Options for [New].
type Options struct {
	Roots []*x509.Certificate
	// MostEntries is how many entries get-entries gives at once; 0 is 100.
	MostEntries int
	// Now is the log's clock; nil is time.Now.
	Now func() time.Time
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
	entries [][]byte
	tree    tree
}

// New starts a log that ends with the test.
func New(t testing.TB, o Options) *Log {
	t.Helper()
	if o.MostEntries == 0 {
		o.MostEntries = 100
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{o: o, key: key, release: make(chan struct{})}
	if l.spki, err = x509.MarshalPKIXPublicKey(l.key.Public()); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ct/v1/add-pre-chain", l.addPreChain)
	mux.HandleFunc("POST /ct/v1/add-chain", l.addChain)
	mux.HandleFunc("GET /ct/v1/get-roots", l.getRoots)
	l.serveTree(mux)
	l.server = httptest.NewServer(mux)
	t.Cleanup(func() {
		close(l.release)
		l.server.Close()
	})
	return l
}

// URL is where the log is.
func (l *Log) URL() string { return l.server.URL }

// Key is the log's public key.
func (l *Log) Key() crypto.PublicKey { return l.key.Public() }

// PublicKeyPEM is the same in PEM.
func (l *Log) PublicKeyPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: l.spki})
}

// Entries are the precertificates that were taken, in DER.
func (l *Log) Entries() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([][]byte(nil), l.entries...)
}

// SetFault changes how the log behaves from now on.
func (l *Log) SetFault(f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
	l.tree.frozen = l.tree.sth(l)
}

func (l *Log) getRoots(w http.ResponseWriter, _ *http.Request) {
	out := map[string][]string{"certificates": {}}
	for _, c := range l.o.Roots {
		out["certificates"] = append(out["certificates"], base64.StdEncoding.EncodeToString(c.Raw))
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (l *Log) addPreChain(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	fault := l.fault
	l.mu.Unlock()
	switch fault {
	case Error500:
		http.Error(w, "canary-of-the-log", http.StatusInternalServerError)
		return
	case TooMany:
		w.Header().Set("Retry-After", "60")
		http.Error(w, "canary-of-the-log", http.StatusTooManyRequests)
		return
	case Hang:
		select {
		case <-r.Context().Done():
		case <-l.release:
		}
		return
	case Garbage:
		_, _ = w.Write([]byte("canary-of-the-log"))
		return
	case None, BadSignature, OtherLog, Future, Withhold, ForgedHead, StaleHead:
	}
	var in cttypes.AddChainRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Chain) < 2 {
		http.Error(w, "not a chain", http.StatusBadRequest)
		return
	}
	leaf, err := leafOf(in.Chain, cttypes.PrecertLogEntryType, l.o.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if fault == Future {
		leaf.TimestampedEntry.Timestamp += 24 * 3600 * 1000
	}
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
	sct := cttypes.SignedCertificateTimestamp{SCTVersion: cttypes.V1, Timestamp: leaf.TimestampedEntry.Timestamp}
	sct.LogID.KeyID = sha256.Sum256(l.spki)
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
	id := sct.LogID.KeyID[:]
	if fault == OtherLog {
		id = make([]byte, 32)
	}
	_ = json.NewEncoder(w).Encode(cttypes.AddChainResponse{SCTVersion: cttypes.V1, ID: id, Timestamp: sct.Timestamp, Signature: encoded})
}
