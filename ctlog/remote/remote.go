// Package remote is a Certificate Transparency log behind HTTP (RFC 6962 §4): a precertificate in, an unverified SCT
// out.
//
// A log's answer is hostile until it is verified. It is read up to a limit, redirects are not followed, and no text of
// a log reaches a client of the CA. A caller MUST verify an SCT that comes out of this package; [ctlog.Set] does.
//
// One call is one request: whether to try again is the caller's decision.
package remote

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
)

// Limits of an answer, and of the connections to one log.
const (
	maxSCTBody   = 64 << 10 // bytes of an answer to add-pre-chain
	maxRootsBody = 4 << 20  // bytes of an answer to get-roots: a public log lists several hundred roots
	maxHeader    = 32 << 10 // bytes of the header of an answer
	maxQuote     = 200      // bytes of an answer in an error text

	// maxConns bounds the HTTP/1.1 connections to one log, each of which carries one precertificate at a time. Over
	// TLS, HTTP/2 carries many on one connection.
	maxConns       = 256
	idleTimeout    = 30 * time.Second
	defaultTimeout = 4 * time.Second
)

// Options are the parameters of [Open] that are not in the configuration.
type Options struct {
	// PublicKeyPEM is the content of Config.PublicKey.
	PublicKeyPEM []byte
	// CACertPEM is the content of Config.CACert; empty means the system's roots.
	CACertPEM []byte
	// ClientCertificatePEM and ClientKeyPEM are the contents of Config.ClientCertificate.
	ClientCertificatePEM, ClientKeyPEM []byte
	// Timeout bounds one call. Default: 4 s.
	Timeout   time.Duration
	UserAgent string
	// Now is the clock for a Retry-After header that is a date. Default: time.Now.
	Now func() time.Time
}

// Log is a log behind HTTP. Its methods may be called by several goroutines.
type Log struct {
	loglist.Log // Key is the pinned key

	host      string // Host header of requests
	agent     string
	transport *http.Transport
	reader    *monitor.Log // reads the log's head
	timeout   time.Duration
	now       func() time.Time
	propagate bool // requests have the trace context
}

// Open prepares a client of the log; it opens no connection. Its errors are each a [fault.Setting] of c.
func Open(c Config, o Options) (*Log, error) {
	if problem, fix := c.urlProblem(c.URL); problem != "" {
		return nil, fault.BadSetting(problem, fix, "url")
	}
	key, err := loglist.ParseKey(o.PublicKeyPEM)
	if err != nil {
		return nil, fault.BadContent(err, "write the path of the log's public key in PEM", "public_key").In(c.PublicKey)
	}
	if err := c.compareID(key); err != nil {
		return nil, err
	}
	window, err := c.Window()
	if err != nil {
		return nil, err
	}
	conf, err := c.tlsConfig(o)
	if err != nil {
		return nil, err
	}
	proxy, err := c.proxyURL()
	if err != nil {
		return nil, err
	}
	l := &Log{
		Log: loglist.Log{
			Name: c.Name, URL: c.URL, MonitoringURL: c.MonitoringURL, Origin: c.Origin, Operator: c.Operator,
			Key: key, Window: window,
		},
		host: c.hostHeader(), agent: o.UserAgent, timeout: o.Timeout, now: o.Now, propagate: c.PropagateTrace,
	}
	if l.timeout <= 0 {
		l.timeout = defaultTimeout
	}
	if l.now == nil {
		l.now = time.Now
	}
	l.transport = newTransport(conf, l.timeout)
	if proxy != nil {
		l.transport.Proxy = http.ProxyURL(proxy)
	}
	return l, l.openReader(c, conf)
}

func newTransport(conf *tls.Config, timeout time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: timeout / 2, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                  nil, // environment variables must not decide who sees precertificates
		DialContext:            dialer.DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    timeout / 2,
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConnsPerHost:    maxConns, // otherwise connections would be closed and reopened under load
		MaxConnsPerHost:        maxConns,
		IdleConnTimeout:        idleTimeout,
		DisableCompression:     true, // a limit on bytes received is then a limit on bytes parsed
		ForceAttemptHTTP2:      true,
	}
}

// openReader prepares to read the head that proves that the log has the pinned key.
func (l *Log) openReader(c Config, conf *tls.Config) error {
	o := monitor.Options{Log: l.Log, Transport: monitor.Transport{
		Roots: conf.RootCAs, Proxy: l.transport.Proxy, UserAgent: l.agent, Timeout: l.timeout,
		Host: l.host, ServerName: c.Host,
	}}
	if len(conf.Certificates) > 0 {
		o.Transport.Certificate = &conf.Certificates[0]
	}
	if c.MonitoringURL != "" && c.Origin != "" {
		o.Transport.Host, o.Transport.ServerName = "", ""
	} else {
		o.Log.MonitoringURL = "" // checkpoints there could not be verified
	}
	var err error
	if l.reader, err = monitor.Open(o); err != nil {
		return fault.BadSetting(err.Error(), "write the log's submission prefix", "url")
	}
	return nil
}

// Address identifies the server that requests go to: the URL and the Host header.
func (l *Log) Address() string { return l.URL + " " + l.host }

// Close closes idle connections. The log may still be used.
func (l *Log) Close() {
	l.transport.CloseIdleConnections()
	l.reader.Close()
}

