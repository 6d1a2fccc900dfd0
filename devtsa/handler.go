package devtsa

import (
	"crypto"
	_ "crypto/sha256" // the digests that are stamped
	_ "crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/digitorus/timestamp"
)

// The paths that [Authority.Handler] answers.
const (
	Path      = "/api/v1/timestamp"
	ChainPath = "/api/v1/timestamp/certchain"
)

const (
	queryType = "application/timestamp-query"
	replyType = "application/timestamp-reply"
	maxQuery  = 4096 // bytes; a query with a SHA-512 digest and a nonce has about 150
)

// policy is the policy of every timestamp: an arc for tests, as nobody vouches for this clock.
var policy = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}

// Handler answers timestamp queries over HTTP (RFC 3161 §3.4) and publishes the chain.
func (a *Authority) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, a.stamp)
	mux.HandleFunc("GET "+ChainPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		for _, c := range a.chain {
			_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // the client is gone: nobody to tell
		}
	})
	return mux
}

func (a *Authority) stamp(w http.ResponseWriter, r *http.Request) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != queryType {
		http.Error(w, "the body must be a timestamp query (RFC 3161) with Content-Type "+queryType, http.StatusUnsupportedMediaType)
		return
	}
	query, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuery))
	if err != nil {
		http.Error(w, "a timestamp query has at most 4096 bytes", http.StatusRequestEntityTooLarge)
		return
	}
	reply, err := a.reply(query)
	if err != nil {
		http.Error(w, "the timestamp authority cannot sign", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", replyType)
	w.WriteHeader(http.StatusCreated) // as the public one: clients take 200 and 201
	_, _ = w.Write(reply)             // the client is gone: nobody to tell
}

// reply answers a query, both in DER. What is wrong with the query is said in the reply (RFC 3161 §2.4.2); the error is ours.
func (a *Authority) reply(query []byte) ([]byte, error) {
	q, err := timestamp.ParseRequest(query)
	switch {
	case err != nil:
		return timestamp.CreateErrorResponse(timestamp.Rejection, timestamp.BadDataFormat)
	case !slices.Contains([]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}, q.HashAlgorithm):
		return timestamp.CreateErrorResponse(timestamp.Rejection, timestamp.BadAlgorithm)
	case len(q.HashedMessage) != q.HashAlgorithm.Size():
		return timestamp.CreateErrorResponse(timestamp.Rejection, timestamp.BadDataFormat)
	case q.TSAPolicyOID != nil && !q.TSAPolicyOID.Equal(policy):
		return timestamp.CreateErrorResponse(timestamp.Rejection, timestamp.UnacceptedPolicy)
	case slices.ContainsFunc(q.Extensions, isCritical):
		return timestamp.CreateErrorResponse(timestamp.Rejection, timestamp.UnacceptedExtension)
	}
	t := timestamp.Timestamp{
		HashAlgorithm: q.HashAlgorithm, HashedMessage: q.HashedMessage, Nonce: q.Nonce, Policy: policy,
		Time: a.now().UTC(), Accuracy: time.Second, AddTSACertificate: q.Certificates,
	}
	return t.CreateResponseWithOpts(a.chain[0], a.key, crypto.SHA256)
}

// isCritical reports whether x must be understood; none is.
func isCritical(x pkix.Extension) bool { return x.Critical }
