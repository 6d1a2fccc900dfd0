package server_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/admission"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
	"github.com/mayfly-ca/mayfly/testkit/oracle"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// fixture is a complete server with its dependencies, on real sockets.
type fixture struct {
	t         *testing.T
	idp       *idp.Provider
	log       *ct.Log
	pki       *pki.PKI
	srv       *server.Server
	url       string
	grpc      fulciopb.CAClient
	conn      *grpc.ClientConn
	logs      *logbuf.Buffer
	key       *ecdsa.PrivateKey
	verifier  *oidc.Verifier
	core      *server.Core
	admission *admission.Controller
	set       *ctlog.Set // the logs
	logger    *slog.Logger
}

// capacity is how many requests a test server accepts at once.
const capacity = 64

func newFixture(t *testing.T, onePort bool) *fixture {
	t.Helper()
	return newFixtureWith(t, onePort, func(c *oidc.IssuerConfig) { c.Type = "email" })
}

func newFixtureWith(t *testing.T, onePort bool, change func(*oidc.IssuerConfig)) *fixture {
	t.Helper()
	w := &fixture{
		t: t, idp: idp.New(t, idp.Options{}), pki: pki.New(pki.Options{}), logs: &logbuf.Buffer{},
		key: pki.NewKey(pki.P256).(*ecdsa.PrivateKey),
	}
	w.log = ct.New(t, ct.Options{Roots: []*x509.Certificate{w.pki.Root}})
	logger := slog.New(slog.NewJSONHandler(w.logs, nil))
	log, err := remote.Open(remote.Config{Name: "lab", URL: w.log.URL(), PublicKey: "-"},
		remote.Options{PublicKeyPEM: w.log.PublicKeyPEM()})
	must(t, err)
	w.logger = logger
	set, err := ctlog.New(ctlog.Options{
		Logs:   []ctlog.Log{{Log: log.Log, Submitter: log}},
		Policy: ctlog.PolicyConfig{Budget: 2 * time.Second, Attempt: time.Second},
	})
	must(t, err)
	w.set = set
	authority, err := ca.New(ca.Options{
		Chain: w.pki.Chain, Signer: w.pki.Key, Log: set,
		Backdate: 30 * time.Second, Logger: logger,
	})
	must(t, err)
	keys, err := pop.New(pop.Config{}, pop.Options{Forbidden: []crypto.PublicKey{w.pki.Key.Public()}})
	must(t, err)
	entry := oidc.IssuerConfig{ClientID: "sigstore"}
	change(&entry)
	w.verifier, err = oidc.New(oidc.Config{Issuers: map[string]oidc.IssuerConfig{w.idp.URL(): entry}},
		oidc.Options{Logger: logger})
	must(t, err)
	w.admission = admission.New(admission.Options{Requests: capacity, Processors: capacity})
	w.srv, err = server.New(server.Options{
		Logger: logger, Limits: server.Limits{Drain: time.Second},
		Admission: w.admission,
	})
	must(t, err)
	w.core = &server.Core{Issuers: w.verifier, Keys: keys, Authority: authority, Generation: 7, Digest: "abc"}
	w.srv.SetCore(w.core)
	var l server.Listeners
	l.HTTP, err = net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	if l.GRPC = l.HTTP; !onePort {
		l.GRPC, err = net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.srv.Serve(ctx, l) }()
	w.url = "http://" + l.HTTP.Addr().String()
	w.conn, err = grpc.NewClient(l.GRPC.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	w.grpc = fulciopb.NewCAClient(w.conn)
	t.Cleanup(func() {
		must(t, w.conn.Close())
		cancel()
		must(t, <-done)
		w.verifier.Wait()
		log.Close()
	})
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *fixture) spki() []byte {
	der, err := x509.MarshalPKIXPublicKey(w.key.Public())
	must(w.t, err)
	return der
}

func (w *fixture) publicPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: w.spki()}))
}

