package claims

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template/parse"
)

// A template is a part of Go's text/template that always terminates and calls no functions of a program: text, claims,
// if, with, eq, ne, and, or, not, and printf of strings. Package [parse] parses the syntax, as in Fulcio; this package
// walks the tree, because it must know which part of the result comes from which claim. The name of a claim without
// braces is also a template.
type template []node

// node is a literal, a value to print, or a condition.
type node struct {
	text    string // the literal; used if value and test are nil
	value   *expr
	test    *expr
	with    bool // a with: the value of test is the dot inside yes
	yes, no template
}

type op uint8

const (
	opText op = iota // a literal
	opClaim
	opDot // the dot: the value of the innermost with
	opEq
	opNe
	opNot
	opAnd
	opOr
	opPrintf
)

// kind is the type of the value of an expression.
type kind uint8

const (
	kindText  kind = iota
	kindBool       // printed as true or false
	kindMixed      // text or boolean, depending on the claims; allowed in conditions only
)

type expr struct {
	op   op
	kind kind
	text string // the literal, or the name of the claim
	// optional means that the claim is written with index: it may be absent if it is the whole template or only tested
	optional bool
	args     []expr
	format   []string // of opPrintf: the text before, between and after the arguments
}

// ref is the use of a claim in a template.
type ref struct {
	claim    string
	optional bool
}

// Limits of a template.
const (
	maxRendered = 2048 // bytes of a rendered text
	maxForms    = 64   // forms of the template of a name, see [form]
)

// parseTemplate compiles a template. Its errors name the position in bytes, from 1.
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
			return nil, errorAt(other.Root, "define is not supported")
		}
	}
	if tree.Root == nil {
		return nil, nil
	}
	return templateCompiler{}.list(tree.Root)
}

// errorAt returns an error with the position of a node.
func errorAt(n parse.Node, format string, args ...any) error {
	return fmt.Errorf("at byte %d: %s", int(n.Position())+1, fmt.Sprintf(format, args...))
}

// templateCompiler turns the tree of text/template/parse into a template.
type templateCompiler struct{ inWith bool }

func (c templateCompiler) list(l *parse.ListNode) (template, error) {
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
			e, err := c.pipe(n.Pipe)
			if err != nil {
				return nil, err
			}
			if e.kind == kindMixed {
				return nil, errorAt(n,
					"the value is a text or a boolean, depending on the claims; print only one of them")
			}
			out = append(out, node{value: &e})
		case *parse.IfNode:
			one, err := c.branch(&n.BranchNode, false)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		case *parse.WithNode:
			one, err := c.branch(&n.BranchNode, true)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		default:
			return nil, errorAt(n, "%s is not supported; docs/config.md lists the supported constructs", firstWord(n))
		}
	}
	return out, nil
}

// firstWord returns the name of an action that is not supported.
func firstWord(n parse.Node) string {
	return strings.Trim(strings.Fields(strings.TrimLeft(n.String(), "{- "))[0], "{}")
}

func (c templateCompiler) branch(b *parse.BranchNode, with bool) (node, error) {
	test, err := c.pipe(b.Pipe)
	if err != nil {
		return node{}, err
	}
	if with && test.kind != kindText {
		return node{}, errorAt(b.Pipe, "with needs a claim or a text")
	}
	out := node{test: &test, with: with}
	inner := c
	inner.inWith = c.inWith || with
	if out.yes, err = inner.list(b.List); err != nil {
		return node{}, err
	}
	out.no, err = c.list(b.ElseList)
	return out, err
}

// pipe compiles a pipeline: the value of each command is the last argument of the next command.
func (c templateCompiler) pipe(p *parse.PipeNode) (expr, error) {
	if len(p.Decl) > 0 {
		return expr{}, errorAt(p, "variables are not supported")
	}
	var value *expr
	for _, cmd := range p.Cmds {
		e, err := c.command(cmd, value)
		if err != nil {
			return expr{}, err
		}
		value = &e
	}
	return *value, nil
}

