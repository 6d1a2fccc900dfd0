package openapi_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/fault"
	fulciolegacypb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v1beta"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/proto/openapi"
)

var update = flag.Bool("update", false, "write fulcio.json")

type object = map[string]any

// operation has the properties of an operation that the .proto files do not contain. Its key in operations is "METHOD
// path".
type operation struct {
	id         string
	tag        string
	success    int
	mediaType  string // of the answer; "" is JSON
	headers    object
	request    any // example
	answer     any // example
	security   []any
	errors     []int
	deprecated bool
}

const (
	exampleChain = "-----BEGIN CERTIFICATE-----\nMIIC...\n-----END CERTIFICATE-----\n"
	exampleKey   = "-----BEGIN PUBLIC KEY-----\nMFkw...\n-----END PUBLIC KEY-----\n"
	exampleProof = "MEUCIQDx"
)

var (
	token   = object{"identityToken": []any{}}
	reading = []int{429, 500, 503}
	issuing = []int{400, 403, 429, 500, 503, 504}
	sct     = object{"SCT": object{
		"description": "The SCT as the JSON object of RFC 6962 section 4.1, in base64. It is absent when the " +
			"certificate has its SCTs.",
		"schema": object{"type": "string"},
	}}
)

func operations() map[string]operation {
	chain := object{"certificates": []any{exampleChain}}
	return map[string]operation{
		"post /api/v2/signingCert": {
			id: "createSigningCertificate", tag: "certificates", success: 200, errors: issuing,
			security: []any{token, object{}}, // the token may be in the body
			request: object{
				"credentials": object{"oidcIdentityToken": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"},
				"publicKeyRequest": object{
					"publicKey": object{"algorithm": "ECDSA", "content": exampleKey}, "proofOfPossession": exampleProof,
				},
			},
			answer: object{"signedCertificateEmbeddedSct": object{"chain": chain}},
		},
		"get /api/v2/trustBundle": {
			id: "getTrustBundle", tag: "verification", success: 200, errors: reading,
			answer: object{"chains": []any{chain}},
		},
		"get /api/v2/configuration": {
			id: "getConfiguration", tag: "certificates", success: 200, errors: reading,
			headers: object{
				"Mayfly-Config-Generation": object{
					"description": "The number of the configuration, from 1.",
					"schema":      object{"type": "integer"},
				},
				"Mayfly-Config-Digest": object{"description": "SHA-256 of the configuration in " +
					"force, in hexadecimal.", "schema": object{"type": "string"}},
			},
			answer: object{"issuers": []any{object{
				"issuerUrl": "https://accounts.example.com", "audience": "sigstore", "challengeClaim": "email",
				"spiffeTrustDomain": "",
				"issuerType":        "email", "subjectDomain": "", "skipEmailVerification": false,
			}}},
		},
		"post /api/v1/signingCert": {
			id: "createSigningCertificateV1", tag: "older API", success: 201,
			mediaType: "application/pem-certificate-chain", errors: issuing,
			security: []any{token}, deprecated: true, headers: sct,
			request: object{
				"publicKey":          object{"algorithm": "ecdsa", "content": "TUZrdw=="},
				"signedEmailAddress": exampleProof,
			},
			answer: exampleChain,
		},
		"get /api/v1/rootCert": {
			id: "getRootCertificateV1", tag: "older API", success: 200,
			mediaType: "application/pem-certificate-chain", errors: reading,
			deprecated: true, answer: exampleChain,
		},
	}
}

// required are the members that every message must have. The .proto files mark alternatives of a oneof as required.
func required() map[string][]string {
	return map[string][]string{
		"CreateSigningCertificateRequest": nil, "LegacyCreateSigningCertificateRequest": nil,
		"PublicKeyRequest": {"publicKey", "proofOfPossession"}, "PublicKey": {"content"},
		"LegacyPublicKey":  {"content"},
		"CertificateChain": {"certificates"}, "TrustBundle": {"chains"}, "Configuration": {"issuers"},
		"SigningCertificateDetachedSCT": {"chain", "signedCertificateTimestamp"},
		"SigningCertificateEmbeddedSCT": {"chain"},
		"OIDCIssuer": {
			"audience", "challengeClaim", "issuerType", "skipEmailVerification",
			"spiffeTrustDomain", "subjectDomain",
		},
	}
}

// convert makes the OpenAPI 3.1 document from the Swagger 2.0 document, which is generated from the .proto files.
func convert(t *testing.T, swagger []byte) []byte {
	t.Helper()
	var in struct {
		Paths       map[string]map[string]struct{ Summary string } `json:"paths"`
		Definitions map[string]object                              `json:"definitions"`
	}
	if err := json.Unmarshal(swagger, &in); err != nil {
		t.Fatal(err)
	}
	schemas := errorSchemas()
	for name, definition := range in.Definitions {
		if slices.Contains([]string{"apiHttpBody", "protobufAny", "rpcStatus"}, name) {
			continue
		}
		schema := schemaOf(definition).(object)
		if names, known := required()[schemaName(name)]; known {
			delete(schema, "required")
			if len(names) > 0 {
				schema["required"] = names
			}
		}
		schemas[schemaName(name)] = schema
	}
	more, paths := operations(), object{}
	for path, methods := range in.Paths {
		item := object{}
		for method, one := range methods {
			o, known := more[method+" "+path]
			if !known {
				t.Fatalf("operations says nothing of %s %s", method, path)
			}
			delete(more, method+" "+path)
			item[method] = o.document(one.Summary, path)
		}
		paths[path] = item
	}
	if len(more) > 0 {
		t.Fatalf("operations has operations that the API has not: %v", slices.Collect(maps.Keys(more)))
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "mayfly, a certificate authority for code signing", "version": "2.0.0",
			"description": "Issues short-lived certificates for the identity in an OpenID Connect " +
				"token and a key whose " +
				"possession is proven. The API is that of Sigstore's Fulcio; errors also have a typed reason.",
			"license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers": []any{object{"url": "/", "description": "The server that serves this document."}},
		"tags": []any{
			object{"name": "certificates", "description": "For signers."},
			object{"name": "verification", "description": "For verifiers."},
			object{"name": "older API", "description": "Fulcio's first API, for older clients."},
		},
		"paths": paths,
		"components": object{
			"schemas": schemas, "responses": errorResponses(),
			"securitySchemes": object{"identityToken": object{
				"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
				"description": "An OpenID Connect ID token of one of the issuers that GET /api/v2/configuration " +
					"lists, with the audience of that issuer.",
			}},
		},
	}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// document returns the operation in the form of OpenAPI.
func (o operation) document(summary, path string) object {
	media := o.mediaType
	schema := object{"type": "string", "description": "Certificates in PEM, leaf first."}
	if media == "" {
		media, schema = "application/json", object{"$ref": "#/components/schemas/" + o.answerSchema()}
	}
	success := object{
		"description": http.StatusText(o.success),
		"content":     object{media: object{"schema": schema, "example": o.answer}},
	}
	if o.headers != nil {
		success["headers"] = o.headers
	}
	responses := object{strconv.Itoa(o.success): success}
	for _, code := range o.errors {
		responses[strconv.Itoa(code)] = object{"$ref": "#/components/responses/" + responseName(code)}
	}
	out := object{
		"operationId": o.id, "summary": firstSentence(summary), "tags": []any{o.tag}, "responses": responses,
		"security": []any{},
	}
	if text := plainText(summary); text != firstSentence(summary)+"." {
		out["description"] = text
	}
	if o.security != nil {
		out["security"] = o.security
	}
	if o.deprecated {
		out["deprecated"] = true
	}
	if o.request != nil {
		name := "CreateSigningCertificateRequest"
		if strings.HasPrefix(path, "/api/v1/") {
			name = "Legacy" + name
		}
		out["requestBody"] = object{"required": true, "content": object{"application/json": object{
			"schema": object{"$ref": "#/components/schemas/" + name}, "example": o.request,
		}}}
	}
	return out
}

func (o operation) answerSchema() string {
	return map[string]string{
		"createSigningCertificate": "SigningCertificate", "getTrustBundle": "TrustBundle",
		"getConfiguration": "Configuration",
	}[o.id]
}

// methodName returns the name of the RPC at the beginning of a comment of the .proto files.
var methodName = regexp.MustCompile(`^(Get|Create)\w+ (\w)`)

func plainText(comment string) string {
	text := strings.Join(strings.Fields(comment), " ")
	return methodName.ReplaceAllStringFunc(text, func(m string) string { return strings.ToUpper(m[len(m)-1:]) })
}

func firstSentence(comment string) string {
	text, _, _ := strings.Cut(plainText(comment), ". ")
	return strings.TrimSuffix(text, ".")
}

// schemaName is a name of the generated document without its package.
func schemaName(name string) string {
	for prefix, as := range map[string]string{"fulcioV1beta": "Legacy", "fulcioV2": "", "v2": ""} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return as + rest
		}
	}
	return name
}

