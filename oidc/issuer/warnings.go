package issuer

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// publicIssuers are issuers from which anyone can get a token, with a description of the possible subjects. The keys
// are compared with the keys of entries.
var publicIssuers = map[string]string{
	"https://token.actions.githubusercontent.com": "every repository on GitHub",
	"https://gitlab.com":                          "every project on GitLab.com",
	"https://accounts.google.com":                 "everyone with a Google account",
	"https://oauth2.sigstore.dev/auth":            "everyone with a GitHub, Google or Microsoft account",
	"https://oauth2.sigstage.dev/auth":            "everyone with a GitHub, Google or Microsoft account",
	"https://agent.buildkite.com":                 "every organization on Buildkite",
	"https://oidc.codefresh.io":                   "every account on Codefresh",
	"https://oidc.circleci.com":                   "every organization on CircleCI",
	"https://oidc.circleci.com/org/*":             "every organization on CircleCI",
	"https://issuer.enforce.dev":                  "every Chainguard customer",
	"https://issuer.hello.coop":                   "everybody",
	"https://app.terraform.io":                    "every organization on HCP Terraform",
	"https://appleid.apple.com":                   "everyone with an Apple account",
}

// warning is one check of an entry, for settings that are valid but probably not intended. A new warning is a new row
// of [warnings].
type warning func(*Entry) (problem, fix, key string)

// warnings are the checks of an entry. problem is empty if there is nothing to report; key is the setting, or empty for
// the entry itself.
var warnings = []warning{
	func(e *Entry) (problem, fix, key string) {
		if e.Policy.Enforces() || e.ownDomains {
			return "", "", ""
		}
		if who, ok := publicIssuers[e.Key]; ok {
			return "no policy: " + who + " can get a certificate of this CA",
				"write a policy with an allow rule", "policy"
		}
		if e.Pattern {
			return "no policy: every issuer that matches the pattern can get certificates of this CA",
				"write a policy with an allow rule", "policy"
		}
		return "", "", ""
	},
	func(e *Entry) (problem, fix, key string) {
		if e.Config.IssuerClaim == "" || len(e.Config.MappedIssuers) > 0 {
			return "", "", ""
		}
		return "issuer-claim without mapped-issuers: this provider can assert any issuer, including others in this file",
			"list the issuers that it may assert", "issuer-claim"
	},
	func(e *Entry) (problem, fix, key string) { return e.Mapper.ForeignHost() },
	func(e *Entry) (problem, fix, key string) {
		if e.Config.Type != "ci-provider" || e.Config.CIProvider != "" || e.Config.Profile != "" {
			return "", "", ""
		}
		return "no ci-provider: every token of this issuer is refused",
			"write profile: NAME, or ci-provider: NAME of an entry under ci-issuer-metadata", "type"
	},
	func(e *Entry) (problem, fix, key string) {
		if !e.Pattern || strings.Contains(e.Key, "*") {
			return "", "", ""
		}
		return "a pattern without a star matches one issuer, whose keys are fetched only when the first token arrives",
			"move the entry to oidc-issuers", ""
	},
	func(e *Entry) (problem, fix, key string) {
		text := placeholder(e.Key)
		if text == "" {
			return "", "", ""
		}
		return text + " is a placeholder and is compared literally: no token has it in iss",
			"write the exact value of iss in a token", ""
	},
	func(e *Entry) (problem, fix, key string) {
		used := e.Mapper.ChallengeClaim()
		if set := e.Config.ChallengeClaim; set == "" || set == used {
			return "", "", ""
		}
		return "challenge-claim has no effect: clients sign the claim " + used,
			"remove it, or write challenge-claim: " + used, "challenge-claim"
	},
	func(e *Entry) (problem, fix, key string) {
		if !e.Config.Insecure {
			return "", "", ""
		}
		return "keys are fetched over plain http: an attacker on the network could forge tokens",
			"use https", "insecure"
	},
	func(e *Entry) (problem, fix, key string) {
		if e.Policy == nil || e.Policy.Enforces() {
			return "", "", ""
		}
		return "every rule is in shadow mode: the policy refuses no token",
			"remove shadow: true when the reports are as expected", "policy"
	},
}

// Warnings lists settings that are valid but probably not intended. It returns nothing for a configuration with errors.
func (c Config) Warnings() []*fault.Setting {
	t, err := c.Compile()
	if err != nil {
		return nil
	}
	var out []*fault.Setting
	for _, e := range t.entries {
		for _, check := range warnings {
			problem, fix, key := check(e)
			if problem == "" {
				continue
			}
			path := []string{e.Section(), e.Key}
			if key != "" {
				path = append(path, key)
			}
			out = append(out, fault.BadSetting(problem, fix, path...))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
		for _, d := range c.Providers[name].FixedDefaults(name) {
			out = append(out, fault.BadSetting(
				fmt.Sprintf("a token whose claim %s differs from this default is refused; Fulcio uses the claim", d),
				"list it under claims to use the claim, or write claims: [] to keep the default",
				"ci-issuer-metadata", name, "default-template-values", d))
		}
	}
	return out
}

// placeholder returns a part of an issuer's URL that is a placeholder in the documentation of a provider, or that means
// all tenants of Microsoft and occurs in no token; empty if there is none.
func placeholder(issuer string) string {
	if open := strings.IndexAny(issuer, "{<$"); open >= 0 {
		if end := strings.IndexAny(issuer[open:], "}>/"); end > 0 {
			return strings.TrimSuffix(issuer[open:open+end+1], "/")
		}
		return issuer[open:]
	}
	authority, path := splitURL(issuer)
	microsoft := strings.HasPrefix(authority, "login.microsoftonline.")
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "common" || microsoft && (segment == "organizations" || segment == "consumers") {
			return "/" + segment + "/"
		}
	}
	return ""
}
