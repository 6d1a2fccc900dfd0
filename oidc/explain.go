package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Explainer says what a configuration would do with a token. It asks nobody: signatures are verified only with keys that are
// at hand. It runs the functions that [Verifier.Identify] runs.
type Explainer struct {
	table *table
	state string
}

// NewExplainer compiles a configuration. Its errors are those of [New].
func NewExplainer(c Config) (*Explainer, error) {
	t, err := c.compile()
	return &Explainer{table: t}, err
}

// WithState lets the explainer use the provider keys that a server kept in its state directory.
func (e *Explainer) WithState(dir string) *Explainer { return &Explainer{table: e.table, state: dir} }

// Verdict is how a step ended.
type Verdict string

// The verdicts.
const (
	Passed  Verdict = "pass"
	Failed  Verdict = "fail"
	Unknown Verdict = "unknown" // not looked at, and why is in the detail
	Noted   Verdict = "note"    // a rule in shadow mode, or one that did not decide
)

// Step is one thing that happens to a token.
type Step struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`
}

// Explanation is everything that would happen to a token, in order. Steps after the first failure are shown as if it had not
// been there, as far as they can be.
type Explanation struct {
	Steps    []Step
	Decision Decision
	Err      error // of the first step that fails: what the client would be told
}

func (x *Explanation) note(name string, v Verdict, detail string) {
	x.Steps = append(x.Steps, Step{name, v, detail})
}

// did notes a step that passed or failed.
func (x *Explanation) did(name string, err error, detail string) {
	if err == nil {
		x.note(name, Passed, detail)
		return
	}
	if x.Err == nil {
		x.Err = err
	}
	x.note(name, Failed, describe(err))
}

// describe is an error with the facts that a client is told and the cause that it is not.
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

// Token explains a token at a time.
func (e *Explainer) Token(raw string, now time.Time) *Explanation {
	x := &Explanation{}
	t, err := parseToken(raw)
	if err != nil {
		x.did("token", err, "")
		return x
	}
	x.did("token", nil, fmt.Sprintf("compact JWS, alg %s, kid %q, %d bytes", t.alg, t.kid, len(raw)))
	r := e.issuer(x, t.claims)
	if r == nil {
		return x
	}
	for _, c := range tokenChecks {
		x.did(c.name, c.run(r, t, now), r.detail(c.name, t.claims))
	}
	e.signature(x, r, t)
	e.decision(x, r, t.claims)
	return x
}

// Claims explains the claims of a token that somebody has verified, such as recorded ones. Times are not looked at.
func (e *Explainer) Claims(all map[string]any) *Explanation {
	x := &Explanation{}
	parsed, err := ParseClaims(all)
	if err != nil {
		x.did("claims", fault.New(fault.TokenMalformed, err), "")
		return x
	}
	c := claims(parsed)
	r := e.issuer(x, c)
	if r == nil {
		return x
	}
	if _, ok := c["aud"]; ok {
		x.did("audience", r.checkAudience(c), r.detail("audience", c))
	} else {
		x.note("audience", Unknown, "the claims have no aud")
	}
	x.note("signature", Unknown, "claims have none")
	e.decision(x, r, c)
	return x
}

// Decide maps claims and asks the policy. If they have an audience, it must be an accepted one. The decision also comes with an
// error that it explains.
func (e *Explainer) Decide(all map[string]any) (d Decision, err error) {
	parsed, err := ParseClaims(all)
	if err != nil {
		return d, fault.New(fault.TokenMalformed, err)
	}
	c := claims(parsed)
	iss, err := c.text("iss")
	if err != nil {
		return d, err
	}
	r := e.table.find(iss)
	if r == nil {
		return d, fault.New(fault.IssuerNotTrusted, nil, "issuer", iss)
	}
	d.Entry = r.key
	if _, ok := c["aud"]; ok {
		if err := r.checkAudience(c); err != nil {
			return d, err
		}
	}
	err = r.decide(c, &d)
	return d, err
}

func (e *Explainer) issuer(x *Explanation, c claims) *row {
	iss, err := c.text("iss")
	if err != nil {
		x.did("issuer", err, "")
		return nil
	}
	r := e.table.find(iss)
	switch {
	case r == nil:
		x.did("issuer", fault.New(fault.IssuerNotTrusted, errors.New("no entry has it: "+e.nearest(iss)), "issuer", iss), "")
	case r.wildcard:
		x.did("issuer", nil, fmt.Sprintf("%s, by the pattern %s", iss, r.key))
	default:
		x.did("issuer", nil, iss)
	}
	if r != nil {
		if problem, fix, _ := r.misnamed(); problem != "" {
			x.note("entry", Noted, problem+"; "+fix)
		}
	}
	return r
}

// nearest hints at the entry that was probably meant.
func (e *Explainer) nearest(iss string) string {
	for key := range e.table.exact {
		if strings.EqualFold(strings.TrimSuffix(key, "/"), strings.TrimSuffix(iss, "/")) {
			return "there is " + key + ", and issuers are compared byte for byte"
		}
	}
	return fmt.Sprintf("%d entries were compared", len(e.table.rows))
}

// detail says what a check looked at.
func (r *row) detail(name string, c claims) string {
	at := func(claim string) string {
		t, ok, err := c.at(claim)
		if !ok || err != nil {
			return "absent"
		}
		return t.UTC().Format(time.RFC3339)
	}
	switch name {
	case "audience":
		return strings.Join(c.audiences(), " ")
	case "expiry":
		return "exp " + at("exp")
	case "not before":
		return "nbf " + at("nbf")
	case "algorithm":
		return "of the announced ones only"
	case "issued at":
		if r.lenient && r.config.MaxAge == 0 && r.config.MaxLifetime == 0 {
			return "not looked at (compat: fulcio)"
		}
		return "iat " + at("iat") + ", may live " + r.lifetime.String()
	}
	return "each once, none that differ in case only"
}

// signature verifies with the keys that are at hand without asking.
func (e *Explainer) signature(x *Explanation, r *row, t *token) {
	iss, err := t.claims.text("iss")
	var ring *keyring
	switch {
	case err != nil:
	case r.config.StaticKeys != nil:
		ring, err = static{*r.config.StaticKeys}.fetch(context.Background(), time.Now())
	case e.state != "" && !r.wildcard:
		var way *route
		if way, err = newRoute(r, Options{}, newAnchors()); err == nil {
			ring = stateFile{
				dir: e.state, issuer: iss, trust: way.trust,
				log: slog.New(slog.DiscardHandler),
			}.load(time.Now())
		}
	}
	if ring == nil {
		if err != nil {
			x.did("signature", fault.New(fault.ProviderUnavailable, err, "issuer", iss), "")
			return
		}
		x.note("signature", Unknown, "not verified: the provider's keys are not at hand")
		return
	}
	x.Decision.ProviderKey, err = t.verify(ring)
	x.did("signature", err, fmt.Sprintf("by one of the provider's %d keys", len(ring.keys)))
}

func (e *Explainer) decision(x *Explanation, r *row, c claims) {
	d := &x.Decision
	err := r.decide(c, d)
	denied := err != nil && fault.From(err).Reason == fault.PolicyDenied
	if err != nil && !denied {
		x.did("identity", err, "")
		return
	}
	x.did("identity", nil, fmt.Sprintf("%s %s (type %s)", d.Identity.SAN.Kind, d.Identity.SAN.Value, r.config.Type))
	for _, res := range d.Rules {
		x.note("rule "+res.Name, res.verdict(d), res.words())
	}
	switch {
	case r.policy == nil:
		x.note("policy", Noted, "there is none: everybody with a good token passes")
	case denied:
		x.did("policy", err, "")
	default:
		x.did("policy", nil, "allowed by "+either(d.Rule, "default: no rule refuses", d.Rule == ""))
	}
	if d.Shadow != "" {
		x.note("shadow", Noted, "the rule "+d.Shadow+" would refuse if it were in force")
	}
	if d.KeyAlgorithms != nil {
		x.note("key algorithms", Noted, strings.Join(d.KeyAlgorithms, ", "))
	}
}

func (r RuleResult) verdict(d *Decision) Verdict {
	switch {
	case r.Shadow || r.Name != d.Rule && !strings.Contains(","+d.Rule+",", ","+r.Name+","):
		return Noted
	case r.Holds == r.Allow:
		return Passed
	}
	return Failed
}

func (r RuleResult) words() string {
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
	return kind + ": does not hold"
}
