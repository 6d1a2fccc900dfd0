package oidc

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/claims"
	"github.com/mayfly-ca/mayfly/oidc/issuer"
	"github.com/mayfly-ca/mayfly/oidc/policy"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// ProfileInfo describes a profile that mayfly ships.
type ProfileInfo = claims.ProfileInfo

// Profiles lists the shipped profiles, sorted.
func Profiles() []ProfileInfo { return claims.Profiles() }

// DecodeClaims reads claims from JSON by the rules for tokens.
func DecodeClaims(data []byte) (map[string]any, error) { return token.DecodeClaims(data) }

// Explainer explains what a configuration would do with a token. It uses no network: signatures are verified only with
// keys that are available offline. It runs the functions that [Verifier.Identify] runs.
type Explainer struct {
	table    *issuer.Table
	stateDir string
}

// NewExplainer compiles a configuration. It returns the same errors as [New].
func NewExplainer(c Config) (*Explainer, error) {
	t, err := c.Compile()
	return &Explainer{table: t}, err
}

// WithState lets the explainer use the provider keys that a server kept in its state directory.
func (e *Explainer) WithState(dir string) *Explainer {
	return &Explainer{table: e.table, stateDir: dir}
}

// EntryInfo describes an entry of the configuration for its operator.
type EntryInfo struct {
	Key        string   `json:"key"` // URL or pattern
	Pattern    bool     `json:"pattern"`
	Type       string   `json:"type"`
	Profile    string   `json:"profile,omitempty"` // a shipped profile, or one of the file
	Audiences  []string `json:"audiences"`
	Rules      []string `json:"rules,omitempty"`  // deny rules before allow rules; rules in shadow mode are marked
	Claims     []string `json:"claims,omitempty"` // claims that a token must have, for profiles
	StaticKeys bool     `json:"static_keys"`
}

// Entries lists the entries: exact issuers sorted, then patterns sorted.
func (e *Explainer) Entries() []EntryInfo {
	var out []EntryInfo
	for _, one := range e.table.Entries() {
		i := EntryInfo{
			Key: one.Key, Pattern: one.Pattern, Type: one.Config.Type, Profile: one.Config.Profile,
			Audiences: one.Audiences, StaticKeys: one.Config.StaticKeys != nil, Claims: one.Mapper.RequiredClaims(),
		}
		if i.Profile == "" {
			i.Profile = one.Config.CIProvider
		}
		if one.Policy != nil {
			i.Rules = one.Policy.Labels()
		}
		out = append(out, i)
	}
	return out
}

// StepResult is the result of a step.
type StepResult string

// The results.
const (
	Passed  StepResult = "pass"
	Failed  StepResult = "fail"
	Unknown StepResult = "unknown" // not checked; the detail says why
	Noted   StepResult = "note"    // a rule in shadow mode, or one that did not decide
)

// Step is one step of the verification of a token.
type Step struct {
	Name   string     `json:"name"`
	Result StepResult `json:"verdict"`
	Detail string     `json:"detail"`
}

// Explanation has the steps of the verification of a token, in order. The steps after the first failure are shown as if
// it had not occurred, if possible.
type Explanation struct {
	Steps    []Step
	Decision Decision
	Err      error // the error of the first step that fails, as the client would get it
}

func (x *Explanation) note(name string, r StepResult, detail string) {
	x.Steps = append(x.Steps, Step{name, r, detail})
}

// result adds a step that passed or failed.
func (x *Explanation) result(name string, err error, detail string) {
	if err == nil {
		x.note(name, Passed, detail)
		return
	}
	if x.Err == nil {
		x.Err = err
	}
	x.note(name, Failed, describe(err))
}

// describe returns the text of an error with the metadata, which a client gets, and the cause, which a client does not
// get.
func describe(err error) string {
	f := fault.From(err)
	text := string(f.Reason)
	for _, k := range slices.Sorted(maps.Keys(f.Meta)) {
		text += fmt.Sprintf(" %s=%q", k, f.Meta[k])
	}
	if f.Err != nil {
		text += ": " + f.Err.Error()
	}
	return text
}

// Token explains a token at the time now.
func (e *Explainer) Token(raw string, now time.Time) *Explanation {
	x := &Explanation{}
	t, err := token.Parse(raw)
	if err != nil {
		x.result("token", err, "")
		return x
	}
	x.result("token", nil, fmt.Sprintf("compact JWS, alg %s, kid %q, %d bytes", t.Algorithm, t.KeyID, len(raw)))
	entry := e.find(x, t.Claims)
	if entry == nil {
		return x
	}
	for _, c := range issuer.Checks() {
		x.result(c.Name, c.Run(entry, t, now), c.Inputs(entry, t.Claims))
	}
	e.signature(x, entry, t)
	decide(x, entry, t.Claims)
	return x
}

