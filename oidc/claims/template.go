package claims

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template/parse"

	"github.com/mayfly-ca/mayfly/fault"
)

// A template is a part of Go's text/template that always ends and never calls code: text, claims, if and with, eq, ne,
// and, or, not, printf of texts. [parse] reads the syntax, so that it means what it means to Fulcio; the walk over the
// tree is here. A claim's name without braces is a template too.
type template []node

// node is a text (literal), a printed value, or a condition.
type node struct {
	text    string
	value   *expr
	test    *expr
	with    bool // the test's value is the dot of yes
	yes, no template
}

type op uint8

const (
	opText op = iota // a string
	opClaim
	opDot // the value of the closest with
	opEq
	opNe
	opNot
	opAnd
	opOr
	opPrintf
)

// kind is what an expression gives. The last one is for conditions only.
type kind uint8

const (
	aText kind = iota
	aBool
	eitherOne
)

type expr struct {
	op   op
	kind kind
	text string // opText; opClaim: the name
	// opClaim: written with index, so that it may be absent where it is the whole template or only tested
	optional bool
	args     []expr
	format   []string // opPrintf: what stands around the arguments
}

// ref is a claim that a template reads.
type ref struct {
	claim    string
	optional bool
}

// Limits of a template: on what it gives, in bytes, and on its forms.
const (
	maxRendered = 2048
	maxForms    = 64
)

// parseTemplate reads a template; its errors name the byte, from 1.
func parseTemplate(src string) (template, error) {
	trimmed := strings.TrimSpace(src)
	if trimmed == "" {
		return nil, nil
	}
	if !strings.Contains(src, "{{") {
		return template{{value: &expr{op: opClaim, text: trimmed}}}, nil
	}
	tree := parse.New("")
	tree.Mode = parse.SkipFuncCheck
	all := map[string]*parse.Tree{}
	if _, err := tree.Parse(src, "", "", all); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: :"))
	}
	for name, other := range all {
		if name != "" {
			return nil, at(other.Root, "define is not known here")
		}
	}
	if tree.Root == nil {
		return nil, nil
	}
	return templateReader{}.list(tree.Root)
}

// at is an error at the place of a node.
func at(n parse.Node, format string, args ...any) error {
	return fmt.Errorf("at byte %d: %s", int(n.Position())+1, fmt.Sprintf(format, args...))
}

// templateReader turns the tree of text/template/parse into a template. within says that a with stands around.
type templateReader struct{ within bool }

func (r templateReader) list(l *parse.ListNode) (template, error) {
	var out template
	if l == nil {
		return nil, nil
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			out = append(out, node{text: string(n.Text)})
		case *parse.CommentNode:
		case *parse.ActionNode:
			e, err := r.pipe(n.Pipe)
			if err != nil {
				return nil, err
			}
			if e.kind == eitherOne {
				return nil, at(n, "this gives a text or true or false; print one of them")
			}
			out = append(out, node{value: &e})
		case *parse.IfNode:
			one, err := r.branch(&n.BranchNode, false)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		case *parse.WithNode:
			one, err := r.branch(&n.BranchNode, true)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		default:
			return nil, at(n, "%s is not known here; docs/config.md lists what is", firstWord(n))
		}
	}
	return out, nil
}

// firstWord names an action that is not known.
func firstWord(n parse.Node) string {
	return strings.Trim(strings.Fields(strings.TrimLeft(n.String(), "{- "))[0], "{}")
}

func (r templateReader) branch(b *parse.BranchNode, with bool) (node, error) {
	test, err := r.pipe(b.Pipe)
	if err != nil {
		return node{}, err
	}
	if with && test.kind != aText {
		return node{}, at(b.Pipe, "with is for a claim or a text")
	}
	out := node{test: &test, with: with}
	inner := r
	inner.within = r.within || with
	if out.yes, err = inner.list(b.List); err != nil {
		return node{}, err
	}
	out.no, err = r.list(b.ElseList)
	return out, err
}

// pipe reads a pipeline: the value of each command is the last argument of the next one.
func (r templateReader) pipe(p *parse.PipeNode) (expr, error) {
	if len(p.Decl) > 0 {
		return expr{}, at(p, "variables are not known here")
	}
	var value *expr
	for _, c := range p.Cmds {
		e, err := r.command(c, value)
		if err != nil {
			return expr{}, err
		}
		value = &e
	}
	return *value, nil
}

