package servertls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/version"
)

// manager obtains and renews certificates from an ACME CA. The library renews a certificate 30 days before its end, and
// waits for a minute after a failure.
type manager struct {
	auto    *autocert.Manager
	domains []string
	log     *slog.Logger
	calls   *prometheus.CounterVec

	mu      sync.Mutex
	got     map[string]*x509.Certificate // by domain
	problem map[string]string            // why there is no certificate, by domain
}

const (
	acmeTimeout  = 30 * time.Second // of one request
	firstRetry   = time.Minute
	longestRetry = time.Hour
	lookEvery    = time.Hour // whether a certificate was renewed
)

func newManager(c ACME, listener string, log *slog.Logger) (*manager, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fault.BadFile(c.Dir, err, "dir")
	}
	o := httpclient.Options{Timeout: acmeTimeout, UserAgent: version.UserAgent(), Proxy: http.ProxyFromEnvironment}
	if c.CABundle != "" {
		var err error
		if o.Roots, err = pemfile.LoadPool(c.CABundle, "ca_bundle"); err != nil {
			return nil, err
		}
	}
	m := &manager{
		domains: c.Domains, log: log, got: map[string]*x509.Certificate{}, problem: map[string]string{},
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "mayfly_tls_acme_requests_total",
			Help:        "Requests to the ACME CA that issues the certificates of a listener, by listener and result.",
			ConstLabels: prometheus.Labels{"listener": listener},
		}, []string{"result"}),
	}
	calls := httpclient.New(o)
	calls.Transport = &countingTransport{calls.Transport, m.calls}
	m.auto = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(c.Dir), Email: c.Email,
		HostPolicy: autocert.HostWhitelist(c.Domains...),
		Client:     &acme.Client{DirectoryURL: c.Directory, HTTPClient: calls, UserAgent: version.UserAgent()},
	}
	return m, nil
}

// countingTransport counts requests by the class of their status.
type countingTransport struct {
	http.RoundTripper

	calls *prometheus.CounterVec
}

// RoundTrip implements [http.RoundTripper].
func (t *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	result := "failed"
	switch {
	case err != nil:
	case response.StatusCode < http.StatusBadRequest:
		result = "success"
	default:
		result = "refused"
	}
	t.calls.WithLabelValues(result).Inc()
	return response, err
}

// certificate returns the certificate for a handshake. A client that names no server gets that of the first domain.
func (m *manager) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" {
		named := *hello
		named.ServerName = m.domains[0]
		hello = &named
	}
	return m.auto.GetCertificate(hello)
}

// run obtains the certificates, so that the first client does not wait for them, and follows their renewal.
func (m *manager) run(ctx context.Context, changed func()) {
	retry := firstRetry
	for {
		done := make(chan bool, 1)
		go func() { done <- m.obtain() }() // each call of the library ends within five minutes
		select {
		case <-ctx.Done():
			return
		case ok := <-done:
			changed()
			pause := lookEvery
			if !ok {
				pause, retry = retry, min(2*retry, longestRetry)
			} else {
				retry = firstRetry
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

// obtain asks for the certificate of each domain, and reports whether there is one for each.
func (m *manager) obtain() bool {
	all := true
	for _, d := range m.domains {
		c, err := m.auto.GetCertificate(&tls.ClientHelloInfo{
			ServerName: d, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		})
		m.mu.Lock()
		before := m.got[d]
		if err != nil {
			all, m.problem[d] = false, err.Error()
		} else {
			delete(m.problem, d)
			m.got[d] = c.Leaf
		}
		after := m.got[d]
		m.mu.Unlock()
		switch {
		case err != nil:
			m.log.Error("the ACME CA has issued no certificate; it is asked again", "domain", d, "cause", err.Error())
		case after != before:
			m.log.Info("TLS certificate obtained", "domain", d, "not_after", after.NotAfter)
		}
	}
	return all
}

func (m *manager) status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s Status
	var problems []string
	for _, d := range slices.Sorted(maps.Keys(m.problem)) {
		problems = append(problems, fmt.Sprintf("%s: %s", d, m.problem[d]))
	}
	s.Problem = strings.Join(problems, "; ")
	for _, d := range m.domains {
		if c := m.got[d]; c != nil && (s.NotAfter.IsZero() || c.NotAfter.Before(s.NotAfter)) {
			s.NotBefore, s.NotAfter = c.NotBefore, c.NotAfter
		}
	}
	return s
}

// challengeConfig answers a connection of the CA (RFC 8737 §3). Such a connection presents no client certificate.
func (s *Source) challengeConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{acme.ALPNProto},
		GetCertificate: s.manager.auto.GetCertificate,
	}
}
