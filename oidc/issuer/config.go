package issuer

import (
	"time"

	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/oidc/claims"
	"github.com/mayfly-ca/mayfly/oidc/policy"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// Config is an issuer file, as Fulcio reads it. Keys in kebab-case without a second spelling are mayfly's own.
type Config struct {
	// Issuers by their URL, exactly as tokens name it.
	Issuers map[string]EntryConfig `yaml:"oidc-issuers" alias:"OIDCIssuers"`
	// Issuers by a pattern of URLs: each star matches one or more letters, digits, - and _.
	MetaIssuers map[string]EntryConfig `yaml:"meta-issuers" alias:"MetaIssuers"`
	// Profiles of issuers of the type ci-provider, by name.
	Providers map[string]claims.ProfileConfig `yaml:"ci-issuer-metadata" alias:"CIIssuerMetadata"`
	// A place for YAML anchors; ignored.
	Define []string `yaml:"define,any"`
}

// EntryConfig says which tokens of an issuer are accepted, and how they are mapped to certificates.
type EntryConfig struct {
	// The issuer, as in the claim iss of its tokens; the same as the key of the entry.
	IssuerURL string `yaml:"issuer-url" alias:"IssuerURL"`
	// Another name of issuer-url, used by some packagers of Fulcio.
	Issuer string `yaml:"issuer" alias:"Issuer"`
	// The audience that tokens must have.
	ClientID string `yaml:"client-id" alias:"ClientID"`

	claims.MappingConfig `yaml:",inline"`

	// Ignored: clients are told the claim over which proofs are verified. A different value causes a warning.
	ChallengeClaim string `yaml:"challenge-claim" alias:"ChallengeClaim"`
	// A note for people; ignored.
	Description string `yaml:"description" alias:"Description"`
	// A note for people; ignored.
	Contact string `yaml:"contact" alias:"Contact"`
	// A note for people; ignored.
	Environment string `yaml:"environment" alias:"Environment"`

	// Further audiences; a token needs one of these or client-id.
	Audiences []string `yaml:"audiences"`
	// The values that azp may have (OpenID Connect Core 1.0 §2). When omitted: with several audiences, azp must be
	// an accepted audience if it is present.
	AuthorizedParties []string `yaml:"authorized-parties"`
	// The longest lifetime of a token. Default: 24h.
	MaxLifetime time.Duration `yaml:"max-lifetime"`
	// The longest time since a token was issued (iat). When omitted: the lifetime of the token.
	MaxAge time.Duration `yaml:"max-age"`
	// JWS algorithms that tokens may be signed with, from those that the provider announces: RS256, ES256, PS256 (and
	// 384, 512), Ed25519 or its deprecated name EdDSA, ML-DSA-44, ML-DSA-65, ML-DSA-87. When omitted: all of these.
	TokenAlgorithms []string `yaml:"token-algorithms"`
	// Algorithms of the keys that may be certified for this issuer's subjects, from those in client_algorithms. When
	// omitted: all of these.
	KeyAlgorithms []string `yaml:"key-algorithms"`
	// Rules that decide which identities with a valid token get a certificate.
	Policy *policy.Config `yaml:"policy"`

	// The highest number of certificates that one token may get. When omitted: any number, while the token is valid.
	CertificatesPerToken int `yaml:"certificates-per-token"`
	// The same as certificates-per-token: 1.
	SingleUse bool `yaml:"single-use"`
	// What happens to a token if it is not known how often it was used, or if its use cannot be counted: refuse or
	// issue. It needs certificates-per-token or single-use. Default: refuse.
	BudgetUnavailable string `yaml:"budget-unavailable"`
	// How many certificates may be requested with tokens of this entry, in place of limits.issuer.
	RateLimit *rate.Config `yaml:"rate-limit"`
	// How many certificates may be requested by each identity of this entry, in place of limits.identity.
	IdentityRateLimit *rate.Config `yaml:"identity-rate-limit"`

	provider.KeysConfig `yaml:",inline"`
}