// Submit sends p to add-pre-chain (RFC 6962 §4.2), once, and returns the SCT in TLS encoding. It does not verify the
// SCT. Its errors are each a [ctlog.Failure].
func (l *Log) Submit(ctx context.Context, p tbs.Precertificate) ([]byte, error) {
	sct, _, err := l.AddPreChain(ctx, p)
	return sct, err
}

// AddPreChain is Submit, and also returns the Date header of the answer, whatever the answer is; zero if there is none.
func (l *Log) AddPreChain(ctx context.Context, p tbs.Precertificate) (sct []byte, date time.Time, err error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	var answer sctAnswer
	r, err := l.call(ctx, maxSCTBody, func(c client) error {
		chain := append([][]byte{p.DER}, p.Chain...)
		_, _, err := c.PostAndParse(ctx, ct.AddPreChainPath, ct.AddChainRequest{Chain: chain}, &answer) //nolint:bodyclose // closed inside
		return err
	})
	if err != nil {
		return nil, r.date, l.failure(r, err)
	}
	sct, err = answer.sct()
	if err != nil {
		return nil, r.date, &ctlog.Failure{Result: ctlog.Garbled, Status: r.status, Err: err}
	}
	return sct, r.date, nil
}

// Roots returns the DER of the roots that the log accepts (RFC 6962 §4.7), and the Date header of the answer, whatever
// the answer is; zero if there is none. Its errors are each a [ctlog.Failure].
func (l *Log) Roots(ctx context.Context) (roots [][]byte, date time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	var answer rootsAnswer
	r, err := l.call(ctx, maxRootsBody, func(c client) error {
		_, body, err := c.GetAndParse(ctx, ct.GetRootsPath, nil, &answer) //nolint:bodyclose // closed inside
		// GetAndParse ignores what follows the first JSON value
		if err == nil && !json.Valid(body) {
			err = errors.New("bytes follow the JSON value")
		}
		return err
	})
	if err != nil {
		f := l.failure(r, err)
		f.RetryAfter = 0 // of add-pre-chain only
		return nil, r.date, f
	}
	roots, err = answer.roots()
	return roots, r.date, err
}

// bounded applies the timeout, unless ctx has an earlier deadline.
func (l *Log) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= l.timeout {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, l.timeout)
}

// Head reads the newest head of the log and verifies it with the pinned key (RFC 6962 §4.3, or c2sp.org/static-ct-api).
// absent is a message for the operator if the log publishes no head where it is configured to be read. An error is a
// [ctlog.Failure].
func (l *Log) Head(ctx context.Context) (absent string, err error) {
	_, err = l.reader.Head(ctx)
	switch {
	case err == nil:
		return "", nil
	case monitor.Misbehaved(err):
		return "", &ctlog.Failure{
			Result: ctlog.Unverified,
			Err: fmt.Errorf("the log's head is not signed with the pinned key (public_key); write the key "+
				"of the log at url: %w", err),
		}
	case errors.Is(err, fs.ErrNotExist):
		return "no head can be read at this log; only its SCTs show whether public_key is its key; for " +
			"a static-ct log set monitoring_url and origin", nil
	}
	f := callFailure(err)
	if _, unanswered := errors.AsType[*url.Error](err); f.Result == ctlog.Unreachable && !unanswered {
		f.Result = ctlog.Broken
	}
	return "", f
}

// compareID compares the key with the log ID of the configuration.
func (c Config) compareID(key crypto.PublicKey) error {
	want, err := c.pinnedID()
	if err != nil || want == nil {
		return err
	}
	got, err := loglist.ID(key)
	if err != nil {
		return fault.BadSetting(err.Error(), "write the path of the log's public key in PEM", "public_key")
	}
	if !bytes.Equal(want, got[:]) {
		return fault.BadSetting(fmt.Sprintf("log_id is %x, but public_key has the ID %x", want, got),
			"write the key that belongs to this log, or correct log_id", "log_id").In(c.PublicKey)
	}
	return nil
}

// tlsConfig returns the certificates that are trusted for the log, and the client certificate.
func (c Config) tlsConfig(o Options) (*tls.Config, error) {
	roots, err := parseRoots(o.CACertPEM)
	if err != nil {
		return nil, fault.BadContent(err, "write the path of CA certificates in PEM", "ca_cert").In(c.CACert)
	}
	conf := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, ServerName: c.Host}
	if len(o.ClientCertificatePEM)+len(o.ClientKeyPEM) > 0 {
		pair, err := pemfile.KeyPair(o.ClientCertificatePEM, o.ClientKeyPEM)
		if err != nil {
			return nil, c.pairProblem(o.ClientCertificatePEM, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// pairProblem returns err as a setting of the file of the client certificate that is wrong.
func (c Config) pairProblem(chain []byte, err error) error {
	const fix = "write the paths of a certificate and its private key in PEM"
	switch _, e := parseRoots(chain); {
	case c.ClientCertificate == nil:
		return fault.BadSetting(err.Error(), fix, "client_certificate")
	case e != nil:
		return fault.BadContent(e, fix, "client_certificate", "certificate").In(c.ClientCertificate.Certificate)
	case len(chain) == 0:
		return fault.BadSetting("no certificate in PEM", fix, "client_certificate", "certificate").
			In(c.ClientCertificate.Certificate)
	}
	return fault.BadContent(err, fix, "client_certificate", "key").In(c.ClientCertificate.Key)
}

func parseRoots(pemCerts []byte) (*x509.CertPool, error) {
	if len(pemCerts) == 0 {
		return nil, nil //nolint:nilnil // nil means the system's pool
	}
	return pemfile.Pool(pemCerts)
}
