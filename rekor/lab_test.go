package rekor_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pbdsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	f_log "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/rfc6962"
	sumdb "golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/rekor"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

const origin = "log.example.com"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// memoryLog is a log in memory, which makes each root and proof by the definitions of RFC 6962 §2.1.
type memoryLog struct {
	signer   sumdb.Signer
	verifier sumdb.Verifier
	id       []byte

	mu     sync.Mutex
	leaves [][]byte
	fail   error                  // of Add
	change func(*rekor.Inclusion) // damages an answer
	block  chan struct{}          // Add waits for it
	adding chan struct{}          // Add sends when it begins
}

func newLog(t testing.TB) *memoryLog {
	t.Helper()
	key, err := signature.LoadECDSASignerVerifier(pki.NewKey(pki.P256).(*ecdsa.PrivateKey), crypto.SHA256)
	must(t, err)
	l := &memoryLog{adding: make(chan struct{}, 1000)}
	l.signer, err = note.NewNoteSigner(t.Context(), origin, key)
	must(t, err)
	l.verifier, err = note.NewNoteVerifier(origin, key)
	must(t, err)
	public, err := key.PublicKey()
	must(t, err)
	_, l.id, err = note.KeyHash(origin, public)
	must(t, err)
	return l
}

func (l *memoryLog) Add(ctx context.Context, leaf []byte) (rekor.Inclusion, error) {
	l.adding <- struct{}{}
	if l.block != nil {
		select {
		case <-l.block:
		case <-ctx.Done():
			return rekor.Inclusion{}, context.Cause(ctx)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return rekor.Inclusion{}, l.fail
	}
	l.leaves = append(l.leaves, leaf)
	root := tree(l.leaves)
	checkpoint := f_log.Checkpoint{Origin: origin, Size: uint64(len(l.leaves)), Hash: root}
	signed, err := sumdb.Sign(&sumdb.Note{Text: string(checkpoint.Marshal())}, l.signer)
	at := rekor.Inclusion{
		LogID: l.id, Index: uint64(len(l.leaves) - 1), Size: uint64(len(l.leaves)), Root: root,
		Hashes: path(len(l.leaves)-1, l.leaves), Checkpoint: signed,
	}
	if l.change != nil {
		l.change(&at)
	}
	return at, err
}

func (l *memoryLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.leaves)
}

// tree is the function MTH of RFC 6962 §2.1.
func tree(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return rfc6962.DefaultHasher.HashLeaf(leaves[0])
	}
	k := split(len(leaves))
	return rfc6962.DefaultHasher.HashChildren(tree(leaves[:k]), tree(leaves[k:]))
}

// path is the function PATH of RFC 6962 §2.1.1.
func path(m int, leaves [][]byte) [][]byte {
	if len(leaves) == 1 {
		return nil
	}
	k := split(len(leaves))
	if m < k {
		return append(path(m, leaves[:k]), tree(leaves[k:]))
	}
	return append(path(m-k, leaves[k:]), tree(leaves[:k]))
}

// split returns the largest power of two below n.
func split(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

// serve serves a service over REST. Errors become gRPC statuses as those of the server of the CA do.
func serve(t testing.TB, o rekor.Options) (url string, s *rekor.Service) {
	t.Helper()
	if o.Call == nil {
		o.Call = func(ctx context.Context, _ string, run func(context.Context, rekor.Request) error) error {
			return asStatus(run(ctx, rekor.Request{
				ID: "req-1", Transport: "rest", Source: "192.0.2.1", Add: func(string, string) {},
			}))
		}
	}
	s = rekor.New(o)
	mux := http.NewServeMux()
	mux.Handle(rekor.EntriesPath, s.Handler(func(w http.ResponseWriter, _ *http.Request, err error) {
		code := map[codes.Code]int{
			codes.InvalidArgument: 400, codes.AlreadyExists: 409, codes.PermissionDenied: 403, codes.Unavailable: 503,
			codes.ResourceExhausted: 429, codes.Unimplemented: 501,
		}[status.Code(err)]
		http.Error(w, err.Error(), code)
	}))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL, s
}

// asStatus returns the status of an error, with the reason and the problem in its text.
func asStatus(err error) error {
	if err == nil {
		return nil
	}
	f := fault.From(err)
	code := map[fault.Kind]codes.Code{
		fault.Invalid: codes.InvalidArgument, fault.Exists: codes.AlreadyExists, fault.Denied: codes.PermissionDenied,
		fault.Unavailable: codes.Unavailable, fault.Exhausted: codes.ResourceExhausted, fault.Internal: codes.Internal,
	}[f.Kind]
	if errors.Is(err, context.Canceled) {
		code = codes.Canceled
	}
	return status.Error(code, fmt.Sprintf("%s [%s: %s]", f.Public, f.Reason, f.Meta["problem"]))
}

// request is what a client needs to write an entry.
type request struct {
	key     crypto.Signer
	cert    []byte // DER; nil: a bare key
	details v1.PublicKeyDetails
}

func p256() request {
	return request{key: pki.NewKey(pki.P256), details: v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256}
}

func (r request) verifier(t testing.TB) *pb.Verifier {
	t.Helper()
	if r.cert != nil {
		return &pb.Verifier{
			Verifier:   &pb.Verifier_X509Certificate{X509Certificate: &v1.X509Certificate{RawBytes: r.cert}},
			KeyDetails: r.details,
		}
	}
	der, err := x509.MarshalPKIXPublicKey(r.key.Public())
	must(t, err)
	return &pb.Verifier{
		Verifier: &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: der}}, KeyDetails: r.details,
	}
}

