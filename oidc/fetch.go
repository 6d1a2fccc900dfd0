package oidc

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/fault"
)

// Bounds on a fetch (E1, E2, E10).
const (
	fetchTimeout    = 4 * time.Second // discovery and keys together, unless the entry says otherwise
	maxFetchTimeout = 5 * time.Second
	maxBody         = 1 << 20 // after decompression
	maxKeys         = 64
	maxRedirects    = 3
)

// remote gets discovery document and keys of one issuer over HTTP.
type remote struct {
	issuer    string
	home      *url.URL // where the discovery document is
	wildcard  bool
	insecure  bool
	local     bool // the operator wrote a loopback host
	private   bool
	bearer    string // file with a token for home's host; "": none
	timeout   time.Duration
	userAgent string
	proxy     func(*http.Request) (*url.URL, error)
	open      *http.Client // may dial any address
	guarded   *http.Client // refuses private addresses at dial time (E3)
}

// newRemote reads the files of the outbound block that are read once: the CA bundle.
func newRemote(issuer string, r *row, o Options) (*remote, error) {
	c := r.config
	out := o.inCluster(issuer, r)
	roots, err := out.roots(c.CACert)
	if err != nil {
		return nil, err
	}
	f := &remote{
		issuer: issuer, wildcard: r.wildcard, insecure: c.Insecure, private: out.PrivateNetwork, bearer: out.BearerTokenFile,
		timeout: out.Timeout, userAgent: o.UserAgent, proxy: http.ProxyFromEnvironment,
	}
	if u, err := url.Parse(strings.ReplaceAll(r.key, "*", "0")); err == nil { // a star in a host makes it another one
		f.local = loopback(u.Hostname())
	}
	if f.timeout == 0 {
		f.timeout = fetchTimeout
	}
	base := c.DiscoveryURL
	if base == "" {
		base = strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
	}
	if f.home, err = url.Parse(base); err != nil {
		return nil, err
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
	if cc := out.ClientCertificate; cc != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cc.Certificate, cc.Key)
			return &pair, err
		}
	}
	f.open, f.guarded = f.client(conf, nil), f.client(conf.Clone(), publicOnly)
	return f, nil
}

func (f *remote) client(conf *tls.Config, control func(string, string, syscall.RawConn) error) *http.Client {
	d := net.Dialer{Timeout: 2 * time.Second, Control: control}
	proxy := f.proxy
	if control != nil {
		proxy = nil // the address that is dialed must be the provider's own
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSClientConfig: conf, Proxy: proxy,
			TLSHandshakeTimeout: 2 * time.Second, ResponseHeaderTimeout: 3 * time.Second, MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
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

// roots are the CAs to trust; nil means the system's.
func (o OutboundConfig) roots(caCert string) (*x509.CertPool, error) {
	pem := []byte(caCert)
	if o.CABundle != "" {
		data, err := os.ReadFile(o.CABundle)
		if err != nil {
			return nil, fault.BadFile(o.CABundle, err, "outbound", "ca-bundle")
		}
		pem = append(append(pem, '\n'), data...)
	}
	if len(pem) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !o.CAExclusive {
		if system, err := x509.SystemCertPool(); err == nil {
			pool = system
		}
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fault.BadSetting("holds no certificate in PEM", "write the path of a PEM file", "outbound", "ca-bundle").In(o.CABundle)
	}
	return pool, nil
}

// Where Kubernetes puts the credentials of a pod, and where Fulcio's manifests put the CA.
const (
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	fulcioClusterCA   = "/var/run/fulcio/ca.crt"
)

// inCluster is the outbound block of an entry. The issuer of the cluster that mayfly itself runs in needs none: its keys are
// had with the CA and the token of the pod, as long as the entry says nothing else. No other host ever gets that token (E13).
func (o Options) inCluster(issuer string, r *row) OutboundConfig {
	out := r.config.Outbound
	u, err := url.Parse(issuer)
	if err != nil || r.wildcard || r.config.Type != "kubernetes" || u.Scheme != "https" || out.CABundle != "" || out.BearerTokenFile != "" || r.config.CACert != "" || r.config.DiscoveryURL != "" ||
		u.Host != "kubernetes.default.svc" && u.Host != "kubernetes.default.svc.cluster.local" {
		return out
	}
	dir := o.ServiceAccountDir
	if dir == "" {
		dir = serviceAccountDir
	}
	for _, ca := range []string{fulcioClusterCA, filepath.Join(dir, "ca.crt")} {
		if _, err := os.Stat(ca); err == nil && out.CABundle == "" {
			out.CABundle = ca
		}
	}
	if token := filepath.Join(dir, "token"); out.CABundle != "" {
		if _, err := os.Stat(token); err == nil {
			out.BearerTokenFile = token
		}
	}
	return out
}

func (f *remote) close() {
	f.open.CloseIdleConnections()
	f.guarded.CloseIdleConnections()
}

// publicOnly refuses addresses that only this machine or network can mean, after the name was resolved.
func publicOnly(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return publicAddress(ap.Addr())
}

// specialPrefixes are address blocks that are not for the public internet (RFC 6890 and its registries), or that wrap an IPv4
// address, and the two addresses at which clouds serve credentials outside of those blocks.
var specialPrefixes = []string{
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "168.63.129.16/32",
	"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
}

// publicName reports whether a host may be handed to a proxy, which resolves it out of our sight: not a short name, not one
// that only a network of its own knows, not a number in a spelling that is no address.
func publicName(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return publicAddress(a) == nil
	}
	labels := strings.Split(strings.ToLower(host), ".")
	last := labels[len(labels)-1]
	return len(labels) > 1 && last != "" && !slices.Contains([]string{"internal", "local", "localhost", "localdomain", "lan", "home", "corp", "arpa", "svc", "cluster"}, last) &&
		strings.ContainsFunc(last, func(r rune) bool { return r >= 'a' && r <= 'z' }) && !strings.HasPrefix(last, "0x")
}

func publicAddress(a netip.Addr) error {
	a = a.Unmap()
	special := slices.ContainsFunc(specialPrefixes, func(text string) bool { return netip.MustParsePrefix(text).Contains(a) })
	if special || !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return fmt.Errorf("%s is not a public address; private-network: true allows it", a)
	}
	return nil
}

