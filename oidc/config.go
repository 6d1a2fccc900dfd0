package oidc

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
)

// Config is an issuer file, as Fulcio reads it. Keys in kebab-case without a second spelling are mayfly's own.
type Config struct {
	// Issuers by their URL.
	Issuers map[string]IssuerConfig `yaml:"oidc-issuers" alias:"OIDCIssuers"`
	// MetaIssuers by a pattern of URLs: each * stands for one or more letters, digits, - and _.
	MetaIssuers map[string]IssuerConfig `yaml:"meta-issuers" alias:"MetaIssuers"`
	// Providers are the profiles of issuers of the type ci-provider.
	Providers map[string]ProviderConfig `yaml:"ci-issuer-metadata" alias:"CIIssuerMetadata"`
	// Define is where a file keeps its YAML anchors.
	Define []string `yaml:"define,any"`
}

// IssuerConfig says which tokens of an issuer are accepted and what they become.
type IssuerConfig struct {
	IssuerURL             string `yaml:"issuer-url" alias:"IssuerURL"`
	ClientID              string `yaml:"client-id" alias:"ClientID"` // the audience
	Type                  string `yaml:"type" alias:"Type"`
	CIProvider            string `yaml:"ci-provider" alias:"CIProvider"`
	IssuerClaim           string `yaml:"issuer-claim" alias:"IssuerClaim"` // $.name.name: the claim with the issuer to certify
	SubjectDomain         string `yaml:"subject-domain" alias:"SubjectDomain"`
	SPIFFETrustDomain     string `yaml:"spiffe-trust-domain" alias:"SPIFFETrustDomain"`
	ChallengeClaim        string `yaml:"challenge-claim" alias:"ChallengeClaim"` // advertised only
	Description           string `yaml:"description" alias:"Description"`
	Contact               string `yaml:"contact" alias:"Contact"`
	Environment           string `yaml:"environment" alias:"Environment"`
	CACert                string `yaml:"ca-cert" alias:"CACert"` // PEM, beside the system's roots
	SkipEmailVerification bool   `yaml:"skip-email-verification" alias:"SkipEmailVerification"`

	// Insecure allows plain http on other hosts than this one.
	Insecure bool `yaml:"insecure"`
	// PrivateNetwork allows keys on private addresses where they are refused: patterns, and keys on another host.
	PrivateNetwork bool `yaml:"private-network"`
	// MaxLifetime of a token; 0 is 24 hours.
	MaxLifetime time.Duration `yaml:"max-lifetime"`
	// MappedIssuers are the values that IssuerClaim may give; none means all.
	MappedIssuers []string `yaml:"mapped-issuers"`
	// Compat "fulcio" turns off the rules on tokens that Fulcio does not have.
	Compat string `yaml:"compat"`
}

// ProviderConfig is the profile of a CI provider. Templates are documented at parseTemplate.
type ProviderConfig struct {
	Defaults   map[string]string `yaml:"default-template-values" alias:"DefaultTemplateValues"`
	Extensions map[string]string `yaml:"extension-templates" alias:"ExtensionTemplates"`
	SAN        string            `yaml:"subject-alternative-name-template" alias:"SubjectAlternativeNameTemplate"`
	// Claims are defaults that a token may override. None declared: every name that is not a default of the operator's.
	Claims []string `yaml:"claims"`
}

