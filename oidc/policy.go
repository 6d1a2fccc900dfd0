package oidc

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	celtypes "cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
)

// maxRuleCost bounds one evaluation of one rule, in CEL's units: a comparison of short texts costs a few.
const maxRuleCost = 20_000

// policy is a compiled [PolicyConfig]. It is immutable.
type policy struct {
	rules []rule // deny rules before allow rules
	tests []VectorConfig
}

type rule struct {
	name    string
	allow   bool
	shadow  bool
	program cel.Program
}

// newPolicyEnv declares what rules see. Only claims has values of any type; a misspelt name or a text compared with a number
// is an error at load.
func newPolicyEnv() (*cel.Env, error) {
	texts := cel.MapType(cel.StringType, cel.StringType)
	return cel.NewEnv(
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("issuer", cel.StringType), cel.Variable("subject", cel.StringType),
		cel.Variable("san", cel.StringType), cel.Variable("san_type", cel.StringType),
		cel.Variable("extensions", texts),
		ext.Strings(),
	)
}

func compilePolicy(c PolicyConfig) (*policy, error) {
	env, err := newPolicyEnv()
	if err != nil {
		return nil, err
	}
	if len(c.Rules) == 0 {
		return nil, fault.BadSetting("a policy without rules lets everybody pass", "write rules or remove the policy", "rules")
	}
	p := &policy{tests: c.Tests}
	var errs []error
	seen := map[string]bool{}
	for i, rc := range c.Rules {
		at := fmt.Sprint(i)
		if rc.Name == "" || strings.TrimFunc(rc.Name, func(r rune) bool { return r < 0x80 && starByte(byte(r)) }) != "" || len(rc.Name) > 64 {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("the name %q of a rule is not 1 to 64 letters, digits, - and _", rc.Name), "clients and metrics show it", "rules", at, "name"))
		}
		if seen[rc.Name] {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("the rule %s is used twice", rc.Name),
				"give each rule a name of its own", "rules", at, "name"))
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
	for i, v := range c.Tests {
		if v.Expect != "allow" && v.Expect != "deny" {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("expect is %q", v.Expect), "write allow or deny", "tests", fmt.Sprint(i), "expect"))
		}
		if v.Rule != "" && !seen[v.Rule] {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("there is no rule %q", v.Rule), "write the name of a rule", "tests", fmt.Sprint(i), "rule"))
		}
	}
	return p, errors.Join(errs...)
}

