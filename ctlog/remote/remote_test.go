package remote_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/spans"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) } // B8

// B11: roots are read up to a limit, and errors say what came instead of them.
func TestRoots(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		body func(w http.ResponseWriter)
		want ctlog.Result
	}{
		{"404", func(w http.ResponseWriter) { http.Error(w, "no", http.StatusNotFound) }, ctlog.Refused},
		{"500", func(w http.ResponseWriter) { http.Error(w, "no", http.StatusInternalServerError) }, ctlog.Broken},
		{"html", func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) }, ctlog.Garbled},
		{"no base64", func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"certificates":["%"]}`)) }, ctlog.Garbled},
		{"huge", func(w http.ResponseWriter) { _, _ = w.Write(bytes.Repeat([]byte(" "), 5<<20)) }, ctlog.Garbled},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { row.body(w) }))
			t.Cleanup(srv.Close)
			_, _, err := open(t, srv, nil).Roots(t.Context())
			f, ok := err.(*ctlog.Failure) //nolint:errorlint // documented to be one
			if !ok || f.Result != row.want {
				t.Errorf("error is %v, want %s", err, row.want)
			}
		})
	}
	root := pki.New(pki.Options{}).Chain[1]
	l := ct.New(t, ct.Options{Roots: []*x509.Certificate{root}})
	r, err := remote.Open(remote.Config{Name: "lab", URL: l.URL()}, remote.Options{PublicKeyPEM: l.PublicKeyPEM()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	roots, _, err := r.Roots(t.Context())
	if err != nil || len(roots) != 1 || !bytes.Equal(roots[0], root.Raw) {
		t.Errorf("%d roots, %v", len(roots), err)
	}
}

func open(t *testing.T, srv *httptest.Server, caCert []byte) *remote.Log {
	t.Helper()
	r, err := remote.Open(remote.Config{Name: "lab", URL: srv.URL}, remote.Options{
		PublicKeyPEM: pki.PublicPEM(newKey(t, elliptic.P256()).Public()), CACertPEM: caCert, Timeout: 30 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// The log's TLS certificate must chain to ca_cert.
func TestTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"certificates":[]}`))
	}))
	t.Cleanup(srv.Close)
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if _, _, err := open(t, srv, own).Roots(t.Context()); err != nil {
		t.Error(err)
	}
	other := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pki.New(pki.Options{}).Chain[0].Raw})
	for _, pool := range [][]byte{nil, other} {
		_, _, err := open(t, srv, pool).Roots(t.Context())
		f, ok := err.(*ctlog.Failure) //nolint:errorlint // documented to be one
		if !ok || f.Result != ctlog.Failed || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("error is %v", err)
		}
	}
}

// A log that asks for a client certificate gets it, and a proxy is the one that is configured, whatever the environment
// says.
func TestClientCertificateAndProxy(t *testing.T) {
	t.Parallel()
	var through atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "ct.example.com" {
			http.Error(w, r.URL.Host, http.StatusBadGateway)
			return
		}
		through.Add(1)
		_, _ = w.Write([]byte(`{"certificates":[]}`))
	}))
	t.Cleanup(proxy.Close)
	key := pki.PublicPEM(newKey(t, elliptic.P256()).Public())
	r, err := remote.Open(remote.Config{Name: "lab", URL: "http://ct.example.com", Insecure: true, Proxy: proxy.URL},
		remote.Options{PublicKeyPEM: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if _, _, err := r.Roots(t.Context()); err != nil || through.Load() != 1 {
		t.Errorf("%v, %d requests through the proxy", err, through.Load())
	}

	client := newKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(7), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, client.Public(), client)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !bytes.Equal(r.TLS.PeerCertificates[0].Raw, der) {
			t.Error("another client certificate")
		}
		_, _ = w.Write([]byte(`{"certificates":[]}`))
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	o := remote.Options{PublicKeyPEM: key, CACertPEM: pem.EncodeToMemory(&pem.Block{
		Type:  "CERTIFICATE",
		Bytes: srv.Certificate().Raw,
	})}
	ask := func() error {
		r, err := remote.Open(remote.Config{Name: "lab", URL: srv.URL}, o)
		if err != nil {
			return err
		}
		defer r.Close()
		_, _, err = r.Roots(t.Context())
		return err
	}
	if ask() == nil {
		t.Error("the log took us without a certificate")
	}
	o.ClientCertificatePEM, o.ClientKeyPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		keyPEM(t, client)
	if err := ask(); err != nil {
		t.Error(err)
	}
}

func keyPEM(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A log gets the trace context of a sampled request only if its entry says so.
func TestPropagateTrace(t *testing.T) {
	t.Parallel()
	for _, propagate := range []bool{false, true} {
		for _, sampled := range []bool{false, true} {
			var got string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got = r.Header.Get("Traceparent")
				http.Error(w, "no", http.StatusForbidden)
			}))
			t.Cleanup(srv.Close)
			l, err := remote.Open(remote.Config{Name: "lab", URL: srv.URL, PropagateTrace: propagate},
				remote.Options{PublicKeyPEM: pki.PublicPEM(newKey(t, elliptic.P256()).Public())})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(l.Close)
			ctx, id := t.Context(), ""
			if sampled {
				var recorder *spans.Recorder
				ctx, recorder = spans.Request(t)
				id = recorder.TraceID()
			}
			_, _ = l.Submit(ctx, tbs.Precertificate{DER: []byte{1}}) // refused
			if want := propagate && sampled; strings.HasPrefix(got, "00-"+id+"-") != want || (got != "") != want {
				t.Errorf("propagate %t, sampled %t: traceparent %q", propagate, sampled, got)
			}
		}
	}
}