// Check finds what is wrong without asking anybody. Its errors are [fault.Setting] values.
func (c Config) Check() error {
	var errs []error
	if len(c.Issuers)+len(c.MetaIssuers) == 0 {
		errs = append(errs, fault.BadSetting("no issuer: every token would be refused", "write at least one entry under oidc-issuers", "oidc-issuers"))
	}
	for _, key := range slices.Sorted(maps.Keys(c.Issuers)) {
		row := c.Issuers[key]
		errs = append(errs, fault.Under(row.checkExact(key), "oidc-issuers", key), fault.Under(c.checkRow(row, false), "oidc-issuers", key))
	}
	patterns := slices.Sorted(maps.Keys(c.MetaIssuers))
	for i, key := range patterns {
		row := c.MetaIssuers[key]
		errs = append(errs, fault.Under(row.checkPattern(key), "meta-issuers", key), fault.Under(c.checkRow(row, true), "meta-issuers", key))
		for _, other := range patterns[:i] {
			if overlap(key, other) {
				errs = append(errs, fault.BadSetting(fmt.Sprintf("overlaps with the pattern %s: one issuer could match both", other),
					"make one of them narrower", "meta-issuers", key))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
		_, err := parseProfile(c.Providers[name])
		errs = append(errs, fault.Under(err, "ci-issuer-metadata", name))
	}
	return errors.Join(errs...)
}

func (r IssuerConfig) checkExact(key string) error {
	if r.IssuerURL != "" && r.IssuerURL != key {
		return fault.BadSetting(fmt.Sprintf("issuer-url %q is not the key of its entry, %q", r.IssuerURL, key), "write the same URL in both places", "issuer-url")
	}
	if strings.Contains(key, "*") {
		return fault.BadSetting("a star belongs under meta-issuers", "move the entry there")
	}
	return r.checkURL(key)
}

func (r IssuerConfig) checkPattern(key string) error {
	if !strings.Contains(key, "*") {
		return fault.BadSetting("a pattern without a star", "move the entry to oidc-issuers")
	}
	if strings.HasPrefix(key, "http://") || !strings.HasPrefix(key, "https://") {
		return fault.BadSetting("a pattern begins with https://", "write https://")
	}
	return r.checkURL(strings.ReplaceAll(key, "*", "x"))
}

func (r IssuerConfig) checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return fault.BadSetting(fmt.Sprintf("%q is not a URL", text), "write the issuer as its tokens name it, https://HOST/PATH")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fault.BadSetting("an issuer has no user, query or fragment", "write https://HOST/PATH")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (loopback(u.Hostname()) || r.Insecure):
		return nil
	case u.Scheme == "http":
		return fault.BadSetting("plain http: anybody on the way could make tokens", "use https, or set insecure: true for this issuer")
	}
	return fault.BadSetting(fmt.Sprintf("the scheme %q is not https", u.Scheme), "write https://HOST/PATH")
}

// loopback reports whether host can only be this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c Config) checkRow(r IssuerConfig, meta bool) error {
	var errs []error
	add := func(problem, fix, key string) { errs = append(errs, fault.BadSetting(problem, fix, key)) }
	if r.ClientID == "" {
		add("client-id is missing: every token would be refused", "write the audience that tokens are made for, often sigstore", "client-id")
	}
	if t, ok := types[r.Type]; !ok {
		add(fmt.Sprintf("type %q is unknown", r.Type), "write one of "+strings.Join(typeNames(), ", "), "type")
	} else if t.newMapper == nil {
		add(fmt.Sprintf("this version cannot map the type %q", r.Type), "use email or ci-provider", "type")
	}
	if r.Type == "ci-provider" {
		if _, ok := c.Providers[r.CIProvider]; !ok {
			add(fmt.Sprintf("ci-provider %q has no entry under ci-issuer-metadata", r.CIProvider), "add the entry or correct the name", "ci-provider")
		}
	} else if r.CIProvider != "" {
		add("ci-provider is for the type ci-provider", "remove it or change the type", "ci-provider")
	}
	if r.IssuerClaim != "" {
		if r.Type != "email" {
			add("issuer-claim is for the type email", "remove it", "issuer-claim")
		} else if _, err := parsePath(r.IssuerClaim); err != nil {
			add(err.Error(), "write $.claim or $.claim.part", "issuer-claim")
		}
	}
	if r.CACert != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(r.CACert)) {
		add("ca-cert holds no certificate in PEM", "write the PEM text of the CA", "ca-cert")
	}
	if r.MaxLifetime < 0 {
		add("max-lifetime is negative", "write a duration such as 24h", "max-lifetime")
	}
	if r.Compat != "" && r.Compat != "fulcio" {
		add(fmt.Sprintf("compat %q is unknown", r.Compat), "write fulcio or remove the key", "compat")
	}
	if meta && r.Insecure {
		add("a pattern cannot be insecure", "write the issuer under oidc-issuers", "insecure")
	}
	return errors.Join(errs...)
}

// issuerType is what tokens of a type become. A type without mapper is known and not in this version.
type issuerType struct {
	challenge string
	newMapper func(IssuerConfig, Config) (mapper, error)
}

// mapper turns verified claims into an identity. It is pure.
type mapper func(claims) (identity.Identity, error)

var types = map[string]issuerType{
	"email":               {"email", newEmailMapper},
	"ci-provider":         {"sub", newCIMapper},
	"uri":                 {"sub", nil},
	"username":            {"sub", nil},
	"spiffe":              {"sub", nil},
	"kubernetes":          {"sub", nil},
	"chainguard-identity": {"sub", nil},
	"github-workflow":     {"sub", nil},
	"gitlab-pipeline":     {"sub", nil},
	"buildkite-job":       {"sub", nil},
	"codefresh-workflow":  {"sub", nil},
}

func typeNames() []string { return slices.Sorted(maps.Keys(types)) }
