package claims

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// form is one sequence of literals and claims that a template with conditions can render. The forms of a template do
// not depend on a token.
type form struct {
	parts  []part // with only the names of claims
	claims int
	// matches the texts that the form renders from claims without a slash; nil if no other form can render them
	pattern *regexp.Regexp
}

// forms lists the forms of a template. v contains no claims.
func (t template) forms(v values) ([]form, error) {
	all, err := v.listForms(t, [][]part{nil}, nil)
	if err != nil {
		return nil, err
	}
	var out []form
	for _, parts := range all {
		f := form{parts: mergeLiterals(nil, parts, true)}
		for _, p := range f.parts {
			if p.claim != "" {
				f.claims++
			}
		}
		if !slices.ContainsFunc(out, func(o form) bool { return slices.Equal(o.parts, f.parts) }) {
			out = append(out, f)
		}
	}
	return out, nil
}

var errForms = fmt.Errorf("has more than %d forms", maxForms)

// combine appends each alternative to each prefix.
func combine(beginnings, alternatives [][]part) ([][]part, error) {
	if len(beginnings)*len(alternatives) > maxForms {
		return nil, errForms
	}
	var out [][]part
	for _, b := range beginnings {
		for _, a := range alternatives {
			out = append(out, slices.Concat(b, a))
		}
	}
	return out, nil
}

func (v values) listForms(t template, out, dot [][]part) ([][]part, error) {
	for _, n := range t {
		var alternatives [][]part
		var err error
		switch {
		case n.test != nil:
			inner := dot
			if n.with {
				if inner, err = v.alternatives(n.test, dot); err != nil {
					return nil, err
				}
			}
			if alternatives, err = v.listForms(n.yes, [][]part{nil}, inner); err != nil {
				return nil, err
			}
			var no [][]part
			if no, err = v.listForms(n.no, [][]part{nil}, dot); err != nil {
				return nil, err
			}
			alternatives = append(alternatives, no...)
		case n.value != nil:
			if alternatives, err = v.alternatives(n.value, dot); err != nil {
				return nil, err
			}
		default:
			alternatives = [][]part{{{text: n.text}}}
		}
		if out, err = combine(out, alternatives); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// alternatives lists the forms of the value of an expression.
func (v values) alternatives(e *expr, dot [][]part) ([][]part, error) {
	switch {
	case e.kind == kindBool:
		return [][]part{{{text: "true"}}, {{text: "false"}}}, nil
	case e.op == opText:
		return [][]part{{{text: e.text}}}, nil
	case e.op == opDot:
		return dot, nil
	case e.op == opClaim:
		if d, fixed := v.fixedDefault(e.text); fixed {
			return [][]part{{{text: d}}}, nil
		}
		return [][]part{{{claim: e.text}}}, nil
	case e.op == opPrintf:
		out := [][]part{{{text: e.format[0]}}}
		for i := range e.args {
			one, err := v.alternatives(&e.args[i], dot)
			if err != nil {
				return nil, err
			}
			if out, err = combine(out, one); err != nil {
				return nil, err
			}
			if out, err = combine(out, [][]part{{{text: e.format[i+1]}}}); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	var out [][]part
	for i := range e.args { // opOr, opAnd
		one, err := v.alternatives(&e.args[i], dot)
		if err != nil {
			return nil, err
		}
		out = append(out, one...)
		if len(out) > maxForms {
			return nil, errForms
		}
	}
	return out, nil
}

// nameForms are the forms of the template of a name. If two of them could render the same name, they are ambiguous: no
// claim in the name may then have a slash, and a name that two forms still render is accepted only from the form with
// fewer claims.
type nameForms struct {
	all       []form // sorted by number of claims
	ambiguous bool
}

func (t template) nameForms(v values) (nameForms, error) {
	forms, err := t.forms(v)
	n := nameForms{all: forms}
	if err != nil {
		return n, err
	}
	slices.SortStableFunc(n.all, func(a, b form) int { return a.claims - b.claims })
	for i, a := range n.all {
		for _, b := range n.all[:i] {
			x, y := literalPrefix(a.parts), literalPrefix(b.parts)
			n.ambiguous = n.ambiguous || strings.HasPrefix(x, y) || strings.HasPrefix(y, x)
		}
	}
	for i := range n.all {
		if n.ambiguous {
			var b strings.Builder
			for _, p := range n.all[i].parts {
				if p.claim != "" {
					b.WriteString(`[^/]+`)
					continue
				}
				b.WriteString(regexp.QuoteMeta(percentEncode(p.text, isLiteralByte)))
			}
			n.all[i].pattern = regexp.MustCompile("^" + b.String() + "$")
		}
	}
	return n, nil
}

// literalPrefix returns the text before the first claim.
func literalPrefix(parts []part) string {
	if len(parts) == 0 || parts[0].claim != "" {
		return ""
	}
	return parts[0].text
}

// claims lists the claims of all forms.
func (n nameForms) claims() []string {
	var out []string
	for _, f := range n.all {
		for _, p := range f.parts {
			if p.claim != "" && !slices.Contains(out, p.claim) {
				out = append(out, p.claim)
			}
		}
	}
	return out
}

// check refuses a name that a form with fewer claims can also render. parts are the parts of the name.
func (n nameForms) check(name string, parts []part) error {
	if !n.ambiguous {
		return nil
	}
	for _, f := range n.all {
		if slices.EqualFunc(f.parts, mergeLiterals(nil, parts, true), func(a, b part) bool {
			return a.claim == b.claim && (a.claim != "" || a.text == b.text)
		}) {
			return nil
		}
		if f.pattern.MatchString(name) {
			claim := "sub"
			for _, p := range parts {
				if p.claim != "" {
					claim = p.claim
				}
			}
			return fault.New(fault.ClaimInvalid,
				errors.New("another form of the template renders the same name"), "claim", claim)
		}
	}
	return nil
}