func (w *fixture) proof(challenge string) []byte {
	sum := sha256.Sum256([]byte(challenge))
	sig, err := ecdsa.SignASN1(rand.Reader, w.key, sum[:])
	must(w.t, err)
	return sig
}

func (w *fixture) message(token string) *fulciopb.CreateSigningCertificateRequest {
	return w.messageFor(token, "alice@example.com")
}

// messageFor is a request with a proof for a challenge.
func (w *fixture) messageFor(token, challenge string) *fulciopb.CreateSigningCertificateRequest {
	return &fulciopb.CreateSigningCertificateRequest{
		Credentials: &fulciopb.Credentials{Credentials: &fulciopb.Credentials_OidcIdentityToken{OidcIdentityToken: token}},
		Key: &fulciopb.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciopb.PublicKeyRequest{
			PublicKey: &fulciopb.PublicKey{Content: w.publicPEM()}, ProofOfPossession: w.proof(challenge),
		}},
	}
}

func (w *fixture) expect() oracle.Expect {
	iss := w.idp.URL()
	return oracle.Expect{
		Chain: w.pki.Chain, SPKI: w.spki(), Email: "alice@example.com", Logs: []crypto.PublicKey{w.log.Key()},
		Extensions: map[string]string{"1": iss, "8": iss, "24": "subject-1"},
	}
}

// answer is a REST answer.
type answer struct {
	code   int
	header http.Header
	body   string
	status struct {
		Code    int
		Message string
		Details []struct {
			Reason   string
			Domain   string
			Metadata map[string]string
		}
	}
}

func (w *fixture) rest(method, path, body string, header ...string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	must(w.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	must(w.t, err)
	defer res.Body.Close() //nolint:errcheck // read to the end
	data, err := io.ReadAll(res.Body)
	must(w.t, err)
	a := answer{code: res.StatusCode, header: res.Header, body: string(data)}
	_ = json.Unmarshal(data, &a.status) // a successful answer has another form
	return a
}

func (w *fixture) body(token string) string {
	data, err := json.Marshal(map[string]any{
		"credentials": map[string]any{"oidcIdentityToken": token},
		"publicKeyRequest": map[string]any{
			"publicKey":         map[string]any{"algorithm": "bogus", "content": w.publicPEM()},
			"proofOfPossession": w.proof("alice@example.com"),
		},
	})
	must(w.t, err)
	return string(data)
}

func leafOf(t *testing.T, chain []string) []byte {
	t.Helper()
	if len(chain) != 3 || strings.HasSuffix(chain[0], "\n") {
		t.Fatalf("%d certificates, first %q", len(chain), chain)
	}
	b, _ := pem.Decode([]byte(chain[0]))
	return b.Bytes
}

// B1 // F7: the same certificate over both transports, on one port and on two.
func TestCreateSigningCertificate(t *testing.T) {
	t.Parallel()
	for _, onePort := range []bool{false, true} {
		t.Run("one port "+strconv.FormatBool(onePort), func(t *testing.T) {
			t.Parallel()
			w := newFixture(t, onePort)
			var header metadata.MD
			out, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(w.idp.Token(nil)), grpc.Header(&header))
			must(t, err)
			oracle.Check(t, w.expect(), leafOf(t, out.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()))
			if len(header.Get("x-request-id")) != 1 {
				t.Errorf("header %v", header)
			}
			for name, call := range map[string]func() answer{
				"token in the body": func() answer {
					return w.rest("POST", "/api/v2/signingCert", w.body(w.idp.Token(nil)), "X-Request-Id", "my-id.1")
				},
				"token in the header": func() answer {
					return w.rest("POST", "/api/v2/signingCert", w.body(""), "Authorization",
						"bearer "+w.idp.Token(nil), "X-Request-Id", "my-id.1")
				},
				"bare token": func() answer {
					return w.rest("POST", "/api/v2/signingCert", w.body(""), "Authorization", w.idp.Token(nil),
						"X-Request-Id", "my-id.1")
				},
			} {
				a := call()
				var got struct {
					SignedCertificateEmbeddedSct struct {
						Chain struct{ Certificates []string }
					}
				}
				must(t, json.Unmarshal([]byte(a.body), &got))
				if a.code != 200 || a.header.Get("Content-Type") != "application/json" ||
					a.header.Get("X-Request-Id") != "my-id.1" {
					t.Errorf("%s: %d %v %s", name, a.code, a.header, a.body)
				}
				oracle.Check(t, w.expect(), leafOf(t, got.SignedCertificateEmbeddedSct.Chain.Certificates))
			}
		})
	}
}

