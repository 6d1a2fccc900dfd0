package shadow

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// API is one of the forms in which a certificate is requested.
type API string

// The forms.
const (
	RESTv2 API = "rest"
	RESTv1 API = "v1"
	GRPC   API = "grpc"
	other  API = "" // no request for a certificate
)

// The paths of the requests for a certificate.
const (
	pathV2   = "/api/v2/signingCert"
	pathV1   = "/api/v1/signingCert"
	pathGRPC = fulciopb.CA_CreateSigningCertificate_FullMethodName
)

// apiOf says whether a request is one for a certificate, and in which form.
func apiOf(r *http.Request) API {
	switch {
	case r.Method != http.MethodPost:
		return other
	case isGRPC(r):
		if r.URL.Path == pathGRPC {
			return GRPC
		}
	case r.URL.Path == pathV2:
		return RESTv2
	case r.URL.Path == pathV1:
		return RESTv1
	}
	return other
}

// isGRPC reports whether a request is one of gRPC: HTTP/2 with its own content type.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// exchange is a request for a certificate with the answer of the upstream. It has the token, and MUST NOT be stored.
type exchange struct {
	api    API
	began  time.Time
	took   time.Duration // until the client had the answer
	method string
	target string // of the request line
	host   string
	header http.Header
	body   []byte
	from   string // address of the client

	failed bool // the upstream gave no whole answer
	answer received
}

// overhead is what an exchange costs in memory besides its bytes.
const overhead = 2 << 10

// size is about how many bytes of memory an exchange occupies.
func (x *exchange) size() int64 {
	n := overhead + len(x.body) + len(x.answer.content)
	for k, v := range x.header {
		n += len(k)
		for _, one := range v {
			n += len(one)
		}
	}
	return int64(n)
}

// subject is whom a token is about, as the token says: nobody verified it.
type subject struct{ Issuer, Name string }

// subjectOf reads the token of a request. ok is false if there is no readable one.
func subjectOf(api API, header http.Header, body []byte) (s subject, expires time.Time, ok bool) {
	token := tokenOf(api, header, body)
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return s, expires, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return s, expires, false
	}
	var claims struct {
		Issuer  string      `json:"iss"`
		Subject string      `json:"sub"`
		Email   string      `json:"email"`
		Expires json.Number `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Issuer == "" {
		return s, expires, false
	}
	if claims.Subject == "" {
		claims.Subject = claims.Email
	}
	if seconds, err := claims.Expires.Float64(); err == nil {
		expires = time.Unix(int64(seconds), 0)
	}
	return subject{claims.Issuer, claims.Subject}, expires, true
}

// tokenOf returns the token of a request, from its body or else from its header.
func tokenOf(api API, header http.Header, body []byte) string {
	in := &fulciopb.CreateSigningCertificateRequest{}
	switch api {
	case RESTv2:
		if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, in) != nil {
			return ""
		}
	case GRPC:
		message, ok := frame(body)
		if !ok || proto.Unmarshal(message, in) != nil {
			return ""
		}
	case RESTv1, other:
	}
	if token := in.GetCredentials().GetOidcIdentityToken(); token != "" {
		return token
	}
	if api == GRPC {
		return header.Get("Oidcidentitytoken")
	}
	value := header.Get("Authorization")
	if scheme, rest, found := strings.Cut(value, " "); found && strings.EqualFold(scheme, "bearer") {
		return strings.TrimLeft(rest, " ")
	}
	return value
}

// frame returns the first message of a gRPC body (its length-prefixed form), which must be whole and not compressed.
func frame(body []byte) ([]byte, bool) {
	const prefix = 5
	if len(body) < prefix || body[0] != 0 {
		return nil, false
	}
	n := binary.BigEndian.Uint32(body[1:prefix])
	if uint64(n) > uint64(len(body)-prefix) {
		return nil, false
	}
	return body[prefix : prefix+int(n)], true
}
