package ctlog_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// until polls the status of the first log.
func until(t *testing.T, s *ctlog.Set, what string, holds func(ctlog.Status) bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !holds(s.Status()[0]) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: status is %+v", what, s.Status()[0])
		}
	}
}

func watch(t *testing.T, s *ctlog.Set, root *x509.Certificate) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s.Watch(ctx, root)
	t.Cleanup(func() { cancel(); s.Wait() })
}

// B6: a log that does not accept our root is named in a warning, which goes when the log has learned it.
func TestWatchRoots(t *testing.T) {
	t.Parallel()
	ours, other := newAuthority(t), newAuthority(t)
	l := newLog(t, other.root)
	s := newSet(t, ctlog.Options{Members: []ctlog.Member{l.member(t, "lab")}, Policy: ctlog.PolicyConfig{Attempt: 200 * time.Millisecond}})
	watch(t, s, ours.root)
	until(t, s, "unknown root",
		func(st ctlog.Status) bool { return !st.OK && strings.Contains(st.Cause, "does not accept our root") })
	l.setRoots(other.root, ours.root)
	until(t, s, "known root", func(st ctlog.Status) bool { return st.OK && st.Warning == "" })
}

// B6: a log that lacks one of several roots is named with just that root.
func TestWatchSeveralRoots(t *testing.T) {
	t.Parallel()
	ca, next := newAuthority(t), newAuthority(t)
	both, one := newLog(t, ca.root, next.root), newLog(t, ca.root)
	s := newSet(t, ctlog.Options{
		Members: []ctlog.Member{one.member(t, "one"), both.member(t, "both")}, Policy: ctlog.PolicyConfig{Attempt: 200 * time.Millisecond},
	})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); s.Wait() })
	s.Watch(ctx, ca.root, next.root)
	id := func(c *x509.Certificate) string { return fmt.Sprintf("%x", sha256.Sum256(c.Raw)) }
	until(t, s, "one root lacks", func(st ctlog.Status) bool {
		return st.OK && strings.Contains(st.Warning, id(next.root)) && !strings.Contains(st.Warning, id(ca.root)) && strings.Contains(st.Warning, "of that chain")
	})
	if st := s.Status()[1]; st.Warning != "" {
		t.Errorf("status of the other log is %+v", st)
	}
	one.setRoots(ca.root, next.root)
	until(t, s, "no root lacks", func(st ctlog.Status) bool { return st.OK && st.Warning == "" })
}

// E12 in kind: a log that is dead at the start stops nothing and is seen; when it is back, that is seen too.
func TestWatchDeadLog(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	l := newLog(t, ca.root)
	inner := l.Config.Handler
	var up atomic.Bool
	l.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			reset(w, r, nil)
			return
		}
		inner.ServeHTTP(w, r)
	})
	c := &clock{}
	s := newSet(t, ctlog.Options{Members: []ctlog.Member{l.member(t, "lab")}, Now: c.now, Policy: ctlog.PolicyConfig{Attempt: 200 * time.Millisecond}})
	watch(t, s, ca.root)
	until(t, s, "dead", func(st ctlog.Status) bool { return !st.OK && st.Cause != "" })
	c.advance(10 * time.Second)
	until(t, s, "still dead", func(st ctlog.Status) bool { return !st.OK })
	up.Store(true)
	until(t, s, "roots read", func(st ctlog.Status) bool { return !strings.Contains(st.Warning, "cannot be read") })
	c.advance(10 * time.Second)
	until(t, s, "alive", func(st ctlog.Status) bool { return st.OK })
	if _, err := s.Submit(t.Context(), ca.precert(t)); err != nil {
		t.Error(err)
	}
}

// B11: roots are read up to a limit, and errors say what came instead of them.
func TestRoots(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
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
			_, err := open(t, srv, nil).Roots(t.Context())
			f, ok := err.(*ctlog.Failure) //nolint:errorlint // documented to be one
			if !ok || f.Result != row.want {
				t.Errorf("error is %v, want %s", err, row.want)
			}
		})
	}
	l := newLog(t, ca.root)
	r, _ := l.member(t, "lab").Submitter.(*ctlog.Remote)
	roots, err := r.Roots(t.Context())
	if err != nil || len(roots) != 1 || !bytes.Equal(roots[0], ca.root.Raw) {
		t.Errorf("%d roots, %v", len(roots), err)
	}
}

func open(t *testing.T, srv *httptest.Server, caCert []byte) *ctlog.Remote {
	t.Helper()
	r, err := ctlog.OpenRemote(ctlog.LogConfig{Name: "lab", URL: srv.URL}, ctlog.RemoteOptions{
		PublicKeyPEM: publicPEM(t, newAuthority(t).key.Public()), CACertPEM: caCert, Timeout: 5 * time.Second,
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
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"certificates":[]}`)) }))
	t.Cleanup(srv.Close)
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if _, err := open(t, srv, own).Roots(t.Context()); err != nil {
		t.Error(err)
	}
	other := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: newAuthority(t).root.Raw})
	for _, pool := range [][]byte{nil, other} {
		_, err := open(t, srv, pool).Roots(t.Context())
		f, ok := err.(*ctlog.Failure) //nolint:errorlint // documented to be one
		if !ok || f.Result != ctlog.Failed || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("error is %v", err)
		}
	}
}

// A log that asks for a client certificate gets it, and a proxy is the one that is configured, whatever the environment says.
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
	key := publicPEM(t, newKey(t, elliptic.P256()).Public())
	r, err := ctlog.OpenRemote(ctlog.LogConfig{Name: "lab", URL: "http://ct.example.com", Insecure: true, Proxy: proxy.URL}, ctlog.RemoteOptions{PublicKeyPEM: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if _, err := r.Roots(t.Context()); err != nil || through.Load() != 1 {
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
	o := ctlog.RemoteOptions{PublicKeyPEM: key, CACertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})}
	ask := func() error {
		r, err := ctlog.OpenRemote(ctlog.LogConfig{Name: "lab", URL: srv.URL}, o)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = r.Roots(t.Context())
		return err
	}
	if ask() == nil {
		t.Error("the log took us without a certificate")
	}
	o.ClientCertificatePEM, o.ClientKeyPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM(t, client)
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
