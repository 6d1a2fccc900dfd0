package tsa

import (
	"crypto"
	_ "crypto/sha256" // hash functions of accepted digests
	_ "crypto/sha512"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"strings"

	"github.com/digitorus/timestamp"

	"github.com/mayfly-ca/mayfly/fault"
)

// refusal is the reason why a request gets no timestamp.
type refusal struct {
	info   timestamp.FailureInfo // RFC 3161 §2.4.2
	code   int                   // HTTP status
	text   string                // for the client
	result result
	fault  *fault.Error // for the log and the metrics of the server
}

// Error implements error.
func (r *refusal) Error() string { return r.text }

// Unwrap returns the error for the log and the metrics of the server.
func (r *refusal) Unwrap() error { return r.fault }

// badQuery returns the refusal of a wrong request.
func badQuery(info timestamp.FailureInfo, text string) *refusal {
	return &refusal{
		info, http.StatusBadRequest, text, resultRefused, fault.New(fault.RequestMalformed, errors.New(text)),
	}
}

// response returns the refusal as a TimeStampResp in DER (RFC 3161 §2.4.2), with its text.
func (r *refusal) response() []byte {
	type pkiStatusInfo struct {
		Status       int
		StatusString []asn1.RawValue
		FailInfo     asn1.BitString
	}
	bits := make([]byte, r.info/8+1)
	bits[r.info/8] = 0x80 >> (r.info % 8)
	der, err := asn1.Marshal(struct{ Status pkiStatusInfo }{pkiStatusInfo{
		Status:       int(timestamp.Rejection),
		StatusString: []asn1.RawValue{{Tag: asn1.TagUTF8String, Bytes: []byte(r.text)}},
		FailInfo:     asn1.BitString{Bytes: bits, BitLength: int(r.info) + 1},
	}})
	if err != nil {
		return nil
	}
	return der
}

// parseDER parses a TimeStampReq in DER (RFC 3161 §2.4.1).
func (a *Authority) parseDER(body []byte) (*timestamp.Request, error) {
	q, err := timestamp.ParseRequest(body)
	if err != nil {
		return nil, badQuery(timestamp.BadDataFormat,
			"the body is not a timestamp query in DER (RFC 3161 §2.4.1) with a known hash algorithm")
	}
	return q, a.check(q)
}

// parseJSON parses the JSON request of Sigstore's timestamp authority, which clients without ASN.1 use.
func (a *Authority) parseJSON(body []byte) (*timestamp.Request, error) {
	var in struct {
		ArtifactHash  []byte   `json:"artifactHash"` // base64
		HashAlgorithm string   `json:"hashAlgorithm"`
		Certificates  bool     `json:"certificates"`
		Nonce         *big.Int `json:"nonce"`
		TSAPolicyOID  string   `json:"tsaPolicyOID"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, badQuery(timestamp.BadDataFormat,
			"the body is not a JSON object with artifactHash (base64) and hashAlgorithm")
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
		oid, err := parseOID(in.TSAPolicyOID)
		if err != nil {
			return nil, badQuery(timestamp.UnacceptedPolicy, "tsaPolicyOID is not an object identifier")
		}
		q.TSAPolicyOID = oid
	}
	return q, a.check(q)
}

// check returns the defect of a request, or nil.
func (a *Authority) check(q *timestamp.Request) error {
	switch {
	case !slices.Contains([]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}, q.HashAlgorithm):
		return badQuery(timestamp.BadAlgorithm, "the hash algorithm is not sha256, sha384 or sha512")
	case len(q.HashedMessage) != q.HashAlgorithm.Size():
		return badQuery(timestamp.BadDataFormat, "the length of the digest is not that of the hash algorithm")
	case q.TSAPolicyOID != nil && !q.TSAPolicyOID.Equal(a.policy):
		return badQuery(timestamp.UnacceptedPolicy, "the only policy is "+a.policy.String()+"; leave it out")
	case len(q.Extensions) > 0: // RFC 3161 §2.4.1: also one that is not critical
		return badQuery(timestamp.UnacceptedExtension, "no extension is supported; leave them out")
	}
	return nil
}
