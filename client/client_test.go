package client_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// server sends the same reply to every request.
type server struct {
	pki   *pki.PKI
	log   *ct.Log
	key   *ecdsa.PrivateKey
	chain []string
	url   string
	reply func(http.ResponseWriter)
}

// start returns a server that replies with one valid certificate.
func start(t *testing.T) *server {
	t.Helper()
	s := &server{pki: pki.New(pki.Options{}), key: pki.NewKey(pki.P256).(*ecdsa.PrivateKey)}
	s.log = ct.New(t, ct.Options{})
	log, err := remote.Open(remote.Config{Name: "lab", URL: s.log.URL(), PublicKey: "-"},
		remote.Options{PublicKeyPEM: s.log.PublicKeyPEM()})
	must(t, err)
	defer log.Close()
	set, err := ctlog.New(ctlog.Options{Logs: []ctlog.Log{{Log: log.Log, Submitter: log}}})
	must(t, err)
	a, err := ca.New(ca.Options{Chain: s.pki.Chain, Signer: s.pki.Key, Log: set})
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(s.key.Public())
	must(t, err)
	id := identity.Identity{SAN: identity.SAN{Kind: identity.Email, Value: "alice@example.com"}}
	id.Extensions.Set(identity.Issuer, "https://issuer.example.com")
	cert, err := a.Issue(t.Context(), ca.Request{Identity: &id, SPKI: spki})
	must(t, err)
	for _, der := range append([][]byte{cert.DER}, cert.Chain...) {
		s.chain = append(s.chain, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	s.reply = s.certificates(s.chain)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.reply(w) }))
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

func (s *server) certificates(chain []string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		_ = json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{"certificates": chain}}})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func token() string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"RS256"}`) + "." + part(`{"iss":"https://issuer.example.com","email":"alice@example.com"}`) +
		".c2VjcmV0"
}

func (s *server) trust() client.Trust {
	return client.Trust{Chains: [][]*x509.Certificate{s.pki.Chain}, Logs: []loglist.Log{{Key: s.log.Key()}}, MinSCTs: 1}
}

// B1 // C1: a certificate is returned only if it is for the key sent, chains to a trusted root and has an SCT of a
// trusted log.
func TestVerifies(t *testing.T) {
	t.Parallel()
	s := start(t)
	other := pki.New(pki.Options{})
	for name, c := range map[string]struct {
		change func(*client.Options, *client.Request)
		reply  func(http.ResponseWriter)
		want   string
	}{
		"good": {nil, nil, ""},
		"another key": {
			func(_ *client.Options, r *client.Request) { r.Signer = pki.NewKey(pki.P256) },
			nil, "different key",
		},
		"another root": {func(o *client.Options,
			_ *client.Request,
		) {
			o.Trust.Chains = [][]*x509.Certificate{other.Chain}
		}, nil, "trusted root"},
		"another log": {func(o *client.Options,
			_ *client.Request,
		) {
			o.Trust.Logs[0].Key = pki.NewKey(pki.P256).Public()
		}, nil, "not trusted"},
		"log too old": {func(o *client.Options,
			_ *client.Request,
		) {
			o.Trust.Logs[0].NotAfter = time.Now().Add(-time.Hour)
		}, nil, "validity"},
		"two logs": {func(o *client.Options, _ *client.Request) { o.Trust.MinSCTs = 2 }, nil, "2 are required"},
		"expired": {func(o *client.Options, _ *client.Request) {
			o.Now = func() time.Time { return time.Now().Add(time.Hour) }
		}, nil, "trusted root"},
		"only the root": {nil, s.certificates(s.chain[2:]), "different key"},
		"empty":         {nil, s.certificates(nil), "no certificate"},
		"not PEM":       {nil, s.certificates([]string{"x"}), "not PEM"},
		"HTML":          {nil, func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) }, "not that of a CA"},
		"huge":          {nil, func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 2<<20)) }, "larger than"},
		"redirect": {nil, func(w http.ResponseWriter) {
			w.Header().Set("Location", "/x")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, "not sent elsewhere"},
	} {
		trust := s.trust()
		o, r := client.Options{URL: s.url, Trust: &trust}, client.Request{Token: token(), Signer: s.key}
		if c.change != nil {
			c.change(&o, &r)
		}
		s.reply = s.certificates(s.chain)
		if c.reply != nil {
			s.reply = c.reply
		}
		cl, err := client.New(o)
		must(t, err)
		got, err := cl.Request(t.Context(), r)
		cl.Close()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), r.Token) {
			t.Errorf("%s: the token is in the error", name)
		}
		if err == nil && (got.Identity.SAN.Value != "alice@example.com" || len(got.SCTs) != 1 || len(got.Chain) != 2) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A refusal keeps its reason, request ID and retry delay, and says what to do.
func TestRefusal(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.reply = func(w http.ResponseWriter) {
		w.Header().Set("X-Request-Id", "id-1")
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"code":3,"message":"m","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"AUDIENCE_MISMATCH","domain":"mayfly","metadata":{"want":"sigstore","got":"x"}}]}`))
	}
	cl, err := client.New(client.Options{URL: s.url, SkipVerify: true})
	must(t, err)
	defer cl.Close()
	_, err = cl.Request(t.Context(), client.Request{Token: token(), Signer: s.key})
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != "AUDIENCE_MISMATCH" || e.RequestID != "id-1" ||
		e.RetryAfter != 3*time.Second || e.HTTPStatus != 400 {
		t.Errorf("%+v", err)
	}
	if text := client.Explain(err); !strings.Contains(text, `"sigstore"`) || !strings.Contains(text, "id-1") {
		t.Errorf("%q", text)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []client.Options{
		{URL: "ca.example.com", SkipVerify: true},
		{URL: "ftp://x", SkipVerify: true},
		{URL: "https://u@x", SkipVerify: true},
		{URL: "https://x"},
	} {
		if _, err := client.New(o); err == nil {
			t.Errorf("%+v passes", o)
		}
	}
}

// Text from the server cannot control the terminal, add lines, or have an unlimited length.
func TestExplainIsPrintable(t *testing.T) {
	t.Parallel()
	const hostile = "x\x1b[2J\r\nverified\u202e"
	for r := range fault.Reasons() {
		e := &client.Error{Message: hostile, Reason: r, RequestID: hostile, Metadata: map[string]string{}}
		for _, key := range []string{"issuer", "got", "want", "seconds", "max", "alg", "claim", "rule", "cause"} {
			e.Metadata[key] = hostile
		}
		for _, text := range []string{client.Explain(e), e.Error(), client.Explain(errors.New(hostile))} {
			if strings.ContainsAny(text, "\x1b\r\u202e") || strings.Contains(text, "\nverified") {
				t.Errorf("%s: %q", r, text)
			}
		}
	}
	if text := client.Explain(&client.Error{Message: strings.Repeat("é", 1<<20)}); len(text) > 5000 {
		t.Errorf("%d bytes", len(text))
	}
}

// Every reason that a server can give has a hint.
func TestExplainsEveryReason(t *testing.T) {
	t.Parallel()
	for r := range fault.Reasons() {
		bare := (&client.Error{Code: codes.InvalidArgument, Message: "refused", Reason: r})
		text := client.Explain(&client.Error{
			Code: codes.InvalidArgument, Message: "refused", Reason: r, RequestID: "id-1",
			Metadata: map[string]string{"cause": "starting"},
		})
		if !strings.HasPrefix(text, "refused: ") || !strings.Contains(text, string(r)) ||
			!strings.Contains(text, "id-1") || bare.Error() == "" {
			t.Errorf("%s: %q", r, text)
		}
	}
}
