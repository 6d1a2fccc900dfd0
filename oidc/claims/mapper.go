// Package claims maps verified claims to the identity that a certificate names.
//
// [Library.NewMapper] compiles the mapping of one entry of the configuration: an identity type, or a profile with
// templates. [Mapper.Identity] is pure. The claims MUST have been verified. If two sets of claims differ in a claim
// that the name is made of, they MUST NOT give the same name (D13). Values MUST be copied unchanged into the identity,
// or be refused.
package claims

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Mapper turns the verified claims of one entry's tokens into identities.
type Mapper struct {
	entry
	identify mapFunc
	profile  *profile // nil unless the type is ci-provider
	custom   []customExtension
}

// entry describes one entry of the issuer file for a mapper constructor; issuer is the URL or the pattern of the entry.
type entry struct {
	MappingConfig
	issuer string
}

// mapFunc is the mapping of one type. It is pure.
type mapFunc func(token.Claims) (identity.Identity, error)

type customExtension struct {
	oid      asn1.ObjectIdentifier
	template template
}

// identityType is one value of the setting type.
type identityType struct {
	challenge string // the claim that a proof of possession signs
	newMapper func(entry, Library) (mapFunc, error)
}

// types are Fulcio's types. The last four existed before profiles, and require more claims than the profiles of the
// same names.
var types = map[string]identityType{
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

// Types lists the identity types, sorted.
func Types() []string { return slices.Sorted(maps.Keys(types)) }

// Resolve sets the settings that the profile of c implies: type and email-domains. It returns a usable value even with
// an error.
func (c MappingConfig) Resolve() (MappingConfig, error) {
	switch {
	case c.Profile != "":
		var err error
		if c.Type != "" && c.Type != "ci-provider" || c.CIProvider != "" {
			err = fault.BadSetting("profile replaces type and ci-provider", "remove type and ci-provider", "profile")
		}
		c.Type = "ci-provider"
		if e := profiles[c.Profile].Email; e != nil {
			c.Type = "email"
			if len(c.EmailDomains) == 0 {
				c.EmailDomains = e.domains
			}
		}
		return c, err
	case len(c.Parameters) > 0 && (types[c.Type].newMapper == nil || profiles[c.Type].SAN == ""):
		return c, fault.BadSetting("parameters belong to a profile, but profile is missing",
			"write profile: NAME, or remove parameters", "parameters")
	}
	return c, nil
}

// NewMapper compiles the mapping of an issuer, a URL or a pattern. c is the result of [MappingConfig.Resolve]. Errors
// are [fault.Setting] values.
func (l Library) NewMapper(issuer string, c MappingConfig) (*Mapper, error) {
	m := &Mapper{entry: entry{c, issuer}}
	var errs []error
	if t, ok := types[c.Type]; !ok {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("type %q is unknown", c.Type),
			"write one of "+strings.Join(Types(), ", ")+"; or profile: NAME", "type"))
	} else {
		var err error
		m.identify, err = t.newMapper(m.entry, l)
		errs = append(errs, err)
		if c.Type == "ci-provider" && err == nil {
			m.profile, _ = l.profileOf(m.entry) // NewMapper has already returned its error
		}
	}
	var err error
	m.custom, err = parseCustomExtensions(c.CustomExtensions)
	return m, errors.Join(append(errs, err, c.check())...)
}

// check finds settings that are for another type, or unknown.
func (c MappingConfig) check() error {
	var errs []error
	only := func(set bool, kind, key string) {
		if set && c.Type != kind {
			errs = append(errs, fault.BadSetting(key+" is for the type "+kind, "remove it or change the type", key))
		}
	}
	only(c.CIProvider != "", "ci-provider", "ci-provider")
	only(c.IssuerClaim != "", "email", "issuer-claim")
	only(c.EmailClaim != "", "email", "email-claim")
	only(c.EmailVerified != "", "email", "email-verified")
	only(len(c.EmailDomains) > 0, "email", "email-domains")
	only(c.SharedEmailDomains, "email", "shared-email-domains")
	only(len(c.MappedIssuers) > 0, "email", "mapped-issuers")
	if c.Compat != "" && c.Compat != "fulcio" {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("compat %q is unknown", c.Compat),
			"write fulcio or remove the key", "compat"))
	}
	return errors.Join(errs...)
}