func (c templateCompiler) command(cmd *parse.CommandNode, last *expr) (expr, error) {
	name, isFunction := cmd.Args[0].(*parse.IdentifierNode)
	if !isFunction {
		if len(cmd.Args) > 1 || last != nil {
			return expr{}, errorAt(cmd, "%s takes no arguments", cmd.Args[0])
		}
		return c.operand(cmd.Args[0])
	}
	if name.Ident == "index" {
		return c.index(cmd, last)
	}
	var args []expr
	for _, a := range cmd.Args[1:] {
		e, err := c.operand(a)
		if err != nil {
			return expr{}, err
		}
		args = append(args, e)
	}
	if last != nil {
		args = append(args, *last)
	}
	return function(cmd, name.Ident, args)
}

// operand compiles one argument.
func (c templateCompiler) operand(n parse.Node) (expr, error) {
	switch n := n.(type) {
	case *parse.StringNode:
		return expr{op: opText, text: n.Text}, nil
	case *parse.FieldNode:
		if len(n.Ident) == 1 && !c.inWith {
			return expr{op: opClaim, text: n.Ident[0]}, nil
		}
		if c.inWith {
			return expr{}, errorAt(n, "inside with, write $%s", n)
		}
	case *parse.VariableNode:
		if len(n.Ident) == 2 && n.Ident[0] == "$" {
			return expr{op: opClaim, text: n.Ident[1]}, nil
		}
	case *parse.DotNode:
		if c.inWith {
			return expr{op: opDot}, nil
		}
	case *parse.PipeNode:
		return c.pipe(n)
	}
	return expr{}, errorAt(n, "%s is neither a claim nor a text", n)
}

// index compiles index . "claim".
func (c templateCompiler) index(cmd *parse.CommandNode, last *expr) (expr, error) {
	if len(cmd.Args) == 3 && last == nil {
		name, isString := cmd.Args[2].(*parse.StringNode)
		_, dot := cmd.Args[1].(*parse.DotNode)
		root, dollar := cmd.Args[1].(*parse.VariableNode)
		if isString && name.Text != "" && (dot && !c.inWith || dollar && len(root.Ident) == 1 && root.Ident[0] == "$") {
			return expr{op: opClaim, text: name.Text, optional: true}, nil
		}
	}
	return expr{}, errorAt(cmd, `index is for claims: index . "claim"`)
}

// function compiles the call of a function. A call that it accepts has a value for any claims.
func function(c *parse.CommandNode, name string, args []expr) (expr, error) {
	texts := !slices.ContainsFunc(args, func(e expr) bool { return e.kind != kindText })
	switch n := len(args); {
	case name == "eq" && n >= 2 && texts:
		return expr{op: opEq, kind: kindBool, args: args}, nil
	case name == "ne" && n == 2 && texts:
		return expr{op: opNe, kind: kindBool, args: args}, nil
	case name == "not" && n == 1:
		return expr{op: opNot, kind: kindBool, args: args}, nil
	case (name == "and" || name == "or") && n >= 1:
		e := expr{op: opAnd, kind: args[0].kind, args: args}
		if name == "or" {
			e.op = opOr
		}
		if slices.ContainsFunc(args, func(a expr) bool { return a.kind != e.kind }) {
			e.kind = kindMixed
		}
		return e, nil
	case name == "printf" && n >= 1 && args[0].op == opText && texts:
		format, err := printfFormat(args[0].text)
		if err == nil && len(format) != n {
			err = fmt.Errorf("printf has %d arguments for %d verbs", n-1, len(format)-1)
		}
		if err != nil {
			return expr{}, errorAt(c, "%s", err)
		}
		return expr{op: opPrintf, args: args[1:], format: format}, nil
	case slices.Contains([]string{"eq", "ne", "not", "and", "or", "printf"}, name):
		return expr{}, errorAt(c, "%s is not supported with these arguments", name)
	}
	return expr{}, errorAt(c, "%s is not supported; the functions are index, eq, ne, and, or, not and printf", name)
}

// printfFormat splits a format at each %s, or %v, which has the same meaning for a string.
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
			return nil, errors.New("printf supports only %s, %v and %%")
		}
		s = after[1:]
	}
}

// missingError means that neither the token nor the defaults have a claim that a template needs.
type missingError struct{ claim string }

func (e *missingError) Error() string { return "neither the token nor the defaults have " + e.claim }

