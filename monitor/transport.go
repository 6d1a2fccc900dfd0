package monitor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
)

// Limits of one answer of a log, in bytes.
const (
	maxHead   = 64 << 10
	maxBundle = 256 * (64<<10 + 2) // 256 entries of 64 KiB with their lengths; those of mayfly have about 3 KiB
	maxHashes = 256 * 32
	maxIssuer = 1 << 20
	maxProof  = 64 << 10
)

const (
	callTimeout = 30 * time.Second
	tries       = 3
	pauseFirst  = 200 * time.Millisecond
	pauseMost   = 5 * time.Second
)

// getter reads the file at a path of a log. The error is [fs.ErrNotExist] if there is none.
type getter interface {
	get(ctx context.Context, path string, limit int64) ([]byte, error)
}

// Transport has the HTTP settings of the connection to a log.
type Transport struct {
	// Roots are the CAs that the log's TLS certificate must chain to. Default: the system's.
	Roots *x509.CertPool
	// Certificate is the TLS client certificate. Optional.
	Certificate *tls.Certificate
	// Proxy chooses the proxy for a request, as in [http.Transport]. Default: none; the environment is ignored.
	Proxy     func(*http.Request) (*url.URL, error)
	UserAgent string
	// Host is the Host header of requests. ServerName is the name that the log's TLS certificate must have. Default of
	// both: the host of the prefix.
	Host, ServerName string
	// Timeout bounds one call. Default: 30 s.
	Timeout time.Duration
}

// web reads a log over HTTP. Redirects are not followed: only the configured host may answer for the log.
type web struct {
	prefix string
	host   string // empty for that of the prefix
	client *http.Client
}

// CheckPrefix returns an error unless prefix is a URL to which the paths of a log can be appended.
func CheckPrefix(prefix string) error {
	u, err := url.Parse(prefix)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil ||
		u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("invalid log URL %q; write its prefix, for example https://ca.example.com/ct", clip(prefix))
	}
	return nil
}

func newWeb(prefix string, t Transport) (*web, error) {
	if err := CheckPrefix(prefix); err != nil {
		return nil, err
	}
	if t.Timeout <= 0 {
		t.Timeout = callTimeout
	}
	o := httpclient.Options{
		Timeout: t.Timeout, UserAgent: t.UserAgent, Roots: t.Roots, ServerName: t.ServerName, Proxy: t.Proxy,
		IdleConns: maxFetches, MaxConns: 2 * maxFetches,
	}
	if t.Certificate != nil {
		o.Certificate = func() (*tls.Certificate, error) { return t.Certificate, nil }
	}
	return &web{prefix: strings.TrimRight(prefix, "/") + "/", host: t.Host, client: httpclient.New(o)}, nil
}

// get implements [getter]. It tries again, after a pause, if the connection breaks or the status is temporary.
func (w *web) get(ctx context.Context, path string, limit int64) (body []byte, err error) {
	pause := pauseFirst
	for n := 1; ; n++ {
		var again bool
		if body, again, err = w.once(ctx, path, limit); err == nil || !again || n == tries || ctx.Err() != nil {
			return body, err
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil, context.Cause(ctx)
		case <-wait.C:
		}
		pause = min(4*pause, pauseMost)
	}
}

func (w *web) once(ctx context.Context, path string, limit int64) (body []byte, again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.prefix+path, http.NoBody)
	if err != nil {
		return nil, false, err
	}
	r.Header.Set("Accept-Encoding", "gzip") // ReadBody limits the decompressed size
	if w.host != "" {
		r.Host = w.host
	}
	rsp, err := w.client.Do(r)
	if err != nil {
		return nil, true, err
	}
	defer rsp.Body.Close() //nolint:errcheck // only read
	body, err = httpclient.ReadBody(rsp, limit)
	_, tooLarge := errors.AsType[*bounded.TooLargeError](err)
	switch {
	case absent(rsp.StatusCode):
		return nil, false, fmt.Errorf("%s: the log answered %d: %w", path, rsp.StatusCode, fs.ErrNotExist)
	case rsp.StatusCode != http.StatusOK:
		temporary := rsp.StatusCode >= 500 || rsp.StatusCode == http.StatusTooManyRequests ||
			rsp.StatusCode == http.StatusRequestTimeout
		return nil, temporary, fmt.Errorf("%s: the log answered %d %s", path, rsp.StatusCode,
			http.StatusText(rsp.StatusCode))
	case err != nil:
		return nil, !tooLarge, fmt.Errorf("%s: %w", path, err)
	}
	return body, false, nil
}

// absent reports whether a status means that a path does not exist. Object stores that do not list their content answer
// 403, and servers with other paths answer 400 or 405.
func absent(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden, http.StatusBadRequest, http.StatusMethodNotAllowed:
		return true
	}
	return false
}

// folder reads the directory of a log on this machine.
type folder string

// get implements [getter]. All paths are made by this package; none of them comes from a log.
func (d folder) get(_ context.Context, path string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(string(d), filepath.FromSlash(path)))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", f.Name())
	case st.Size() > limit:
		return nil, fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
	}
	body := make([]byte, st.Size())
	if _, err := io.ReadFull(f, body); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return body, nil
}
