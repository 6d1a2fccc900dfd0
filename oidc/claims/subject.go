package claims

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc/pattern"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// base returns the fields that the identities of all types have: issuer and subject of the token itself (D16).
func base(c token.Claims) (identity.Identity, error) {
	iss, err := c.Text("iss")
	if err != nil {
		return identity.Identity{}, err
	}
	if err := checkText("iss", iss); err != nil {
		return identity.Identity{}, err
	}
	id := identity.Identity{Issuer: iss}
	id.Extensions.Set(identity.IssuerV1, iss)
	id.Extensions.Set(identity.Issuer, iss)
	if sub, ok := c["sub"].(string); ok && sub != "" {
		id.Subject = sub
		id.Extensions.Set(identity.Subject, sub)
	}
	return id, nil
}

// baseWithSubject is base for types whose proof of possession signs the subject, which must not be empty.
func baseWithSubject(c token.Claims) (identity.Identity, error) {
	id, err := base(c)
	if err != nil {
		return id, err
	}
	if id.Subject == "" {
		_, err := c.Text("sub")
		return id, err
	}
	id.Challenge, id.ChallengeClaim = id.Subject, "sub"
	return id, nil
}

func invalidSubject(format string, args ...any) error {
	return fault.New(fault.ClaimInvalid, fmt.Errorf(format, args...), "claim", "sub")
}

// newURIMapper returns the mapping of the type uri: subjects that are URIs of one scheme and host.
func newURIMapper(r entry, _ Library) (mapFunc, error) {
	want, err := url.Parse(r.SubjectDomain)
	if r.SubjectDomain == "" || err != nil || want.Scheme == "" || want.Hostname() == "" || want.User != nil ||
		strings.Trim(want.Path, "/") != "" {
		return nil, fault.BadSetting("the type uri needs the scheme and host of its subjects",
			"write subject-domain: https://HOST", "subject-domain")
	}
	if iss, err := url.Parse(r.issuer); err == nil && r.issuer != "" {
		if iss.Scheme != want.Scheme {
			return nil, fault.BadSetting(fmt.Sprintf("the scheme is %s, but that of the issuer is %s",
				want.Scheme, iss.Scheme),
				"write the scheme of the issuer: an issuer may only name subjects of its own scheme", "subject-domain")
		}
		if err := checkSameOwner(want.Hostname(), iss.Hostname()); err != nil {
			return nil, err
		}
	}
	lenient := r.Lenient()
	return func(c token.Claims) (identity.Identity, error) {
		id, err := baseWithSubject(c)
		if err != nil {
			return id, err
		}
		if isEmailAddress(id.Subject) {
			return id, invalidSubject("an e-mail address, not a URI")
		}
		if lenient {
			u, err := url.Parse(id.Subject)
			switch {
			case err != nil:
				return id, invalidSubject("not a URI")
			case u.Scheme != want.Scheme || u.Hostname() != want.Hostname():
				return id, invalidSubject("not under %s", r.SubjectDomain)
			case u.String() != id.Subject:
				return id, invalidSubject("Fulcio would write it as another URI")
			}
		} else if err := checkURISubject(id.Subject, want); err != nil {
			return id, err
		}
		id.SAN = identity.SAN{Kind: identity.URI, Value: id.Subject}
		return id, nil
	}, nil
}

// checkURISubject checks a subject that is a URI: it has the scheme, host and port of want, and is in the one accepted
// spelling (D14).
func checkURISubject(subject string, want *url.URL) error {
	scheme, authority, path, ok := splitURI(subject)
	switch {
	case !ok || !strings.HasPrefix(subject, scheme+"://"):
		return invalidSubject("not a URI")
	case strings.Contains(authority, "@"):
		return invalidSubject("has a user")
	case scheme != want.Scheme || authority != want.Host:
		return invalidSubject("not under %s://%s", want.Scheme, want.Host)
	case strings.Count(subject, "#") > 1:
		return invalidSubject("not a URI: # occurs twice")
	}
	return checkNormalized(part{text: subject, claim: "sub"}, path)
}

