package shadow

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/fault"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// answer is what a CA answered, decoded.
type answer struct {
	status  int        // of HTTP
	code    codes.Code // of gRPC; for REST, of the body
	message string
	reason  fault.Reason // of a mayfly; else empty
	claim   string       // metadata of the reason
	leaf    *x509.Certificate
	chain   [][]byte // DER, the certificates above the leaf
	problem string   // why the answer cannot be read; empty: it can
}

// issued reports whether the answer is a certificate.
func (a *answer) issued() bool { return a.leaf != nil }

// maxChain bounds the certificates of one answer.
const maxChain = 16

// received is an answer as it was received.
type received struct {
	status          int
	header, trailer http.Header
	content         []byte
}

// read decodes an answer. It never fails: what it cannot read is the problem of the answer.
func (r received) read(api API) (a answer) {
	a.status = r.status
	// The library of protobuf writes some blanks as U+00A0, at random by build.
	defer func() { a.message = strings.ReplaceAll(a.message, "\u00a0", " ") }()
	if api == GRPC {
		a.readGRPC(r)
		return a
	}
	if r.status/100 != 2 {
		a.readError(r.content)
		return a
	}
	if api == RESTv1 {
		a.certificates(r.content)
		return a
	}
	out := &fulciopb.SigningCertificate{}
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r.content, out) != nil {
		a.problem = "the body is no certificate of the API"
		return a
	}
	a.certificate(out)
	return a
}

func (a *answer) readGRPC(r received) {
	if a.status != http.StatusOK {
		a.code, a.problem = codes.Unknown, "the HTTP status is not 200"
		return
	}
	text := first("Grpc-Status", r.trailer, r.header)
	code, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		a.code, a.problem = codes.Unknown, "the status of gRPC is missing"
		return
	}
	if a.code = codes.Code(code); a.code != codes.OK {
		a.message = first("Grpc-Message", r.trailer, r.header)
		if plain, err := url.PathUnescape(a.message); err == nil {
			a.message = plain
		}
		raw := strings.TrimRight(first("Grpc-Status-Details-Bin", r.trailer, r.header), "=")
		details := &statuspb.Status{}
		if data, err := base64.RawStdEncoding.DecodeString(raw); err == nil && proto.Unmarshal(data, details) == nil {
			for _, one := range details.GetDetails() {
				info := &errdetails.ErrorInfo{}
				if one.MessageIs(info) && one.UnmarshalTo(info) == nil {
					a.info(info.GetDomain(), info.GetReason(), info.GetMetadata())
				}
			}
		}
		return
	}
	message, ok := frame(r.content)
	out := &fulciopb.SigningCertificate{}
	if !ok || proto.Unmarshal(message, out) != nil {
		a.problem = "the message is no certificate of the API"
		return
	}
	a.certificate(out)
}

// first returns the first value of key.
func first(key string, in ...http.Header) string {
	for _, h := range in {
		if v := h.Get(key); v != "" {
			return v
		}
	}
	return ""
}

// readError reads google.rpc.Status in JSON.
func (a *answer) readError(content []byte) {
	var body struct {
		Code    *uint32 `json:"code"`
		Message string  `json:"message"`
		Details []struct {
			Reason   string            `json:"reason"`
			Domain   string            `json:"domain"`
			Metadata map[string]string `json:"metadata"`
		} `json:"details"`
	}
	if json.Unmarshal(content, &body) != nil || body.Code == nil {
		a.code, a.problem = codes.Unknown, "the body is no error of the API"
		return
	}
	a.code, a.message = codes.Code(*body.Code), body.Message
	for _, one := range body.Details {
		a.info(one.Domain, one.Reason, one.Metadata)
	}
}

func (a *answer) info(domain, reason string, metadata map[string]string) {
	if domain == "mayfly" && fault.Reason(reason).Message() != "" { // a reason of the closed set
		a.reason, a.claim = fault.Reason(reason), metadata["claim"]
	}
}

func (a *answer) certificate(out *fulciopb.SigningCertificate) {
	chain := out.GetSignedCertificateEmbeddedSct().GetChain()
	if chain == nil {
		chain = out.GetSignedCertificateDetachedSct().GetChain()
	}
	a.certificates([]byte(strings.Join(chain.GetCertificates(), "\n")))
}

// certificates reads the PEM of a leaf and the chain above it.
func (a *answer) certificates(data []byte) {
	for len(a.chain) < maxChain {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if a.leaf != nil {
			a.chain = append(a.chain, block.Bytes)
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			a.problem = "the certificate cannot be parsed"
			return
		}
		a.leaf = leaf
	}
	switch {
	case a.leaf == nil:
		a.problem = "the answer has no certificate"
	case len(bytes.TrimSpace(data)) > 0:
		a.problem = "the chain has more than certificates"
	}
}
