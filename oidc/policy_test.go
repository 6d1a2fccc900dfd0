package oidc_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/oidc/claims"
	"github.com/mayfly-ca/mayfly/oidc/policy"
)

const actions = "https://token.actions.githubusercontent.com"

func withPolicy(p policy.Config) oidc.Config {
	return oidc.Config{Issuers: map[string]oidc.IssuerConfig{actions: {
		ClientID: "sigstore",
		Profile:  "github-workflow", Policy: &p,
	}}}
}

func claimsOf(change map[string]any) map[string]any {
	all := map[string]any{"iss": actions}
	for k, v := range workflow {
		all[k] = v
	}
	for k, v := range change {
		all[k] = v
	}
	return all
}

// A token passes if no deny rule holds and, if there are allow rules, one of them holds. The name of the rule that
// decided is reported.
func TestPolicy(t *testing.T) {
	t.Parallel()
	allow := func(name, e string) policy.RuleConfig { return policy.RuleConfig{Name: name, Allow: e} }
	deny := func(name, e string) policy.RuleConfig { return policy.RuleConfig{Name: name, Deny: e} }
	shadow := func(r policy.RuleConfig) policy.RuleConfig {
		r.Shadow = true
		return r
	}
	const ours, theirs = `claims.repository_owner == "octo"`, `claims.repository_owner == "other"`
	for name, c := range map[string]struct {
		rules  []policy.RuleConfig
		change map[string]any
		denied string // rule that refused; "": allowed
		rule   string // rule that allowed
		shadow string
	}{
		"allow":        {[]policy.RuleConfig{allow("a", ours)}, nil, "", "a", ""},
		"second allow": {[]policy.RuleConfig{allow("a", theirs), allow("b", ours)}, nil, "", "b", ""},
		"no allow":     {[]policy.RuleConfig{allow("a", theirs), allow("b", theirs)}, nil, "a,b", "", ""},
		"deny wins": {
			[]policy.RuleConfig{allow("a", ours), deny("d", `claims.event_name == "push"`)},
			nil, "d", "", "",
		},
		"deny alone":          {[]policy.RuleConfig{deny("d", theirs)}, nil, "", "", ""},
		"missing claim, deny": {[]policy.RuleConfig{deny("d", `claims.nothing == "x"`)}, nil, "d", "", ""},
		"missing, allow": {
			[]policy.RuleConfig{allow("a", `claims.nothing == "x"`), allow("b", ours)},
			nil, "", "b", "",
		},
		"has": {[]policy.RuleConfig{deny("d", `has(claims.nothing)`)}, nil, "", "", ""},
		"integer": {[]policy.RuleConfig{allow("a",
			`claims.run_attempt == 1 && claims.repository_id > 12345678901234566`)}, nil, "", "a", ""},
		"double": {
			[]policy.RuleConfig{allow("a", `claims.f == 1.5`)},
			map[string]any{"f": 1.5},
			"", "a", "",
		},
		"list": {
			[]policy.RuleConfig{allow("a", `"x" in claims.groups`)},
			map[string]any{"groups": []any{"y", "x"}},
			"", "a", "",
		},
		"identity": {[]policy.RuleConfig{allow("a",
			`san.startsWith("https://github.com/octo/") && san_type == "URI" && subject == claims.sub && issuer == claims.iss`)}, nil, "", "a", ""},
		"extensions": {[]policy.RuleConfig{allow("a",
			`extensions["source-repository-ref"] == "refs/heads/main"`)}, nil, "", "a", ""},
		"matches": {[]policy.RuleConfig{allow("a",
			`claims.ref.matches("^refs/(heads/main|tags/v[0-9]+)$")`)}, nil, "", "a", ""},
		"shadow deny":        {[]policy.RuleConfig{shadow(deny("d", ours))}, nil, "", "", "d"},
		"shadow allow":       {[]policy.RuleConfig{shadow(allow("a", theirs))}, nil, "", "", "a"},
		"shadow allow holds": {[]policy.RuleConfig{shadow(allow("a", ours))}, nil, "", "", ""},
		"with a shadow rule": {[]policy.RuleConfig{allow("a", ours), shadow(deny("d", ours))}, nil, "", "a", "d"},
		"shadow, refused":    {[]policy.RuleConfig{allow("a", theirs), shadow(deny("d", ours))}, nil, "a", "", ""},
		"cost": {
			[]policy.RuleConfig{allow("a",
				`claims.big.all(x, claims.big.all(y, claims.big.exists(z, x + y + z == "")))`)},
			map[string]any{"big": manyTexts(200)},
			"a", "", "",
		},
		"cost of a deny": {
			[]policy.RuleConfig{deny("d", `claims.big.all(x, claims.big.all(y, x + y != "-"))`)},
			map[string]any{"big": manyTexts(500)},
			"d", "", "",
		},
	} {
		e, err := oidc.NewExplainer(withPolicy(policy.Config{Rules: c.rules}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d, err := e.Decide(claimsOf(c.change))
		if c.denied == "" {
			if err != nil || d.Rule != c.rule || d.Shadow != c.shadow {
				t.Errorf("%s: %v, allowed by %q, would be refused by %q", name, err, d.Rule, d.Shadow)
			}
			continue
		}
		if f := fault.From(err); err == nil || f.Reason != fault.PolicyDenied || f.Meta["rule"] != c.denied ||
			f.Kind != fault.Denied || d.Shadow != c.shadow {
			t.Errorf("%s: %v, %v", name, err, d.Shadow)
		}
	}
}

func manyTexts(n int) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = strings.Repeat("x", i%7)
	}
	return out
}