func (r templateReader) command(c *parse.CommandNode, last *expr) (expr, error) {
	name, isFunction := c.Args[0].(*parse.IdentifierNode)
	if !isFunction {
		if len(c.Args) > 1 || last != nil {
			return expr{}, at(c, "%s takes no arguments", c.Args[0])
		}
		return r.operand(c.Args[0])
	}
	if name.Ident == "index" {
		return r.index(c, last)
	}
	var args []expr
	for _, a := range c.Args[1:] {
		e, err := r.operand(a)
		if err != nil {
			return expr{}, err
		}
		args = append(args, e)
	}
	if last != nil {
		args = append(args, *last)
	}
	return function(c, name.Ident, args)
}

// operand reads one argument.
func (r templateReader) operand(n parse.Node) (expr, error) {
	switch n := n.(type) {
	case *parse.StringNode:
		return expr{op: opText, text: n.Text}, nil
	case *parse.FieldNode:
		if len(n.Ident) == 1 && !r.within {
			return expr{op: opClaim, text: n.Ident[0]}, nil
		}
		if r.within {
			return expr{}, at(n, "inside with, write $%s", n)
		}
	case *parse.VariableNode:
		if len(n.Ident) == 2 && n.Ident[0] == "$" {
			return expr{op: opClaim, text: n.Ident[1]}, nil
		}
	case *parse.DotNode:
		if r.within {
			return expr{op: opDot}, nil
		}
	case *parse.PipeNode:
		return r.pipe(n)
	}
	return expr{}, at(n, "%s is neither a claim nor a text", n)
}

// index reads index . "claim".
func (r templateReader) index(c *parse.CommandNode, last *expr) (expr, error) {
	if len(c.Args) == 3 && last == nil {
		name, isText := c.Args[2].(*parse.StringNode)
		_, dot := c.Args[1].(*parse.DotNode)
		root, dollar := c.Args[1].(*parse.VariableNode)
		if isText && name.Text != "" && (dot && !r.within || dollar && len(root.Ident) == 1 && root.Ident[0] == "$") {
			return expr{op: opClaim, text: name.Text, optional: true}, nil
		}
	}
	return expr{}, at(c, `index is for claims: index . "claim"`)
}

// function checks the arguments of a function: what is accepted has a value for all claims.
func function(c *parse.CommandNode, name string, args []expr) (expr, error) {
	texts := !slices.ContainsFunc(args, func(e expr) bool { return e.kind != aText })
	switch n := len(args); {
	case name == "eq" && n >= 2 && texts:
		return expr{op: opEq, kind: aBool, args: args}, nil
	case name == "ne" && n == 2 && texts:
		return expr{op: opNe, kind: aBool, args: args}, nil
	case name == "not" && n == 1:
		return expr{op: opNot, kind: aBool, args: args}, nil
	case (name == "and" || name == "or") && n >= 1:
		e := expr{op: opAnd, kind: args[0].kind, args: args}
		if name == "or" {
			e.op = opOr
		}
		if slices.ContainsFunc(args, func(a expr) bool { return a.kind != e.kind }) {
			e.kind = eitherOne
		}
		return e, nil
	case name == "printf" && n >= 1 && args[0].op == opText && texts:
		format, err := printfFormat(args[0].text)
		if err == nil && len(format) != n {
			err = fmt.Errorf("printf has %d arguments for %d places", n-1, len(format)-1)
		}
		if err != nil {
			return expr{}, at(c, "%s", err)
		}
		return expr{op: opPrintf, args: args[1:], format: format}, nil
	case slices.Contains([]string{"eq", "ne", "not", "and", "or", "printf"}, name):
		return expr{}, at(c, "%s with these arguments is not known here", name)
	}
	return expr{}, at(c, "%s is not known here; known are index, eq, ne, and, or, not and printf", name)
}

// printfFormat cuts a format at each %s (or %v, which is the same for a text).
func printfFormat(s string) ([]string, error) {
	out := []string{""}
	for {
		before, after, found := strings.Cut(s, "%")
		out[len(out)-1] += before
		if !found {
			return out, nil
		}
		switch {
		case strings.HasPrefix(after, "s"), strings.HasPrefix(after, "v"):
			out = append(out, "")
		case strings.HasPrefix(after, "%"):
			out[len(out)-1] += "%"
		default:
			return nil, errors.New("printf knows %s and %% only")
		}
		s = after[1:]
	}
}