// A11: only the key is taken from a CSR.
func TestCSR(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	der, err := x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{
			DNSNames:       []string{"evil.example.com"},
			EmailAddresses: []string{"mallory@example.com"},
		}, w.key)
	must(t, err)
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	in := w.message(w.idp.Token(nil))
	in.Key = &fulciopb.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: csr}
	out, err := w.grpc.CreateSigningCertificate(t.Context(), in)
	must(t, err)
	oracle.Check(t, w.expect(), leafOf(t, out.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()))
	a := w.rest("POST", "/api/v2/signingCert", `{"certificateSigningRequest":"`+
		base64.RawURLEncoding.EncodeToString(csr)+`"}`, "Authorization", "Bearer "+w.idp.Token(nil))
	if a.code != 200 {
		t.Errorf("%d %s", a.code, a.body)
	}
}

const (
	msgToken = "There was an error processing the identity token"
	msgKey   = "The public key supplied in the request could not be parsed"
	msgProof = "The signature supplied in the request could not be verified"
	msgWeak  = "The public key supplied in the request is insecure"
)

// D2 // D4 // D9 // D10 // D11 // D18 // A12 // F1 // F6 // F7: each error of a client has its status, its message and
// its reason, and contains no secret.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	other := idp.New(t, idp.Options{})
	now := time.Now().Unix()
	with := func(k string, v any) string { return w.body(w.idp.Token(map[string]any{k: v})) }
	good := w.idp.Token(nil)
	caPEM := func() string {
		der, err := x509.MarshalPKIXPublicKey(w.pki.Key.Public())
		must(t, err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	key := func(content, proof string) string {
		data, err := json.Marshal(map[string]any{
			"credentials": map[string]any{"oidcIdentityToken": good},
			"publicKeyRequest": map[string]any{
				"publicKey":         map[string]any{"content": content},
				"proofOfPossession": []byte(proof),
			},
		})
		must(t, err)
		return string(data)
	}
	for name, c := range map[string]struct {
		body    string
		code    int
		message string
		reason  string
		meta    [2]string
	}{
		"no token":      {w.body(""), 400, msgToken, "TOKEN_MISSING", [2]string{}},
		"garbage token": {w.body("abc"), 400, msgToken, "TOKEN_MALFORMED", [2]string{}},
		"huge token":    {w.body(strings.Repeat("a", 17<<10)), 400, msgToken, "TOKEN_TOO_LARGE", [2]string{}},
		"another issuer": {
			w.body(other.Token(nil)), 400, msgToken, "ISSUER_NOT_TRUSTED",
			[2]string{"issuer", other.URL()},
		},
		"forged issuer": {
			w.body(other.Token(map[string]any{"iss": w.idp.URL()})), 400, msgToken,
			"KEY_ID_UNKNOWN",
			[2]string{},
		},
		"audience":            {with("aud", "other"), 400, msgToken, "AUDIENCE_MISMATCH", [2]string{"got", "other"}},
		"expired":             {with("exp", now-5), 400, msgToken, "TOKEN_EXPIRED", [2]string{}},
		"not yet valid":       {with("nbf", now+300), 400, msgToken, "TOKEN_NOT_YET_VALID", [2]string{}},
		"issued tomorrow":     {with("iat", now+86400), 400, msgToken, "TOKEN_NOT_YET_VALID", [2]string{}},
		"lives for ever":      {with("exp", now+1<<31), 400, msgToken, "TOKEN_TOO_LONG_LIVED", [2]string{}},
		"no email":            {with("email", nil), 400, msgToken, "CLAIM_MISSING", [2]string{"claim", "email"}},
		"email unverified":    {with("email_verified", false), 400, msgToken, "EMAIL_UNVERIFIED", [2]string{}},
		"email is no address": {with("email", "alice"), 400, msgToken, "CLAIM_INVALID", [2]string{"claim", "email"}},
		"changed signature": {
			w.body(good[:len(good)-4] + flip(good[len(good)-4:])), 400, msgToken,
			"SIGNATURE_INVALID",
			[2]string{},
		},
		"no key": {
			`{"credentials":{"oidcIdentityToken":"` + good + `"}}`, 400, msgKey,
			"KEY_MISSING",
			[2]string{},
		},
		"garbage key":  {key("abc", "x"), 400, msgKey, "KEY_MALFORMED", [2]string{}},
		"the CA's key": {key(caPEM(), "x"), 400, msgWeak, "KEY_WEAK", [2]string{}},
		"no proof":     {key(w.publicPEM(), ""), 400, msgProof, "PROOF_INVALID", [2]string{}},
		"proof of another": {
			key(w.publicPEM(), string(w.proof("bob@example.com"))), 400, msgProof, "PROOF_INVALID",
			[2]string{"claim", "email"},
		},
		"garbage CSR": {
			`{"credentials":{"oidcIdentityToken":"` + good +
				`"},"certificateSigningRequest":"YWJj"}`, 400, "The certificate signing request could not be parsed",
			"CSR_MALFORMED",
			[2]string{},
		},
		"bad base64": {`{"certificateSigningRequest":"@@"}`, 400, "", "REQUEST_MALFORMED", [2]string{}},
		"cut JSON":   {`{"credentials":`, 400, "unexpected EOF", "REQUEST_MALFORMED", [2]string{}},
		"huge body": {
			`{"x":"` + strings.Repeat("a", 70<<10) + `"}`, 400, "http: request body too large",
			"REQUEST_TOO_LARGE",
			[2]string{},
		},
	} {
		a := w.rest("POST", "/api/v2/signingCert", c.body)
		switch {
		case a.code != c.code || a.status.Code != int(codes.InvalidArgument) ||
			c.message != "" && a.status.Message != c.message:
			t.Errorf("%s: %d %s", name, a.code, a.body)
		case len(a.status.Details) == 0 || a.status.Details[0].Reason != c.reason ||
			a.status.Details[0].Domain != "mayfly":
			t.Errorf("%s: details %+v, want %s", name, a.status.Details, c.reason)
		case a.status.Details[0].Metadata["request_id"] != a.header.Get("X-Request-Id"):
			t.Errorf("%s: request id", name)
		case c.meta[0] != "" && a.status.Details[0].Metadata[c.meta[0]] != c.meta[1]:
			t.Errorf("%s: metadata %v", name, a.status.Details[0].Metadata)
		}
	}
	if strings.Contains(w.logs.String(), good) { // D22
		t.Error("a token is in the log")
	}
}

func flip(s string) string {
	if s[0] == 'A' {
		return "B" + s[1:]
	}
	return "A" + s[1:]
}

// E11 // F6 // B9: the failure of a dependency is 503 with Retry-After, in time, and its error text is not returned.
func TestDependencyFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		set    func(*fixture)
		reason string
	}{
		{"provider 500", func(w *fixture) { w.idp.SetFault(idp.Error500) }, "PROVIDER_UNAVAILABLE"},
		{"provider garbage", func(w *fixture) { w.idp.SetFault(idp.Garbage) }, "PROVIDER_UNAVAILABLE"},
		{"provider huge", func(w *fixture) { w.idp.SetFault(idp.Huge) }, "PROVIDER_UNAVAILABLE"},
		{"provider without keys", func(w *fixture) { w.idp.SetFault(idp.NoKeys) }, "PROVIDER_UNAVAILABLE"},
		{"provider of another issuer", func(w *fixture) { w.idp.SetFault(idp.WrongIssuer) }, "PROVIDER_UNAVAILABLE"},
		{"provider redirects", func(w *fixture) { w.idp.SetFault(idp.RedirectAway) }, "PROVIDER_UNAVAILABLE"},
		{"provider hangs", func(w *fixture) { w.idp.SetFault(idp.Hang) }, "PROVIDER_UNAVAILABLE"},
		{"log 500", func(w *fixture) { w.log.SetFault(ct.Error500) }, "LOG_UNAVAILABLE"},
		{"log 429", func(w *fixture) { w.log.SetFault(ct.TooMany) }, "LOG_UNAVAILABLE"},
		{"log garbage", func(w *fixture) { w.log.SetFault(ct.Garbage) }, "LOG_UNAVAILABLE"},
		{"log hangs", func(w *fixture) { w.log.SetFault(ct.Hang) }, "LOG_UNAVAILABLE"},
		{"log signs wrong", func(w *fixture) { w.log.SetFault(ct.BadSignature) }, "LOG_UNAVAILABLE"},
		{"log of another id", func(w *fixture) { w.log.SetFault(ct.OtherLog) }, "LOG_UNAVAILABLE"},
		// one SCT shows that the log is wrong, not our clock
		{"log of tomorrow", func(w *fixture) { w.log.SetFault(ct.Future) }, "LOG_UNAVAILABLE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newFixture(t, false)
			c.set(w)
			a := w.rest("POST", "/api/v2/signingCert", w.body(w.idp.Token(nil)))
			if a.code != 503 || len(a.status.Details) < 1 || a.status.Details[0].Reason != c.reason ||
				strings.Contains(a.body, "canary") {
				t.Errorf("%d %s", a.code, a.body)
			}
			if s, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || s < 1 {
				t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
			}
			_, err := w.grpc.CreateSigningCertificate(t.Context(), w.message(w.idp.Token(nil)))
			st := status.Convert(err)
			if st.Code() != codes.Unavailable || len(st.Details()) != 2 {
				t.Errorf("gRPC: %v", err)
			} else if _, ok := st.Details()[1].(*errdetails.RetryInfo); !ok {
				t.Errorf("gRPC: details %v", st.Details())
			}
		})
	}
}

