// Package policy decides, by rules in CEL, which bearers of valid tokens get a certificate.
//
// [Compile] checks the rules: a misspelt name, or a comparison of a string with a number, is a configuration error.
// [Policy.Evaluate] takes verified claims and the identity that they map to. It is pure, and its cost is bounded. If a
// rule has no value because of an error, the policy MUST NOT accept a token that the rule could have refused.
package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// maxRuleCost limits one evaluation of one rule, in CEL's units; a comparison of short strings costs a few of them.
const maxRuleCost = 20_000

// Policy is a compiled [Config]. It is immutable.
type Policy struct {
	rules []rule // deny rules before allow rules
	tests []TestConfig
}

type rule struct {
	name    string
	allow   bool
	shadow  bool
	program cel.Program
}

// newEnv declares the variables of rules. The values of claims may have any type.
func newEnv() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("issuer", cel.StringType), cel.Variable("subject", cel.StringType),
		cel.Variable("san", cel.StringType), cel.Variable("san_type", cel.StringType),
		cel.Variable("extensions", cel.MapType(cel.StringType, cel.StringType)),
		ext.Strings(),
	)
}

// Compile checks and compiles rules. Its errors are [fault.Setting] values.
func Compile(c Config) (*Policy, error) {
	env, err := newEnv()
	if err != nil {
		return nil, err
	}
	if len(c.Rules) == 0 {
		return nil, fault.BadSetting("a policy without rules accepts every valid token",
			"write rules or remove the policy", "rules")
	}
	p := &Policy{tests: c.Tests}
	var errs []error
	seen := map[string]bool{}
	for i, rc := range c.Rules {
		at := strconv.Itoa(i)
		if !validName(rc.Name) {
			errs = append(errs, fault.BadSetting(
				fmt.Sprintf("invalid rule name %q", rc.Name),
				"write 1 to 64 letters, digits, - and _; clients and metrics show the name", "rules", at, "name"))
		}
		if seen[rc.Name] {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("the rule %s is used twice", rc.Name),
				"give each rule its own name", "rules", at, "name"))
		}
		seen[rc.Name] = true
		r, err := compileRule(env, rc)
		if err != nil {
			errs = append(errs, fault.Under(err, "rules", at))
			continue
		}
		p.rules = append(p.rules, r)
	}
	slices.SortStableFunc(p.rules, func(a, b rule) int {
		switch {
		case a.allow == b.allow:
			return 0
		case b.allow:
			return -1
		}
		return 1
	})
	for i, t := range c.Tests {
		if t.Expect != "allow" && t.Expect != "deny" {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("expect is %q", t.Expect), "write allow or deny",
				"tests", strconv.Itoa(i), "expect"))
		}
		if t.Rule != "" && !seen[t.Rule] {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("the rule %q does not exist", t.Rule),
				"write the name of a rule",
				"tests", strconv.Itoa(i), "rule"))
		}
	}
	return p, errors.Join(errs...)
}

