package ctlog

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
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/monitor"
)

const (
	maxSCTBody   = 64 << 10 // bytes of an answer to add-pre-chain
	maxRootsBody = 4 << 20  // bytes of an answer to get-roots: a public log lists some hundred roots
	maxHeader    = 32 << 10
	maxQuote     = 200 // bytes of an answer in an error

	// maxConns bounds the connections to one log that speaks HTTP/1.1, where each carries one precertificate at a time; over TLS
	// it is HTTP/2, where each carries many.
	maxConns = 256
)

// RemoteOptions are what [OpenRemote] needs beside the configuration.
type RemoteOptions struct {
	// PublicKeyPEM is the content of LogConfig.PublicKey.
	PublicKeyPEM []byte
	// CACertPEM is the content of LogConfig.CACert; empty takes the system's roots.
	CACertPEM []byte
	// ClientCertificatePEM and ClientKeyPEM are the contents of LogConfig.ClientCertificate.
	ClientCertificatePEM, ClientKeyPEM []byte
	// Timeout bounds one call. 0 is 4 s.
	Timeout   time.Duration
	UserAgent string
	// Now is the clock for a Retry-After that is a date; nil is time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Remote is a log behind HTTP (RFC 6962 §4). One call is one try.
type Remote struct {
	key       crypto.PublicKey
	roots     submission // its URL is that of get-roots
	submit    poster
	reader    *monitor.Log // for the head
	transport *http.Transport
	wire      *wire  // nil if submit goes over the transport
	address   string // URL and Host
	timeout   time.Duration
	now       func() time.Time
}

// OpenRemote prepares a client of the log c; it opens no connection. Its errors are each a [fault.Setting] of c.
func OpenRemote(c LogConfig, o RemoteOptions) (*Remote, error) {
	if problem, fix := c.urlProblem(c.URL); problem != "" {
		return nil, fault.BadSetting(problem, fix, "url")
	}
	key, err := ParsePublicKey(o.PublicKeyPEM)
	if err != nil {
		return nil, fault.BadContent(err, "write the path of the log's public key in PEM", "public_key").In(c.PublicKey)
	}
	if err := c.compareID(key); err != nil {
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
	r := &Remote{key: key, address: c.URL + " " + c.hostHeader(), timeout: o.Timeout, now: o.Now}
	if r.timeout <= 0 {
		r.timeout = defaultAttempt
	}
	if r.now == nil {
		r.now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	dialer := &net.Dialer{Timeout: r.timeout / 2, KeepAlive: 15 * time.Second}
	r.transport = newTransport(conf, dialer, r.timeout)
	if proxy != nil {
		r.transport.Proxy = http.ProxyURL(proxy)
	}
	roots, err1 := url.Parse(strings.TrimRight(c.URL, "/") + getRootsPath)
	u, err2 := url.Parse(strings.TrimRight(c.URL, "/") + addPreChainPath)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fault.BadSetting(err.Error(), "write the log's submission prefix", "url")
	}
	n := names{c.hostHeader(), o.UserAgent}
	r.roots = newSubmission(roots, n, r.transport)
	if r.wire = newWire(u, n, dialer); r.wire != nil && proxy == nil {
		r.submit = r.wire
	} else {
		r.submit = newSubmission(u, n, r.transport)
	}
	return r, r.openReader(c, o, conf)
}

// The paths of RFC 6962 §4, below the prefix of a log.
const (
	addPreChainPath = "/ct/v1/add-pre-chain"
	getRootsPath    = "/ct/v1/get-roots"
)

// openReader prepares to read the head that proves that the log has the pinned key.
func (r *Remote) openReader(c LogConfig, o RemoteOptions, conf *tls.Config) error {
	proxy := r.transport.Proxy
	t := monitor.Transport{
		Roots: conf.RootCAs, Proxy: proxy, UserAgent: o.UserAgent, Timeout: r.timeout,
		Host: c.hostHeader(), ServerName: c.Host,
	}
	if len(conf.Certificates) > 0 {
		t.Certificate = &conf.Certificates[0]
	}
	options := monitor.Options{Name: c.Name, Key: r.key, Origin: c.Origin, Submission: c.URL, Transport: t}
	if c.MonitoringURL != "" && c.Origin != "" {
		options.Monitoring = c.MonitoringURL
		options.Transport.Host, options.Transport.ServerName = "", ""
	}
	var err error
	if r.reader, err = monitor.Open(options); err != nil {
		return fault.BadSetting(err.Error(), "write the log's submission prefix", "url")
	}
	return nil
}

// head reads the newest head of the log and verifies it with the pinned key (RFC 6962 §4.3, or c2sp.org/static-ct-api).
// absent says in words that the log shows none where it is configured to be read. Another error is a [Failure].
func (r *Remote) head(ctx context.Context) (absent string, err error) {
	_, err = r.reader.Head(ctx)
	var f *Failure
	switch {
	case err == nil:
		return "", nil
	case monitor.Convicts(err):
		return "", &Failure{
			Result: Unverified,
			Err: fmt.Errorf("the log's own head is not signed with the pinned key (public_key); write the key "+
				"of the log at url: %w", err),
		}
	case errors.Is(err, fs.ErrNotExist):
		return "the log has no head where it is read, so that only its SCTs show whether public_key is its key; for " +
			"a static-ct log write monitoring_url and origin", nil
	case errors.As(err, &f):
		return "", f
	}
	f = callFailure(err)
	var call *url.Error
	if f.Result == Unreachable && !errors.As(err, &call) { // it answered
		f.Result = Broken
	}
	return "", f
}

func parseRoots(pemCerts []byte) (*x509.CertPool, error) {
	if len(pemCerts) == 0 {
		return nil, nil //nolint:nilnil // nil is the system's pool
	}
	return pemfile.Pool(pemCerts)
}

// compareID holds the key against the ID that the operator wrote.
func (c LogConfig) compareID(key crypto.PublicKey) error {
	want, err := c.pinnedID()
	if err != nil || want == nil {
		return err
	}
	got, err := logID(key)
	if err != nil {
		return fault.BadSetting(err.Error(), "write the path of the log's public key in PEM", "public_key")
	}
	if !bytes.Equal(want, got[:]) {
		return fault.BadSetting(fmt.Sprintf("log_id is %x, but public_key has the id %x", want, got), "write the key that belongs to this log, or correct log_id", "log_id").In(c.PublicKey)
	}
	return nil
}

// tlsConfig is whom we believe to be the log, and who we are.
func (c LogConfig) tlsConfig(o RemoteOptions) (*tls.Config, error) {
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

// pairProblem says which of the two files of a client certificate is wrong.
func (c LogConfig) pairProblem(chain []byte, err error) error {
	const fix = "write the paths of a certificate and its private key in PEM"
	switch _, e := parseRoots(chain); {
	case c.ClientCertificate == nil:
		return fault.BadSetting(err.Error(), fix, "client_certificate")
	case e != nil:
		return fault.BadContent(e, fix, "client_certificate", "certificate").In(c.ClientCertificate.Certificate)
	case len(chain) == 0:
		return fault.BadSetting("no certificate in PEM", fix, "client_certificate", "certificate").In(c.ClientCertificate.Certificate)
	}
	return fault.BadContent(err, fix, "client_certificate", "key").In(c.ClientCertificate.Key)
}

func newTransport(conf *tls.Config, dialer *net.Dialer, timeout time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // the environment does not decide who sees our precertificates
		DialContext:            dialer.DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    timeout / 2,
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConnsPerHost:    maxConns, // fewer would be closed and opened again all the time
		MaxConnsPerHost:        maxConns,
		IdleConnTimeout:        idleTime,
		DisableCompression:     true, // a limit on bytes read is then a limit on bytes parsed
		ForceAttemptHTTP2:      true,
	}
}

// Key returns the pinned key.
func (r *Remote) Key() crypto.PublicKey { return r.key }

// Close closes connections that wait for another call.
func (r *Remote) Close() {
	r.transport.CloseIdleConnections()
	if r.wire != nil {
		r.wire.close()
	}
	r.reader.Close()
}

// Roots returns the DER of the roots that the log accepts (RFC 6962 §4.7). Its errors are each a [Failure].
func (r *Remote) Roots(ctx context.Context) ([][]byte, error) {
	roots, _, err := r.getRoots(ctx)
	return roots, err
}

// getRoots is Roots, with the time of the answer as its Date says, whatever the answer is; zero if there is none.
func (r *Remote) getRoots(ctx context.Context) ([][]byte, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	answer, err := r.roots.get(ctx, maxRootsBody)
	date := parseDate(answer.date)
	switch {
	case err != nil:
		return nil, date, callFailure(err)
	case answer.status != http.StatusOK:
		return nil, date, r.statusFailure(answer.status, "", answer.body)
	}
	var in struct {
		Certificates []string `json:"certificates"`
	}
	if err := json.Unmarshal(answer.body, &in); err != nil {
		return nil, date, &Failure{
			Result: Garbled, Status: answer.status,
			Err: fmt.Errorf("not the JSON asked for: %w", err),
		}
	}
	roots, err := decodeRoots(in.Certificates)
	return roots, date, err
}

// statusFailure says what an HTTP status other than 200 means for us.
func (r *Remote) statusFailure(status int, retryAfter string, body []byte) *Failure {
	f := &Failure{Result: Refused, Status: status, Err: fmt.Errorf("the log answered %d %s %q", status, http.StatusText(status), quote(body))}
	switch {
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		f.Result, f.RetryAfter = Busy, parseRetryAfter(retryAfter, r.now())
	case status >= 500:
		f.Result = Broken
	}
	return f
}

// callFailure says what an error of a call means for us.
func callFailure(err error) *Failure {
	var tooLarge *http.MaxBytesError
	var tlsErr *tls.CertificateVerificationError
	var netErr net.Error
	f := &Failure{Result: Unreachable, Err: err}
	switch {
	case errors.Is(err, context.Canceled):
		f.Result = Abandoned
	case errors.As(err, &tooLarge):
		f.Result, f.Err = Garbled, fmt.Errorf("the answer is longer than %d bytes", tooLarge.Limit)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		f.Result = TimedOut
	case errors.As(err, &tlsErr):
		f.Result = Failed // no retry makes a certificate good
	}
	return f
}

// parseRetryAfter reads delay-seconds or a date (RFC 9110 §10.2.3). What cannot be read, or lies in the past, is 0.
func parseRetryAfter(text string, now time.Time) time.Duration {
	const most = 24 * time.Hour // no overflow, whatever the log says
	digits := text != "" && strings.Trim(text, "0123456789") == ""
	// digits beyond 64 bits give the largest number
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil || digits {
		return time.Duration(min(max(seconds, 0), int64(most/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(t.Sub(now), 0), most)
	}
	return 0
}

func quote(body []byte) string { return string(body[:min(len(body), maxQuote)]) }
