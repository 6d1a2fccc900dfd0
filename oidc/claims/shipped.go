package claims

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/pattern"
)

// shipped is a profile that mayfly ships: how the tokens of one provider are mapped.
type shipped struct {
	ProfileConfig
	Summary    string
	Parameters []string // the defaults that an operator may set
	// Issuers for which the defaults of the parameters are right. Entries of other issuers must set the parameters:
	// certificates would otherwise name repositories on the host of another provider.
	Issuers []string
	// Segments are claims that must not have a slash: with a slash, two sets of claims could give the same URI (D13).
	Segments []string
	// Optional are claims that the provider documents as sometimes null or absent. An extension made of such a claim is
	// then omitted.
	Optional []string
	Under    string // the parameter with which the URI in the certificate must begin
	Email    *emailProfile
	Needs    []string // the required claims, if there are no templates
}

// emailProfile is the part of a profile of the type email.
type emailProfile struct{ domains []string }

// shippedProfile returns a shipped profile with the parameters of one issuer.
func shippedProfile(r entry) (*profile, error) {
	s, ok := profiles[r.Profile]
	if !ok {
		return nil, fault.BadSetting(fmt.Sprintf("profile %q is unknown", r.Profile),
			"write one of "+strings.Join(slices.Sorted(maps.Keys(profiles)), ", "), "profile")
	}
	c := s.ProfileConfig
	var err error
	if c.Defaults, err = s.defaults(r); err != nil {
		return nil, err
	}
	c.Claims = slices.DeleteFunc(slices.Clone(s.Claims), func(claim string) bool { return r.Parameters[claim] != "" })
	for _, name := range s.Parameters {
		if _, set := r.Parameters[name]; !set && !s.isDefaultIssuer(r.issuer) {
			return nil,
				fault.BadSetting(fmt.Sprintf("the profile %s needs the parameter %s for this issuer: certificates "+
					"would name another provider's host",
					r.Profile, name), "write parameters: {"+name+": https://HOST}", "profile")
		}
	}
	c.Segments, c.Under = s.Segments, s.prefix(c.Defaults)
	p, err := parseProfile(r.Profile, c)
	if err == nil {
		p.parameters = map[string]bool{}
		for _, name := range s.Parameters {
			p.parameters[name] = !slices.Contains(c.Claims, name)
		}
	}
	return p, err
}

// prefix returns the text with which URIs must begin, given the parameters.
func (s shipped) prefix(parameters map[string]string) string {
	if slices.Contains(s.Parameters, s.Under) {
		return parameters[s.Under] + "/"
	}
	return s.Under
}

// isDefaultIssuer reports whether the defaults of the parameters are right for an issuer, a URL or a pattern.
func (s shipped) isDefaultIssuer(issuer string) bool {
	example := strings.ReplaceAll(issuer, "*", "x")
	return slices.ContainsFunc(s.Issuers, func(p string) bool { return pattern.Match(p, example) })
}

// defaults returns the defaults of the profile with the parameters of one issuer.
func (s shipped) defaults(r entry) (map[string]string, error) {
	out := maps.Clone(s.Defaults)
	for name, v := range r.Parameters {
		if !slices.Contains(s.Parameters, name) {
			fix := "the profile has no parameters"
			if len(s.Parameters) > 0 {
				fix = "it has " + strings.Join(s.Parameters, ", ")
			}
			what := "the profile " + r.Profile
			if r.Profile == "" {
				what = "the type " + r.Type
			}
			return nil, fault.BadSetting(fmt.Sprintf("%s has no parameter %q", what, name), fix, "parameters", name)
		}
		v = strings.TrimSuffix(v, "/")
		if u, err := url.Parse(v); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" ||
			u.User != nil || u.RawQuery+u.Fragment != "" || u.String() != v {
			return nil, fault.BadSetting(fmt.Sprintf("%q is not a URL of a host", v), "write https://HOST",
				"parameters", name)
		}
		out[name] = v
	}
	return out, nil
}

// ProfileInfo describes a profile that mayfly ships.
type ProfileInfo struct {
	Name    string
	Summary string
	// Issuers for which the defaults of the parameters are right; entries of other issuers must set the parameters.
	Issuers []string
	// Parameters with their defaults; a parameter without a default must be set.
	Parameters map[string]string
	// Claims that a token must have.
	Claims []string
	// Config is the profile in the form of an issuer file; empty for profiles of the type email.
	Config ProfileConfig
}

// Profiles lists the shipped profiles, sorted.
func Profiles() []ProfileInfo {
	var out []ProfileInfo
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		s := profiles[name]
		i := ProfileInfo{
			Name: name, Summary: s.Summary, Issuers: s.Issuers, Parameters: map[string]string{},
			Config: s.ProfileConfig,
		}
		i.Config.Segments, i.Config.Under = s.Segments, s.prefix(s.Defaults)
		for _, p := range s.Parameters {
			i.Parameters[p] = s.Defaults[p]
		}
		if p, err := parseProfile(name, s.ProfileConfig); err == nil && s.SAN != "" {
			i.Claims = p.requiredClaims()
		} else {
			i.Claims = s.Needs
		}
		out = append(out, i)
	}
	return out
}
