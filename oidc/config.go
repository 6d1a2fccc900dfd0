package oidc

import (
	"time"
)

// Config is an issuer file, as Fulcio reads it. Keys in kebab-case without a second spelling are mayfly's own.
type Config struct {
	// Issuers by their URL, exactly as tokens name it.
	Issuers map[string]IssuerConfig `yaml:"oidc-issuers" alias:"OIDCIssuers"`
	// Issuers by a pattern of URLs: each star stands for one or more letters, digits, - and _.
	MetaIssuers map[string]IssuerConfig `yaml:"meta-issuers" alias:"MetaIssuers"`
	// Profiles of issuers of the type ci-provider, by name.
	Providers map[string]ProviderConfig `yaml:"ci-issuer-metadata" alias:"CIIssuerMetadata"`
	// Where a file keeps its YAML anchors; not looked at.
	Define []string `yaml:"define,any"`
}

// IssuerConfig says which tokens of an issuer are accepted and what they become.
type IssuerConfig struct {
	// The issuer as its tokens name it; the same as the key of the entry.
	IssuerURL string `yaml:"issuer-url" alias:"IssuerURL"`
	// A second name of issuer-url, as some packagers of Fulcio write it.
	Issuer string `yaml:"issuer" alias:"Issuer"`
	// The audience that tokens must be made for.
	ClientID string `yaml:"client-id" alias:"ClientID"`
	// What tokens become: email, uri, username, spiffe, kubernetes, chainguard-identity, ci-provider, github-workflow, gitlab-pipeline, buildkite-job or codefresh-workflow. May be left out with profile.
	Type string `yaml:"type" alias:"Type"`
	// For the type ci-provider: a name under ci-issuer-metadata.
	CIProvider string `yaml:"ci-provider" alias:"CIProvider"`
	// For the type email: $.a.b, the claim whose value is certified as the issuer, for federating providers.
	IssuerClaim string `yaml:"issuer-claim" alias:"IssuerClaim"`
	// For the type uri: SCHEME://HOST that subjects must have. For the type username: the domain that is put behind the name.
	SubjectDomain string `yaml:"subject-domain" alias:"SubjectDomain"`
	// For the type spiffe: the trust domain that subjects must have.
	SPIFFETrustDomain string `yaml:"spiffe-trust-domain" alias:"SPIFFETrustDomain"`
	// Not used: clients are shown the claim that proofs are verified over. Another one here is a warning.
	ChallengeClaim string `yaml:"challenge-claim" alias:"ChallengeClaim"`
	// For people; not used.
	Description string `yaml:"description" alias:"Description"`
	// For people; not used.
	Contact string `yaml:"contact" alias:"Contact"`
	// For people; not used.
	Environment string `yaml:"environment" alias:"Environment"`
	// PEM of a CA of the provider's HTTPS certificate, beside the system's roots.
	CACert string `yaml:"ca-cert" alias:"CACert"`
	// For the type email: accepts addresses that the provider has not verified.
	SkipEmailVerification bool `yaml:"skip-email-verification" alias:"SkipEmailVerification"`

	// A profile that mayfly ships, in place of type and ci-provider; "mayfly config profiles" lists them.
	Profile string `yaml:"profile"`
	// Values for the parameters of profile, or of the type github-workflow, gitlab-pipeline, buildkite-job or
	// codefresh-workflow, which have those of the profile of that name.
	Parameters map[string]string `yaml:"parameters"`
	// Further audiences; a token needs one of these or client-id.
	Audiences []string `yaml:"audiences"`
	// Values that azp must have one of (OpenID Connect Core 1.0 §2). When omitted: with several audiences, azp must be an accepted one if it is there.
	AuthorizedParties []string `yaml:"authorized-parties"`
	// For the type email: the claim with the address, such as upn or preferred_username. Needs email-verified. Default: email.
	EmailClaim string `yaml:"email-claim"`
	// What makes an address count as verified: the name of a claim that must be true, or "issuer": whatever this issuer says. Default: email_verified.
	EmailVerified string `yaml:"email-verified"`
	// Domains that the issuer may speak for; *.example.com means every subdomain.
	EmailDomains []string `yaml:"email-domains"`
	// Says that other issuers may speak for the same e-mail domains.
	SharedEmailDomains bool `yaml:"shared-email-domains"`
	// The values that issuer-claim may give. When omitted: all.
	MappedIssuers []string `yaml:"mapped-issuers"`
	// The longest life of a token. Default: 24h.
	MaxLifetime time.Duration `yaml:"max-lifetime"`
	// The longest time since a token was made (iat). When omitted: as long as it lives.
	MaxAge time.Duration `yaml:"max-age"`
	// JWS algorithms that tokens may be signed with, of those that the provider announces. When omitted: all of those.
	TokenAlgorithms []string `yaml:"token-algorithms"`
	// Algorithms of the keys that may be certified for this issuer's subjects, of those in client_algorithms. When omitted: all of those.
	KeyAlgorithms []string `yaml:"key-algorithms"`
	// Extensions under an arc of your own, 1.3.6.1.4.1.NUMBER.…, by OID; values are templates.
	CustomExtensions map[string]string `yaml:"custom-extensions"`
	// false leaves out the extensions that newer ones have replaced (1.3.6.1.4.1.57264.1.1 to .6). Default: true.
	LegacyExtensions *bool `yaml:"legacy-extensions"`
	// Who of those with a good token gets a certificate.
	Policy *PolicyConfig `yaml:"policy"`
	// fulcio turns off the rules on tokens and on structured identities that Fulcio does not have, and gives Fulcio's
	// bytes; names that Fulcio gives to two subjects are refused all the same.
	Compat string `yaml:"compat"`

	// Where the discovery document is, if not under the issuer's URL.
	DiscoveryURL string `yaml:"discovery-url"`
	// Where the keys are, if the discovery document does not say so or there is none. Without discovery-url no document
	// is asked for.
	JWKSURL string `yaml:"jwks-url"`
	// Keys that are not fetched: for networks without a way to the provider.
	StaticKeys *StaticKeysConfig `yaml:"static-keys"`
	// How the provider is reached.
	Outbound OutboundConfig `yaml:"outbound"`
	// Allows plain http on other hosts than this one.
	Insecure bool `yaml:"insecure"`
}

