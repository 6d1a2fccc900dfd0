package oidc

import (
	"maps"
	"slices"

	"github.com/mayfly-ca/mayfly/identity"
)

// mapper turns verified claims into an identity. It is pure.
type mapper func(claims) (identity.Identity, error)

// issuerType is what tokens of a type become.
type issuerType struct {
	challenge string // the claim that clients are told to sign
	newMapper func(IssuerConfig, library) (mapper, error)
}

// types are Fulcio's. The last four are rules of their own, older than profiles and stricter about what a token must have.
var types = map[string]issuerType{
	"email":               {"email", newEmailMapper},
	"uri":                 {"sub", newURIMapper},
	"username":            {"sub", newUsernameMapper},
	"spiffe":              {"sub", newSPIFFEMapper},
	"kubernetes":          {"sub", newKubernetesMapper},
	"chainguard-identity": {"sub", newChainguardMapper},
	"ci-provider":         {"sub", newCIMapper},
	"github-workflow":     {"sub", newGitHubMapper},
	"gitlab-pipeline":     {"sub", newGitLabMapper},
	"buildkite-job":       {"sub", newBuildkiteMapper},
	"codefresh-workflow":  {"sub", newCodefreshMapper},
}

// Types lists the types of issuers, sorted.
func Types() []string { return slices.Sorted(maps.Keys(types)) }
