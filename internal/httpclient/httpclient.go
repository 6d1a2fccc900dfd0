// Package httpclient makes the HTTP clients of all packages and reads the bodies of their responses.
//
// A client of [New] uses TLS 1.2 or later, verifies certificates, sends a User-Agent, and limits the size of a response
// header. Unless its [Options] say otherwise, it follows no redirect and uses no proxy, not even one from the
// environment. The body of a response MUST be read with [ReadBody], which limits its size.
package httpclient

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/internal/bounded"
)

// Options are the options of [New]. The zero value means a client without a time limit.
type Options struct {
	// Timeout bounds a request with its response. 0 is no limit: the context of each request MUST have a deadline.
	Timeout time.Duration
	// ConnectTimeout bounds the TCP handshake, and the TLS handshake after it. 0 is half of Timeout.
	ConnectTimeout time.Duration
	// UserAgent is the User-Agent of requests that have none. "" is "mayfly".
	UserAgent string

	// Roots are the CAs that the server's certificate must chain to. Nil means those of the system.
	Roots *x509.CertPool
	// ServerName is the name that the server's certificate must have. "" is the host of the URL.
	ServerName string
	// Certificate returns the client certificate, once per connection. Nil means that the client has none.
	Certificate func() (*tls.Certificate, error)

	// Proxy returns the proxy for a request, as [http.ProxyFromEnvironment] does. Nil means no proxy.
	Proxy func(*http.Request) (*url.URL, error)
	// Control is called with each address before it is connected to (see [net.Dialer.Control]). Optional.
	Control func(network, address string, c syscall.RawConn) error
	// Redirect decides whether a redirect is followed (see [http.Client.CheckRedirect]). Nil means that redirects are
	// not followed: the caller gets the response with its status of 300 to 399.
	Redirect func(to *http.Request, via []*http.Request) error

	// IdleConns is how many connections to one host stay open between requests. 0 is 2.
	IdleConns int
	// MaxConns bounds the connections to one host. 0 is no limit.
	MaxConns int
	// IdleTimeout is how long a connection stays open without a request. 0 is 30 s.
	IdleTimeout time.Duration
}

const (
	maxHeader   = 64 << 10
	idleTimeout = 30 * time.Second
	idleConns   = 2
)

// New returns a client. Responses are not decompressed; [ReadBody] does that within its limit.
func New(o Options) *http.Client {
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = o.Timeout / 2
	}
	if o.UserAgent == "" {
		o.UserAgent = "mayfly"
	}
	if o.IdleConns == 0 {
		o.IdleConns = idleConns
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = idleTimeout
	}
	if o.Redirect == nil {
		o.Redirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	conf := &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	if o.Certificate != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return o.Certificate()
		}
	}
	dialer := &net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: 15 * time.Second, Control: o.Control}
	return &http.Client{
		Timeout:       o.Timeout,
		CheckRedirect: o.Redirect,
		Transport: &transport{o.UserAgent, &http.Transport{
			Proxy:                  o.Proxy,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    o.ConnectTimeout,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    o.IdleConns,
			MaxConnsPerHost:        o.MaxConns,
			IdleConnTimeout:        o.IdleTimeout,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
		}},
	}
}

// SameHost returns a rule for [Options.Redirect]: a request is redirected at most limit times, and only to the scheme
// and host of its first URL.
func SameHost(limit int) func(to *http.Request, via []*http.Request) error {
	return func(to *http.Request, via []*http.Request) error {
		first := via[0].URL
		if len(via) > limit || to.URL.Host != first.Host || to.URL.Scheme != first.Scheme {
			return errors.New("a redirect to another host or scheme, or too many redirects")
		}
		return nil
	}
}

// transport adds the User-Agent.
type transport struct {
	userAgent string
	*http.Transport
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, ok := r.Header["User-Agent"]; !ok {
		r = r.WithContext(r.Context()) // a shallow copy: a RoundTripper must not change the request
		r.Header = r.Header.Clone()
		if r.Header == nil {
			r.Header = http.Header{}
		}
		r.Header.Set("User-Agent", t.userAgent)
	}
	return t.Transport.RoundTrip(r)
}

// Limits of decompression: a response of more than freeInflation bytes may be at most maxInflation times as long as its
// compressed form. Hashes, keys and certificates, which is what mayfly reads, compress far less than that.
const (
	maxInflation  = 16
	freeInflation = 64 << 10
)

// ReadBody returns the body of a response, decompressed if its Content-Encoding is gzip. A body of more than limit
// bytes, before or after decompression, is a [*bounded.TooLargeError]. The caller closes the body.
func ReadBody(response *http.Response, limit int64) ([]byte, error) {
	if strings.EqualFold(response.Header.Get("Content-Encoding"), "gzip") {
		return gunzip(response.Body, limit)
	}
	return bounded.ReadAll(response.Body, limit)
}

func gunzip(body io.Reader, limit int64) ([]byte, error) {
	compressed := &counter{from: io.LimitReader(body, limit+1)}
	z, err := gzip.NewReader(compressed)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for int64(out.Len()) <= limit {
		n, err := io.CopyN(&out, z, min(limit+1-int64(out.Len()), 64<<10))
		switch {
		case int64(out.Len()) > freeInflation+maxInflation*compressed.n:
			return nil, fmt.Errorf("%d bytes decompress to more than %d times as many", compressed.n, maxInflation)
		case errors.Is(err, io.EOF):
			return out.Bytes(), nil
		case errors.Is(err, io.ErrUnexpectedEOF) && compressed.n > limit:
			return nil, &bounded.TooLargeError{Limit: limit}
		case err != nil:
			return nil, err
		case n == 0:
			return nil, io.ErrNoProgress
		}
	}
	return nil, &bounded.TooLargeError{Limit: limit}
}

// counter counts the bytes that are read through it.
type counter struct {
	from io.Reader
	n    int64
}

// Read implements [io.Reader].
func (c *counter) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.n += int64(n)
	return n, err
}
