package issuer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/oidc/policy"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Decision is the result for a token.
type Decision struct {
	Identity identity.Identity
	// Entry is the URL or pattern of the entry of the configuration that applied.
	Entry string
	// ProviderKey is the thumbprint (RFC 7638, SHA-256, base64url) of the key that verified the token.
	ProviderKey string
	// Rule is the name of the policy rule that decided; empty if there is no policy, or if no rule decided.
	Rule string
	// Shadow is the rule that would have refused if the rules in shadow mode were in force; empty if none would.
	Shadow string
	// KeyAlgorithms are the algorithms of the keys that this subject may have certified; nil means all that the CA
	// permits.
	KeyAlgorithms []string
	// Use says how often the token may be used for a certificate. Nil: any number of times.
	Use *TokenUse
	// RateLimit and IdentityRateLimit are those of the entry; nil: the entry has none of its own.
	RateLimit, IdentityRateLimit *rate.Config
	// Rules are the results of the rules that were evaluated.
	Rules []policy.RuleResult
}

// Decide maps verified claims and evaluates the policy. It is pure. It sets the fields of d that are known, even if it
// returns an error.
func (e *Entry) Decide(c token.Claims, d *Decision) error {
	d.Entry, d.KeyAlgorithms = e.Key, e.Config.KeyAlgorithms
	id, err := e.Mapper.Identity(c)
	if err != nil {
		return err
	}
	d.Identity = id
	if e.Policy == nil {
		return nil
	}
	result := e.Policy.Evaluate(c, &d.Identity)
	d.Rule, d.Shadow, d.Rules = result.Rule, result.Shadow, result.Rules
	if !result.Allowed {
		return fault.New(fault.PolicyDenied, nil, "rule", result.Rule)
	}
	return nil
}

// runTests runs the tests of the entry's policy.
func (e *Entry) runTests() error {
	if e.Policy == nil {
		return nil
	}
	var errs []error
	for i, t := range e.Policy.Tests() {
		if err := e.runTest(t); err != nil {
			errs = append(errs, fault.BadSetting(
				fmt.Sprintf("the test %s fails: %s", cmp.Or(t.Name, strconv.Itoa(i+1)), err),
				"correct the rules or the test", "policy", "tests", strconv.Itoa(i)))
		}
	}
	return errors.Join(errs...)
}

func (e *Entry) runTest(t policy.TestConfig) error {
	all := maps.Clone(t.Claims)
	if all == nil {
		all = map[string]any{}
	}
	if _, ok := all["iss"]; !ok {
		all["iss"] = e.Key
	}
	c, err := token.ConvertClaims(all)
	if err != nil {
		return err
	}
	var d Decision
	err = e.Decide(c, &d)
	denied := d.Rule
	if err == nil {
		denied = ""
	}
	switch {
	case t.Expect == "allow" && err != nil:
		return fmt.Errorf("refused: %w", err)
	case t.Expect == "deny" && err == nil:
		return fmt.Errorf("allowed by %q", d.Rule)
	case t.Expect == "deny" && string(fault.From(err).Reason) != cmp.Or(t.Reason, string(fault.PolicyDenied)):
		return fmt.Errorf("refused, but for another reason: %w", err)
	case t.Rule != "" && t.Expect == "deny" && !slices.Contains(strings.Split(denied, ","), t.Rule):
		return fmt.Errorf("refused, but not by this rule: %w", err)
	case t.Rule != "" && t.Expect == "allow" && d.Rule != t.Rule:
		return fmt.Errorf("allowed by %q, not by this rule", d.Rule)
	case t.SAN != "" && d.Identity.SAN.Value != t.SAN:
		return fmt.Errorf("the name in the certificate is %q", d.Identity.SAN.Value)
	}
	return nil
}
