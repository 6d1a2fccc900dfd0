package shadow_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/admission"
	"github.com/mayfly-ca/mayfly/shadow"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world has two CAs with one chain, an identity provider, and a proxy in front of the first one.
type world struct {
	t        testing.TB
	idp      *idp.Provider
	pki      *pki.PKI
	verifier *oidc.Verifier
	requests []process.Request
	upstream http.Handler // a CA that issues
	own      shadow.Own
	dir      string
}

// site starts a server on one port and returns where it is.
func site(t testing.TB, h http.Handler) shadow.Site {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(s.Close)
	out, err := shadow.ParseSite(s.URL, "")
	must(t, err)
	return out
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, idp: idp.New(t, idp.Options{}), pki: pki.New(pki.Options{})}
	w.dir = filepath.Join(t.TempDir(), "shadow")
	var err error
	w.verifier, err = oidc.New(oidc.Config{Issuers: map[string]oidc.IssuerConfig{
		w.idp.URL(): {ClientID: "sigstore", Type: "email"},
	}}, oidc.Options{})
	must(t, err)
	w.requests = process.Requests(t, w.idp)
	keys, err := pop.New(pop.Config{}, pop.Options{})
	must(t, err)
	authority, err := ca.New(ca.Options{Chain: w.pki.Chain, Signer: w.pki.Key, Backdate: 30 * time.Second})
	must(t, err)
	w.upstream = w.server(&server.Core{Issuers: w.verifier, Keys: keys, Authority: authority, Digest: "up"})
	w.own = w.previewOf(w.verifier, w.pki)
	return w
}

// previewOf returns the own side of a CA with other issuers or another chain.
func (w *world) previewOf(issuers *oidc.Verifier, p *pki.PKI) shadow.Own {
	w.t.Helper()
	keys, err := pop.New(pop.Config{}, pop.Options{})
	must(w.t, err)
	preview, err := ca.NewPreviewer(ca.Options{Chain: p.Chain, Backdate: 30 * time.Second})
	must(w.t, err)
	return shadow.Own{
		Handler: w.server(&server.Core{Issuers: issuers, Keys: keys, Preview: preview}), Chain: p.Chain, Config: "own",
	}
}

func (w *world) server(core *server.Core) http.Handler {
	w.t.Helper()
	s, err := server.New(server.Options{Admission: admission.New(admission.Options{Requests: 4096})})
	must(w.t, err)
	s.SetCore(core)
	return s.APIHandler()
}

// running is a proxy that serves.
type running struct {
	*shadow.Proxy
	t      testing.TB
	dir    string
	url    string
	admin  string
	cancel context.CancelFunc
	ended  chan error
}

// run starts a proxy. change may change its options.
func (w *world) run(upstream shadow.Site, change func(*shadow.Options)) *running {
	w.t.Helper()
	store, err := shadow.OpenStore(w.dir)
	must(w.t, err)
	o := shadow.Options{Upstream: upstream, Own: w.own, Store: store}
	if change != nil {
		change(&o)
	}
	p := shadow.New(o)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(w.t, err)
		return l
	}
	api, admin := listen(), listen()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{
		Proxy: p, t: w.t, dir: w.dir, url: "http://" + api.Addr().String(), admin: "http://" + admin.Addr().String(),
		cancel: cancel, ended: make(chan error, 1),
	}
	go func() {
		r.ended <- p.Run(ctx, shadow.Listeners{API: []net.Listener{api}, Admin: admin}, w.dir)
		must(w.t, store.Close())
		close(r.ended)
	}()
	w.t.Cleanup(func() { r.stop() })
	return r
}

// stop ends the proxy, which compares what is in its queue first.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		r.t.Error(err)
	}
	<-r.ended
}

// report stops the proxy and returns its report.
func (r *running) report() *shadow.Report {
	r.t.Helper()
	r.stop()
	out, err := shadow.ReadReport(r.dir)
	must(r.t, err)
	return out
}

// reply is an answer over HTTP.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// send makes one HTTP request.
func send(t testing.TB, r *http.Request) reply {
	t.Helper()
	response, err := http.DefaultClient.Do(r)
	must(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	return reply{response.StatusCode, response.Header, body}
}

// post sends a request for a certificate over REST.
func post(t testing.TB, url string, body []byte, header ...string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/v2/signingCert", bytes.NewReader(body))
	must(t, err)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return send(t, r)
}

// legacyBody returns a request in the form of the older API.
func legacyBody(t testing.TB, r process.Request) []byte {
	t.Helper()
	in := r.Proto.GetPublicKeyRequest()
	out, err := json.Marshal(map[string]any{
		"publicKey":          map[string]any{"content": []byte(in.GetPublicKey().GetContent())},
		"signedEmailAddress": in.GetProofOfPossession(),
	})
	must(t, err)
	return out
}

func dial(t testing.TB, url string) fulciopb.CAClient {
	t.Helper()
	conn, err := grpc.NewClient(url[len("http://"):], grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	return fulciopb.NewCAClient(conn)
}

// spoil changes the signature of the certificate in an answer over REST.
func (w *world) spoil(body []byte) []byte {
	w.t.Helper()
	return w.encode(body, func(leaf *x509.Certificate) []byte {
		der := bytes.Clone(leaf.Raw)
		der[len(der)-1] ^= 1
		return der
	})
}

// shorten removes the last certificate from an answer over REST.
func (w *world) shorten(body []byte) []byte {
	w.t.Helper()
	var in map[string]map[string]any
	must(w.t, json.Unmarshal(body, &in))
	for _, form := range in {
		chain := form["chain"].(map[string]any)
		all := chain["certificates"].([]any)
		chain["certificates"] = all[:len(all)-1]
	}
	out, err := json.Marshal(in)
	must(w.t, err)
	return out
}

// resign returns the certificate of an answer over REST after a change, signed again with the key of the CA.
func (w *world) resign(body []byte, change func(*x509.Certificate)) []byte {
	w.t.Helper()
	return w.encode(body, func(leaf *x509.Certificate) []byte {
		template := &x509.Certificate{
			SerialNumber: new(big.Int).Set(leaf.SerialNumber), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
			ExtraExtensions: append([]pkix.Extension{}, leaf.Extensions...),
		}
		change(template)
		public := leaf.PublicKey
		if template.PublicKey != nil {
			public = template.PublicKey
		}
		der, err := x509.CreateCertificate(rand.Reader, template, w.pki.Intermediate, public, w.pki.Key)
		must(w.t, err)
		return der
	})
}

// encode replaces the certificate in an answer over REST.
func (w *world) encode(body []byte, change func(*x509.Certificate) []byte) []byte {
	w.t.Helper()
	var in map[string]map[string]any
	must(w.t, json.Unmarshal(body, &in))
	for _, form := range in {
		chain := form["chain"].(map[string]any)["certificates"].([]any)
		block, _ := pem.Decode([]byte(chain[0].(string)))
		leaf, err := x509.ParseCertificate(block.Bytes)
		must(w.t, err)
		chain[0] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: change(leaf)}))
	}
	out, err := json.Marshal(in)
	must(w.t, err)
	return out
}