// missingError is a claim that a template needs and that neither token nor defaults have.
type missingError struct{ claim string }

func (e *missingError) Error() string { return "neither the token nor the defaults have " + e.claim }

// refs yields every claim that the template reads. One that is only tested is optional when written with index.
func (t template) refs(yield func(ref) bool) { t.each(len(t) == 1, yield) }

func (t template) each(whole bool, yield func(ref) bool) bool {
	for _, n := range t {
		switch {
		case n.test != nil:
			if !n.test.each(true, yield) || !n.yes.each(false, yield) || !n.no.each(false, yield) {
				return false
			}
		case n.value != nil && !n.value.each(whole, yield):
			return false
		}
	}
	return true
}

func (e *expr) each(tested bool, yield func(ref) bool) bool {
	if e.op == opClaim {
		return yield(ref{e.text, e.optional && tested})
	}
	for i := range e.args {
		if !e.args[i].each((tested || e.kind == aBool || e.op == opOr && i+1 < len(e.args)) &&
			e.op != opPrintf, yield) {
			return false
		}
	}
	return true
}

// scope is what a template is rendered over.
type scope struct {
	values
	dot    []part
	absent string // an optional claim that is absent, at the end of what was evaluated last
}

// claim is the value of a template that is a claim; one without text is left out.
func (t template) claim(v values) (part, error) {
	p, ok, err := v.get(t[0].value.text)
	if err == nil && !ok && !t[0].value.optional && !v.nullable(t[0].value.text) {
		err = &missingError{t[0].value.text}
	}
	return p, err
}

// parts walks the template over values. No parts mean that the extension is left out.
func (t template) parts(v values) ([]part, error) {
	if len(t) == 1 && t[0].value != nil && t[0].value.op == opClaim {
		p, err := t.claim(v)
		return []part{p}, err
	}
	s := scope{values: v}
	return s.walk(t, make([]part, 0, 8), len(t) == 1)
}

func (s *scope) walk(t template, out []part, whole bool) ([]part, error) {
	for i := range t {
		n := &t[i]
		switch {
		case n.test != nil:
			value, holds, err := s.eval(n.test)
			if err != nil {
				return nil, err
			}
			branch, dot := n.no, s.dot
			if holds {
				branch = n.yes
				if n.with {
					s.dot = value
				}
			}
			if out, err = s.walk(branch, out, false); err != nil {
				return nil, err
			}
			s.dot = dot
		case n.value != nil && n.value.op == opClaim && !n.value.optional: // as below, and as most are
			p, ok, err := s.get(n.value.text)
			switch {
			case err != nil:
				return nil, err
			case !ok:
				return nil, &missingError{n.value.text}
			}
			out = append(out, p)
		case n.value != nil:
			value, holds, err := s.eval(n.value)
			switch {
			case err != nil:
				return nil, err
			case n.value.kind == aBool:
				value = []part{{text: fmt.Sprint(holds)}}
			case s.absent != "" && !whole:
				return nil, &missingError{s.absent}
			}
			out = append(out, value...)
		default:
			out = append(out, part{text: n.text})
		}
	}
	return out, nil
}

// eval returns the value of an expression: a text in parts, and whether it counts as true.
func (s *scope) eval(e *expr) (value []part, holds bool, err error) {
	s.absent = ""
	switch e.op {
	case opText:
		return []part{{text: e.text}}, e.text != "", nil
	case opDot:
		return s.dot, true, nil
	case opClaim:
		p, ok, err := s.get(e.text)
		switch {
		case err != nil:
			return nil, false, err
		case !ok && !e.optional:
			return nil, false, &missingError{e.text}
		case !ok:
			s.absent = e.text
			return nil, false, nil
		}
		return []part{p}, p.text != "", nil
	case opNot:
		_, holds, err = s.eval(&e.args[0])
		s.absent = ""
		return nil, !holds, err
	case opAnd, opOr:
		for i := range e.args {
			if value, holds, err = s.eval(&e.args[i]); err != nil || holds == (e.op == opOr) {
				return value, holds, err
			}
		}
		return value, holds, nil
	case opEq, opNe:
		return s.compare(e)
	}
	for i := range e.args { // opPrintf
		one, _, err := s.eval(&e.args[i])
		if err == nil && s.absent != "" {
			err = &missingError{s.absent}
		}
		if err != nil {
			return nil, false, err
		}
		value = append(append(value, part{text: e.format[i]}), one...)
	}
	value = append(value, part{text: e.format[len(e.format)-1]})
	return value, concatenated(value) != "", nil
}

