package oidc

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// world are issuers that anybody in the world can have a token of, as patterns.
var world = map[string]string{
	"https://token.actions.githubusercontent.com": "every repository on GitHub",
	"https://gitlab.com":                          "every project on GitLab.com",
	"https://accounts.google.com":                 "everybody with a Google account",
	"https://oauth2.sigstore.dev/auth":            "everybody with a GitHub, Google or Microsoft account",
	"https://oauth2.sigstage.dev/auth":            "everybody with a GitHub, Google or Microsoft account",
	"https://agent.buildkite.com":                 "every organization on Buildkite",
	"https://oidc.codefresh.io":                   "every account on Codefresh",
	"https://oidc.circleci.com":                   "every organization on CircleCI",
	"https://oidc.circleci.com/org/*":             "every organization on CircleCI",
	"https://issuer.enforce.dev":                  "every Chainguard customer",
	"https://issuer.hello.coop":                   "everybody",
	"https://app.terraform.io":                    "every organization on HCP Terraform",
	"https://appleid.apple.com":                   "everybody with an Apple account",
}

// Warnings says what is allowed and should be known, at the places where it stands.
func (c Config) Warnings() []*fault.Setting {
	t, err := c.compile()
	if err != nil {
		return nil
	}
	var out []*fault.Setting
	add := func(r *row, problem, fix string, keys ...string) {
		out = append(out, fault.BadSetting(problem, fix, append([]string{r.section(), r.key}, keys...)...))
	}
	for _, r := range t.rows {
		restricted := r.policy.enforces() || r.written
		if who, ok := world[r.key]; ok && !restricted {
			add(r, "no policy: "+who+" can get a certificate of this CA", "write a policy with an allow rule", "policy")
		} else if r.wildcard && !restricted {
			add(r, "no policy: every issuer that matches the pattern can get certificates of this CA", "write a policy with an allow rule", "policy")
		}
		if r.config.IssuerClaim != "" && len(r.config.MappedIssuers) == 0 {
			add(r, "issuer-claim without mapped-issuers: this provider can name any issuer, others in this file too", "list the issuers that it may name", "issuer-claim")
		}
		if problem, fix, key := r.misnamed(); problem != "" {
			add(r, problem, fix, key)
		}
		if r.config.Type == "ci-provider" && r.config.CIProvider == "" && r.config.Profile == "" {
			add(r, "no ci-provider: every token of this issuer is refused",
				"write profile: NAME, or ci-provider: NAME of an entry under ci-issuer-metadata", "type")
		}
		if r.wildcard && !strings.Contains(r.key, "*") {
			add(r, "a pattern without a star means one issuer, whose keys are fetched at the first token only",
				"move the entry to oidc-issuers")
		}
		if placeholder := unfilled(r.key); placeholder != "" {
			add(r, placeholder+" is a placeholder that is taken literally: no token has it in iss",
				"write the issuer as it stands in iss of a token")
		}
		if said := r.config.ChallengeClaim; said != "" && said != r.challenge() {
			add(r, "proofs are verified over the claim "+r.challenge()+", and clients are told so", "remove it, or write challenge-claim: "+r.challenge(), "challenge-claim")
		}
		if r.config.Insecure {
			add(r, "keys come over plain http: anybody on the way could make tokens", "use https", "insecure")
		}
		if r.policy != nil && !r.policy.enforces() {
			add(r, "every rule is in shadow mode: the policy refuses nothing", "remove shadow: true when the reports are as expected", "policy")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
		p := c.Providers[name]
		if _, known := profiles[name]; known || p.Claims != nil {
			continue
		}
		for _, d := range slices.Sorted(maps.Keys(p.Defaults)) {
			if p.Defaults[d] != "" {
				out = append(out,
					fault.BadSetting(fmt.Sprintf("a token whose claim %s is another text than this default is "+
						"refused; with Fulcio the claim wins", d),
						"list it under claims if it should win, or write claims: [] if not", "ci-issuer-metadata", name,
						"default-template-values", d))
			}
		}
	}
	return out
}

// misnamed says that certificates of r name the host of another provider than its issuer; problem is "" where they do
// not.
func (r *row) misnamed() (problem, fix, key string) {
	if name := r.config.CIProvider; name != "" && r.foreign(profiles[name]) {
		return "the profile " + name + " names the host of " + strings.Join(profiles[name].Issuers[:1], "") +
				", which is another one's",
			"write profile: " + name + " with parameters in place of ci-provider, or a profile of its own",
			"ci-provider"
	}
	if s := profiles[r.config.Type]; s.SAN != "" && len(r.config.Parameters) == 0 && !s.home(r.key) {
		return "the type " + r.config.Type + " names the host " + s.Defaults[s.Parameters[0]] +
				", which is another one's",
			"write parameters: {" + s.Parameters[0] + ": https://HOST} beside it", "type"
	}
	return "", "", ""
}

// unfilled returns the part of an issuer's URL that a provider's documentation writes for a value of the reader's own,
// or that stands for every tenant and is in no token; "" where there is none.
func unfilled(issuer string) string {
	if open := strings.IndexAny(issuer, "{<$"); open >= 0 {
		if end := strings.IndexAny(issuer[open:], "}>/"); end > 0 {
			return strings.TrimSuffix(issuer[open:open+end+1], "/")
		}
		return issuer[open:]
	}
	_, authority, path, _ := components(issuer)
	microsoft := strings.HasPrefix(authority, "login.microsoftonline.")
	for _, segment := range strings.Split(path, "/") {
		if segment == "common" || microsoft && (segment == "organizations" || segment == "consumers") {
			return "/" + segment + "/"
		}
	}
	return ""
}

// foreign reports whether r uses the file's own copy of a shipped profile whose addresses are another issuer's.
func (r *row) foreign(s shipped) bool {
	if len(s.Parameters) == 0 || len(s.Issuers) == 0 || r.profile == nil {
		return false
	}
	for _, name := range s.Parameters {
		if r.profile.defaults[name] != s.Defaults[name] {
			return false
		}
	}
	return !slices.ContainsFunc(s.Issuers, func(p string) bool { return match(p, strings.ReplaceAll(r.key, "*", "x")) })
}
