package oidc

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/internal/hostname"
)

// Bounds on a fetch (E1, E2, E10).
const (
	// maxWait is how long a request waits for a fetch, and how long the fetch of an unproven provider may take, at
	// most.
	maxWait = 5 * time.Second
	// What a request waits, and a fetch takes, where the entry sets no time-out. A fetch that began for a request goes
	// on without it.
	defaultWait  = 4 * time.Second
	defaultFetch = 10 * time.Second
	// maxFetch is the longest time-out that an entry may set.
	maxFetch = 30 * time.Second

	maxBody        = 1 << 20   // of a document of an entry's own provider, after decompression
	maxPatternBody = 128 << 10 // of a document of a provider under a pattern
	maxRedirects   = 3
)

// remote gets discovery document and keys of one issuer over HTTP.
type remote struct {
	issuer string
	route  atomic.Pointer[route] // of the configuration that is in force
}

func newRemote(issuer string, f *route) *remote {
	r := &remote{issuer: issuer}
	r.route.Store(f)
	return r
}

// wait is how long a request waits for a fetch.
func (f *remote) wait() time.Duration {
	if set := f.route.Load().timeout; set > 0 {
		return min(set, maxWait)
	}
	return defaultWait
}

// timeout is how long a fetch may take.
func (f *remote) timeout(c class) time.Duration {
	set := f.route.Load().timeout
	switch {
	case c == unproven:
		return f.wait()
	case set > 0:
		return set
	}
	return defaultFetch
}

// home is the place that the issuer or the operator named: the discovery document, or the keys where no document is
// asked for.
func (f *route) home(issuer string) (*url.URL, error) {
	switch {
	case f.discovery != nil:
		return f.discovery, nil
	case f.jwks != nil:
		return f.jwks, nil
	}
	return url.Parse(strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration")
}

// host is what fetches of the issuer count against.
func (f *route) host(issuer string) string {
	if f == nil {
		return ""
	}
	u, err := f.home(issuer)
	if err != nil {
		return ""
	}
	return u.Host
}

// discovery is what we read of a discovery document (OpenID Connect Discovery 1.0 §3).
type discovery struct {
	Issuer     string   `json:"issuer"`
	JWKSURI    string   `json:"jwks_uri"`
	Algorithms []string `json:"id_token_signing_alg_values_supported"`
}

// keyring is an issuer's keys at a moment. It is immutable.
type keyring struct {
	fetched  time.Time
	algs     []string
	keys     []providerKey
	unusable map[string]string // why a key that the set has is not used, by key id; bounded
	raw      []byte            // the JWKS as it came; nil where it is not kept
	size     int               // of the JWKS, in bytes
}

// providerKey is a key with its name: the SHA-256 thumbprint of RFC 7638 in base64url.
type providerKey struct {
	jose.JSONWebKey
	thumbprint string
}

// algorithms are the asymmetric ones (RFC 7518 §3.1, RFC 8037 §3.1).
var algorithms = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}

// fetch gets discovery document and keys. It ends with ctx.
func (f *remote) fetch(ctx context.Context, now time.Time) (*keyring, error) {
	way := f.route.Load()
	home, err := way.home(f.issuer)
	if err != nil {
		return nil, err
	}
	g := getter{route: way, home: home}
	d := discovery{Algorithms: algorithms}
	if way.jwks == nil || way.discovery != nil {
		body, err := g.get(ctx, home, home.Host)
		if err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		if d, err = parseDiscovery(body, f.issuer); err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
	}
	body, set, err := g.keys(ctx, d.JWKSURI)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return &keyring{
		fetched: now, algs: d.Algorithms, keys: set.keys, unusable: set.unusable, raw: body,
		size: len(body),
	}, nil
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
	for i, a := range d.Algorithms {
		if a == "Ed25519" { // the name that RFC 9864 gives to EdDSA with this curve
			d.Algorithms[i] = "EdDSA"
		}
	}
	d.Algorithms = slices.DeleteFunc(d.Algorithms, func(a string) bool { return !slices.Contains(algorithms, a) })
	if len(d.Algorithms) == 0 {
		d.Algorithms = []string{"RS256"}
	}
	return d, nil
}

// keySet is what a JWK set comes to.
type keySet struct {
	keys     []providerKey
	unusable map[string]string
}

// unusableError says that a provider publishes keys and that none of them is accepted. Asking again does not help.
type unusableError string

func (e unusableError) Error() string { return string(e) }

var errNoKey = errors.New("the key set has no usable key")

// parseKeys reads a JWK set (RFC 7517 §5) as a provider serves it. Keys that cannot verify tokens are left out; none left is an
// error, so that the last good ones stay.
func parseKeys(body []byte) (keySet, error) {
	set, err := parseKeySet(body)
	if err != nil {
		return set, err
	}
	return set, (&keyring{keys: set.keys, unusable: set.unusable}).usable()
}

// maxUnusable bounds what is remembered of keys that are not used.
const maxUnusable = 64

// parseKeySet is parseKeys for a set that may be empty. The bytes of a set are bounded by its reader; the number of
// keys is not.
func parseKeySet(body []byte) (keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return keySet{}, errors.New("the key set is not JSON of the right shape")
	}
	set := keySet{unusable: map[string]string{}}
	for _, one := range raw.Keys {
		k, id, why := parseKey(one)
		switch {
		case why == "":
			set.keys = append(set.keys, k)
		case why != otherUse && len(set.unusable) < maxUnusable:
			set.unusable[id] = why
		}
	}
	return set, nil
}

// otherUse says that a key is none that should verify signatures: nobody has to replace it.
const otherUse = "a key for another use"