// newUsernameMapper returns the mapping of the type username: names of one domain, as an otherName "name!domain".
func newUsernameMapper(r entry, _ Library) (mapFunc, error) {
	if r.SubjectDomain == "" || strings.ContainsAny(r.SubjectDomain, "/:!@ ") {
		return nil, fault.BadSetting("the type username needs the domain of its names, without a scheme",
			"write subject-domain: HOST", "subject-domain")
	}
	if iss, err := url.Parse(r.issuer); err == nil && r.issuer != "" {
		if err := checkSameOwner(r.SubjectDomain, iss.Hostname()); err != nil {
			return nil, err
		}
	}
	lenient := r.Lenient()
	return func(c token.Claims) (identity.Identity, error) {
		id, err := base(c)
		if err != nil {
			return id, err
		}
		if id.Subject == "" && !lenient {
			_, err := c.Text("sub")
			return id, err
		}
		switch {
		case strings.Contains(id.Subject, "!"):
			return id, invalidSubject("has a !, which separates name and domain")
		case isEmailAddress(id.Subject):
			return id, invalidSubject("an e-mail address, not a user name")
		case !lenient && strings.ContainsAny(id.Subject, " \t\r\n/\\"):
			return id, invalidSubject("has a space or a slash")
		}
		id.Challenge, id.ChallengeClaim = id.Subject, "sub"
		id.SAN = identity.SAN{Kind: identity.OtherName, Value: id.Subject + "!" + r.SubjectDomain}
		return id, nil
	}, nil
}

// checkSameOwner checks that the owner of the issuer's host also owns the subjects' host: both have the same registered
// domain by the public suffix list, or are the same host.
func checkSameOwner(subject, issuer string) error {
	if subject == issuer {
		return nil
	}
	a, errA := publicsuffix.EffectiveTLDPlusOne(subject)
	b, errB := publicsuffix.EffectiveTLDPlusOne(issuer)
	if errA == nil && errB == nil && a == b {
		return nil
	}
	return fault.BadSetting(fmt.Sprintf("%s does not belong to the domain of the issuer, %s", subject, issuer),
		"write a domain of the issuer's owner: an issuer may only name subjects of its own registered domain",
		"subject-domain")
}

// newSPIFFEMapper returns the mapping of the type spiffe: the SPIFFE IDs of one trust domain (SPIFFE-ID §2).
func newSPIFFEMapper(r entry, _ Library) (mapFunc, error) {
	domain := strings.TrimPrefix(r.SPIFFETrustDomain, "spiffe://")
	if domain != r.SPIFFETrustDomain {
		domain, _, _ = strings.Cut(domain, "/")
	}
	if domain == "" {
		return nil, fault.BadSetting("the type spiffe needs a trust domain", "write spiffe-trust-domain: DOMAIN",
			"spiffe-trust-domain")
	}
	if strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return nil, fault.BadSetting(fmt.Sprintf("%q is not a trust domain", domain),
			"write lower-case letters, digits, dots, hyphens and underscores", "spiffe-trust-domain")
	}
	return func(c token.Claims) (identity.Identity, error) {
		id, err := baseWithSubject(c)
		if err != nil {
			return id, err
		}
		rest, ok := strings.CutPrefix(id.Subject, "spiffe://")
		td, path, hasPath := strings.Cut(rest, "/")
		if !ok || hasPath && !isSPIFFEPath(path) || len(id.Subject) > 2048 {
			return id, invalidSubject("not a SPIFFE ID")
		}
		if td != domain {
			return id, invalidSubject("not in the trust domain %s", domain)
		}
		id.SAN = identity.SAN{Kind: identity.URI, Value: id.Subject}
		return id, nil
	}, nil
}

