package provider

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// Entry has the settings of one entry of the configuration that concern the keys of its providers.
type Entry struct {
	Key        string // the URL of the issuer, or a pattern of such URLs
	Pattern    bool   // Key is a pattern
	Kubernetes bool   // the issuer is a Kubernetes API server
	KeysConfig
}

// section returns the section of the issuer file that has the entry.
func (e Entry) section() string {
	if e.Pattern {
		return "meta-issuers"
	}
	return "oidc-issuers"
}

// example returns an issuer of the entry.
func (e Entry) example() string { return strings.ReplaceAll(e.Key, "*", "0") }

// route describes how the providers of one entry are reached. It is made, with CA pools, transports and the digest,
// when the configuration is loaded: no request causes files to be read, or settings to be hashed or parsed.
type route struct {
	pattern        bool
	kubernetes     bool // an API server, whose document may name another host for its keys
	insecure       bool
	local          bool // the operator has configured a loopback host
	privateNetwork bool
	timeout        time.Duration // time limit of a fetch; 0: the default
	discovery      *url.URL      // URL of the discovery document; nil: below the issuer's URL
	jwks           *url.URL      // URL of the keys; nil: named by the discovery document
	proxy          func(*http.Request) (*url.URL, error)
	answered       func(date, sent time.Time)
	anyAddress     *http.Client // may connect to any address
	publicOnly     *http.Client // refuses private addresses when it connects (E3)

	bearerFile string // file with a bearer token for the issuer's own host; empty: none
	clientPair *ClientCertificateConfig
	secrets    atomic.Pointer[secrets]

	// digest covers everything that determines which keys the providers of the entry have. Keys that were fetched under
	// one digest MUST NOT be used under another one.
	digest string
}

// newRoute reads the files that the entry names. Its errors are [fault.Setting] values.
func newRoute(e Entry, o Options, pools *caPools) (*route, error) {
	out := o.outbound(e)
	bundle, err := pools.bundle(out)
	if err != nil {
		return nil, err
	}
	roots, err := pools.roots(out, e.CACert, bundle)
	if err != nil {
		return nil, err
	}
	r := &route{
		pattern: e.Pattern, kubernetes: e.Kubernetes && !e.Pattern, insecure: e.Insecure,
		privateNetwork: out.PrivateNetwork, bearerFile: out.BearerTokenFile, clientPair: out.ClientCertificate,
		timeout: out.Timeout, proxy: http.ProxyFromEnvironment,
	}
	example, err := url.Parse(e.example())
	if err != nil {
		return nil, err
	}
	r.local = hostname.IsLoopback(example.Hostname())
	if e.DiscoveryURL != "" {
		if r.discovery, err = url.Parse(e.DiscoveryURL); err != nil {
			return nil, err
		}
	}
	if e.JWKSURL != "" {
		if r.jwks, err = url.Parse(e.JWKSURL); err != nil {
			return nil, err
		}
	}
	switch out.Proxy {
	case "":
	case "none":
		r.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	default:
		u, err := url.Parse(out.Proxy)
		if err != nil {
			return nil, err
		}
		r.proxy = http.ProxyURL(u)
	}
	client := httpclient.Options{ // no timeouts: the context of a fetch has the deadline
		UserAgent: o.UserAgent, Roots: roots, Proxy: r.proxy, Redirect: httpclient.SameHost(maxRedirects),
	}
	if r.clientPair != nil {
		client.Certificate = r.clientCertificate
	}
	r.answered = func(date, sent time.Time) {
		if o.Answered != nil {
			o.Answered(e.Key, date, sent)
		}
	}
	r.anyAddress = httpclient.New(client)
	// no proxy: the address that is dialed must be the provider's own
	client.Proxy, client.Control = nil, dialPublicOnly
	r.publicOnly = httpclient.New(client)
	r.digest = r.digestOf(e, out, bundle)
	r.readSecrets()
	return r, nil
}

