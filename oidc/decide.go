package oidc

import (
	"encoding/json"
	"errors"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
)

// Decision is what a token came to.
type Decision struct {
	Identity identity.Identity
	// Entry is the URL or pattern of the entry in the configuration that applied.
	Entry string
	// ProviderKey is the thumbprint (RFC 7638, SHA-256, base64url) of the key that verified the token.
	ProviderKey string
	// Rule is the name of the policy rule that decided; "" where there is no policy, or none of its rules refused.
	Rule string
	// Shadow is the rule that would have refused if the rules in shadow mode were in force; "" where none would.
	Shadow string
	// KeyAlgorithms are the algorithms of the keys that this subject may have certified; nil means all that the CA permits.
	KeyAlgorithms []string
	// Rules are the results of the rules that were looked at.
	Rules []RuleResult
}

// decide maps verified claims and asks the policy. It is pure. It fills in d, also where it explains an error.
func (r *row) decide(c claims, d *Decision) error {
	d.Entry, d.KeyAlgorithms = r.key, r.config.KeyAlgorithms
	id, err := r.identify(c)
	if err != nil {
		return err
	}
	d.Identity = id
	if r.policy == nil {
		return nil
	}
	j := r.policy.judge(c, &d.Identity)
	d.Rule, d.Shadow, d.Rules = j.rule, j.shadow, j.results
	if !j.allowed {
		return fault.New(fault.PolicyDenied, nil, "rule", j.rule)
	}
	return nil
}

// DecodeClaims reads the claims of a token from JSON, as strictly as from a token.
func DecodeClaims(data []byte) (map[string]any, error) {
	c, unclean, err := parseObject(data)
	if err = errors.Join(err, unclean); err != nil {
		return nil, err
	}
	return c, nil
}

// ParseClaims gives claims from a file the types that those of a token have.
func ParseClaims(all map[string]any) (map[string]any, error) {
	data, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return DecodeClaims(data)
}