// discovery is what we read of a discovery document (OpenID Connect Discovery 1.0 §3).
type discovery struct {
	Issuer     string   `json:"issuer"`
	JWKSURI    string   `json:"jwks_uri"`
	Algorithms []string `json:"id_token_signing_alg_values_supported"`
}

// keyring is an issuer's keys at a moment. It is immutable.
type keyring struct {
	fetched time.Time
	algs    []string
	keys    []providerKey
	raw     []byte // the JWKS as it came
}

// providerKey is a key with its name: the SHA-256 thumbprint of RFC 7638 in base64url.
type providerKey struct {
	jose.JSONWebKey
	thumbprint string
}

// algorithms are the asymmetric ones (RFC 7518 §3.1, RFC 8037 §3.1).
var algorithms = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}

// fetch gets discovery document and keys.
func (f *remote) fetch(ctx context.Context, now time.Time) (*keyring, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	body, err := f.get(ctx, f.home.String())
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	d, err := parseDiscovery(body, f.issuer)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	if body, err = f.get(ctx, d.JWKSURI); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	keys, err := parseKeys(body)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return &keyring{fetched: now, algs: d.Algorithms, keys: keys, raw: body}, nil
}

// parseDiscovery reads a discovery document for issuer (E9) and keeps the algorithms that we know; none named means RS256.
func parseDiscovery(body []byte, issuer string) (discovery, error) {
	var d discovery
	if err := json.Unmarshal(body, &d); err != nil {
		return d, errors.New("the document is not JSON of the right shape")
	}
	if d.Issuer != issuer {
		return d, fmt.Errorf("the document is for the issuer %.200q", d.Issuer)
	}
	d.Algorithms = slices.DeleteFunc(d.Algorithms, func(a string) bool { return !slices.Contains(algorithms, a) })
	if len(d.Algorithms) == 0 {
		d.Algorithms = []string{"RS256"}
	}
	return d, nil
}

// parseKeys reads a JWK set (RFC 7517 §5) as a provider serves it. Keys that cannot verify tokens are left out; none left is an
// error, so that the last good ones stay.
func parseKeys(body []byte) ([]providerKey, error) {
	keys, err := parseKeySet(body)
	if err == nil && len(keys) == 0 {
		err = errNoKey
	}
	return keys, err
}

var errNoKey = errors.New("the key set has no usable key")

// parseKeySet is parseKeys for a set that may be empty.
func parseKeySet(body []byte) ([]providerKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("the key set is not JSON of the right shape")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys; the limit is %d", len(set.Keys), maxKeys)
	}
	var out []providerKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil || !k.Valid() || !k.IsPublic() || k.Use == "enc" || !strong(k.Key) {
			continue
		}
		sum, err := k.Thumbprint(crypto.SHA256)
		if err != nil {
			continue
		}
		out = append(out, providerKey{k, base64.RawURLEncoding.EncodeToString(sum)})
	}
	return out, nil
}

// get reads a document. Its URL must be https, or http where the configuration says so.
func (f *remote) get(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%.200q is not a URL", address)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || f.home.Scheme != "http") {
		return nil, fmt.Errorf("%.200q is not https", address)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) && !f.insecure {
		return nil, fmt.Errorf("%.200q is plain http", address)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	// An API server of Kubernetes serves its keys as application/jwk-set+json and nothing else (RFC 7517 §8.5.2).
	req.Header.Set("Accept", "application/json, application/jwk-set+json, */*;q=0.5")
	req.Header.Set("User-Agent", f.userAgent)
	if err := f.authorize(req); err != nil {
		return nil, err
	}
	client, err := f.clientFor(req)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // read to the end or given up
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", u.Host, res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("%s answers with more than %d bytes", u.Host, maxBody)
	}
	return body, nil
}

// clientFor says which addresses a request may reach. Issuers that only match a pattern, and keys on another host than the
// issuer's, come from a text that somebody else wrote.
func (f *remote) clientFor(req *http.Request) (*http.Client, error) {
	u := req.URL
	switch {
	case f.private, !f.wildcard && u.Host == f.home.Host, f.local && loopback(u.Hostname()):
		return f.open, nil
	case f.wildcard && u.Host != f.home.Host:
		return nil, fmt.Errorf("the keys are on another host, %s", u.Host)
	}
	if p, err := f.proxy(req); err == nil && p == nil {
		return f.guarded, nil
	}
	// A proxy resolves the name; what can be said without it is said here.
	if !publicName(u.Hostname()) {
		return nil, fmt.Errorf("%s is not a public name; private-network: true allows it", u.Hostname())
	}
	return f.open, nil
}

// authorize adds the bearer token of the entry. Only the host of the discovery document gets it, over https only; with a token,
// no other host is asked at all (E13).
func (f *remote) authorize(req *http.Request) error {
	if f.bearer == "" {
		return nil
	}
	if req.URL.Host != f.home.Host || req.URL.Scheme != "https" {
		return fmt.Errorf("the token for %s is not for %s", f.home.Host, req.URL.Host)
	}
	data, err := os.ReadFile(f.bearer)
	if err != nil {
		return err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(token) > maxToken || strings.ContainsAny(token, "\r\n \t") {
		return fmt.Errorf("%s holds no bearer token", f.bearer)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return nil
}