func (r *route) closeIdleConnections() {
	r.anyAddress.CloseIdleConnections()
	r.publicOnly.CloseIdleConnections()
}

// startURL returns the URL that the issuer or the operator has named: of the discovery document, or of the keys if
// there is no discovery.
func (r *route) startURL(issuer string) (*url.URL, error) {
	switch {
	case r.discovery != nil:
		return r.discovery, nil
	case r.jwks != nil:
		return r.jwks, nil
	}
	return url.Parse(strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration")
}

// host returns the host to which limits on the fetches of the issuer apply.
func (r *route) host(issuer string) string {
	u, err := r.startURL(issuer)
	if err != nil {
		return ""
	}
	return u.Host
}

// proxyOf returns the proxy for requests to u, without its password; empty if there is none.
func (r *route) proxyOf(u *url.URL) string {
	proxy, err := r.proxy(&http.Request{URL: u})
	if err != nil || proxy == nil {
		return ""
	}
	return proxy.Scheme + "://" + proxy.Host
}

// digestOf returns the digest of the settings and files that determine which keys the providers of an entry have. It
// does not cover the timeout, nor the settings for verified tokens. For a pattern, keys are stored by issuer below the
// digest.
func (r *route) digestOf(e Entry, out OutboundConfig, bundle []byte) string {
	proxy := ""
	if u, err := r.startURL(e.example()); err == nil { // includes the proxy of the environment
		proxy = r.proxyOf(u)
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
		e.Key, e.DiscoveryURL, e.JWKSURL, e.CACert, hexSHA256(bundle), out.Proxy, proxy, out.BearerTokenFile,
		e.Pattern, r.kubernetes, e.Insecure, out.CAExclusive, out.PrivateNetwork, pair, e.StaticKeys,
	})
	if err != nil {
		panic("oidc: texts and booleans cannot be marshalled: " + err.Error())
	}
	return hexSHA256(data)
}

// hexSHA256 returns the SHA-256 of data in hexadecimal; empty if data is empty.
func hexSHA256(data []byte) string {
	if len(data) == 0 {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// caPools caches the CA pools of the entries of one configuration: many entries may name the same file.
type caPools struct {
	files map[string][]byte
	pools map[string]*x509.CertPool
}

func newCAPools() *caPools { return &caPools{map[string][]byte{}, map[string]*x509.CertPool{}} }

// bundle returns the content of ca-bundle; nil if there is none.
func (c *caPools) bundle(o OutboundConfig) ([]byte, error) {
	if o.CABundle == "" {
		return nil, nil
	}
	if data, ok := c.files[o.CABundle]; ok {
		return data, nil
	}
	data, err := readFile(o.CABundle, maxBundle)
	if err != nil {
		return nil, fault.BadFile(o.CABundle, err, "outbound", "ca-bundle")
	}
	c.files[o.CABundle] = data
	return data, nil
}

// maxBundle limits a file of CAs, in bytes. The file of a Linux distribution has about 220 kB.
const maxBundle = 4 << 20

// roots returns the pool of CAs to trust; nil means the system's.
func (c *caPools) roots(o OutboundConfig, caCert string, bundle []byte) (*x509.CertPool, error) {
	if caCert == "" && bundle == nil {
		return nil, nil
	}
	key := fmt.Sprint(o.CAExclusive, o.CABundle, "\n", caCert)
	if pool, ok := c.pools[key]; ok {
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
		for _, cert := range certs {
			pool.AddCert(cert)
		}
		return err
	}
	if caCert != "" {
		if err := add([]byte(caCert)); err != nil {
			return nil, fault.BadContent(err, "write the certificate of the CA in PEM", "ca-cert")
		}
	}
	if bundle != nil {
		if err := add(bundle); err != nil {
			return nil, fault.BadContent(err, "write the path of a PEM file", "outbound", "ca-bundle").In(o.CABundle)
		}
	}
	c.pools[key] = pool
	return pool, nil
}