// schemaOf converts a schema of Swagger 2.0 to JSON Schema 2020-12.
func schemaOf(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = schemaOf(v[i])
		}
		return out
	case object:
		out := object{}
		for key, value := range v {
			if text, ok := value.(string); ok && key == "$ref" {
				value = "#/components/schemas/" + schemaName(strings.TrimPrefix(text, "#/definitions/"))
			}
			out[key] = schemaOf(value)
		}
		if out["format"] == "byte" {
			delete(out, "format")
			out["contentEncoding"] = "base64"
		}
		if out["$ref"] != nil {
			delete(out, "type")
		}
		return out
	}
	return v
}

// ofEntry reports whether a reason is about entries of the signature log, which has another API.
func ofEntry(r fault.Reason) bool { return strings.HasPrefix(string(r), "ENTRY_") }

// errorSchemas describe the body of an error, a google.rpc.Status.
func errorSchemas() object {
	var reasons []any
	for r := range fault.Reasons() {
		if !ofEntry(r) {
			reasons = append(reasons, string(r))
		}
	}
	kind := func(name string) object {
		return object{"type": "string", "const": "type.googleapis.com/google.rpc." + name}
	}
	return object{
		"Reason": object{
			"type": "string", "enum": reasons,
			"description": "Why a request was refused. docs/errors.md describes each reason and what to do.",
		},
		"ErrorInfo": object{
			"type": "object", "required": []any{"@type", "reason", "domain", "metadata"},
			"description": "The reason of a refusal.",
			"properties": object{
				"@type": kind("ErrorInfo"), "reason": object{"$ref": "#/components/schemas/Reason"},
				"domain": object{"type": "string", "const": "mayfly"},
				"metadata": object{
					"type": "object", "additionalProperties": object{"type": "string"},
					"description": "Values that the caller sent or could know, by name; request_id is always present.",
				},
			},
		},
		"RetryInfo": object{
			"type": "object", "required": []any{"@type", "retryDelay"}, "description": "When to try again.",
			"properties": object{
				"@type": kind("RetryInfo"),
				"retryDelay": object{
					"type": "string", "description": "Seconds with the suffix s.",
					"examples": []any{"1s"},
				},
			},
		},
		"Error": object{
			"type": "object", "required": []any{"code", "message", "details"}, "description": "A google.rpc.Status.",
			"properties": object{
				"code":    object{"type": "integer", "format": "int32", "description": "A google.rpc.Code."},
				"message": object{"type": "string", "description": "For people."},
				"details": object{"type": "array", "items": object{"anyOf": []any{
					object{"$ref": "#/components/schemas/ErrorInfo"}, object{"$ref": "#/components/schemas/RetryInfo"},
				}}},
			},
		},
	}
}

