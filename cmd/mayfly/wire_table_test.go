package main

import (
	"slices"
	"strings"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// wireCase is one request. ${name} in header and body is replaced by a value of the run.
type wireCase struct {
	name    string
	method  string // of HTTP; "" means gRPC
	path    string
	header  []string // names and values
	body    string   // over gRPC: JSON of message, or raw bytes if message is nil
	message proto.Message
	answer  proto.Message
}

func wireTable() []wireCase {
	var all []wireCase
	for _, part := range [][]wireCase{
		v2Tokens(), v2Keys(), v2Requests(), v2JSON(), v2Shapes(), v2Proofs(),
		v1Requests(), reads(), routing(), crossOrigin(), overGRPC(),
	} {
		all = append(all, part...)
	}
	return all
}

const (
	signV2 = "/api/v2/signingCert"
	signV1 = "/api/v1/signingCert"
)

var bearerToken = []string{"Authorization", "Bearer ${token}"}

// withoutToken is a request of the current API whose token is not in the body.
const withoutToken = `{"publicKeyRequest":{"publicKey":{"algorithm":"ECDSA","content":"${pem}"},"proofOfPossession":"${proof}"}}`

// v2Tokens returns requests with different tokens that are valid otherwise.
func v2Tokens() []wireCase {
	post := func(name, body string, header ...string) wireCase {
		return wireCase{name: "v2 " + name, method: "POST", path: signV2, header: header, body: body}
	}
	all := []wireCase{
		post("token in the body", v2Key("${pem}", "${proof}")),
		post("token in the header", withoutToken, bearerToken...),
		post("token in the header without a scheme", withoutToken, "Authorization", "${token}"),
		post("token in the header, scheme in lower case", withoutToken, "Authorization", "bearer ${token}"),
		post("token in the header, another scheme", withoutToken, "Authorization", "Basic ${token}"),
		post("the body's token wins", v2Key("${pem}", "${proof}"), "Authorization", "Bearer nonsense"),
		post("no token", withoutToken),
		post("an empty token", strings.Replace(v2Key("${pem}", "${proof}"), "${token}", "", 1)),
		post("two tokens in headers", withoutToken, "Authorization", "Bearer ${token}",
			"Grpc-Metadata-Oidcidentitytoken", "${token}"),
		post("nonsense for a token", withoutToken, "Authorization", "Bearer nonsense"),
		post("a token of dots", withoutToken, "Authorization", "Bearer "+strings.Repeat(".", 2000)),
		post("a token of two parts", withoutToken, "Authorization", "Bearer ${token-cut}"),
		post("a token of 17 KiB", strings.Replace(v2Key("${pem}", "${proof}"), "${token}",
			strings.Repeat("a", 17<<10), 1)),
	}
	for name, about := range map[string]string{
		"audience": "another audience", "audiences": "one of two audiences", "expired": "an expired token",
		"early": "a token of the future", "issuer": "an unknown issuer",
		"no-email": "no e-mail claim", "unverified": "an unverified address", "true-text": "email_verified as a text",
		"bad-email":    "an address without a domain",
		"number-email": "a number for an address", "umlaut": "an address in Unicode", "no-sub": "no subject",
		"cut": "no signature", "changed": "a changed signature",
		"unknown": "a key that the issuer does not have", "hmac": "a symmetric signature",
	} {
		all = append(all, post(about, withoutToken, "Authorization", "Bearer ${token-"+name+"}"))
	}
	slices.SortFunc(all, func(a, b wireCase) int { return strings.Compare(a.name, b.name) })
	return all
}

// v2Keys returns requests with different keys and proofs.
func v2Keys() []wireCase {
	post := func(name, content, proof string) wireCase {
		return wireCase{name: "v2 key " + name, method: "POST", path: signV2, body: v2Key(content, proof)}
	}
	return []wireCase{
		post("P-384", "${pem-p384}", "${proof-p384}"),
		post("P-384 with SHA-256", "${pem-p384-sha256}", "${proof-p384-sha256}"),
		post("P-521", "${pem-p521}", "${proof-p521}"),
		post("P-224", "${pem-p224}", "${proof-p224}"),
		post("RSA 2048", "${pem-rsa}", "${proof-rsa}"),
		post("RSA 2048 as PKCS#1", "${pem-rsa-pkcs1}", "${proof-rsa-pkcs1}"),
		post("RSA 2048 with PSS", "${pem-rsa-pkcs1}", "${proof-rsa-pss}"),
		post("RSA 1024", "${pem-rsa1024}", "${proof-rsa}"),
		post("RSA with exponent 3", "${pem-rsa-e3}", "${proof-rsa-pkcs1}"),
		post("Ed25519", "${pem-ed25519}", "${proof-ed25519}"),
		post("after text", "${pem-after-text}", "${odd-proof}"),
		post("twice", "${pem-twice}", "${odd-proof}"),
		post("of the wrong PEM type", "${pem-wrong-type}", "${odd-proof}"),
		post("empty", "", "${proof}"),
		post("nonsense", "nonsense", "${proof}"),
		post("as base64 of DER", "${der64}", "${proof}"),
		post("a proof in URL base64 without padding", "${odd-pem}", "${proof-url64}"),
		post("no proof", "${pem}", ""),
		post("nonsense for a proof", "${pem}", "bm9uc2Vuc2U="),
		post("a proof of another key", "${pem}", "${odd-proof}"),
		post("a proof over the subject", "${odd-pem}", "${proof-sub}"),
		post("a proof with SHA-384", "${odd-pem}", "${proof-sha384}"),
	}
}

// v2Requests returns requests with a certificate signing request.
func v2Requests() []wireCase {
	post := func(name, value string) wireCase {
		return wireCase{
			name: "v2 CSR " + name, method: "POST", path: signV2, header: bearerToken,
			body: `{"certificateSigningRequest":"` + value + `"}`,
		}
	}
	return []wireCase{
		post("P-256", "${csr64}"),
		post("P-384", "${csr64-p384}"),
		post("P-521", "${csr64-p521}"),
		post("RSA", "${csr64-rsa}"),
		post("Ed25519", "${csr64-ed25519}"),
		post("of the other PEM type", "${csr64-new}"),
		post("of the wrong PEM type", "${csr64-type}"),
		post("as DER", "${csr64-der}"),
		post("empty", ""),
		post("nonsense", "bm9uc2Vuc2U="),
		post("with a wrong signature", "${csr64-signature}"),
		post("with RSA-PSS", "${csr64-pss}"),
		post("P-256 with SHA-384", "${csr64-sha384}"),
		post("P-384 with SHA-256", "${csr64-p384-sha256}"),
		post("RSA with SHA-512", "${csr64-rsa-sha512}"),
		post("P-224", "${csr64-p224}"),
	}
}

// v2JSON returns requests with unusual and with invalid JSON.
func v2JSON() []wireCase {
	post := func(name, body string, header ...string) wireCase {
		return wireCase{
			name: "v2 JSON " + name, method: "POST", path: signV2,
			header: append(header, bearerToken...), body: body,
		}
	}
	algorithm := func(value string) string { return strings.Replace(withoutToken, `"ECDSA"`, value, 1) }
	return []wireCase{
		post("names as in the proto file",
			`{"public_key_request":{"public_key":{"content":"${pem}"},"proof_of_possession":"${proof}"}}`),
		post("an unknown field", strings.Replace(withoutToken, "{", `{"colour":"red",`, 1)),
		post("an unknown algorithm", algorithm(`"bogus"`)),
		post("algorithm RSA", algorithm(`"RSA"`)),
		post("algorithm in lower case", algorithm(`"ecdsa"`)),
		post("algorithm 99", algorithm("99")),
		post("algorithm null", algorithm("null")),
		post("algorithm 1.5", algorithm("1.5")),
		post("text after the value", withoutToken+` {"a"`),
		post("white space before the value", " \n\t"+withoutToken),
		post("as text/plain", withoutToken, "Content-Type", "text/plain"),
		post("as a form", withoutToken, "Content-Type", "application/x-www-form-urlencoded"),
		post("another Accept", withoutToken, "Accept", "application/xml"),
		post("an empty body", ""),
		post("an empty object", "{}"),
		post("null", "null"),
		post("a list", "[]"),
		post("a text", `"x"`),
		post("cut", `{"publicKeyRequest":`),
		post("nonsense", "nonsense"),
		post("a number for the key", `{"publicKeyRequest":{"publicKey":{"content":5}}}`),
		post("a text for an object", `{"publicKeyRequest":"x"}`),
		post("bad base64", `{"certificateSigningRequest":"@@@"}`),
		post("key and CSR", `{"publicKeyRequest":{},"certificateSigningRequest":"${csr64}"}`),
		post("CSR and key", `{"certificateSigningRequest":"${csr64}","publicKeyRequest":{}}`),
		post("a field twice", `{"certificateSigningRequest":"${csr64}","certificateSigningRequest":"${csr64}"}`),
		post("a key request without a key", `{"publicKeyRequest":{"proofOfPossession":"${proof}"}}`),
		post("an empty key request", `{"publicKeyRequest":{}}`),
		post("invalid UTF-8", "{\"x\":\"\xff\"}"),
		post("deep nesting", strings.Repeat(`{"a":`, 10001)+"1"+strings.Repeat("}", 10001)),
	}
}

// v2Shapes returns requests with unusual sizes and headers.
func v2Shapes() []wireCase {
	post := func(name, body string, header ...string) wireCase {
		return wireCase{
			name: "v2 " + name, method: "POST", path: signV2,
			header: append(header, bearerToken...), body: body,
		}
	}
	return []wireCase{
		post("a body of 70 KiB", `{"x":"`+strings.Repeat("a", 70<<10)+`"}`),
		post("a body of 5 MiB", `{"x":"`+strings.Repeat("a", 5<<20)+`"}`),
		post("a bad timeout", withoutToken, "Grpc-Timeout", "soon"),
		post("a timeout that is over", withoutToken, "Grpc-Timeout", "1n"),
		post("a method override", withoutToken, "X-HTTP-Method-Override", "GET"),
		post("a request id", withoutToken, "X-Request-Id", "build-7"),
		post("trailers wanted", withoutToken, "TE", "trailers"),
	}
}

// v2Proofs returns requests with two errors, which show the order of the checks: the token is checked before the key.
func v2Proofs() []wireCase {
	post := func(name, body string) wireCase {
		return wireCase{name: "v2 order: " + name, method: "POST", path: signV2, body: body}
	}
	return []wireCase{
		post("bad token before bad key",
			`{"credentials":{"oidcIdentityToken":"x"},"publicKeyRequest":{"publicKey":{"content":"x"}}}`),
		post("bad token before bad CSR",
			`{"credentials":{"oidcIdentityToken":"x"},"certificateSigningRequest":"eA=="}`),
		post("bad key before bad proof", v2Key("x", "eA==")),
		post("weak key before bad proof", v2Key("${pem-rsa1024}", "eA==")),
	}
}

func v1Requests() []wireCase {
	post := func(name, body string, header ...string) wireCase {
		if len(header) == 0 {
			header = bearerToken
		}
		return wireCase{name: "v1 " + name, method: "POST", path: signV1, header: header, body: body}
	}
	key := func(content, proof string) string {
		return `{"publicKey":{"content":"` + content + `","algorithm":"ecdsa"},"signedEmailAddress":"` + proof +
			`","certificateSigningRequest":null}`
	}
	return []wireCase{
		post("key in DER", key("${der64}", "${proof}")),
		post("key in PEM", key("${pem64}", "${proof}")),
		post("key P-384", key("${der64-p384}", "${proof-p384}")),
		post("key RSA", key("${pem64-rsa}", "${proof-rsa}")),
		post("key Ed25519", key("${der64-ed25519}", "${proof-ed25519}")),
		post("algorithm that is unknown", strings.Replace(key("${der64}", "${proof}"), "ecdsa", "bogus", 1)),
		post("CSR", `{"certificateSigningRequest":"${csr64}"}`),
		post("CSR and key", `{"publicKey":{"content":"eA=="},"certificateSigningRequest":"${csr64}"}`),
		post("CSR that is none", `{"certificateSigningRequest":"eA=="}`),
		post("scheme in lower case", key("${der64}", "${proof}"), "Authorization", "bearer ${token}"),
		post("no token", key("${der64}", "${proof}"), "Accept", "*/*"),
		post("token in the body", strings.Replace(key("${der64}", "${proof}"), "{",
			`{"credentials":{"oidcIdentityToken":"${token}"},`, 1), "Accept", "*/*"),
		post("bad token", key("${der64}", "${proof}"), "Authorization", "Bearer nonsense"),
		post("another audience", key("${der64}", "${proof}"), "Authorization", "Bearer ${token-audience}"),
		post("no key", "{}"),
		post("an empty body", ""),
		post("an empty key", `{"publicKey":{}}`),
		post("nonsense for a key", key("eA==", "${proof}")),
		post("key P-224", key("${der64-p224}", "${proof-p224}")),
		post("wrong proof", key("${der64}", "${odd-proof}")),
		post("no proof", key("${der64}", "")),
		post("bad base64", key("@@@", "")),
		post("cut JSON", `{"publicKey":`),
		{name: "v1 signingCert by GET", method: "GET", path: signV1},
		{name: "v1 rootCert", method: "GET", path: "/api/v1/rootCert"},
		{name: "v1 rootCert by POST", method: "POST", path: "/api/v1/rootCert"},
		{name: "v1 unknown", method: "GET", path: "/api/v1/trustBundle"},
	}
}

func reads() []wireCase {
	return []wireCase{
		{name: "trust bundle", method: "GET", path: "/api/v2/trustBundle"},
		{name: "trust bundle with a query", method: "GET", path: "/api/v2/trustBundle?a=b"},
		{
			name: "trust bundle by a form", method: "POST", path: "/api/v2/trustBundle",
			header: []string{"Content-Type", "application/x-www-form-urlencoded"},
		},
		{name: "configuration", method: "GET", path: "/api/v2/configuration"},
		{name: "healthz", method: "GET", path: "/healthz"},
	}
}

func routing() []wireCase {
	return []wireCase{
		{name: "no such path", method: "GET", path: "/nothing"},
		{name: "the root", method: "GET", path: "/"},
		{name: "a slash at the end", method: "GET", path: "/api/v2/trustBundle/"},
		{name: "two slashes", method: "GET", path: "/api//v2/trustBundle"},
		{name: "other case", method: "GET", path: "/api/v2/trustbundle"},
		{name: "a colon at the end", method: "GET", path: "/api/v2/trustBundle:x"},
		{name: "signingCert by GET", method: "GET", path: signV2},
		{name: "signingCert by PUT", method: "PUT", path: signV2},
		{name: "signingCert by DELETE", method: "DELETE", path: signV2},
		{name: "trustBundle by POST", method: "POST", path: "/api/v2/trustBundle"},
		{name: "trustBundle by HEAD", method: "HEAD", path: "/api/v2/trustBundle"},
		{name: "healthz by HEAD", method: "HEAD", path: "/healthz"},
		{name: "healthz by POST", method: "POST", path: "/healthz"},
		{name: "options without an origin", method: "OPTIONS", path: signV2},
	}
}

func crossOrigin() []wireCase {
	preflight := func(name, path string, header ...string) wireCase {
		return wireCase{
			name: "CORS preflight " + name, method: "OPTIONS", path: path,
			header: append([]string{"Origin", "https://app.example.com", "Access-Control-Request-Method", "POST"},
				header...),
		}
	}
	return []wireCase{
		preflight("plain", signV2),
		preflight("with content-type", signV2, "Access-Control-Request-Headers", "content-type"),
		preflight("with authorization", signV1, "Access-Control-Request-Headers", "authorization,content-type"),
		preflight("with a header that is not allowed", signV2, "Access-Control-Request-Headers", "x-colour"),
		{
			name: "CORS read", method: "GET", path: "/api/v2/trustBundle",
			header: []string{"Origin", "https://app.example.com"},
		},
		{
			name: "CORS refusal", method: "POST", path: signV2,
			header: []string{"Origin", "https://app.example.com"}, body: "{}",
		},
	}
}

func overGRPC() []wireCase {
	const prefix = "/dev.sigstore.fulcio.v2.CA/"
	create := func(name, body string, header ...string) wireCase {
		return wireCase{
			name: "gRPC " + name, path: prefix + "CreateSigningCertificate", header: header, body: body,
			message: &fulciopb.CreateSigningCertificateRequest{}, answer: &fulciopb.SigningCertificate{},
		}
	}
	csr := func(value string) string {
		return `{"credentials":{"oidcIdentityToken":"${token}"},"certificateSigningRequest":"` + value + `"}`
	}
	token := func(name string) string { return strings.Replace(v2Key("${pem}", "${proof}"), "${token}", name, 1) }
	method := func(name, path, body string, message, answer proto.Message) wireCase {
		return wireCase{name: "gRPC " + name, path: path, body: body, message: message, answer: answer}
	}
	return []wireCase{
		create("key", v2Key("${pem}", "${proof}")),
		create("CSR", csr("${csr64}")),
		create("token in the metadata", withoutToken, "oidcidentitytoken", "${token}"),
		create("token in the metadata twice", withoutToken, "oidcidentitytoken", "${token}",
			"oidcidentitytoken", "${token}"),
		create("token as authorization", withoutToken, "authorization", "Bearer ${token}"),
		create("no token", withoutToken),
		create("bad token", token("nonsense")),
		create("another audience", token("${token-audience}")),
		create("expired", token("${token-expired}")),
		create("unknown issuer", token("${token-issuer}")),
		create("unverified address", token("${token-unverified}")),
		create("no key", `{"credentials":{"oidcIdentityToken":"${token}"}}`),
		create("nonsense for a key", v2Key("nonsense", "${proof}")),
		create("weak key", v2Key("${pem-rsa1024}", "${proof}")),
		create("wrong proof", v2Key("${pem}", "${odd-proof}")),
		create("CSR that is none", csr("eA==")),
		create("CSR with RSA-PSS", csr("${csr64-pss}")),
		create("CSR P-256 with SHA-384", csr("${csr64-sha384}")),
		create("request id", v2Key("${pem}", "${proof}"), "x-request-id", "build-7"),
		create("message of 70 KiB", strings.Replace(withoutToken, "${pem}", strings.Repeat("a", 70<<10), 1)),
		create("message of 5 MiB", strings.Replace(withoutToken, "${pem}", strings.Repeat("a", 5<<20), 1)),
		method("bytes that are no message", prefix+"CreateSigningCertificate", "\x0a\xff\xff\xff\xff", nil, nil),
		method("text that is not UTF-8", prefix+"CreateSigningCertificate", "\x0a\x03\x0a\x01\xff", nil, nil),
		method("trust bundle", prefix+"GetTrustBundle", "{}", &fulciopb.GetTrustBundleRequest{},
			&fulciopb.TrustBundle{}),
		method("configuration", prefix+"GetConfiguration", "{}", &fulciopb.GetConfigurationRequest{},
			&fulciopb.Configuration{}),
		method("health", "/grpc.health.v1.Health/Check", "{}", &grpc_health_v1.HealthCheckRequest{},
			&grpc_health_v1.HealthCheckResponse{}),
		method("health of a service", "/grpc.health.v1.Health/Check", `{"service":"any"}`,
			&grpc_health_v1.HealthCheckRequest{}, &grpc_health_v1.HealthCheckResponse{}),
		method("unknown method", prefix+"Nothing", "", nil, nil),
		method("unknown service", "/dev.sigstore.fulcio.v9.CA/CreateSigningCertificate", "", nil, nil),
		method("the older service", "/dev.sigstore.fulcio.v1beta.CA/GetRootCertificate", "", nil, nil),
	}
}
