package embedded

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/tlog"
)

// Log is an open log. Its methods may be called by several goroutines.
type Log struct {
	*tlog.Log
	now func() time.Time

	mu      sync.Mutex
	issuers map[[32]byte]bool // stored
}

// roots is the answer to get-roots (RFC 6962 §4.7).
type roots struct {
	current atomic.Pointer[[]*x509.Certificate]
}

// ServeHTTP implements [http.Handler].
func (r *roots) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	out := struct {
		Certificates [][]byte `json:"certificates"`
	}{Certificates: [][]byte{}}
	if all := r.current.Load(); all != nil {
		for _, c := range *all {
			out.Certificates = append(out.Certificates, c.Raw)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	_ = json.NewEncoder(w).Encode(out) // the client has disconnected
}

// answers adds the address of get-roots to the read path of each shard.
func (r *roots) answers(o tlog.Options) tlog.Options {
	o.Answers = map[string]http.Handler{"/ct/v1/get-roots": r}
	return o
}

// Open opens the log in c.Dir, or makes one with a new P-256 key. It returns an error if another process uses the
// directory, or if the directory has a log with another origin. It opens this one log, whose answer to get-roots is
// empty: [OpenStore] opens all shards.
func Open(ctx context.Context, c Config, o tlog.Options) (*Log, error) {
	l, err := tlog.Open(ctx, c.Log(), new(roots).answers(o))
	if err != nil {
		return nil, err
	}
	return newLog(l, o), nil
}

func newLog(l *tlog.Log, o tlog.Options) *Log {
	now := o.Now
	if now == nil {
		now = time.Now
	}
	return &Log{Log: l, now: now, issuers: map[[32]byte]bool{}}
}

const tlsSHA256, tlsECDSA = 4, 3 // RFC 5246 §7.4.1.4.1

// Submit adds p and returns its SCT in TLS encoding (RFC 6962 §3.2) once the entry is on disk. It does not check p,
// which the CA in the same process made. Its error is a *fault.Error with the reason LOG_UNAVAILABLE, or the cause of
// the end of ctx. While the storage is degraded, Submit fails at once.
func (l *Log) Submit(ctx context.Context, p tbs.Precertificate) ([]byte, error) {
	e := &ctonly.Entry{
		Timestamp: uint64(l.now().UnixMilli()), IsPrecert: true, //nolint:gosec // after 1970
		Certificate: p.Entry.TBS, Precertificate: p.DER, IssuerKeyHash: p.Entry.IssuerKeyHash[:],
	}
	index, err := l.Append(ctx, func() (tlog.Entry, error) {
		for _, der := range p.Chain {
			sum := sha256.Sum256(der)
			if err := l.storeIssuer(sum, der); err != nil {
				return nil, err
			}
			e.FingerprintsChain = append(e.FingerprintsChain, sum)
		}
		return func(ctx context.Context, a *tessera.Appender) tessera.IndexFuture {
			return tessera.NewCertificateTransparencyAppender(a)(ctx, e)
		}, nil
	})
	if err != nil {
		return nil, err
	}
	extensions := monitor.LeafIndex(index)
	input, err := tbs.SignatureInput(e.Timestamp, extensions, p.Entry)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(input)
	signature, err := l.Signer().Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return tbs.SCT{
		LogID: l.ID(), Timestamp: e.Timestamp, Extensions: extensions, Hash: tlsSHA256, Sig: tlsECDSA,
		Signature: signature,
	}.Marshal()
}

// storeIssuer writes a certificate of the chain, which entries refer to by its SHA-256.
func (l *Log) storeIssuer(sum [32]byte, der []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.issuers[sum] {
		return nil
	}
	if err := l.writeIssuer(hex.EncodeToString(sum[:]), der); err != nil {
		l.Fail(err)
		return err
	}
	l.issuers[sum] = true
	return nil
}

func (l *Log) writeIssuer(name string, der []byte) error {
	dir := filepath.Join(l.Dir(), "issuer")
	if err := os.Mkdir(dir, 0o755); err == nil { //nolint:gosec // a public log
		err = durable.SyncDir(l.Dir())
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, name), der, 0o644)
}