// errorStatus describes an HTTP status of errors: the gRPC code, a reason for the example, the kind of all its reasons.
type errorStatus struct {
	code   int
	reason fault.Reason
	kind   fault.Kind
	text   string
}

var statusOf = map[int]errorStatus{
	400: {
		3, fault.AudienceMismatch, fault.Invalid,
		"The token, the key, the certificate signing request or the proof is wrong. The same request fails again.",
	},
	403: {
		7, fault.PolicyDenied, fault.Denied,
		"The policy of the operator does not allow a certificate for this identity.",
	},
	429: {
		8, fault.RateLimited, fault.Exhausted,
		"Too many requests, or a request that is too large. Wait for Retry-After.",
	},
	500: {
		13, fault.InternalError, fault.Internal,
		"A fault of the server. The server's log has the cause under the request id.",
	},
	503: {
		14, fault.LogUnavailable, fault.Unavailable,
		"The server or a dependency does not work now. Wait for Retry-After.",
	},
	504: {4, fault.CallerDeadline, fault.DeadlineExceeded, "The caller's own deadline has passed."},
}

func responseName(status int) string { return strings.ReplaceAll(http.StatusText(status), " ", "") }

func errorResponses() object {
	out := object{}
	for status, s := range statusOf {
		metadata := object{"request_id": "5BVQSBMARJEAXPSBNPLW36N6LG"}
		for _, key := range s.reason.Keys() {
			metadata[key] = map[string]string{"want": "sigstore", "got": "my-app", "rule": "no-pull-requests"}[key]
		}
		details := []any{object{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": string(s.reason),
			"domain": "mayfly", "metadata": metadata,
		}}
		one := object{"description": s.text}
		if status == 429 || status == 503 {
			details = append(details, object{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"})
			one["headers"] = object{"Retry-After": object{
				"description": "Seconds.",
				"schema":      object{"type": "integer"},
			}}
		}
		one["content"] = object{"application/json": object{
			"schema":  object{"$ref": "#/components/schemas/Error"},
			"example": object{"code": s.code, "message": s.reason.Message(), "details": details},
		}}
		out[responseName(status)] = one
	}
	return out
}

// The served document is the result of convert for the current .proto files and the table of reasons.
func TestDocument(t *testing.T) {
	t.Parallel()
	swagger, err := os.ReadFile("fulcio.swagger.json")
	if err != nil {
		t.Fatal(err)
	}
	want := convert(t, swagger)
	if *update {
		if err := os.WriteFile("fulcio.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(openapi.Document, want) {
		t.Error("fulcio.json is not what the .proto files and the table of reasons say; run: go test " +
			"./proto/openapi -update")
	}
}

// The document has no errors that make code generators fail: unresolved references, repeated operation IDs, unused
// schemas.
func TestReferences(t *testing.T) {
	t.Parallel()
	var doc object
	if err := json.Unmarshal(openapi.Document, &doc); err != nil {
		t.Fatal(err)
	}
	if v := doc["openapi"]; v != "3.1.0" {
		t.Errorf("OpenAPI %v", v)
	}
	used, ids := map[string]bool{}, map[string]bool{}
	var visit func(at string, v any)
	visit = func(at string, v any) {
		switch v := v.(type) {
		case []any:
			for i := range v {
				visit(fmt.Sprint(at, "/", i), v[i])
			}
		case object:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
				target := any(doc)
				for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
					m, _ := target.(object)
					target = m[part]
				}
				if target == nil {
					t.Errorf("%s: %s is not there", at, ref)
				}
			}
			if id, ok := v["operationId"].(string); ok {
				if ids[id] {
					t.Errorf("the operation id %s stands twice", id)
				}
				ids[id] = true
			}
			for key := range v {
				visit(at+"/"+key, v[key])
			}
		}
	}
	visit("", doc)
	components := doc["components"].(object)
	for _, kind := range []string{"schemas", "responses"} {
		for name := range components[kind].(object) {
			if !used["#/components/"+kind+"/"+name] {
				t.Errorf("nothing uses %s %s", kind, name)
			}
		}
	}
	for r := range fault.Reasons() {
		if r.Kind() == fault.Canceled || ofEntry(r) {
			continue // an error has no consequence for the test
		}
		if !slices.ContainsFunc(slices.Collect(maps.Values(statusOf)),
			func(s errorStatus) bool { return s.kind == r.Kind() }) {
			t.Errorf("no response has the kind of the reason %s", r)
		}
	}
}

// The examples are messages of the API.
func TestExamples(t *testing.T) {
	t.Parallel()
	strict := func(name string, example any, m proto.Message) {
		data, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		if err := protojson.Unmarshal(data, m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for key, o := range operations() {
		switch key {
		case "post /api/v2/signingCert":
			strict(key, o.request, &fulciopb.CreateSigningCertificateRequest{})
			strict(key, o.answer, &fulciopb.SigningCertificate{})
		case "post /api/v1/signingCert":
			strict(key, o.request, &fulciolegacypb.CreateSigningCertificateRequest{})
		case "get /api/v2/trustBundle":
			strict(key, o.answer, &fulciopb.TrustBundle{})
		case "get /api/v2/configuration":
			strict(key, o.answer, &fulciopb.Configuration{})
		}
	}
}