// G1: a policy that does not compile, contradicts itself or fails its tests is refused when the configuration is
// loaded, with its place.
func TestPolicyRefused(t *testing.T) {
	t.Parallel()
	rules := func(r ...policy.RuleConfig) policy.Config { return policy.Config{Rules: r} }
	good := policy.RuleConfig{Name: "a", Allow: `claims.repository_owner == "octo"`}
	tested := func(v policy.TestConfig) policy.Config {
		return policy.Config{
			Rules: []policy.RuleConfig{good, {Name: "d", Deny: `claims.event_name == "pull_request"`}},
			Tests: []policy.TestConfig{v},
		}
	}
	const under = "oidc-issuers." + actions + ".policy."
	for name, c := range map[string]struct {
		policy policy.Config
		want   string // "": no error
	}{
		"empty":  {rules(), "rules: a policy without rules"},
		"syntax": {rules(policy.RuleConfig{Name: "a", Allow: "claims."}), "rules.0.allow: CEL"},
		"variable": {
			rules(policy.RuleConfig{Name: "a", Allow: `claim.sub == "x"`}),
			"undeclared reference to 'claim'",
		},
		"types":         {rules(policy.RuleConfig{Name: "a", Deny: `san == 1`}), "rules.0.deny: CEL"},
		"not a boolean": {rules(policy.RuleConfig{Name: "a", Allow: `san`}), "not a boolean"},
		"any value":     {rules(policy.RuleConfig{Name: "a", Allow: `claims.flag`}), "compare it"},
		"both":          {rules(policy.RuleConfig{Name: "a", Allow: "true", Deny: "true"}), "either allow or deny"},
		"neither":       {rules(policy.RuleConfig{Name: "a"}), "either allow or deny"},
		"no name":       {rules(policy.RuleConfig{Allow: "true"}), "rules.0.name"},
		"odd name":      {rules(policy.RuleConfig{Name: "a b", Allow: "true"}), "rules.0.name"},
		"twice":         {rules(good, good), "rules.1.name: the rule a is used twice"},

		"vector allow": {tested(policy.TestConfig{
			Claims: claimsOf(nil), Expect: "allow", Rule: "a",
			SAN: "https://github.com/octo/app/.github/workflows/r.yml@refs/heads/main",
		}), ""},
		"vector deny": {tested(policy.TestConfig{
			Claims: claimsOf(map[string]any{"event_name": "pull_request"}),
			Expect: "deny", Rule: "d",
		}), ""},
		"vector other": {tested(policy.TestConfig{
			Claims: claimsOf(map[string]any{"repository_owner": "x"}),
			Expect: "deny", Rule: "d",
		}), "tests.0: the test 1 fails: refused, but not by this rule"},
		"vector not denied": {
			tested(policy.TestConfig{Name: "pr", Claims: claimsOf(nil), Expect: "deny"}),
			`the test pr fails: allowed by "a"`,
		},
		"vector refused": {
			tested(policy.TestConfig{Claims: map[string]any{"sub": "x"}, Expect: "allow"}),
			"fails: refused",
		},
		"vector name": {
			tested(policy.TestConfig{Claims: claimsOf(nil), Expect: "allow", SAN: "https://x"}),
			"the name in the certificate is",
		},
		"vector word": {tested(policy.TestConfig{Claims: claimsOf(nil), Expect: "yes"}), "tests.0.expect"},
		"vector rule": {
			tested(policy.TestConfig{Claims: claimsOf(nil), Expect: "allow", Rule: "z"}),
			"tests.0.rule: the rule",
		},
	} {
		err := withPolicy(c.policy).Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		var s *fault.Setting
		if err != nil && (!errors.As(err, &s) || !strings.HasPrefix(s.Error(), under)) {
			t.Errorf("%s: not at its place: %v", name, err)
		}
	}
}