// embeddedChain is the chain in an answer over REST.
func embeddedChain(t *testing.T, a answer) []string {
	t.Helper()
	var got struct {
		SignedCertificateEmbeddedSct struct {
			Chain struct{ Certificates []string }
		}
	}
	must(t, json.Unmarshal([]byte(a.body), &got))
	return got.SignedCertificateEmbeddedSct.Chain.Certificates
}

// B1 // B9 // F6: for any failure of a log, no certificate is issued; the answer is 503 within the timeout of clients,
// and does not quote the log.
func TestLogFaults(t *testing.T) {
	t.Parallel()
	for _, f := range ct.Faults() {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			w := newFixture(t, false)
			if a := w.rest("POST", "/api/v2/signingCert", w.body(w.idp.Token(nil))); a.code != 200 {
				t.Fatalf("%d %s", a.code, a.body)
			}
			w.log.SetFault(f)
			began := time.Now()
			a := w.rest("POST", "/api/v2/signingCert", w.body(w.idp.Token(nil)))
			if a.code == 200 { // a log that is tried again may return the right SCT for the precertificate
				oracle.Check(t, w.expect(), leafOf(t, embeddedChain(t, a)))
				return
			}
			if a.code != 503 || len(a.status.Details) < 1 ||
				!slices.Contains([]string{"LOG_UNAVAILABLE", "NOT_READY"}, a.status.Details[0].Reason) {
				t.Errorf("%d %s", a.code, a.body)
			}
			if strings.Contains(a.body, "canary") || strings.Contains(a.body, "CERTIFICATE") ||
				time.Since(began) > 5*time.Second {
				t.Errorf("after %s: %s", time.Since(began), a.body)
			}
		})
	}
}

