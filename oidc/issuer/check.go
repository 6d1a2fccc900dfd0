package issuer

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Differences between clocks that are tolerated for nbf and iat.
const (
	leeway        = time.Minute
	lenientLeeway = 5 * time.Minute // compat: fulcio
)

// Check is one rule on the claims of a token.
type Check struct {
	Name string
	run  func(*Entry, *token.Token, time.Time) error
	// inputs describes the claims that the rule reads, for explanations.
	inputs func(*Entry, token.Claims) string
}

// Run applies the rule to a token at the time now.
func (c Check) Run(e *Entry, t *token.Token, now time.Time) error { return c.run(e, t, now) }

// Inputs describes the claims that the rule reads.
func (c Check) Inputs(e *Entry, claims token.Claims) string { return c.inputs(e, claims) }

// checks are the rules in the order in which they are applied.
var checks = []Check{
	{
		"claim names", (*Entry).checkNames,
		func(*Entry, token.Claims) string { return "each once; none differ only in case" },
	},
	{
		"audience", func(e *Entry, t *token.Token, _ time.Time) error { return e.CheckAudience(t.Claims) },
		func(_ *Entry, c token.Claims) string { return strings.Join(c.Audiences(), " ") },
	},
	{
		"expiry", (*Entry).checkExpiry,
		func(_ *Entry, c token.Claims) string { return "exp " + timeText(c, "exp") },
	},
	{
		"not before", (*Entry).checkNotBefore,
		func(_ *Entry, c token.Claims) string { return "nbf " + timeText(c, "nbf") },
	},
	{"issued at", (*Entry).checkIssuedAt, (*Entry).issuedAtInputs},
	{
		"algorithm", (*Entry).checkAlgorithm,
		func(*Entry, token.Claims) string { return "only algorithms that the provider announces" },
	},
}

// Checks lists the rules in the order in which they are applied.
func Checks() []Check { return checks }

// Check applies the rules that need no key. The claims are not verified yet: a refusal reveals only the content of the
// client's own token.
func (e *Entry) Check(t *token.Token, now time.Time) error {
	for _, c := range checks {
		if err := c.run(e, t, now); err != nil {
			return err
		}
	}
	return nil
}

// checkAlgorithm checks that the algorithm is asymmetric and one that the entry allows. Whether the
// provider announces the algorithm is checked with the provider's keys.
func (e *Entry) checkAlgorithm(t *token.Token, _ time.Time) error {
	if !token.IsAlgorithm(t.Algorithm) {
		return fault.New(fault.AlgorithmNotAllowed, token.AlgorithmError(t.Algorithm), "alg", t.Algorithm)
	}
	if allowed := e.Config.TokenAlgorithms; len(allowed) > 0 && !token.PermitsAlgorithm(allowed, t.Algorithm) {
		return fault.New(fault.AlgorithmNotAllowed, errors.New("token-algorithms does not have it"), "alg", t.Algorithm)
	}
	return nil
}

func (e *Entry) checkNames(t *token.Token, _ time.Time) error {
	if t.Deviation != nil && !e.Config.Lenient() {
		return fault.New(fault.TokenMalformed, t.Deviation)
	}
	// the claims that go-oidc decodes into strings (OpenID Connect Core 1.0 §2)
	for _, name := range []string{"sub", "nonce", "at_hash"} {
		if v := t.Claims[name]; v != nil {
			if _, isString := v.(string); !isString {
				return fault.New(fault.ClaimInvalid, errors.New("not a string"), "claim", name)
			}
		}
	}
	return nil
}

func (e *Entry) checkExpiry(t *token.Token, now time.Time) error {
	exp, ok, err := t.Claims.Time("exp")
	switch {
	case err != nil:
		return err
	case !ok:
		return fault.New(fault.ClaimMissing, nil, "claim", "exp")
	case !now.Before(exp):
		return fault.New(fault.TokenExpired, nil, "seconds", seconds(now.Sub(exp)))
	}
	return nil
}

func (e *Entry) checkNotBefore(t *token.Token, now time.Time) error {
	tolerated := leeway
	if e.Config.Lenient() {
		tolerated = lenientLeeway
	}
	nbf, ok, err := t.Claims.Time("nbf")
	if err == nil && ok && nbf.After(now.Add(tolerated)) {
		return fault.New(fault.TokenNotYetValid, nil, "seconds", seconds(nbf.Sub(now)))
	}
	return err
}

// checkIssuedAt checks that the token was not issued in the future or too long ago, and that its lifetime is not too
// long.
func (e *Entry) checkIssuedAt(t *token.Token, now time.Time) error {
	lenient := e.Config.Lenient()
	iat, ok, err := t.Claims.Time("iat")
	if err != nil || lenient && e.Config.MaxAge == 0 && e.Config.MaxLifetime == 0 {
		return err
	}
	exp, _, err := t.Claims.Time("exp")
	switch {
	case err != nil:
		return err
	case !ok:
		return fault.New(fault.ClaimMissing, nil, "claim", "iat")
	case e.Config.MaxAge > 0 && now.Sub(iat) > e.Config.MaxAge:
		return fault.New(fault.TokenTooLongLived, fmt.Errorf("issued %s ago", now.Sub(iat)),
			"max", e.Config.MaxAge.String())
	case iat.After(now.Add(leeway)) && (!lenient || e.Config.MaxAge > 0):
		return fault.New(fault.TokenNotYetValid, nil, "seconds", seconds(iat.Sub(now)))
	case exp.Sub(iat) > e.lifetime && (!lenient || e.Config.MaxLifetime > 0):
		return fault.New(fault.TokenTooLongLived, fmt.Errorf("valid for %s", exp.Sub(iat)), "max", e.lifetime.String())
	}
	return nil
}

func (e *Entry) issuedAtInputs(c token.Claims) string {
	if e.Config.Lenient() && e.Config.MaxAge == 0 && e.Config.MaxLifetime == 0 {
		return "not checked (compat: fulcio)"
	}
	return "iat " + timeText(c, "iat") + ", longest lifetime " + e.lifetime.String()
}

// timeText formats a NumericDate claim.
func timeText(c token.Claims, name string) string {
	t, ok, err := c.Time(name)
	if !ok || err != nil {
		return "absent"
	}
	return t.UTC().Format(time.RFC3339)
}

// CheckAudience checks that aud has one of the entry's audiences. The authorized party (azp) must be one that the entry
// names; if the entry names none and the token has several audiences, azp must be one of the entry's audiences (D9).
func (e *Entry) CheckAudience(c token.Claims) error {
	all := c.Audiences()
	mismatch := func(want []string, got string) error {
		return fault.New(fault.AudienceMismatch, nil, "want", strings.Join(want, " "), "got", got)
	}
	if !slices.ContainsFunc(e.Audiences, func(a string) bool { return slices.Contains(all, a) }) {
		return mismatch(e.Audiences, strings.Join(all, " "))
	}
	azp, isString := c["azp"].(string)
	present := c["azp"] != nil
	if parties := e.Config.AuthorizedParties; len(parties) > 0 {
		if !isString || !slices.Contains(parties, azp) {
			return mismatch(parties, "azp "+azp)
		}
		return nil
	}
	if present && len(all) > 1 && !slices.Contains(e.Audiences, azp) && !e.Config.Lenient() {
		return mismatch(e.Audiences, "azp "+azp)
	}
	return nil
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