// parseCustomExtensions compiles the extensions of the operator, in ascending order of their OIDs.
func parseCustomExtensions(all map[string]string) ([]customExtension, error) {
	var out []customExtension
	var errs []error
	for _, text := range slices.Sorted(maps.Keys(all)) {
		oid, err := identity.ParseArc(text)
		if err != nil {
			errs = append(errs, fault.BadSetting(err.Error(), "write an OID under your own private enterprise number",
				"custom-extensions", text))
			continue
		}
		t, err := parseTemplate(all[text])
		if err == nil && len(t) == 0 {
			err = errors.New("empty")
		}
		if err != nil {
			errs = append(errs, fault.BadSetting("template: "+err.Error(), "correct the template",
				"custom-extensions", text))
			continue
		}
		out = append(out, customExtension{oid, t})
	}
	slices.SortFunc(out, func(a, b customExtension) int { return slices.Compare(a.oid, b.oid) })
	return out, errors.Join(errs...)
}

// Identity maps verified claims to the content of a certificate. Errors are [fault.Error] values and name the claim.
func (m *Mapper) Identity(c token.Claims) (identity.Identity, error) {
	if err := m.checkSubject(c); err != nil {
		return identity.Identity{}, err
	}
	id, err := m.identify(c)
	if err != nil {
		return identity.Identity{}, err
	}
	if on := m.LegacyExtensions; on != nil && !*on {
		for x := range identity.Known() {
			if x.Raw() {
				id.Extensions.Set(x, "")
			}
		}
	}
	for _, x := range m.custom {
		text, err := x.template.extension(values{claims: c, profile: m.profile, lenient: m.Lenient()})
		if err != nil {
			return identity.Identity{}, err
		}
		if text != "" {
			id.Custom = append(id.Custom, identity.Custom{OID: x.oid, Value: text})
		}
	}
	if err := id.Check(); err != nil { // the mappers have checked each claim; this checks the result again
		if bad, ok := errors.AsType[*identity.ValueError](err); ok {
			err = fault.New(fault.ClaimInvalid, err, "claim", m.claimOf(bad.Field, &id))
		}
		return identity.Identity{}, err
	}
	return id, nil
}

// checkSubject checks that sub is a string that is not empty and that a certificate can contain (OpenID Connect Core
// 1.0 §2, D11).
func (m *Mapper) checkSubject(c token.Claims) error {
	sub, err := c.Text("sub")
	if err != nil && (!m.Lenient() || fault.From(err).Reason != fault.ClaimMissing) {
		return err
	}
	return checkText("sub", sub)
}

// claimOf returns the claim that a field of a certificate is made from.
func (m *Mapper) claimOf(field string, id *identity.Identity) string {
	switch {
	case field == identity.Issuer.String() || field == identity.IssuerV1.String():
		if m.IssuerClaim != "" {
			return strings.TrimPrefix(m.IssuerClaim, "$.")
		}
		return "iss"
	case field == "san" && m.profile != nil:
		return m.profile.firstClaim()
	case field == "san" && id.ChallengeClaim != "":
		return id.ChallengeClaim
	}
	return "sub"
}

// ChallengeClaim returns the claim over which a proof of possession is verified. Clients are told this name, regardless
// of the setting challenge-claim.
func (m *Mapper) ChallengeClaim() string {
	if m.EmailClaim != "" {
		return m.EmailClaim
	}
	return types[m.Type].challenge
}

// RequiredClaims lists the claims that a token must have for the profile of the entry; nil if it has none.
func (m *Mapper) RequiredClaims() []string {
	if m.profile == nil {
		return nil
	}
	return m.profile.requiredClaims()
}

// ForeignHost reports that certificates of this entry name the host of a provider other than its issuer; problem is
// empty if they do not.
func (m *Mapper) ForeignHost() (problem, fix, key string) {
	if name := m.CIProvider; name != "" && m.usesHostOf(profiles[name]) {
		return "the profile " + name + " names the host of " + strings.Join(profiles[name].Issuers[:1], "") +
				", which belongs to another provider",
			"write profile: " + name + " with parameters instead of ci-provider, or a separate profile",
			"ci-provider"
	}
	if s := profiles[m.Type]; s.SAN != "" && len(m.Parameters) == 0 && !s.isDefaultIssuer(m.issuer) {
		return "the type " + m.Type + " names the host " + s.Defaults[s.Parameters[0]] +
				", which belongs to another provider",
			"write parameters: {" + s.Parameters[0] + ": https://HOST}", "type"
	}
	return "", "", ""
}

// usesHostOf reports whether the entry uses a copy of a shipped profile in the issuer file, although its issuer is not
// one of that profile's issuers.
func (m *Mapper) usesHostOf(s shipped) bool {
	if len(s.Parameters) == 0 || len(s.Issuers) == 0 || m.profile == nil {
		return false
	}
	for _, name := range s.Parameters {
		if m.profile.defaults[name] != s.Defaults[name] {
			return false
		}
	}
	return !s.isDefaultIssuer(m.issuer)
}
