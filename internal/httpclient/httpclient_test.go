package httpclient_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
)

// server returns a server with the handler h, over TLS if secure is true.
func server(t *testing.T, secure bool, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	if secure {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func roots(s *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

// get returns the status and the body, read with limit.
func get(t *testing.T, c *http.Client, u string, limit int64) (int, string, error) {
	t.Helper()
	t.Cleanup(c.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	data, err := httpclient.ReadBody(res, limit)
	return res.StatusCode, string(data), err
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := server(t, true, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
	if _, _, err := get(t, httpclient.New(httpclient.Options{}), s.URL, 100); err == nil {
		t.Error("a certificate of an unknown CA was accepted")
	}
	if code, text, err := get(t, httpclient.New(httpclient.Options{Roots: roots(s)}), s.URL, 100); code != 200 ||
		text != "HTTP/2.0" || err != nil {
		t.Error(code, text, err)
	}
	other := httpclient.New(httpclient.Options{Roots: roots(s), ServerName: "other.example.org"})
	if _, _, err := get(t, other, s.URL, 100); err == nil {
		t.Error("a certificate with another name was accepted")
	}
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11} //nolint:gosec // the client must refuse it
	old.StartTLS()
	t.Cleanup(old.Close)
	if _, _, err := get(t, httpclient.New(httpclient.Options{Roots: roots(old)}), old.URL, 100); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(r.TLS.PeerCertificates[0].Raw)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	own := &s.TLS.Certificates[0]
	o := httpclient.Options{Roots: roots(s), Certificate: func() (*tls.Certificate, error) { return own, nil }}
	if _, text, err := get(t, httpclient.New(o), s.URL, 1<<20); err != nil || text != string(own.Certificate[0]) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	unread := errors.New("the file has not been read")
	o.Certificate = func() (*tls.Certificate, error) { return nil, unread }
	if _, _, err := get(t, httpclient.New(o), s.URL, 1<<20); err == nil ||
		!strings.Contains(err.Error(), unread.Error()) {
		t.Error(err)
	}
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	elsewhere := server(t, false, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "elsewhere")
	})
	s := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		case "/end":
			_, _ = io.WriteString(w, "end")
		default: // /x/x/x/end has three redirects to go
			http.Redirect(w, r, strings.TrimPrefix(r.URL.Path, "/x"), http.StatusFound)
		}
	})
	for _, c := range []struct {
		rule func(*http.Request, []*http.Request) error
		path string
		code int
		text string
	}{
		{nil, "/end", 200, "end"},
		{nil, "/x/end", 302, ""},
		{nil, "/away", 302, ""},
		{httpclient.SameHost(2), "/x/end", 200, "end"},
		{httpclient.SameHost(2), "/x/x/end", 200, "end"},
		{httpclient.SameHost(2), "/x/x/x/end", 0, ""},
		{httpclient.SameHost(2), "/away", 0, ""},
		{httpclient.SameHost(2), "/x/away", 0, ""},
	} {
		code, text, err := get(t, httpclient.New(httpclient.Options{Redirect: c.rule}), s.URL+c.path, 1000)
		if code != c.code || (err == nil) != (c.code > 0) || c.code == 200 && text != c.text {
			t.Errorf("%s: %d %q %v", c.path, code, text, err)
		}
	}
}

