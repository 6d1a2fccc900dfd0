package claims

// MappingConfig says how the tokens of an issuer are mapped to certificates.
type MappingConfig struct {
	// The rules that map tokens to certificates: email, uri, username, spiffe, kubernetes, chainguard-identity,
	// ci-provider, github-workflow, gitlab-pipeline, buildkite-job or codefresh-workflow. Omit it with profile.
	Type string `yaml:"type" alias:"Type"`
	// For the type ci-provider: a name under ci-issuer-metadata.
	CIProvider string `yaml:"ci-provider" alias:"CIProvider"`
	// For the type email: $.a.b, the claim whose value is certified as the issuer, for federating providers.
	IssuerClaim string `yaml:"issuer-claim" alias:"IssuerClaim"`
	// For the type uri: SCHEME://HOST that subjects must have. For the type username: the domain that is appended
	// to the name.
	SubjectDomain string `yaml:"subject-domain" alias:"SubjectDomain"`
	// For the type spiffe: the trust domain that subjects must have.
	SPIFFETrustDomain string `yaml:"spiffe-trust-domain" alias:"SPIFFETrustDomain"`
	// For the type email: accepts addresses that the provider has not verified.
	SkipEmailVerification bool `yaml:"skip-email-verification" alias:"SkipEmailVerification"`
	// A profile that mayfly ships, instead of type and ci-provider; "mayfly config profiles" lists them.
	Profile string `yaml:"profile"`
	// Values for the parameters of profile, or of the type github-workflow, gitlab-pipeline, buildkite-job or
	// codefresh-workflow, which have those of the profile of that name.
	Parameters map[string]string `yaml:"parameters"`
	// For the type email: the claim with the address, such as upn or preferred_username. Needs email-verified. Default:
	// email.
	EmailClaim string `yaml:"email-claim"`
	// The condition under which an address counts as verified: the name of a claim that must be true, or "issuer"
	// for every address from this issuer. Default: email_verified.
	EmailVerified string `yaml:"email-verified"`
	// The e-mail domains for which the issuer may assert addresses; *.example.com matches every subdomain.
	EmailDomains []string `yaml:"email-domains"`
	// Says that other issuers may assert addresses of the same e-mail domains.
	SharedEmailDomains bool `yaml:"shared-email-domains"`
	// The values that issuer-claim may have. When omitted: all.
	MappedIssuers []string `yaml:"mapped-issuers"`
	// Extensions under an arc of your own, 1.3.6.1.4.1.NUMBER.…, by OID; values are templates.
	CustomExtensions map[string]string `yaml:"custom-extensions"`
	// Whether to include the extensions that newer ones have replaced (1.3.6.1.4.1.57264.1.1 to .6). Default: true.
	LegacyExtensions *bool `yaml:"legacy-extensions"`
	// The value fulcio turns off those rules for tokens and structured identities that Fulcio does not have, and issues
	// certificates with the same bytes as Fulcio's. Names that Fulcio would give to two subjects are still refused.
	Compat string `yaml:"compat"`
}

// Lenient reports whether Fulcio's rules apply instead of mayfly's stricter ones.
func (c MappingConfig) Lenient() bool { return c.Compat == "fulcio" }

// ProfileConfig is the profile of a CI provider. Templates are the subset of Go's text/template that always terminates
// and never calls code; docs/config.md lists the supported constructs.
type ProfileConfig struct {
	// The same as the key of the entry, used by some packagers of Fulcio.
	IssuerName string `yaml:"issuer-name" alias:"IssuerName"`
	// Values for claims that a token does not have.
	Defaults map[string]string `yaml:"default-template-values" alias:"DefaultTemplateValues"`
	// Templates by the name of an extension.
	Extensions map[string]string `yaml:"extension-templates" alias:"ExtensionTemplates"`
	// Template of the URI in the certificate.
	SAN string `yaml:"subject-alternative-name-template" alias:"SubjectAlternativeNameTemplate"`
	// The defaults that a token's claim of the same name overrides. A token with another value of any other default is
	// refused. When omitted: the empty defaults, and those that the shipped profile of the same name lists; with
	// compat: fulcio, all.
	Claims []string `yaml:"claims,gap"`
	// Claims that must not have a slash in the URI of the certificate. With slashes, two different sets of claims could
	// give the same URI.
	Segments []string `yaml:"segments"`
	// The prefix that the URI of the certificate must have.
	Under string `yaml:"under"`
}