// sign returns the digest of message and its signature.
func (r request) sign(t testing.TB, message []byte) (digest, sig []byte) {
	t.Helper()
	var opts crypto.SignerOpts
	switch r.details {
	case v1.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384:
		sum := sha512.Sum384(message)
		digest, opts = sum[:], crypto.SHA384
	case v1.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512:
		sum := sha512.Sum512(message)
		digest, opts = sum[:], crypto.SHA512
	case v1.PublicKeyDetails_PKIX_ED25519_PH:
		sum := sha512.Sum512(message)
		digest, opts = sum[:], &ed25519.Options{Hash: crypto.SHA512}
	default:
		sum := sha256.Sum256(message)
		digest, opts = sum[:], crypto.SHA256
	}
	sig, err := r.key.Sign(rand.Reader, digest, opts)
	must(t, err)
	return digest, sig
}

// hashed returns a request to log a signature over a digest.
func (r request) hashed(t testing.TB, message string) *pb.HashedRekordRequestV002 {
	t.Helper()
	digest, sig := r.sign(t, []byte(message))
	return &pb.HashedRekordRequestV002{
		Digest: digest, Signature: &pb.Signature{Content: sig, Verifier: r.verifier(t)},
	}
}

// dsse returns a request to log the signature of an envelope, as sigstore-js sends it.
func (r request) dsse(t testing.TB, payload string) *pb.DSSERequestV002 { //nolint:staticcheck // clients send it
	t.Helper()
	const payloadType = "application/vnd.in-toto+json"
	_, sig := r.sign(t, dsse.PAE(payloadType, []byte(payload)))
	return &pb.DSSERequestV002{ //nolint:staticcheck // likewise
		Envelope: &pbdsse.Envelope{ //nolint:staticcheck // likewise
			Payload: []byte(payload), PayloadType: payloadType, Signatures: []*pbdsse.Signature{{Sig: sig}},
		},
		Verifiers: []*pb.Verifier{r.verifier(t)}, //nolint:staticcheck // likewise
	}
}

func ofHashed(in *pb.HashedRekordRequestV002) *pb.CreateEntryRequest {
	return &pb.CreateEntryRequest{
		Spec: &pb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: in},
	}
}

func ofDSSE(in *pb.DSSERequestV002) *pb.CreateEntryRequest { //nolint:staticcheck // clients send it
	return &pb.CreateEntryRequest{Spec: &pb.CreateEntryRequest_DsseRequestV002{DsseRequestV002: in}} //nolint:staticcheck // likewise
}

// records opens a journal, and returns it with a function that closes it and returns its records about entries.
func records(t *testing.T) (open func() *journal.Journal, closed func() []journal.Record) {
	t.Helper()
	file := t.TempDir() + "/journal.jsonl"
	j, err := journal.Open(journal.Config{File: file}, journal.Options{})
	must(t, err)
	return func() *journal.Journal { return j }, func() (out []journal.Record) {
		t.Helper()
		must(t, j.Close(t.Context(), 0))
		_, findings, err := journal.Verify(file, journal.VerifyOptions{})
		must(t, err)
		if len(findings) > 0 {
			t.Errorf("the journal: %v", findings)
		}
		must(t, journal.NewReader(file, 1).Drain(func(d *journal.Damage) { t.Error(d) }, func(e journal.Entry) error {
			if e.Kind == journal.Rekor {
				out = append(out, e.Record)
			}
			return nil
		}))
		return out
	}
}

// selfSigned returns a certificate in DER whose subject has the name.
func selfSigned(t testing.TB, key crypto.Signer, name string) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(),
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return der
}
