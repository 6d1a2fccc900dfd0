package claims

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/oidc/pattern"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// emailRules are the settings of an issuer of the type email.
type emailRules struct {
	claim    string   // the claim with the address
	verified string   // the claim that says that the address is verified; empty: none is required
	path     []string // path of the claim with the issuer to certify; nil: iss
	mapped   []string // the values that the claim at path may have; nil: all
	domains  []string // domains of the addresses that the issuer may assert; nil: all
}

const (
	emailClaim    = "email"
	verifiedClaim = "email_verified"
	byIssuer      = "issuer" // value of email-verified: every address of the issuer counts as verified
)

// newEmailMapper returns the mapping of the type email: the name is the address in a claim, which the provider must
// have verified.
func newEmailMapper(r entry, _ Library) (mapFunc, error) {
	e := emailRules{claim: r.EmailClaim, verified: r.EmailVerified, mapped: r.MappedIssuers}
	var errs []error
	add := func(problem, fix, key string) { errs = append(errs, fault.BadSetting(problem, fix, key)) }
	if r.IssuerClaim != "" {
		var err error
		if e.path, err = parsePath(r.IssuerClaim); err != nil {
			add(err.Error(), "write $.claim or $.claim.part", "issuer-claim")
		}
	} else if len(r.MappedIssuers) > 0 {
		add("mapped-issuers lists values of issuer-claim, but issuer-claim is missing",
			"write issuer-claim, or remove mapped-issuers",
			"mapped-issuers")
	}
	switch {
	case r.EmailClaim != "" && r.EmailClaim != emailClaim && r.EmailVerified == "" && !r.SkipEmailVerification:
		add("an address from the claim "+r.EmailClaim+" needs a rule for what counts as verified",
			`write email-verified: the name of a claim that must be true, or "issuer" if every address from this issuer counts`,
			"email-claim")
	case r.EmailVerified != "" && r.SkipEmailVerification:
		add("email-verified and skip-email-verification contradict each other", "remove one of them", "email-verified")
	case r.EmailVerified == byIssuer && len(r.EmailDomains) == 0:
		add("an issuer whose addresses all count as verified could assert any address",
			"write email-domains: the domains of the addresses that the issuer may assert", "email-verified")
	}
	for i, d := range r.EmailDomains {
		d = strings.ToLower(d)
		if !hostname.IsDNSName(strings.TrimPrefix(d, "*.")) {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("%q is not a domain", d),
				"write example.com, or *.example.com for its subdomains", "email-domains", strconv.Itoa(i)))
		}
		e.domains = append(e.domains, d)
	}
	if e.claim == "" {
		e.claim = emailClaim
	}
	switch {
	case r.SkipEmailVerification, e.verified == byIssuer:
		e.verified = ""
	case e.verified == "":
		e.verified = verifiedClaim
	}
	return e.identify, errors.Join(errs...)
}

func (e emailRules) identify(c token.Claims) (identity.Identity, error) {
	id, err := base(c)
	if err != nil {
		return id, err
	}
	email, err := c.Text(e.claim)
	if err != nil {
		return id, err
	}
	verifiedBy := e.verified
	if verifiedBy == "" {
		verifiedBy = verifiedClaim // the claim is not required, but its value must be valid
	}
	verified, err := parseVerified(c[verifiedBy])
	if err != nil {
		return id, fault.New(fault.ClaimInvalid, err, "claim", verifiedBy)
	}
	if !verified && e.verified != "" {
		return id, fault.New(fault.EmailUnverified, nil)
	}
	if err := checkText(e.claim, email); err != nil {
		return id, err
	}
	if !isEmailAddress(email) {
		return id, fault.New(fault.ClaimInvalid, errors.New("not an e-mail address"), "claim", e.claim)
	}
	domain := strings.ToLower(email[strings.LastIndexByte(email, '@')+1:])
	if e.domains != nil && !slices.ContainsFunc(e.domains, func(d string) bool { return covers(d, domain) }) {
		return id, fault.New(fault.IdentityNotAllowed, errors.New("the issuer may not assert addresses of this domain"),
			"claim", e.claim)
	}
	if e.path != nil {
		if id, err = e.mapIssuer(id, c); err != nil {
			return id, err
		}
	}
	id.SAN = identity.SAN{Kind: identity.Email, Value: email}
	id.Challenge, id.ChallengeClaim = email, e.claim
	return id, nil
}

// mapIssuer replaces the issuer in the certificate by the issuer that a federating provider names (D17).
func (e emailRules) mapIssuer(id identity.Identity, c token.Claims) (identity.Identity, error) {
	var v any = map[string]any(c)
	for _, name := range e.path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	iss, ok := v.(string)
	if !ok || iss == "" {
		return id, fault.New(fault.ClaimMissing, nil, "claim", strings.Join(e.path, "."))
	}
	if len(e.mapped) > 0 && !slices.Contains(e.mapped, iss) {
		return id, fault.New(fault.IdentityNotAllowed, nil, "claim", strings.Join(e.path, "."))
	}
	if err := checkText(strings.Join(e.path, "."), iss); err != nil {
		return id, err
	}
	id.Extensions.Set(identity.IssuerV1, iss)
	id.Extensions.Set(identity.Issuer, iss)
	return id, nil
}

// covers reports whether an entry of email-domains, a domain or *. and a domain, includes domain. Both arguments are in
// lower case.
func covers(entry, domain string) bool {
	if parent, ok := strings.CutPrefix(entry, "*"); ok {
		return strings.HasSuffix(domain, parent) && len(domain) > len(parent)
	}
	return entry == domain
}

// ShareDomain reports whether two entries of email-domains have a domain in common. Both are in lower case.
func ShareDomain(a, b string) bool {
	parentA, starA := strings.CutPrefix(a, "*")
	parentB, starB := strings.CutPrefix(b, "*")
	if starA && starB {
		return strings.HasSuffix(parentA, parentB) || strings.HasSuffix(parentB, parentA)
	}
	return covers(a, b) || covers(b, a)
}

// parsePath parses the JSONPath of issuer-claim: $.name, $.name.name.
func parsePath(s string) ([]string, error) {
	rest, ok := strings.CutPrefix(s, "$.")
	path := strings.Split(rest, ".")
	if !ok || slices.Contains(path, "") || strings.ContainsAny(rest, "[]*?@() \"'") {
		return nil, fmt.Errorf("issuer-claim %q is not a path of claim names", s)
	}
	return path, nil
}

// parseVerified parses email_verified: a boolean, or the string that some providers send instead. An absent claim is
// false.
func parseVerified(v any) (bool, error) {
	switch v {
	case nil, false, "false", "False":
		return false, nil
	case true, "true", "True":
		return true, nil
	}
	return false, errors.New("not a boolean")
}

// isEmailAddress reports whether s is an address of the usual form: a dot-atom, @, and a domain name of two or more
// labels whose last label is not a number (RFC 5321 §4.1.2, without quoted strings and address literals). Characters
// outside ASCII are accepted here and refused when the identity is checked, because a certificate cannot contain them.
func isEmailAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	if at < 1 || len(s) > 320 {
		return false
	}
	for atom := range strings.SplitSeq(s[:at], ".") {
		if atom == "" || strings.ContainsAny(atom, " \t\r\n\"(),:;<>@[\\]") {
			return false
		}
	}
	labels := strings.Split(s[at+1:], ".")
	if len(labels) < 2 {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, c := range l {
			if c < 0x80 && !pattern.IsWordByte(byte(c)) {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}
