package provider

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// KeysConfig says where the keys of a provider come from.
type KeysConfig struct {
	// PEM of a CA for the provider's HTTPS certificate, in addition to the system's roots.
	CACert string `yaml:"ca-cert" alias:"CACert"`
	// The URL of the discovery document, if it is not below the issuer's URL.
	DiscoveryURL string `yaml:"discovery-url"`
	// The URL of the keys, if the discovery document does not have it or does not exist. Without discovery-url, no
	// discovery document is fetched.
	JWKSURL string `yaml:"jwks-url"`
	// Keys that are configured instead of fetched, for networks without a connection to the provider.
	StaticKeys *StaticKeysConfig `yaml:"static-keys"`
	// How to connect to the provider.
	Outbound OutboundConfig `yaml:"outbound"`
	// Allows plain http to hosts that are not loopback.
	Insecure bool `yaml:"insecure"`
}

// StaticKeysConfig names static keys; exactly one of jwks, file and dir is set. Files are read again when they change.
type StaticKeysConfig struct {
	// A JWK set (RFC 7517 §5) as JSON text.
	JWKS string `yaml:"jwks"`
	// A file with a JWK set.
	File string `yaml:"file" path:"read"`
	// A directory of files with JWK sets, named *.json.
	Dir string `yaml:"dir" path:"dir"`
	// JWS algorithms of these keys. When omitted: all algorithms that suit each key.
	Algorithms []string `yaml:"algorithms"`
}

// OutboundConfig describes the connection to a provider.
type OutboundConfig struct {
	// PEM file of CAs for the provider's HTTPS certificate.
	CABundle string `yaml:"ca-bundle" path:"read"`
	// If true, only ca-bundle and ca-cert are trusted; if false, they are added to the system's roots.
	CAExclusive bool `yaml:"ca-exclusive"`
	// URL of a proxy, or none. When omitted: the proxy of the environment variables HTTPS_PROXY and NO_PROXY.
	Proxy string `yaml:"proxy"`
	// For providers that require a TLS client certificate.
	ClientCertificate *ClientCertificateConfig `yaml:"client-certificate"`
	// File with a bearer token for discovery and keys, read again every 5s. The token is sent only to the issuer's
	// own host, over https.
	BearerTokenFile string `yaml:"bearer-token-file" path:"secret"`
	// Allows addresses that are not public in the two cases in which they are refused by default: for patterns, and for
	// keys on another host.
	PrivateNetwork bool `yaml:"private-network"`
	// The time limit for discovery and keys together, at most 30s. A request waits for at most 5s; the fetch then
	// continues in the background. Default: 4s for a request, 10s for a fetch.
	Timeout time.Duration `yaml:"timeout"`
}

// ClientCertificateConfig is a key pair in PEM files, read again every 5s.
type ClientCertificateConfig struct {
	// PEM file of the certificate chain.
	Certificate string `yaml:"certificate" path:"read"`
	// PEM file of the private key.
	Key string `yaml:"key" path:"secret"`
}

// Check checks the settings of an issuer, a URL or a pattern, without reading files. Its errors are [fault.Setting]
// values.
func (c KeysConfig) Check(issuer string) error {
	var errs []error
	add := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	if at := cmp.Or(c.DiscoveryURL, c.JWKSURL, issuer); c.Outbound.BearerTokenFile != "" &&
		strings.HasPrefix(at, "http://") {
		add("a bearer token is not sent over plain http",
			"use https, or remove bearer-token-file", "outbound", "bearer-token-file")
	}
	if c.CACert != "" {
		if _, err := pemfile.Roots([]byte(c.CACert)); err != nil {
			errs = append(errs, fault.BadContent(err, "write the certificate of the CA in PEM", "ca-cert"))
		}
	}
	for key, at := range map[string]string{"discovery-url": c.DiscoveryURL, "jwks-url": c.JWKSURL} {
		if at == "" {
			continue
		}
		if c.StaticKeys != nil {
			add(key+" and static-keys contradict each other", "remove one of them", key)
		}
		errs = append(errs, fault.Under(CheckURL(at, c.Insecure), key))
	}
	if c.StaticKeys != nil {
		errs = append(errs, fault.Under(c.StaticKeys.check(), "static-keys"))
		if c.Outbound != (OutboundConfig{}) {
			add("nothing is fetched for an issuer with static-keys", "remove outbound", "outbound")
		}
	}
	errs = append(errs, fault.Under(c.Outbound.check(c.CACert), "outbound"))
	return errors.Join(errs...)
}

// CheckURL checks the URL of a document of a provider. It may have a query: some providers use it to distinguish
// applications. insecure allows plain http on all hosts.
func CheckURL(text string, insecure bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return fault.BadSetting(fmt.Sprintf("%q is not a URL", text), "write https://HOST/PATH")
	case u.User != nil || u.Fragment != "":
		return fault.BadSetting("the URL has a user or a fragment", "write https://HOST/PATH")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (hostname.IsLoopback(u.Hostname()) || insecure):
		return nil
	case u.Scheme == "http":
		return fault.BadSetting("plain http: an attacker on the network could forge tokens",
			"use https, or set insecure: true for this issuer")
	}
	return fault.BadSetting(fmt.Sprintf("the scheme %q is not https", u.Scheme), "write https://HOST/PATH")
}

func (c StaticKeysConfig) check() error {
	n := 0
	for _, v := range []string{c.JWKS, c.File, c.Dir} {
		if v != "" {
			n++
		}
	}
	if n != 1 {
		return fault.BadSetting("exactly one of jwks, file and dir must be set", "write one of them")
	}
	for i, a := range c.Algorithms {
		if err := token.AlgorithmError(a, "algorithms", strconv.Itoa(i)); err != nil {
			return err
		}
	}
	if c.JWKS != "" {
		if _, err := parseUsableKeys([]byte(c.JWKS)); err != nil {
			return fault.BadSetting(err.Error(), `write {"keys": […]} with public keys`, "jwks")
		}
	}
	return nil
}

func (c OutboundConfig) check(caCert string) error {
	var errs []error
	add := func(problem, fix, key string) { errs = append(errs, fault.BadSetting(problem, fix, key)) }
	if c.CAExclusive && c.CABundle == "" && caCert == "" {
		add("ca-exclusive needs a CA to trust", "add ca-bundle", "ca-exclusive")
	}
	if c.Proxy != "" && c.Proxy != "none" {
		u, err := url.Parse(c.Proxy)
		switch {
		case err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme):
			add("invalid proxy URL", "write http://HOST:PORT, or none", "proxy")
		case u.User != nil:
			add("a password must not be in the configuration",
				"put the URL into the environment variable HTTPS_PROXY and remove proxy", "proxy")
		}
	}
	if pair := c.ClientCertificate; pair != nil && (pair.Certificate == "" || pair.Key == "") {
		add("certificate or key is missing", "write both", "client-certificate")
	}
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		add(fmt.Sprintf("%s is not between 0 and %s", c.Timeout, maxTimeout),
			fmt.Sprintf("write a duration such as 10s; a request waits for at most %s", maxWait), "timeout")
	}
	return errors.Join(errs...)
}
