package oidc

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// route is how the providers of one entry are reached. It is made when the configuration is loaded, with the roots, the
// transports and the digest of the settings: nothing is read, hashed or parsed on behalf of a request.
type route struct {
	key       string // of the entry
	pattern   bool
	cluster   bool // an API server of Kubernetes, which may name another host than its own for its keys
	insecure  bool
	local     bool // the operator wrote a loopback host
	private   bool
	timeout   time.Duration // of a fetch; 0: not set
	userAgent string
	discovery *url.URL // where the discovery document is; nil: under the issuer
	jwks      *url.URL // where the keys are; nil: where the discovery document says
	proxy     func(*http.Request) (*url.URL, error)
	open      *http.Client // may dial any address
	guarded   *http.Client // refuses private addresses at dial time (E3)

	bearerFile string // with a token for the issuer's own host; "": none
	clientPair *ClientCertificateConfig
	secrets    atomic.Pointer[secrets]

	// trust is the digest of everything that vouches for the keys of this entry's providers: keys that were fetched
	// under one digest count for nothing under another one.
	trust string
}

// secrets are what mayfly shows to a provider. They are read when the configuration is loaded and again beside the
// traffic, because they change while the process runs (tokens of pods, certificates that live for hours).
type secrets struct {
	bearer string
	pair   *tls.Certificate
	err    error // what is wrong with the newest files; the fields then have what was good before
}

// maxSecret bounds the files with secrets.
const maxSecret = 256 << 10

// newRoute reads the files of the entry. Its errors are [fault.Setting] values.
func newRoute(r *row, o Options, all *anchors) (*route, error) {
	c := r.config
	out := o.inCluster(r)
	bundle, err := all.bundle(out)
	if err != nil {
		return nil, err
	}
	roots, err := all.roots(out, c.CACert, bundle)
	if err != nil {
		return nil, err
	}
	f := &route{
		key: r.key, pattern: r.wildcard, cluster: c.Type == "kubernetes" && !r.wildcard, insecure: c.Insecure,
		private: out.PrivateNetwork, bearerFile: out.BearerTokenFile, clientPair: out.ClientCertificate,
		timeout: out.Timeout, userAgent: o.UserAgent, proxy: http.ProxyFromEnvironment,
	}
	one, err := url.Parse(strings.ReplaceAll(r.key, "*", "0")) // a star in a host makes it another one
	if err != nil {
		return nil, err
	}
	f.local = hostname.IsLoopback(one.Hostname())
	if c.DiscoveryURL != "" {
		if f.discovery, err = url.Parse(c.DiscoveryURL); err != nil {
			return nil, err
		}
	}
	if c.JWKSURL != "" {
		if f.jwks, err = url.Parse(c.JWKSURL); err != nil {
			return nil, err
		}
	}
	switch out.Proxy {
	case "":
	case "none":
		f.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	default:
		u, err := url.Parse(out.Proxy)
		if err != nil {
			return nil, err
		}
		f.proxy = http.ProxyURL(u)
	}
	conf := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if f.clientPair != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			s := f.secrets.Load()
			if s == nil || s.pair == nil {
				return nil, errors.New("the client certificate has not been read")
			}
			return s.pair, nil
		}
	}
	f.open, f.guarded = f.client(conf, nil), f.client(conf.Clone(), publicOnly)
	f.trust = f.vouching(r, out, bundle)
	f.readSecrets()
	return f, nil
}

// client has no time limits of its own: the context of a fetch bounds all of it.
func (f *route) client(conf *tls.Config, control func(string, string, syscall.RawConn) error) *http.Client {
	d := net.Dialer{Control: control}
	proxy := f.proxy
	if control != nil {
		proxy = nil // the address that is dialed must be the provider's own
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSClientConfig: conf, Proxy: proxy, MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConns: 16, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(to *http.Request, via []*http.Request) error {
			first := via[0].URL
			if len(via) > maxRedirects || to.URL.Host != first.Host || to.URL.Scheme != first.Scheme {
				return errors.New("redirect to another host or scheme, or one too many")
			}
			return nil
		},
	}
}

func (f *route) close() {
	f.open.CloseIdleConnections()
	f.guarded.CloseIdleConnections()
}

// proxyFor is the proxy that requests to u go by, without its password; "" for none.
func (f *route) proxyFor(u *url.URL) string {
	by, err := f.proxy(&http.Request{URL: u})
	if err != nil || by == nil {
		return ""
	}
	return by.Scheme + "://" + by.Host
}

// vouching is the digest of the settings, and of the contents of files, that make the keys of an entry's providers what
// they are. What says how long a fetch may take, or what becomes of a verified token, is not in it. For a pattern the
// issuer comes beside it.
func (f *route) vouching(r *row, out OutboundConfig, bundle []byte) string {
	c := r.config
	proxy := ""
	if one, err := f.home(strings.ReplaceAll(r.key, "*", "0")); err == nil { // what the environment says of it
		proxy = f.proxyFor(one)
	}
	pair := ClientCertificateConfig{}
	if out.ClientCertificate != nil {
		pair = *out.ClientCertificate
	}
	data, err := json.Marshal(struct {
		Key, Discovery, JWKS, CACert, Bundle, Proxy, ProxyInUse, Bearer string
		Pattern, Cluster, Insecure, CAExclusive, Private                bool
		ClientCertificate                                               ClientCertificateConfig
		Static                                                          *StaticKeysConfig
	}{
		r.key, c.DiscoveryURL, c.JWKSURL, c.CACert, digestOf(bundle), out.Proxy, proxy, out.BearerTokenFile,
		r.wildcard, f.cluster, c.Insecure, out.CAExclusive, out.PrivateNetwork, pair, c.StaticKeys,
	})
	if err != nil {
		panic("oidc: texts and booleans cannot be marshalled: " + err.Error())
	}
	return digestOf(data)
}