// parseKey reads one key, or says why it is not used. Nothing but the public key and its names is kept: not the
// certificates beside it.
func parseKey(data []byte) (k providerKey, id, why string) {
	var named struct {
		KeyID any `json:"kid"`
	}
	if json.Unmarshal(data, &named) == nil {
		id, _ = named.KeyID.(string)
	}
	id = id[:min(len(id), maxKeyID)]
	var j jose.JSONWebKey
	switch err := j.UnmarshalJSON(data); {
	case err != nil || !j.Valid():
		return k, id, "of a kind that is not known, or damaged"
	case !j.IsPublic():
		return k, id, "a private or secret key"
	case j.Use == "enc":
		return k, id, otherUse
	}
	if why := weakness(j.Key); why != "" {
		return k, id, why
	}
	sum, err := j.Thumbprint(crypto.SHA256)
	if err != nil {
		return k, id, "without a thumbprint"
	}
	k.JSONWebKey = jose.JSONWebKey{Key: j.Key, KeyID: j.KeyID, Algorithm: j.Algorithm, Use: j.Use}
	k.thumbprint = base64.RawURLEncoding.EncodeToString(sum)
	return k, id, ""
}

// getter makes the requests of one fetch.
type getter struct {
	*route
	home *url.URL
}

// keys gets the key set: from jwks-url, or from where the discovery document says. An issuer that wants a bearer token
// gets it at its own host alone. Where the document names another host, as an API server of Kubernetes does that
// advertises the address of a node, the issuer's own host is asked for the same path first, with the token, and the
// named host then, without (E13).
func (g getter) keys(ctx context.Context, named string) ([]byte, keySet, error) {
	if g.jwks != nil {
		return g.keysAt(ctx, g.jwks, g.jwks.Host)
	}
	u, err := url.Parse(named)
	if err != nil || u.Host == "" {
		return nil, keySet{}, fmt.Errorf("jwks_uri: %.200q is not a URL", named)
	}
	if g.bearerFile == "" && !g.cluster || u.Host == g.home.Host && u.Scheme == g.home.Scheme {
		return g.keysAt(ctx, u, g.home.Host)
	}
	own := &url.URL{Scheme: g.home.Scheme, Host: g.home.Host, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	body, set, err := g.keysAt(ctx, own, g.home.Host)
	if err == nil {
		return body, set, nil
	}
	body, set, other := g.keysAt(ctx, u, g.home.Host)
	if other != nil {
		return nil, keySet{}, fmt.Errorf("%s: %w; %s, which jwks_uri names: %w", own.Host, err, u.Host, other)
	}
	return body, set, nil
}

func (g getter) keysAt(ctx context.Context, u *url.URL, vouched string) ([]byte, keySet, error) {
	body, err := g.get(ctx, u, vouched)
	if err != nil {
		return nil, keySet{}, err
	}
	set, err := parseKeys(body)
	return body, set, err
}

// get reads a document. Its URL must be https, or http where the configuration says so. vouched is the host that the
// issuer or the operator named; another one came from a document.
func (g getter) get(ctx context.Context, u *url.URL, vouched string) ([]byte, error) {
	if u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%.200q is not a URL", u.Redacted())
	}
	if u.Scheme != "https" && (u.Scheme != "http" || g.home.Scheme != "http") {
		return nil, fmt.Errorf("%.200q is not https", u)
	}
	if u.Scheme == "http" && !hostname.IsLoopback(u.Hostname()) && !g.insecure {
		return nil, fmt.Errorf("%.200q is plain http", u)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	// An API server of Kubernetes serves its keys as application/jwk-set+json and nothing else (RFC 7517 §8.5.2).
	req.Header.Set("Accept", "application/json, application/jwk-set+json, */*;q=0.5")
	req.Header.Set("User-Agent", g.userAgent)
	if err := g.authorize(req); err != nil {
		return nil, err
	}
	client, err := g.clientFor(req, vouched)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, slow(ctx, err)
	}
	defer res.Body.Close() //nolint:errcheck // read to the end or given up
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", u.Host, res.Status)
	}
	limit := maxBody
	if g.pattern {
		limit = maxPatternBody
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(limit)+1))
	if err != nil {
		return nil, slow(ctx, err)
	}
	if len(body) > limit {
		return nil, fmt.Errorf("%s answers with more than %d bytes", u.Host, limit)
	}
	return body, nil
}

// slow is the cause of a context that ended, which says how long it was, or else the error.
func slow(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}

// clientFor says which addresses a request may reach. Issuers that only match a pattern, and keys on another host than the
// issuer's, come from a text that somebody else wrote.
func (g getter) clientFor(req *http.Request, vouched string) (*http.Client, error) {
	u := req.URL
	switch {
	case g.private, !g.pattern && u.Host == vouched, g.local && hostname.IsLoopback(u.Hostname()):
		return g.open, nil
	case g.pattern && u.Host != g.home.Host:
		return nil, fmt.Errorf("the keys are on another host, %s", u.Host)
	}
	if p, err := g.proxy(req); err == nil && p == nil {
		return g.guarded, nil
	}
	// A proxy resolves the name; what can be said without it is said here.
	if !publicName(u.Hostname()) {
		return nil, fmt.Errorf("%s is not a public name; private-network: true allows it", u.Hostname())
	}
	return g.open, nil
}

// authorize adds the bearer token of the entry. Only the host of the discovery document gets it, over https only (E13).
func (g getter) authorize(req *http.Request) error {
	if g.bearerFile == "" || req.URL.Host != g.home.Host || req.URL.Scheme != "https" {
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