// isSPIFFEPath reports whether each segment of path is one or more of letters, digits and ".-_", and not "." or "..".
func isSPIFFEPath(path string) bool {
	other := func(r rune) bool { return r >= 0x80 || !pattern.IsWordByte(byte(r)) && r != '.' }
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, other) {
			return false
		}
	}
	return true
}

// newKubernetesMapper returns the mapping of the type kubernetes: service accounts.
func newKubernetesMapper(r entry, _ Library) (mapFunc, error) {
	lenient := r.Lenient()
	return func(c token.Claims) (identity.Identity, error) {
		id, err := baseWithSubject(c)
		if err != nil {
			return id, err
		}
		const ns, sa = "kubernetes.io.namespace", "kubernetes.io.serviceaccount.name"
		k, _ := c["kubernetes.io"].(map[string]any)
		account, _ := k["serviceaccount"].(map[string]any)
		namespace, err := kubernetesName(k["namespace"], ns, lenient)
		if err != nil {
			return id, err
		}
		name, err := kubernetesName(account["name"], sa, lenient)
		if err != nil {
			return id, err
		}
		uri, err := uriRules{lenient: lenient, segments: []string{ns, sa}}.build([]part{
			{text: "https://kubernetes.io/namespaces/"},
			{text: namespace, claim: ns},
			{text: "/serviceaccounts/"},
			{text: name, claim: sa},
		})
		id.SAN = identity.SAN{Kind: identity.URI, Value: uri}
		return id, err
	}, nil
}

// kubernetesName returns a claim that is a Kubernetes name: lower-case letters, digits, hyphens and dots (RFC 1123
// §2.1).
func kubernetesName(v any, claim string, lenient bool) (string, error) {
	s, isString := v.(string)
	switch {
	case lenient && (v == nil || isString):
		return s, checkText(claim, s)
	case v == nil || isString && s == "":
		return "", fault.New(fault.ClaimMissing, nil, "claim", claim)
	case !isString || len(s) > 253 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" ||
		strings.Trim(s[:1]+s[len(s)-1:], "-.") != s[:1]+s[len(s)-1:]:
		return "", fault.New(fault.ClaimInvalid, errors.New("not a Kubernetes name"), "claim", claim)
	}
	return s, nil
}

// newChainguardMapper returns the mapping of the type chainguard-identity: the path of an identity below the issuer.
func newChainguardMapper(r entry, _ Library) (mapFunc, error) {
	lenient := r.Lenient()
	return func(c token.Claims) (identity.Identity, error) {
		id, err := base(c)
		if err != nil {
			return id, err
		}
		if err := checkActors(c["act"]); err != nil {
			return id, err
		}
		if email, _ := c["email"].(string); email != "" {
			verified, err := parseVerified(c[verifiedClaim])
			if err != nil {
				return id, fault.New(fault.ClaimInvalid, err, "claim", verifiedClaim)
			}
			if !verified {
				return id, fault.New(fault.EmailUnverified, nil)
			}
			id.Challenge, id.ChallengeClaim = email, "email"
		} else {
			id.Challenge, id.ChallengeClaim = id.Subject, "sub"
		}
		if id.Subject == "" && (id.Challenge == "" || !lenient) {
			_, err := c.Text("sub")
			return id, err
		}
		uri, err := uriRules{lenient: lenient, joined: true}.build([]part{
			{text: strings.TrimSuffix(id.Issuer, "/") + "/"}, {text: id.Subject, claim: "sub"},
		})
		id.SAN = identity.SAN{Kind: identity.URI, Value: uri}
		return id, err
	}, nil
}

// checkActors checks that act, if present, is an object of strings.
func checkActors(v any) error {
	if v == nil {
		return nil
	}
	m, ok := v.(map[string]any)
	for _, one := range m {
		_, isString := one.(string)
		ok = ok && isString
	}
	if !ok {
		return fault.New(fault.ClaimInvalid, errors.New("not an object of strings"), "claim", "act")
	}
	return nil
}