// Claims explains claims that were verified before, such as recorded ones. Times are not checked.
func (e *Explainer) Claims(all map[string]any) *Explanation {
	x := &Explanation{}
	c, err := token.ConvertClaims(all)
	if err != nil {
		x.result("claims", fault.New(fault.TokenMalformed, err), "")
		return x
	}
	entry := e.find(x, c)
	if entry == nil {
		return x
	}
	if _, ok := c["aud"]; ok {
		x.result("audience", entry.CheckAudience(c), strings.Join(c.Audiences(), " "))
	} else {
		x.note("audience", Unknown, "the claims have no aud")
	}
	x.note("signature", Unknown, "claims have none")
	decide(x, entry, c)
	return x
}

// Decide maps claims and evaluates the policy. If the claims have an audience, it must be an accepted one. A decision
// that is returned with an error explains the error.
func (e *Explainer) Decide(all map[string]any) (d Decision, err error) {
	c, err := token.ConvertClaims(all)
	if err != nil {
		return d, fault.New(fault.TokenMalformed, err)
	}
	iss, err := c.Text("iss")
	if err != nil {
		return d, err
	}
	entry := e.table.Find(iss)
	if entry == nil {
		return d, fault.New(fault.IssuerNotTrusted, nil, "issuer", iss)
	}
	d.Entry = entry.Key
	if _, ok := c["aud"]; ok {
		if err := entry.CheckAudience(c); err != nil {
			return d, err
		}
	}
	err = entry.Decide(c, &d)
	return d, err
}

// find adds the step that finds the entry of an issuer.
func (e *Explainer) find(x *Explanation, c token.Claims) *issuer.Entry {
	iss, err := c.Text("iss")
	if err != nil {
		x.result("issuer", err, "")
		return nil
	}
	entry := e.table.Find(iss)
	if entry == nil {
		x.result("issuer",
			fault.New(fault.IssuerNotTrusted, errors.New("no entry has this issuer: "+e.nearest(iss)), "issuer", iss),
			"")
		return nil
	}
	detail := iss
	if entry.Pattern {
		detail = fmt.Sprintf("%s, by the pattern %s", iss, entry.Key)
	}
	x.result("issuer", nil, detail)
	if problem, fix, _ := entry.Mapper.ForeignHost(); problem != "" {
		x.note("entry", Noted, problem+"; "+fix)
	}
	return entry
}

// nearest returns a text that says which entry was probably meant.
func (e *Explainer) nearest(iss string) string {
	entries := e.table.Entries()
	for _, one := range entries {
		if !one.Pattern && strings.EqualFold(strings.TrimSuffix(one.Key, "/"), strings.TrimSuffix(iss, "/")) {
			return "there is " + one.Key + ", and issuers are compared byte for byte"
		}
	}
	return fmt.Sprintf("%d entries were compared", len(entries))
}

// signature adds the step that verifies the signature, with keys that are available offline.
func (e *Explainer) signature(x *Explanation, entry *issuer.Entry, t *token.Token) {
	keys, err := provider.Offline(entry.ProviderEntry(), e.stateDir)
	switch {
	case keys == nil && err != nil:
		x.result("signature", fault.New(fault.ProviderUnavailable, err, "issuer", entry.Key), "")
	case keys == nil:
		x.note("signature", Unknown, "not verified: the keys of the provider are not available offline")
	default:
		x.Decision.ProviderKey, err = keys.Verify(t)
		x.result("signature", err, fmt.Sprintf("by one of the provider's %d keys", keys.Len()))
	}
}

// decide adds the steps of the mapping and of the policy.
func decide(x *Explanation, entry *issuer.Entry, c token.Claims) {
	d := &x.Decision
	err := entry.Decide(c, d)
	denied := err != nil && fault.From(err).Reason == fault.PolicyDenied
	if err != nil && !denied {
		x.result("identity", err, "")
		return
	}
	x.result("identity", nil, fmt.Sprintf("%s %s (type %s)", d.Identity.SAN.Kind, d.Identity.SAN.Value,
		entry.Config.Type))
	for _, r := range d.Rules {
		x.note("rule "+r.Name, resultOf(r, d), detailOf(r))
	}
	switch {
	case entry.Policy == nil:
		x.note("policy", Noted, "the entry has no policy: every valid token is accepted")
	case denied:
		x.result("policy", err, "")
	case d.Rule == "":
		x.result("policy", nil, "allowed by default: no rule refuses the token")
	default:
		x.result("policy", nil, "allowed by "+d.Rule)
	}
	if d.Shadow != "" {
		x.note("shadow", Noted, "the rule "+d.Shadow+" would refuse the token if it were in force")
	}
	if d.KeyAlgorithms != nil {
		x.note("key algorithms", Noted, strings.Join(d.KeyAlgorithms, ", "))
	}
}

func resultOf(r policy.RuleResult, d *Decision) StepResult {
	switch {
	case r.Shadow || !slices.Contains(strings.Split(d.Rule, ","), r.Name):
		return Noted
	case r.Holds == r.Allow:
		return Passed
	}
	return Failed
}

func detailOf(r policy.RuleResult) string {
	kind := "deny"
	if r.Allow {
		kind = "allow"
	}
	if r.Shadow {
		kind += " (shadow)"
	}
	switch {
	case r.Err != nil:
		return kind + ": no value: " + r.Err.Error()
	case r.Holds:
		return kind + ": holds"
	}
	return kind + ": false"
}
