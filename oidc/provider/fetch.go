package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Limits on a fetch (E1, E2, E10).
const (
	// maxWait is the longest wait of a request for a fetch, and the longest fetch of an unproven provider.
	maxWait = 5 * time.Second
	// maxTimeout is the longest timeout that an entry may set.
	maxTimeout = 30 * time.Second
	// defaultWait and defaultTimeout apply if the entry sets no timeout. A fetch that a request started continues when
	// the request no longer waits.
	defaultWait    = 4 * time.Second
	defaultTimeout = 10 * time.Second

	maxBody        = 1 << 20   // bytes of a document of the provider of an exact entry, after decompression
	maxPatternBody = 128 << 10 // bytes of a document of a provider that a pattern matches
	maxRedirects   = 3
)

// remote fetches the discovery document and the keys of one issuer over HTTP.
type remote struct {
	issuer string
	route  atomic.Pointer[route] // the route of the configuration in force
}

func newRemote(issuer string, r *route) *remote {
	out := &remote{issuer: issuer}
	out.route.Store(r)
	return out
}

func (s *remote) wait() time.Duration {
	if set := s.route.Load().timeout; set > 0 {
		return min(set, maxWait)
	}
	return defaultWait
}

func (s *remote) timeout(c class) time.Duration {
	set := s.route.Load().timeout
	switch {
	case c == unproven:
		return s.wait()
	case set > 0:
		return set
	}
	return defaultTimeout
}

// discovery has the members of a discovery document that are used (OpenID Connect Discovery 1.0 §3).
type discovery struct {
	Issuer     string   `json:"issuer"`
	JWKSURI    string   `json:"jwks_uri"`
	Algorithms []string `json:"id_token_signing_alg_values_supported"`
}

func (s *remote) fetch(ctx context.Context, now time.Time) (*Keyring, error) {
	r := s.route.Load()
	start, err := r.startURL(s.issuer)
	if err != nil {
		return nil, err
	}
	g := getter{route: r, start: start}
	d := discovery{Algorithms: token.Algorithms()}
	if r.jwks == nil || r.discovery != nil {
		body, err := g.get(ctx, request{"discovery", start, start.Host})
		if err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		if d, err = parseDiscovery(body, s.issuer); err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
	}
	body, set, err := g.keys(ctx, d.JWKSURI)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return &Keyring{
		fetched: now, algorithms: d.Algorithms, keys: set.keys, unusable: set.unusable, raw: body, size: len(body),
	}, nil
}

// parseDiscovery parses the discovery document of an issuer (E9) and keeps the supported algorithms. A document
// without algorithms means RS256.
func parseDiscovery(body []byte, issuer string) (discovery, error) {
	var d discovery
	if err := json.Unmarshal(body, &d); err != nil {
		return d, errors.New("the document is not a discovery document in JSON")
	}
	if d.Issuer != issuer {
		return d, fmt.Errorf("the document names the issuer %.200q", d.Issuer)
	}
	d.Algorithms = slices.DeleteFunc(d.Algorithms, func(a string) bool { return !token.IsAlgorithm(a) })
	if len(d.Algorithms) == 0 {
		d.Algorithms = []string{"RS256"}
	}
	return d, nil
}

// getter makes the requests of one fetch.
type getter struct {
	*route
	start *url.URL
}

