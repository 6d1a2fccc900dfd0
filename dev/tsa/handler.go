package tsa

import (
	"crypto"
	_ "crypto/sha256" // the digests that are stamped
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

// The paths that [Authority.Handler] answers.
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

// policy is the policy of every timestamp: an arc for tests, as nobody vouches for this clock.
var policy = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}

// Handler answers timestamp queries over HTTP (RFC 3161 §3.4), in DER or in the JSON form of Sigstore's timestamp
// authority, and publishes the chain.
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
	w.WriteHeader(http.StatusCreated) // as the public one: clients take 200 and 201
	_, _ = w.Write(reply)             // the client is gone: nobody to tell
}

// refuse answers a JSON query as Sigstore's timestamp authority does.
func refuse(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(http.StatusBadRequest)
	// the client is gone: nobody to tell
	_ = json.NewEncoder(w).Encode(map[string]any{"code": http.StatusBadRequest, "message": text})
}

// reply answers a query, both in DER. What is wrong with the query is said in the reply (RFC 3161 §2.4.2); the error is ours.
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

// refusal is what is wrong with a query: as RFC 3161 §2.4.2 encodes it, and as text.
type refusal struct {
	info timestamp.FailureInfo
	text string
}

// parseJSON reads the query of Sigstore's timestamp authority for clients without ASN.1, such as sigstore-js.
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

// check returns what is wrong with a query, or nil.
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

// sign makes the response to a query that was checked, in DER.
func (a *Authority) sign(q *timestamp.Request) ([]byte, error) {
	t := timestamp.Timestamp{
		HashAlgorithm: q.HashAlgorithm, HashedMessage: q.HashedMessage, Nonce: q.Nonce, Policy: policy,
		Time: a.now().UTC(), Accuracy: time.Second, AddTSACertificate: q.Certificates,
	}
	return t.CreateResponseWithOpts(a.chain[0], a.key, crypto.SHA256)
}

// isCritical reports whether x must be understood; none is.
func isCritical(x pkix.Extension) bool { return x.Critical }
