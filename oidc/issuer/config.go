package issuer

import (
	"time"

	"github.com/mayfly-ca/mayfly/oidc/claims"
	"github.com/mayfly-ca/mayfly/oidc/policy"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// Config is an issuer file, as Fulcio reads it. Keys in kebab-case without a second spelling are mayfly's own.
type Config struct {
	// Issuers by their URL, exactly as tokens name it.
	Issuers map[string]EntryConfig `yaml:"oidc-issuers" alias:"OIDCIssuers"`
	// Issuers by a pattern of URLs: each star stands for one or more letters, digits, - and _.
	MetaIssuers map[string]EntryConfig `yaml:"meta-issuers" alias:"MetaIssuers"`
	// Profiles of issuers of the type ci-provider, by name.
	Providers map[string]claims.ProfileConfig `yaml:"ci-issuer-metadata" alias:"CIIssuerMetadata"`
	// Where a file keeps its YAML anchors; not looked at.
	Define []string `yaml:"define,any"`
}

// EntryConfig says which tokens of an issuer are accepted and what they become.
type EntryConfig struct {
	// The issuer as its tokens name it; the same as the key of the entry.
	IssuerURL string `yaml:"issuer-url" alias:"IssuerURL"`
	// A second name of issuer-url, as some packagers of Fulcio write it.
	Issuer string `yaml:"issuer" alias:"Issuer"`
	// The audience that tokens must be made for.
	ClientID string `yaml:"client-id" alias:"ClientID"`

	claims.MappingConfig `yaml:",inline"`

	// Not used: clients are shown the claim that proofs are verified over. Another one here is a warning.
	ChallengeClaim string `yaml:"challenge-claim" alias:"ChallengeClaim"`
	// For people; not used.
	Description string `yaml:"description" alias:"Description"`
	// For people; not used.
	Contact string `yaml:"contact" alias:"Contact"`
	// For people; not used.
	Environment string `yaml:"environment" alias:"Environment"`

	// Further audiences; a token needs one of these or client-id.
	Audiences []string `yaml:"audiences"`
	// Values that azp must have one of (OpenID Connect Core 1.0 §2). When omitted: with several audiences, azp must be
	// an accepted one if it is there.
	AuthorizedParties []string `yaml:"authorized-parties"`
	// The longest life of a token. Default: 24h.
	MaxLifetime time.Duration `yaml:"max-lifetime"`
	// The longest time since a token was made (iat). When omitted: as long as it lives.
	MaxAge time.Duration `yaml:"max-age"`
	// JWS algorithms that tokens may be signed with, of those that the provider announces. When omitted: all of those.
	TokenAlgorithms []string `yaml:"token-algorithms"`
	// Algorithms of the keys that may be certified for this issuer's subjects, of those in client_algorithms. When
	// omitted: all of those.
	KeyAlgorithms []string `yaml:"key-algorithms"`
	// Who of those with a good token gets a certificate.
	Policy *policy.Config `yaml:"policy"`

	provider.KeysConfig `yaml:",inline"`
}
