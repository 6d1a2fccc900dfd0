package tsa

import (
	"crypto"
	_ "crypto/sha256" // hash functions of accepted digests
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/digitorus/timestamp"
)

// The paths that [Authority.Handler] serves.
const (
	Path      = "/api/v1/timestamp"
	ChainPath = "/api/v1/timestamp/certchain"
)

const (
	queryType = "application/timestamp-query"
	jsonType  = "application/json"
	replyType = "application/timestamp-reply"
	maxQuery  = 4096 // bytes; a query with a SHA-512 digest and a nonce has about 150
)

// policy is the policy OID of every timestamp: an arc for tests, because no policy governs this clock.
var policy = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}

// Handler returns a handler for timestamp queries over HTTP (RFC 3161 §3.4), in DER or in the JSON form of Sigstore's
// timestamp authority, which also serves the chain.
func (a *Authority) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, a.stamp)
	mux.HandleFunc("GET "+ChainPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		for _, c := range a.chain {
			// an error means that the client disconnected
			_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		}
	})
	return mux
}

func (a *Authority) stamp(w http.ResponseWriter, r *http.Request) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != queryType && kind != jsonType {
		http.Error(w, "the body must be a timestamp query (RFC 3161) with Content-Type "+queryType+", or "+jsonType,
			http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuery))
	if err != nil {
		http.Error(w, "a timestamp query has at most 4096 bytes", http.StatusRequestEntityTooLarge)
		return
	}
	var reply []byte
	if kind == jsonType {
		q, problem := parseJSON(body)
		if problem == nil {
			problem = check(q)
		}
		if problem != nil {
			refuse(w, problem.text)
			return
		}
		reply, err = a.sign(q)
	} else {
		reply, err = a.reply(body)
	}
	if err != nil {
		http.Error(w, "the timestamp authority cannot sign", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", replyType)
	w.WriteHeader(http.StatusCreated) // as Sigstore's public authority does; clients accept 200 and 201
	_, _ = w.Write(reply)             // an error means that the client disconnected
}

// refuse sends an error response to a JSON query, in the form of Sigstore's timestamp authority.
func refuse(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(http.StatusBadRequest)
	// An error means that the client disconnected.
	_ = json.NewEncoder(w).Encode(map[string]any{"code": http.StatusBadRequest, "message": text})
}

// reply returns the response to a query, both in DER. A defect of the query is reported in the response (RFC 3161
// §2.4.2); the error is an internal failure.
func (a *Authority) reply(query []byte) ([]byte, error) {
	q, err := timestamp.ParseRequest(query)
	if err != nil {
		return timestamp.CreateErrorResponse(timestamp.Rejection, timestamp.BadDataFormat)
	}
	if problem := check(q); problem != nil {
		return timestamp.CreateErrorResponse(timestamp.Rejection, problem.info)
	}
	return a.sign(q)
}

// refusal describes a defect of a query: the failure code of RFC 3161 §2.4.2, and a text.
type refusal struct {
	info timestamp.FailureInfo
	text string
}

// parseJSON parses the JSON query of Sigstore's timestamp authority, which clients without ASN.1 use, such as
// sigstore-js.
func parseJSON(body []byte) (*timestamp.Request, *refusal) {
	var in struct {
		ArtifactHash  []byte   `json:"artifactHash"` // base64
		HashAlgorithm string   `json:"hashAlgorithm"`
		Certificates  bool     `json:"certificates"`
		Nonce         *big.Int `json:"nonce"`
		TSAPolicyOID  string   `json:"tsaPolicyOID"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, &refusal{
			timestamp.BadDataFormat,
			"the body is not a JSON object with artifactHash (base64) and hashAlgorithm",
		}
	}
	q := &timestamp.Request{HashedMessage: in.ArtifactHash, Certificates: in.Certificates, Nonce: in.Nonce}
	switch strings.ToLower(in.HashAlgorithm) {
	case "sha256":
		q.HashAlgorithm = crypto.SHA256
	case "sha384":
		q.HashAlgorithm = crypto.SHA384
	case "sha512":
		q.HashAlgorithm = crypto.SHA512
	}
	if in.TSAPolicyOID != "" {
		oid, err := x509.ParseOID(in.TSAPolicyOID)
		if err != nil || !oid.EqualASN1OID(policy) {
			return nil, &refusal{
				timestamp.UnacceptedPolicy,
				"tsaPolicyOID is not " + policy.String() + ", the only policy; leave it out",
			}
		}
	}
	return q, nil
}

// check returns the defect of a query, or nil.
func check(q *timestamp.Request) *refusal {
	switch {
	case !slices.Contains([]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}, q.HashAlgorithm):
		return &refusal{timestamp.BadAlgorithm, "the hash algorithm is not sha256, sha384 or sha512"}
	case len(q.HashedMessage) != q.HashAlgorithm.Size():
		return &refusal{timestamp.BadDataFormat, "the length of the digest is not that of the hash algorithm"}
	case q.TSAPolicyOID != nil && !q.TSAPolicyOID.Equal(policy):
		return &refusal{timestamp.UnacceptedPolicy, "the only policy is " + policy.String()}
	case slices.ContainsFunc(q.Extensions, isCritical):
		return &refusal{timestamp.UnacceptedExtension, "the query has a critical extension"}
	}
	return nil
}

// sign returns the response to a checked query, in DER.
func (a *Authority) sign(q *timestamp.Request) ([]byte, error) {
	t := timestamp.Timestamp{
		HashAlgorithm: q.HashAlgorithm, HashedMessage: q.HashedMessage, Nonce: q.Nonce, Policy: policy,
		Time: a.now().UTC(), Accuracy: time.Second, AddTSACertificate: q.Certificates,
	}
	return t.CreateResponseWithOpts(a.chain[0], a.key, crypto.SHA256)
}

// isCritical reports whether x is a critical extension; this authority supports none.
func isCritical(x pkix.Extension) bool { return x.Critical }