// compare says whether the first argument is one of the others, or not the other one.
func (s *scope) compare(e *expr) ([]part, bool, error) {
	first, _, err := s.eval(&e.args[0])
	if err != nil {
		return nil, false, err
	}
	text, found := concatenated(first), false
	for i := range e.args[1:] {
		other, _, err := s.eval(&e.args[i+1])
		if err != nil {
			return nil, false, err
		}
		found = found || concatenated(other) == text
	}
	s.absent = ""
	return nil, found == (e.op == opEq), nil
}

// form is one way in which the parts of a template may follow one another: what they are does not depend on a token.
type form struct {
	parts   []part // a part of a claim has no text
	claims  int
	pattern *regexp.Regexp // of what the form gives when no claim has a slash; nil where no other form could give it
}

// forms lists the forms of a template. v has no claims.
func (t template) forms(v values) ([]form, error) {
	all, err := v.listForms(t, [][]part{nil}, nil)
	if err != nil {
		return nil, err
	}
	var out []form
	for _, parts := range all {
		f := form{parts: merged(nil, parts, true)}
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

var errForms = fmt.Errorf("gives more than %d kinds of names", maxForms)

// times appends each alternative to each beginning.
func times(beginnings, alternatives [][]part) ([][]part, error) {
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
		if out, err = times(out, alternatives); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// alternatives are the forms of what an expression prints.
func (v values) alternatives(e *expr, dot [][]part) ([][]part, error) {
	switch {
	case e.kind == aBool:
		return [][]part{{{text: "true"}}, {{text: "false"}}}, nil
	case e.op == opText:
		return [][]part{{{text: e.text}}}, nil
	case e.op == opDot:
		return dot, nil
	case e.op == opClaim:
		if d, fixed := v.setting(e.text); fixed {
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
			if out, err = times(out, one); err != nil {
				return nil, err
			}
			if out, err = times(out, [][]part{{{text: e.format[i+1]}}}); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	var out [][]part
	for i := range e.args { // or, and
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

// names are the forms of the template of a name. Where two of them could give one name, no claim in the name has a
// slash, and of two forms that still give one name the one with fewer claims does.
type names struct {
	forms     []form
	ambiguous bool
}

func (t template) names(v values) (names, error) {
	forms, err := t.forms(v)
	n := names{forms: forms}
	if err != nil {
		return n, err
	}
	slices.SortStableFunc(n.forms, func(a, b form) int { return a.claims - b.claims })
	for i, a := range n.forms {
		for _, b := range n.forms[:i] {
			x, y := opening(a.parts), opening(b.parts)
			n.ambiguous = n.ambiguous || strings.HasPrefix(x, y) || strings.HasPrefix(y, x)
		}
	}
	for i := range n.forms {
		if n.ambiguous {
			var b strings.Builder
			for _, p := range n.forms[i].parts {
				if p.claim != "" {
					b.WriteString(`[^/]+`)
					continue
				}
				b.WriteString(regexp.QuoteMeta(encoded(p.text, literalByte)))
			}
			n.forms[i].pattern = regexp.MustCompile("^" + b.String() + "$")
		}
	}
	return n, nil
}

// opening is the text before the first claim.
func opening(parts []part) string {
	if len(parts) == 0 || parts[0].claim != "" {
		return ""
	}
	return parts[0].text
}

// claims of all forms, which may have no slash where forms are ambiguous.
func (n names) claims() []string {
	var out []string
	for _, f := range n.forms {
		for _, p := range f.parts {
			if p.claim != "" && !slices.Contains(out, p.claim) {
				out = append(out, p.claim)
			}
		}
	}
	return out
}

// check refuses a name that a form with fewer claims gives too. parts are what it was made of.
func (n names) check(name string, parts []part) error {
	if !n.ambiguous {
		return nil
	}
	for _, f := range n.forms {
		if slices.EqualFunc(f.parts, merged(nil, parts, true), func(a, b part) bool {
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
				errors.New("another form of the template gives the same name"), "claim", claim)
		}
	}
	return nil
}