// refs yields every use of a claim. A claim that is written with index and only tested is optional.
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
		if !e.args[i].each((tested || e.kind == kindBool || e.op == opOr && i+1 < len(e.args)) &&
			e.op != opPrintf, yield) {
			return false
		}
	}
	return true
}

// renderer renders a template.
type renderer struct {
	values
	dot    []part // the dot: the value of the innermost with
	absent string // the absent optional claim, if the last expression was one
}

// claim renders a template that is one claim. An absent optional claim gives an empty part.
func (t template) claim(v values) (part, error) {
	p, ok, err := v.get(t[0].value.text)
	if err == nil && !ok && !t[0].value.optional && !v.nullable(t[0].value.text) {
		err = &missingError{t[0].value.text}
	}
	return p, err
}

// parts renders the template. If there are no parts, the extension is omitted.
func (t template) parts(v values) ([]part, error) {
	if len(t) == 1 && t[0].value != nil && t[0].value.op == opClaim {
		p, err := t.claim(v)
		return []part{p}, err
	}
	r := renderer{values: v}
	return r.render(t, make([]part, 0, 8), len(t) == 1)
}

func (r *renderer) render(t template, out []part, whole bool) ([]part, error) {
	for i := range t {
		n := &t[i]
		switch {
		case n.test != nil:
			value, holds, err := r.eval(n.test)
			if err != nil {
				return nil, err
			}
			branch, dot := n.no, r.dot
			if holds {
				branch = n.yes
				if n.with {
					r.dot = value
				}
			}
			if out, err = r.render(branch, out, false); err != nil {
				return nil, err
			}
			r.dot = dot
		case n.value != nil && n.value.op == opClaim &&
			!n.value.optional: // the most frequent case, without a call of eval
			p, ok, err := r.get(n.value.text)
			switch {
			case err != nil:
				return nil, err
			case !ok:
				return nil, &missingError{n.value.text}
			}
			out = append(out, p)
		case n.value != nil:
			value, holds, err := r.eval(n.value)
			switch {
			case err != nil:
				return nil, err
			case n.value.kind == kindBool:
				value = []part{{text: fmt.Sprint(holds)}}
			case r.absent != "" && !whole:
				return nil, &missingError{r.absent}
			}
			out = append(out, value...)
		default:
			out = append(out, part{text: n.text})
		}
	}
	return out, nil
}

// eval returns the value of an expression as parts, and its truth value.
func (r *renderer) eval(e *expr) (value []part, holds bool, err error) {
	r.absent = ""
	switch e.op {
	case opText:
		return []part{{text: e.text}}, e.text != "", nil
	case opDot:
		return r.dot, true, nil
	case opClaim:
		p, ok, err := r.get(e.text)
		switch {
		case err != nil:
			return nil, false, err
		case !ok && !e.optional:
			return nil, false, &missingError{e.text}
		case !ok:
			r.absent = e.text
			return nil, false, nil
		}
		return []part{p}, p.text != "", nil
	case opNot:
		_, holds, err = r.eval(&e.args[0])
		r.absent = ""
		return nil, !holds, err
	case opAnd, opOr:
		for i := range e.args {
			if value, holds, err = r.eval(&e.args[i]); err != nil || holds == (e.op == opOr) {
				return value, holds, err
			}
		}
		return value, holds, nil
	case opEq, opNe:
		return r.compare(e)
	}
	for i := range e.args { // opPrintf
		one, _, err := r.eval(&e.args[i])
		if err == nil && r.absent != "" {
			err = &missingError{r.absent}
		}
		if err != nil {
			return nil, false, err
		}
		value = append(append(value, part{text: e.format[i]}), one...)
	}
	value = append(value, part{text: e.format[len(e.format)-1]})
	return value, concatenated(value) != "", nil
}

// compare evaluates eq (the first argument equals one of the others) and ne (it does not equal the second).
func (r *renderer) compare(e *expr) ([]part, bool, error) {
	first, _, err := r.eval(&e.args[0])
	if err != nil {
		return nil, false, err
	}
	text, found := concatenated(first), false
	for i := range e.args[1:] {
		other, _, err := r.eval(&e.args[i+1])
		if err != nil {
			return nil, false, err
		}
		found = found || concatenated(other) == text
	}
	r.absent = ""
	return nil, found == (e.op == opEq), nil
}