func compileRule(env *cel.Env, c RuleConfig) (rule, error) {
	key, source := "allow", c.Allow
	if c.Deny != "" {
		key, source = "deny", c.Deny
	}
	if (c.Allow == "") == (c.Deny == "") {
		return rule{}, fault.BadSetting(fmt.Sprintf("the rule %s needs either allow or deny", c.Name), "write one CEL expression")
	}
	ast, issues := env.Compile(source)
	if issues.Err() != nil {
		var all []string
		for _, e := range issues.Errors() {
			all = append(all, fmt.Sprintf("%s (line %d, column %d of the expression)", e.Message, e.Location.Line(), e.Location.Column()+1))
		}
		return rule{}, fault.BadSetting("CEL: "+strings.Join(all, "; "), "rules see claims, issuer, subject, san, san_type and extensions", key)
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return rule{}, fault.BadSetting(fmt.Sprintf("the expression gives %s, not true or false", ast.OutputType()), "compare it with something, such as == true", key)
	}
	program, err := env.Program(ast, cel.CostLimit(maxRuleCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return rule{}, fault.BadSetting("CEL: "+err.Error(), "correct the expression", key)
	}
	return rule{name: c.Name, allow: key == "allow", shadow: c.Shadow, program: program}, nil
}

// RuleResult is what one rule said.
type RuleResult struct {
	Name          string
	Allow, Shadow bool
	Holds         bool
	Err           error // the expression has no value; an allow rule then does not hold, a deny rule does
}

// judgement is what a policy says of a token.
type judgement struct {
	allowed bool
	rule    string       // that decided: a deny rule, the allow rule that holds, or all allow rules, none of which holds
	shadow  string       // the rule that would refuse if the shadow rules were in force; "": none
	results []RuleResult // of the rules that were looked at
}

// judge runs the rules over verified claims and what they map to. It is pure, and bounded in cost.
func (p *policy) judge(c claims, id *identity.Identity) judgement {
	vars := ruleVars(c, id)
	j := judgement{allowed: true}
	var held, heldShadow, names, shadows string
	for _, r := range p.rules {
		res := RuleResult{Name: r.name, Allow: r.allow, Shadow: r.shadow}
		out, _, err := r.program.Eval(vars)
		res.Holds, res.Err = err == nil && out == celtypes.True || err != nil && !r.allow, err
		j.results = append(j.results, res)
		switch {
		case r.allow && r.shadow:
			shadows = joinNames(shadows, r.name)
			heldShadow = either(heldShadow, r.name, res.Holds)
		case r.allow:
			names = joinNames(names, r.name)
			held = either(held, r.name, res.Holds)
		case res.Holds && r.shadow:
			j.shadow = either(j.shadow, r.name, true)
		case res.Holds && j.allowed:
			j.allowed, j.rule = false, r.name
		}
	}
	switch {
	case !j.allowed:
	case held != "":
		j.rule = held
	case names != "":
		j.allowed, j.rule = false, names
	}
	if j.shadow == "" && shadows != "" && heldShadow == "" && held == "" {
		j.shadow = shadows
	}
	if !j.allowed {
		j.shadow = "" // refused anyway
	}
	return j
}

func either(have, name string, holds bool) string {
	if have == "" && holds {
		return name
	}
	return have
}

func joinNames(all, name string) string {
	if all == "" {
		return name
	}
	return all + "," + name
}

func ruleVars(c claims, id *identity.Identity) map[string]any {
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

// celMap gives numbers a type that CEL knows: int or uint where they are whole, else double.
func celMap(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = celValue(v)
	}
	return out
}

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
			return v.String() // a number that no type holds exactly compares with no number
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

// enforces reports whether some rule can refuse.
func (p *policy) enforces() bool {
	return p != nil && slices.ContainsFunc(p.rules, func(r rule) bool { return !r.shadow })
}

// runVectors runs the tests that stand beside the rules.
func (r *row) runVectors() error {
	if r.policy == nil {
		return nil
	}
	var errs []error
	for i, v := range r.policy.tests {
		if err := r.runVector(v); err != nil {
			name := v.Name
			if name == "" {
				name = fmt.Sprint(i + 1)
			}
			errs = append(errs, fault.BadSetting(fmt.Sprintf("the test %s fails: %s", name, err), "correct the rules or the test", fmt.Sprint(i)))
		}
	}
	return errors.Join(errs...)
}

func (r *row) runVector(v VectorConfig) error {
	all := maps.Clone(v.Claims)
	if all == nil {
		all = map[string]any{}
	}
	if _, ok := all["iss"]; !ok && !r.wildcard {
		all["iss"] = r.key
	}
	c, err := ParseClaims(all)
	if err != nil {
		return err
	}
	var d Decision
	err = r.decide(claims(c), &d)
	denied := d.Rule
	if err == nil {
		denied = ""
	}
	switch {
	case v.Expect == "allow" && err != nil:
		return fmt.Errorf("refused: %w", err)
	case v.Expect == "deny" && err == nil:
		return fmt.Errorf("allowed by %q", d.Rule)
	case v.Expect == "deny" && string(fault.From(err).Reason) != cmp.Or(v.Reason, string(fault.PolicyDenied)):
		return fmt.Errorf("refused, but for another reason: %w", err)
	case v.Rule != "" && v.Expect == "deny" && !slices.Contains(strings.Split(denied, ","), v.Rule):
		return fmt.Errorf("refused, but not by this rule: %w", err)
	case v.Rule != "" && v.Expect == "allow" && d.Rule != v.Rule:
		return fmt.Errorf("allowed by %q, not by this rule", d.Rule)
	case v.SAN != "" && d.Identity.SAN.Value != v.SAN:
		return fmt.Errorf("the name in the certificate is %q", d.Identity.SAN.Value)
	}
	return nil
}