// Public issuers without a policy, and other settings that an operator should know of, are warnings.
func TestWarnings(t *testing.T) {
	t.Parallel()
	warnings := func(c oidc.Config) string {
		var all []string
		for _, w := range c.Warnings() {
			all = append(all, w.Error())
		}
		return strings.Join(all, "\n")
	}
	one := func(key string, c oidc.IssuerConfig) oidc.Config {
		c.ClientID = "sigstore"
		return oidc.Config{
			Issuers: map[string]oidc.IssuerConfig{key: c},
			Providers: map[string]claims.ProfileConfig{"gitlab-pipeline": {
				Defaults: map[string]string{"url": "https://gitlab.com"}, SAN: "{{.url}}/{{.sub}}",
			}, "own": {Defaults: map[string]string{"url": "https://ci.example.com"}, SAN: "{{.url}}/{{.sub}}"}},
		}
	}
	for name, c := range map[string]struct{ text, want string }{
		"public issuer": {
			warnings(one(actions, oidc.IssuerConfig{Profile: "github-workflow"})),
			"every repository on GitHub",
		},
		"policy": {warnings(one(actions, oidc.IssuerConfig{
			Profile: "github-workflow",
			Policy:  &policy.Config{Rules: []policy.RuleConfig{{Name: "a", Allow: "true"}}},
		})), ""},
		"shadow": {
			warnings(one(actions, oidc.IssuerConfig{
				Profile: "github-workflow",
				Policy:  &policy.Config{Rules: []policy.RuleConfig{{Name: "a", Allow: "true", Shadow: true}}},
			})),
			"refuses no token",
		},
		"private": {warnings(one("https://ci.example.com", oidc.IssuerConfig{Type: "email"})), ""},
		"any": {
			warnings(one("https://dex.example.com", oidc.IssuerConfig{Type: "email", IssuerClaim: "$.a"})),
			"without mapped-issuers",
		},
		"host": {warnings(one("https://gitlab.example.com",
			oidc.IssuerConfig{Type: "ci-provider", CIProvider: "gitlab-pipeline"})), "https://gitlab.com"},
		"type": {
			warnings(one("https://ghes.example.com/_services/token",
				oidc.IssuerConfig{Type: "github-workflow"})),
			"names the host https://github.com, which belongs to another provider",
		},
		"set": {warnings(one("https://ghes.example.com/_services/token", oidc.IssuerConfig{
			Type: "github-workflow", Parameters: map[string]string{"url": "https://ghes.example.com"},
		})), ""},
		"home": {warnings(one("https://agent.buildkite.com",
			oidc.IssuerConfig{
				Type:   "buildkite-job",
				Policy: &policy.Config{Rules: []policy.RuleConfig{{Name: "a", Allow: "true"}}},
			})), ""},
		"braces": {
			warnings(one("https://login.example.com/{tenantid}/v2.0", oidc.IssuerConfig{Type: "email"})),
			"{tenantid} is a placeholder",
		},
		"common": {
			warnings(one("https://login.example.com/common/v2.0", oidc.IssuerConfig{Type: "email"})),
			"/common/ is a placeholder",
		},
		"nameless": {
			warnings(one("https://ci.example.com", oidc.IssuerConfig{Type: "ci-provider"})),
			"every token of this issuer is refused",
		},
		"defaults": {
			warnings(one("https://ci.example.com", oidc.IssuerConfig{Type: "ci-provider", CIProvider: "own"})),
			"is refused; Fulcio uses the claim",
		},
	} {
		if c.want != "" && !strings.Contains(c.text, c.want) ||
			c.want == "" && strings.Contains(c.text, "oidc-issuers") {
			t.Errorf("%s: %s", name, c.text)
		}
	}
}

// D7: two issuers that may name the same address are refused unless both say so.
func TestEmailDomains(t *testing.T) {
	t.Parallel()
	issuers := func(all ...oidc.IssuerConfig) oidc.Config {
		c := oidc.Config{Issuers: map[string]oidc.IssuerConfig{}}
		for i, one := range all {
			one.ClientID, one.Type = "sigstore", "email"
			c.Issuers[fmt.Sprintf("https://idp-%d.example.com", i)] = one
		}
		return c
	}
	domains := func(d ...string) oidc.IssuerConfig { return oidc.IssuerConfig{EmailDomains: d} }
	shared := domains("example.com")
	shared.SharedEmailDomains = true
	for name, c := range map[string]struct {
		config oidc.Config
		want   string
	}{
		"apart": {issuers(domains("a.example"), domains("b.example")), ""},
		"same": {
			issuers(domains("a.example"), domains("b.example", "A.example")),
			"may also assert addresses of",
		},
		"star":        {issuers(domains("eu.a.example"), domains("*.a.example")), "may also assert addresses of"},
		"parent":      {issuers(domains("a.example"), domains("*.a.example")), ""},
		"stars":       {issuers(domains("*.eu.a.example"), domains("*.a.example")), "may also assert addresses of"},
		"no list":     {issuers(domains("a.example"), oidc.IssuerConfig{}), "it has no email-domains"},
		"none at all": {issuers(oidc.IssuerConfig{}, oidc.IssuerConfig{}), ""},
		"declared":    {issuers(shared, shared), ""},
		"half":        {issuers(shared, domains("example.com")), "may also assert addresses of"},
		"not a name":  {issuers(domains("example")), "is not a domain"},
		"address":     {issuers(domains("a@example.com")), "is not a domain"},
	} {
		err := c.config.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
