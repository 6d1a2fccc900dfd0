package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Bounds on a fetch (E1, E2, E10).
const (
	fetchTimeout = 4 * time.Second // discovery and keys together
	maxBody      = 1 << 20         // after decompression
	maxKeys      = 64
	maxRedirects = 3
)

// fetcher gets discovery documents and keys of one issuer.
type fetcher struct {
	issuer    string
	wildcard  bool
	insecure  bool
	private   bool
	userAgent string
	open      *http.Client // may dial any address
	guarded   *http.Client // refuses private addresses at dial time (E3)
}

func newFetcher(issuer string, in *row, userAgent string) *fetcher {
	r := in.config
	var roots *x509.CertPool // nil: the system's
	if r.CACert != "" {
		if pool, err := x509.SystemCertPool(); err == nil {
			roots = pool
		} else {
			roots = x509.NewCertPool()
		}
		roots.AppendCertsFromPEM([]byte(r.CACert))
	}
	client := func(control func(string, string, syscall.RawConn) error) *http.Client {
		d := net.Dialer{Timeout: 2 * time.Second, Control: control}
		return &http.Client{
			Transport: &http.Transport{
				DialContext: d.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout: 2 * time.Second, ResponseHeaderTimeout: 3 * time.Second, MaxResponseHeaderBytes: 64 << 10,
				MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
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
	return &fetcher{
		issuer: issuer, wildcard: in.wildcard, insecure: r.Insecure, private: r.PrivateNetwork, userAgent: userAgent,
		open: client(nil), guarded: client(publicOnly),
	}
}

func (f *fetcher) close() {
	f.open.CloseIdleConnections()
	f.guarded.CloseIdleConnections()
}

// publicOnly refuses addresses that only this machine or network can mean, after the name was resolved.
func publicOnly(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	a := ap.Addr().Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || netip.MustParsePrefix("100.64.0.0/10").Contains(a) {
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
	keys    []jose.JSONWebKey
	raw     []byte // the JWKS as it came
}

// algorithms are the asymmetric ones (RFC 7518 §3.1, RFC 8037 §3.1).
var algorithms = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}

// fetch gets discovery document and keys.
func (f *fetcher) fetch(ctx context.Context, now time.Time) (*keyring, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	body, err := f.get(ctx, strings.TrimSuffix(f.issuer, "/")+"/.well-known/openid-configuration")
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

// parseKeys reads a JWK set (RFC 7517 §5). Keys that cannot verify tokens are left out; none left is an error.
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("the key set is not JSON of the right shape")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys; the limit is %d", len(set.Keys), maxKeys)
	}
	var out []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil || !k.Valid() || !k.IsPublic() || k.Use == "enc" || !strong(k.Key) {
			continue
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, errors.New("the key set has no usable key")
	}
	return out, nil
}

// get reads a document. Its URL must be https, or http where the configuration says so.
func (f *fetcher) get(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%.200q is not a URL", address)
	}
	home, err := url.Parse(f.issuer)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && (u.Scheme != "http" || home.Scheme != "http") {
		return nil, fmt.Errorf("%.200q is not https", address)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) && !f.insecure {
		return nil, fmt.Errorf("%.200q is plain http", address)
	}
	client := f.guarded
	switch {
	case f.private, !f.wildcard && u.Host == home.Host, loopback(home.Hostname()) && loopback(u.Hostname()):
		client = f.open
	case f.wildcard && u.Host != home.Host:
		return nil, fmt.Errorf("the keys are on another host, %s", u.Host)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", f.userAgent)
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