// digestOf is the SHA-256 of data in hexadecimal; "" for none.
func digestOf(data []byte) string {
	if len(data) == 0 {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// anchors are the CAs of the entries of one configuration. Many entries name the same file: it is read and parsed once.
type anchors struct {
	files map[string][]byte
	pools map[string]*x509.CertPool
}

func newAnchors() *anchors { return &anchors{map[string][]byte{}, map[string]*x509.CertPool{}} }

// bundle is the content of ca-bundle; nil where there is none.
func (a *anchors) bundle(o OutboundConfig) ([]byte, error) {
	if o.CABundle == "" {
		return nil, nil
	}
	if data, ok := a.files[o.CABundle]; ok {
		return data, nil
	}
	data, err := readFile(o.CABundle, maxBundle)
	if err != nil {
		return nil, fault.BadFile(o.CABundle, err, "outbound", "ca-bundle")
	}
	a.files[o.CABundle] = data
	return data, nil
}

// maxBundle bounds a file of CAs: a distribution's has some 220 kB.
const maxBundle = 4 << 20

// roots are the CAs to trust; nil means the system's.
func (a *anchors) roots(o OutboundConfig, caCert string, bundle []byte) (*x509.CertPool, error) {
	if caCert == "" && bundle == nil {
		return nil, nil
	}
	key := fmt.Sprint(o.CAExclusive, o.CABundle, "\n", caCert)
	if pool, ok := a.pools[key]; ok {
		return pool, nil
	}
	pool := x509.NewCertPool()
	if !o.CAExclusive {
		if system, err := x509.SystemCertPool(); err == nil {
			pool = system
		}
	}
	add := func(data []byte) error {
		certs, err := pemfile.Roots(data)
		for _, c := range certs {
			pool.AddCert(c)
		}
		return err
	}
	if caCert != "" {
		if err := add([]byte(caCert)); err != nil {
			return nil, fault.BadContent(err, "write the PEM text of the CA", "ca-cert")
		}
	}
	if bundle != nil {
		if err := add(bundle); err != nil {
			return nil, fault.BadContent(err, "write the path of a PEM file", "outbound", "ca-bundle").In(o.CABundle)
		}
	}
	a.pools[key] = pool
	return pool, nil
}

// readSecrets reads the bearer token and the client certificate again. What was good before stays while a file is
// broken.
func (f *route) readSecrets() {
	if f.bearerFile == "" && f.clientPair == nil {
		return
	}
	next := secrets{}
	if last := f.secrets.Load(); last != nil {
		next.bearer, next.pair = last.bearer, last.pair
	}
	if f.bearerFile != "" {
		token, err := readBearer(f.bearerFile)
		if err == nil {
			next.bearer = token
		}
		next.err = err
	}
	if f.clientPair != nil {
		pair, err := readPair(*f.clientPair)
		if err == nil {
			next.pair = pair
		}
		next.err = errors.Join(next.err, err)
	}
	f.secrets.Store(&next)
}

func readBearer(name string) (string, error) {
	data, err := readFile(name, maxSecret)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(token) > maxToken || strings.ContainsAny(token, "\r\n \t") {
		return "", fmt.Errorf("%s holds no bearer token", name)
	}
	return token, nil
}

func readPair(c ClientCertificateConfig) (*tls.Certificate, error) {
	certificate, err := readFile(c.Certificate, maxSecret)
	if err != nil {
		return nil, err
	}
	key, err := readFile(c.Key, maxSecret)
	if err != nil {
		return nil, err
	}
	pair, err := pemfile.KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Certificate, err)
	}
	return &pair, nil
}

// readFile reads a regular file of at most limit bytes. Anything else, such as a pipe that nobody writes to, could hold
// up the reader.
func readFile(name string, limit int64) ([]byte, error) {
	st, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		return nil, &os.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", name)
	case st.Size() > limit:
		return nil, fmt.Errorf("%s has %d bytes; the limit is %d", name, st.Size(), limit)
	}
	file, err := os.Open(filepath.Clean(name))
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return data, err
}

// Where Kubernetes puts the credentials of a pod, and where Fulcio's manifests put the CA.
const (
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	fulcioClusterCA   = "/var/run/fulcio/ca.crt"
)

// inCluster is the outbound block of an entry. The issuer of the cluster that mayfly itself runs in needs none: its
// keys are had with the CA of the pod, unless the entry names one, and with the token of the pod, unless the entry says
// where else the documents are or which token to show. No other host ever gets that token (E13).
func (o Options) inCluster(r *row) OutboundConfig {
	c := r.config
	out := c.Outbound
	u, err := url.Parse(r.key)
	told := out.BearerTokenFile != "" || c.DiscoveryURL != "" || c.JWKSURL != ""
	if err != nil || r.wildcard || c.Type != "kubernetes" || u.Scheme != "https" || told ||
		u.Host != "kubernetes.default.svc" && u.Host != "kubernetes.default.svc.cluster.local" {
		return out
	}
	dir := o.ServiceAccountDir
	if dir == "" {
		dir = serviceAccountDir
	}
	for _, ca := range []string{fulcioClusterCA, filepath.Join(dir, "ca.crt")} {
		if _, err := os.Stat(ca); err == nil && out.CABundle == "" && c.CACert == "" {
			out.CABundle = ca
		}
	}
	if token := filepath.Join(dir, "token"); out.CABundle != "" || c.CACert != "" {
		if _, err := os.Stat(token); err == nil {
			out.BearerTokenFile = token
		}
	}
	return out
}