// keys fetches the key set: from jwks-url, or from the URL in the discovery document. An issuer that requires a bearer
// token gets it on its own host only. If the document names another host (some Kubernetes API servers advertise the
// address of a node), the issuer's own host is tried first, with the same path and the token; then the named host,
// without the token (E13).
func (g getter) keys(ctx context.Context, jwksURI string) ([]byte, keySet, error) {
	if g.jwks != nil {
		return g.keysAt(ctx, g.jwks, g.jwks.Host)
	}
	u, err := url.Parse(jwksURI)
	if err != nil || u.Host == "" {
		return nil, keySet{}, fmt.Errorf("jwks_uri: %.200q is not a URL", jwksURI)
	}
	if g.bearerFile == "" && !g.kubernetes || u.Host == g.start.Host && u.Scheme == g.start.Scheme {
		return g.keysAt(ctx, u, g.start.Host)
	}
	own := &url.URL{Scheme: g.start.Scheme, Host: g.start.Host, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	body, set, err := g.keysAt(ctx, own, g.start.Host)
	if err == nil {
		return body, set, nil
	}
	body, set, other := g.keysAt(ctx, u, g.start.Host)
	if other != nil {
		return nil, keySet{}, fmt.Errorf("%s: %w; %s, which jwks_uri names: %w", own.Host, err, u.Host, other)
	}
	return body, set, nil
}

func (g getter) keysAt(ctx context.Context, u *url.URL, configuredHost string) ([]byte, keySet, error) {
	body, err := g.get(ctx, request{"keys", u, configuredHost})
	if err != nil {
		return nil, keySet{}, err
	}
	set, err := parseUsableKeys(body)
	return body, set, err
}

// request is a request for a document. configuredHost is the host that the issuer's URL or the configuration names; any
// other host was named by a document.
type request struct {
	document       string // discovery or keys
	url            *url.URL
	configuredHost string
}

// get fetches a document over https, or over http if the configuration allows it.
func (g getter) get(ctx context.Context, what request) (_ []byte, err error) {
	ctx, step := span.Call(ctx, "provider request")
	step.Set(span.Operation, what.document)
	defer step.Done(&err)
	u := what.url
	if u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%.200q is not a URL", u.Redacted())
	}
	if u.Scheme != "https" && (u.Scheme != "http" || g.start.Scheme != "http") {
		return nil, fmt.Errorf("%.200q is not https", u)
	}
	if u.Scheme == "http" && !hostname.IsLoopback(u.Hostname()) && !g.insecure {
		return nil, fmt.Errorf("%.200q uses plain http", u)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	// A Kubernetes API server serves its keys only as application/jwk-set+json (RFC 7517 §8.5.2).
	req.Header.Set("Accept", "application/json, application/jwk-set+json, */*;q=0.5")
	if err := g.authorize(req); err != nil {
		return nil, err
	}
	client, err := g.clientFor(req, what.configuredHost)
	if err != nil {
		return nil, err
	}
	sent := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return nil, withCause(ctx, err)
	}
	if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		g.answered(date, sent)
	}
	defer res.Body.Close() //nolint:errcheck // read to the end or given up
	step.SetInt(span.StatusCode, res.StatusCode)
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s returned %s", u.Host, res.Status)
	}
	limit := int64(maxBody)
	if g.pattern {
		limit = maxPatternBody
	}
	body, err := httpclient.ReadBody(res, limit)
	if tooLarge, ok := errors.AsType[*bounded.TooLargeError](err); ok {
		return nil, fmt.Errorf("%s returned an invalid document: %w", u.Host, tooLarge)
	}
	if err != nil {
		return nil, withCause(ctx, err)
	}
	return body, nil
}

// withCause adds the cause of the end of ctx, which has the duration, to an error.
func withCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}

// clientFor returns the client for a request. Issuers that match a pattern, and hosts that a document names, are not
// chosen by the operator: such requests must not reach private addresses (E3).
func (g getter) clientFor(req *http.Request, configuredHost string) (*http.Client, error) {
	u := req.URL
	switch {
	case g.privateNetwork, !g.pattern && u.Host == configuredHost, g.local && hostname.IsLoopback(u.Hostname()):
		return g.anyAddress, nil
	case g.pattern && u.Host != g.start.Host:
		return nil, fmt.Errorf("the keys are on another host, %s", u.Host)
	}
	if p, err := g.proxy(req); err == nil && p == nil {
		return g.publicOnly, nil
	}
	// The proxy resolves the name, so only the name can be checked here.
	if !publicName(u.Hostname()) {
		return nil, fmt.Errorf("%s is not a public name; private-network: true allows it", u.Hostname())
	}
	return g.anyAddress, nil
}

// authorize adds the bearer token of the entry to requests for the host of the discovery document, over https only
// (E13).
func (g getter) authorize(req *http.Request) error {
	if g.bearerFile == "" || req.URL.Host != g.start.Host || req.URL.Scheme != "https" {
		return nil
	}
	s := g.secrets.Load()
	if s == nil || s.bearer == "" {
		if s != nil && s.err != nil {
			return s.err
		}
		return fmt.Errorf("%s has not been read", g.bearerFile)
	}
	req.Header.Set("Authorization", "Bearer "+s.bearer)
	return nil
}