// The other endpoints, byte for byte where clients depend on the bytes.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	if a := w.rest("GET", "/healthz", ""); a.code != 200 || a.body != "{\"status\":\"SERVING\"}\n" {
		t.Errorf("healthz: %d %q", a.code, a.body)
	}
	if a := w.rest("GET", "/openapi.json", ""); a.code != 200 || !json.Valid([]byte(a.body)) {
		t.Errorf("openapi: %d", a.code)
	}
	a := w.rest("GET", "/api/v2/configuration", "", "Origin", "https://example.com")
	var conf struct{ Issuers []map[string]any }
	must(t, json.Unmarshal([]byte(a.body), &conf))
	if a.header.Get("Mayfly-Config-Generation") != "7" || a.header.Get("Mayfly-Config-Digest") != "abc" ||
		a.header.Get("Access-Control-Allow-Origin") != "*" ||
		len(conf.Issuers) != 1 || conf.Issuers[0]["challengeClaim"] != "email" ||
		conf.Issuers[0]["subjectDomain"] != "" {
		t.Errorf("configuration: %v %s", a.header, a.body)
	}
	a = w.rest("GET", "/api/v2/trustBundle", "")
	var bundle struct {
		Chains []struct{ Certificates []string }
	}
	must(t, json.Unmarshal([]byte(a.body), &bundle))
	if len(bundle.Chains) != 1 || len(bundle.Chains[0].Certificates) != 2 ||
		!strings.HasSuffix(bundle.Chains[0].Certificates[0], "\n") {
		t.Errorf("trust bundle: %s", a.body)
	}
	for _, method := range []string{"GET", "POST"} {
		a := w.rest(method, "/nothing/at/all", "")
		if a.code != 404 || a.status.Code != 5 || a.status.Message != "Not Found" ||
			a.status.Details[0].Reason != "PATH_UNKNOWN" || a.status.Details[0].Metadata["path"] != "/nothing/at/all" {
			t.Errorf("unknown path: %d %s", a.code, a.body)
		}
	}
	for _, c := range [][2]string{
		{"GET", "/api/v2/signingCert"},
		{"PUT", "/api/v2/trustBundle"},
		{"POST", "/healthz"},
	} {
		if a := w.rest(c[0], c[1], ""); a.code != 501 || a.status.Message != "Method Not Allowed" ||
			a.status.Details[0].Reason != "METHOD_NOT_ALLOWED" || a.status.Details[0].Metadata["method"] != c[0] {
			t.Errorf("%v: %d %s", c, a.code, a.body)
		}
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	must(t, err)
	defer conn.Close() //nolint:errcheck // the server has closed it
	_, err = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Big: "+strings.Repeat("a", 33<<10))
	must(t, err)
	line := make([]byte, 12)
	_, err = io.ReadFull(conn, line)
	if must(t, err); string(line) != "HTTP/1.1 431" {
		t.Errorf("headers of 33 KiB: %q", line)
	}
	if a := w.rest("OPTIONS", "/api/v2/signingCert", "", "Origin", "https://example.com",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization"); a.code != 204 ||
		a.header.Get("Access-Control-Allow-Headers") == "" {
		t.Errorf("preflight: %d %v", a.code, a.header)
	}
	if a := w.rest("POST", "/api/v2/signingCert", w.body(""), "Authorization", "Bearer x",
		"Grpc-Metadata-Oidcidentitytoken", "y"); a.status.Details[0].Reason != "TOKEN_MISSING" {
		t.Errorf("two tokens: %s", a.body)
	}
}

// A request that arrives while the server is starting waits, and is served as soon as the start has ended.
func TestStarting(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	w.srv.SetStarting()
	answered := make(chan answer, 1)
	go func() { answered <- w.rest("GET", "/api/v2/trustBundle", "") }()
	select {
	case a := <-answered:
		t.Fatalf("answered before the start has ended: %d %s", a.code, a.body)
	case <-time.After(200 * time.Millisecond):
	}
	w.srv.SetNotReady("maintenance") // ends the start, as a core does
	if a := <-answered; a.code != 503 || a.status.Details[0].Metadata["cause"] != "maintenance" {
		t.Errorf("%d %s", a.code, a.body)
	}
}

// What a request passes before its turn is decided with the configuration that the start brings: the limit by source,
// and whether there is an older API. The other services, which are opened during the start, are waited for too.
func TestStartingConfiguration(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	var open atomic.Bool
	late := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if !open.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	s := w.serve(server.Options{
		Logger: w.logger, Services: []server.Service{{Name: "late", Paths: []string{"/late"}, Handler: late}},
		Proxies: prefixes(t, "127.0.0.0/8"),
	}, true, false, false)
	s.srv.SetStarting()
	requests := []struct{ method, path string }{
		{http.MethodPost, "/api/v2/signingCert"},
		{http.MethodPost, "/api/v2/signingCert"},
		{http.MethodPost, "/api/v2/signingCert"},
		{http.MethodPost, "/api/v1/signingCert"},
		{http.MethodGet, "/api/v1/rootCert"},
		{http.MethodPost, "/late"},
		{http.MethodGet, "/late"},
	}
	answers := make(chan string, len(requests))
	for _, one := range requests {
		go func() {
			r, err := http.NewRequestWithContext(t.Context(), one.method, "http://"+s.rest+one.path,
				strings.NewReader("{}"))
			if err != nil {
				answers <- err.Error()
				return
			}
			if one.path == "/api/v2/signingCert" { // the others have no source that is limited
				r.Header.Set("X-Forwarded-For", "192.0.2.1")
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				answers <- err.Error()
				return
			}
			_ = resp.Body.Close()
			answers <- fmt.Sprintf("%s %s %d", one.method, one.path, resp.StatusCode)
		}()
	}
	select {
	case a := <-answers:
		t.Fatalf("answered before the start has ended: %s", a)
	case <-time.After(200 * time.Millisecond):
	}
	core := *w.core
	core.NoLegacy, core.Rates = true, server.Rates{Source: &rate.Config{Rate: 1. / 3600, Burst: 2}}
	open.Store(true)
	s.srv.SetCore(&core)
	var got []string
	for range requests {
		got = append(got, await(t, "the answer", answers))
	}
	slices.Sort(got)
	want := []string{
		"GET /api/v1/rootCert 404", "GET /late 200", "POST /api/v1/signingCert 404", "POST /api/v2/signingCert 400",
		"POST /api/v2/signingCert 400", "POST /api/v2/signingCert 429", "POST /late 200",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A start that takes long is told to clients.
func TestStartingLong(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	w.srv.SetStarting()
	begin := time.Now()
	a := w.rest("GET", "/api/v2/trustBundle", "")
	if took := time.Since(begin); a.code != 503 || a.status.Details[0].Metadata["cause"] != "starting" ||
		took < time.Second {
		t.Errorf("after %s: %d %s", took, a.code, a.body)
	}
}

// F9: health and readiness agree; without a core every call returns the reason.
func TestReadiness(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	health := grpc_health_v1.NewHealthClient(w.conn)
	stream, err := health.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	must(t, err)
	first, err := stream.Recv()
	must(t, err)
	if first.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("watch: %v", first)
	}
	w.srv.SetNotReady("maintenance")
	second, err := stream.Recv()
	must(t, err)
	if second.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watch: %v", second)
	}
	list, err := health.List(t.Context(), &grpc_health_v1.HealthListRequest{})
	must(t, err)
	if len(list.GetStatuses()) != 2 {
		t.Errorf("list: %v", list)
	}
	a := w.rest("GET", "/api/v2/trustBundle", "")
	if a.code != 503 || a.status.Details[0].Reason != "NOT_READY" ||
		a.status.Details[0].Metadata["cause"] != "maintenance" || a.header.Get("Retry-After") == "" {
		t.Errorf("not ready: %d %s", a.code, a.body)
	}
}