func validName(s string) bool {
	return s != "" && len(s) <= 64 &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

func compileRule(env *cel.Env, c RuleConfig) (rule, error) {
	key, source := "allow", c.Allow
	if c.Deny != "" {
		key, source = "deny", c.Deny
	}
	if (c.Allow == "") == (c.Deny == "") {
		return rule{}, fault.BadSetting(fmt.Sprintf("the rule %s needs either allow or deny", c.Name),
			"write one CEL expression")
	}
	ast, issues := env.Compile(source)
	if issues.Err() != nil {
		var all []string
		for _, e := range issues.Errors() {
			all = append(all, fmt.Sprintf("%s (line %d, column %d of the expression)", e.Message, e.Location.Line(),
				e.Location.Column()+1))
		}
		return rule{}, fault.BadSetting("CEL: "+strings.Join(all, "; "),
			"rules can use claims, issuer, subject, san, san_type and extensions", key)
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return rule{}, fault.BadSetting(fmt.Sprintf("the result of the expression is %s, not a boolean",
			ast.OutputType()),
			"compare it with a value, such as == true", key)
	}
	program, err := env.Program(ast, cel.CostLimit(maxRuleCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return rule{}, fault.BadSetting("CEL: "+err.Error(), "correct the expression", key)
	}
	return rule{name: c.Name, allow: key == "allow", shadow: c.Shadow, program: program}, nil
}

// Tests returns the tests of the configuration. The caller runs them, because they test the mapping of claims too.
func (p *Policy) Tests() []TestConfig { return p.tests }

// Enforces reports whether some rule can refuse a token; rules in shadow mode cannot. p may be nil.
func (p *Policy) Enforces() bool {
	return p != nil && slices.ContainsFunc(p.rules, func(r rule) bool { return !r.shadow })
}

// Labels describes the rules in the order in which they are evaluated, such as "deny NAME (shadow)".
func (p *Policy) Labels() []string {
	var out []string
	for _, r := range p.rules {
		out = append(out, RuleResult{Name: r.name, Allow: r.allow, Shadow: r.shadow}.Label())
	}
	return out
}

// RuleResult is the result of one rule.
type RuleResult struct {
	Name          string
	Allow, Shadow bool
	Holds         bool
	// The expression has no value, because of an error: an allow rule is then false, and a deny rule true.
	Err error
}

// Label describes the rule.
func (r RuleResult) Label() string {
	text := "deny " + r.Name
	if r.Allow {
		text = "allow " + r.Name
	}
	if r.Shadow {
		text += " (shadow)"
	}
	return text
}

// Result is the result of a policy for one token.
type Result struct {
	Allowed bool
	// Rule is the rule that decided: a deny rule, the allow rule that is true, or all allow rules, joined by commas, if
	// none is true. Empty if no rule decided.
	Rule string
	// Shadow is the rule that would have refused if the rules in shadow mode were in force; empty if none would.
	Shadow string
	// Rules are the results of all rules.
	Rules []RuleResult
}

// Evaluate evaluates the rules over verified claims and the identity that they map to.
func (p *Policy) Evaluate(c token.Claims, id *identity.Identity) Result {
	vars := variables(c, id)
	out := Result{Allowed: true}
	// The first allow rule that is true, and the names of all allow rules; in force and in shadow mode.
	var held, heldShadow, names, shadowNames string
	for _, r := range p.rules {
		value, _, err := r.program.Eval(vars)
		holds := err == nil && value == types.True || err != nil && !r.allow
		out.Rules = append(out.Rules, RuleResult{
			Name: r.name, Allow: r.allow, Shadow: r.shadow,
			Holds: holds, Err: err,
		})
		switch {
		case r.allow && r.shadow:
			shadowNames = joinNames(shadowNames, r.name)
			if holds && heldShadow == "" {
				heldShadow = r.name
			}
		case r.allow:
			names = joinNames(names, r.name)
			if holds && held == "" {
				held = r.name
			}
		case holds && r.shadow && out.Shadow == "":
			out.Shadow = r.name
		case holds && !r.shadow && out.Allowed:
			out.Allowed, out.Rule = false, r.name
		}
	}
	switch {
	case !out.Allowed:
	case held != "":
		out.Rule = held
	case names != "":
		out.Allowed, out.Rule = false, names
	}
	if out.Shadow == "" && shadowNames != "" && heldShadow == "" && held == "" {
		out.Shadow = shadowNames
	}
	if !out.Allowed {
		out.Shadow = "" // refused by the rules in force anyway
	}
	return out
}

func joinNames(all, name string) string {
	if all == "" {
		return name
	}
	return all + "," + name
}

func variables(c token.Claims, id *identity.Identity) map[string]any {
	extensions := map[string]string{}
	for x := range identity.Known() {
		if v := id.Extensions.Get(x); v != "" {
			extensions[x.String()] = v
		}
	}
	return map[string]any{
		"claims": celMap(c), "issuer": id.Extensions.Get(identity.Issuer), "subject": id.Subject,
		"san": id.SAN.Value, "san_type": id.SAN.Kind.String(), "extensions": extensions,
	}
}

func celMap(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = celValue(v)
	}
	return out
}

// celValue converts numbers: to int or uint if they are whole, else to double.
func celValue(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n
		}
		if !strings.ContainsAny(v.String(), ".eE") {
			return v.String() // no numeric type represents it exactly, so it must not equal any number
		}
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return f
	case map[string]any:
		return celMap(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = celValue(v[i])
		}
		return out
	}
	return v
}