func TestUserAgent(t *testing.T) {
	t.Parallel()
	s := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header.Values("User-Agent"), ",")+r.Header.Get("Accept-Encoding"))
	})
	for agent, want := range map[string]string{"": "mayfly", "mayfly/v1": "mayfly/v1"} {
		c := httpclient.New(httpclient.Options{UserAgent: agent})
		if _, text, err := get(t, c, s.URL, 100); text != want || err != nil {
			t.Errorf("%q: %q %v", agent, text, err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		for _, own := range []string{"", "own/1"} {
			if own != "" {
				req.Header.Set("User-Agent", own)
			}
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			data, err := httpclient.ReadBody(res, 100)
			_ = res.Body.Close()
			if want := max(own, want); own != "" && string(data) != own ||
				own == "" && string(data) != want || err != nil {
				t.Errorf("%q: %q %v", own, data, err)
			}
		}
	}
}

// A client without a Proxy option does not use the proxy of the environment. The proxy in this test is a test server.
func TestProxy(t *testing.T) { //nolint:paralleltest // it sets the environment
	proxy := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "for "+r.URL.String())
	})
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	const target = "http://host.invalid/x"
	if _, _, err := get(t, httpclient.New(httpclient.Options{}), target, 100); err == nil {
		t.Error("the proxy of the environment was used")
	}
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := httpclient.New(httpclient.Options{Proxy: http.ProxyURL(u)})
	if _, text, err := get(t, c, target, 100); text != "for "+target || err != nil {
		t.Error(text, err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/header":
			w.Header().Set("X", strings.Repeat("x", 100<<10))
		case "/silent":
			<-release
		}
	})
	t.Cleanup(func() { close(release) })
	if _, _, err := get(t, httpclient.New(httpclient.Options{}), s.URL+"/header", 100); err == nil {
		t.Error("a header of 100 KiB was accepted")
	}
	c := httpclient.New(httpclient.Options{Timeout: 50 * time.Millisecond})
	if _, _, err := get(t, c, s.URL+"/silent", 100); err == nil {
		t.Error("a request to a server that does not respond had no time limit")
	}
	refused := errors.New("refused")
	c = httpclient.New(httpclient.Options{Control: func(string, string, syscall.RawConn) error { return refused }})
	if _, _, err := get(t, c, s.URL, 100); !errors.Is(err, refused) {
		t.Error(err)
	}
}

// compressed returns data in gzip.
func compressed(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadBody(t *testing.T) {
	t.Parallel()
	text := []byte("a response")
	const limit = 1 << 20
	for name, c := range map[string]struct {
		encoding string
		body     []byte
		want     string
		tooLarge bool
	}{
		"plain":                  {"", text, string(text), false},
		"empty":                  {"", nil, "", false},
		"at the limit":           {"", make([]byte, limit), string(make([]byte, limit)), false},
		"above the limit":        {"", make([]byte, limit+1), "", true},
		"gzip":                   {"gzip", compressed(t, text), string(text), false},
		"GZIP":                   {"GZIP", compressed(t, text), string(text), false},
		"gzip above the limit":   {"gzip", append(compressed(t, nil), make([]byte, limit)...), "", false},
		"inflates too much":      {"gzip", compressed(t, make([]byte, limit)), "", false},
		"inflates beyond all":    {"gzip", compressed(t, make([]byte, 64*limit)), "", false},
		"inflates a little":      {"gzip", compressed(t, make([]byte, 60<<10)), string(make([]byte, 60<<10)), false},
		"not gzip":               {"gzip", text, "", false},
		"cut off":                {"gzip", compressed(t, text)[:20], "", false},
		"another content coding": {"br", text, string(text), false},
	} {
		res := &http.Response{Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(c.body))}
		if c.encoding != "" {
			res.Header.Set("Content-Encoding", c.encoding)
		}
		got, err := httpclient.ReadBody(res, limit)
		ok := c.want != "" || name == "empty"
		if string(got) != c.want || (err == nil) != ok {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if _, tooLarge := errors.AsType[*bounded.TooLargeError](err); tooLarge != c.tooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadBody(f *testing.F) {
	f.Add([]byte("text"), 10)
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 10)
	f.Fuzz(func(t *testing.T, body []byte, limit int) {
		if limit < 0 || limit > 1<<20 {
			return
		}
		res := &http.Response{
			Header: http.Header{"Content-Encoding": {"gzip"}}, Body: io.NopCloser(bytes.NewReader(body)),
		}
		if got, err := httpclient.ReadBody(res, int64(limit)); len(got) > limit || err != nil && got != nil {
			t.Errorf("%d bytes of at most %d, %v", len(got), limit, err)
		}
	})
}
