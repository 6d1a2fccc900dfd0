package oidc

import (
	"maps"
	"slices"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
)

// DecisionChange is the difference between the decisions of two configurations about the claims of one token.
type DecisionChange struct {
	// Change is "gains", "loses", "certificate", "reason" or "rule"; empty if both decisions are the same.
	Change string `json:"change"`
	// Old and New are the name in the certificate or the reason of the refusal; for "rule", the rules that allowed it.
	Old string `json:"old"`
	New string `json:"new"`
	// Fields are the parts of the certificate that differ.
	Fields []string `json:"fields,omitempty"`
}

// Compare evaluates the claims of one token with both configurations.
func Compare(before, after *Explainer, claims map[string]any) DecisionChange {
	var o, n outcome
	o.Decision, o.err = before.Decide(claims)
	n.Decision, n.err = after.Decide(claims)
	return compareOutcomes(o, n)
}

// identityFields returns the parts of a certificate that describe its subject, by name.
func identityFields(id identity.Identity) map[string]string {
	out := map[string]string{"san": id.SAN.Kind.String() + " " + id.SAN.Value}
	for x := range identity.Known() {
		if v := id.Extensions.Get(x); v != "" {
			out[x.String()] = v
		}
	}
	for _, c := range id.Custom {
		out[c.OID.String()] = c.Value
	}
	return out
}

// outcome is the result of one configuration.
type outcome struct {
	Decision
	err error
}

// text returns the name in the certificate, or the reason of the refusal with its metadata.
func (o outcome) text() string {
	if o.err == nil {
		return o.Identity.SAN.Value
	}
	f := fault.From(o.err)
	text := string(f.Reason)
	for _, k := range slices.Sorted(maps.Keys(f.Meta)) {
		text += " " + f.Meta[k]
	}
	return text
}

func compareOutcomes(before, after outcome) DecisionChange {
	c := DecisionChange{Old: before.text(), New: after.text()}
	switch {
	case before.err != nil && after.err != nil:
		if c.Old != c.New {
			c.Change = "reason"
		}
	case before.err != nil:
		c.Change = "gains"
	case after.err != nil:
		c.Change = "loses"
	default:
		a, b := identityFields(before.Identity), identityFields(after.Identity)
		all := maps.Clone(a)
		maps.Copy(all, b)
		for _, k := range slices.Sorted(maps.Keys(all)) {
			if a[k] != b[k] {
				c.Fields = append(c.Fields, k)
			}
		}
		if len(c.Fields) > 0 {
			c.Change = "certificate"
		} else if before.Rule != after.Rule {
			c.Change, c.Old, c.New = "rule", before.Rule, after.Rule
		}
	}
	return c
}