// StaticKeysConfig says where keys are; exactly one of its fields is set. Files are read again when they change.
type StaticKeysConfig struct {
	// A JWK set (RFC 7517 §5) as JSON text.
	JWKS string `yaml:"jwks"`
	// A file with a JWK set.
	File string `yaml:"file"`
	// A directory of files with JWK sets, named *.json.
	Dir string `yaml:"dir"`
	// JWS algorithms of these keys. When omitted: those that fit a key.
	Algorithms []string `yaml:"algorithms"`
}

// OutboundConfig says how a provider is reached.
type OutboundConfig struct {
	// PEM file of CAs of the provider's HTTPS certificate.
	CABundle string `yaml:"ca-bundle"`
	// true trusts ca-bundle and ca-cert alone; false adds them to the system's roots.
	CAExclusive bool `yaml:"ca-exclusive"`
	// URL of a proxy, or none. When omitted: what HTTPS_PROXY and NO_PROXY say.
	Proxy string `yaml:"proxy"`
	// For providers that ask for a TLS client certificate.
	ClientCertificate *ClientCertificateConfig `yaml:"client-certificate"`
	// File with a bearer token for discovery and keys, read again every 5s; sent to the issuer's own host over https
	// only.
	BearerTokenFile string `yaml:"bearer-token-file"`
	// Allows private addresses where they are refused: patterns, and keys on another host.
	PrivateNetwork bool `yaml:"private-network"`
	// For discovery and keys together, at most 30s; a request waits for 5s of it at most, and the fetch goes on without
	// the request. Default: 4s for a request, 10s for a fetch.
	Timeout time.Duration `yaml:"timeout"`
}

// ClientCertificateConfig is a key pair in PEM files, read again every 5s.
type ClientCertificateConfig struct {
	// PEM file of the certificate chain.
	Certificate string `yaml:"certificate"`
	// PEM file of the private key.
	Key string `yaml:"key"`
}

// ProviderConfig is the profile of a CI provider. Templates are those of Go's text/template that always end and never
// call code; docs/config.md lists what is known.
type ProviderConfig struct {
	// The same as the key of the entry, as some packagers of Fulcio write it.
	IssuerName string `yaml:"issuer-name" alias:"IssuerName"`
	// Values for names that tokens do not have.
	Defaults map[string]string `yaml:"default-template-values" alias:"DefaultTemplateValues"`
	// Templates by the name of an extension.
	Extensions map[string]string `yaml:"extension-templates" alias:"ExtensionTemplates"`
	// Template of the URI that the certificate names.
	SAN string `yaml:"subject-alternative-name-template" alias:"SubjectAlternativeNameTemplate"`
	// The defaults that a token's claim of the same name overrides. A token with another value of any other default is
	// refused. When omitted: those that are empty, and those that the shipped profile of the same name lists; with
	// compat: fulcio, all.
	Claims []string `yaml:"claims,gap"`
	// Claims that have no slash in the URI that the certificate names: with one, two claims could make the URI of two others.
	Segments []string `yaml:"segments"`
	// What the URI that the certificate names must begin with.
	Under string `yaml:"under"`
}

// PolicyConfig is who gets a certificate. A token is refused if a deny rule holds, or if there are allow rules and none holds.
type PolicyConfig struct {
	// Rules, by CEL expressions over claims, issuer, subject, san, san_type and extensions.
	Rules []RuleConfig `yaml:"rules"`
	// Claims with the verdict that they must get; they run whenever the file is loaded.
	Tests []VectorConfig `yaml:"tests"`
}

// RuleConfig is one rule: a name, and allow or deny.
type RuleConfig struct {
	// Name in refusals, metrics and the log: letters, digits, - and _.
	Name string `yaml:"name"`
	// CEL expression; true lets the token pass.
	Allow string `yaml:"allow"`
	// CEL expression; true refuses the token, and so does an error such as a missing claim.
	Deny string `yaml:"deny"`
	// Reports what the rule would refuse, and refuses nothing.
	Shadow bool `yaml:"shadow"`
}

// VectorConfig is a test of the policy.
type VectorConfig struct {
	// Name in error messages.
	Name string `yaml:"name"`
	// Claims of a verified token; iss may be left out where the entry is no pattern.
	Claims map[string]any `yaml:"claims"`
	// allow or deny.
	Expect string `yaml:"expect"`
	// For deny: the reason of the refusal, such as EMAIL_UNVERIFIED. Default: POLICY_DENIED.
	Reason string `yaml:"reason"`
	// The rule that decides. When omitted: any.
	Rule string `yaml:"rule"`
	// The name in the certificate. When omitted: any.
	SAN string `yaml:"san"`
}
