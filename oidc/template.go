package oidc

import (
	"errors"
	"fmt"
	"strings"
)

// A template is a closed subset of Go's text/template: text, {{.claim}}, {{index . "claim"}}, both with or without
// parentheses and spaces, {{if eq X "text"}} … {{else}} … {{end}} with X one of those two, or a bare claim name without
// braces. It is parsed once and walked.
type template []node

type node struct {
	text  string // literal, if ref and test are nil
	ref   *ref
	test  *ref // if eq test value
	value string
	yes   template
	no    template
}

// ref is a claim that a template reads.
type ref struct {
	claim    string
	optional bool // written with index: may be absent where it is the whole template or only compared
}

// maxRendered caps what a template gives, in bytes.
const maxRendered = 2048

// parseTemplate reads a template; its errors name the byte, from 1.
func parseTemplate(src string) (template, error) {
	trimmed := strings.TrimSpace(src)
	if trimmed == "" {
		return nil, nil
	}
	if !strings.Contains(src, "{{") {
		return template{{ref: &ref{claim: trimmed}}}, nil
	}
	p := &templateParser{src: src}
	t, end, err := p.list(false)
	if err != nil {
		return nil, err
	}
	if end != "" {
		return nil, p.errorf("%s without if", end)
	}
	return t, nil
}

type templateParser struct {
	src string
	pos int
}

func (p *templateParser) errorf(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %s", p.pos+1, fmt.Sprintf(format, args...))
}

// list reads nodes until the end, or until an else or end action, which it returns.
func (p *templateParser) list(inside bool) (t template, end string, err error) {
	for {
		text, rest, found := strings.Cut(p.src[p.pos:], "{{")
		if text != "" {
			t = append(t, node{text: text})
		}
		if !found {
			if inside {
				return nil, "", p.errorf("if without end")
			}
			return t, "", nil
		}
		p.pos = len(p.src) - len(rest)
		body, after, found := strings.Cut(rest, "}}")
		if !found {
			return nil, "", p.errorf("an action is not closed with }}")
		}
		words, err := lex(body)
		if err != nil {
			return nil, "", p.errorf("%s", err)
		}
		next := len(p.src) - len(after)
		switch {
		case len(words) == 1 && (words[0] == "else" || words[0] == "end"):
			p.pos = next
			return t, words[0], nil
		case len(words) > 0 && words[0] == "if":
			n, err := p.condition(words[1:], next)
			if err != nil {
				return nil, "", err
			}
			t = append(t, n)
		default:
			r, left, err := readRef(words)
			if err != nil || len(left) > 0 {
				return nil, "", p.errorf("only {{.claim}}, {{index . \"claim\"}} and {{if eq … \"text\"}} are known")
			}
			t = append(t, node{ref: &r})
			p.pos = next
		}
	}
}

func (p *templateParser) condition(words []string, next int) (node, error) {
	bad := p.errorf("a condition is {{if eq .claim \"text\"}} or {{if eq (index . \"claim\") \"text\"}}")
	words = strip(words)
	if len(words) < 3 || words[0] != "eq" {
		return node{}, bad
	}
	r, left, err := readRef(words[1:])
	if err != nil || len(left) != 1 || !strings.HasPrefix(left[0], `"`) {
		return node{}, bad
	}
	n := node{test: &r, value: left[0][1:]}
	p.pos = next
	var end string
	if n.yes, end, err = p.list(true); err != nil {
		return node{}, err
	}
	if end == "else" {
		if n.no, end, err = p.list(true); err != nil {
			return node{}, err
		}
		if end == "else" {
			return node{}, p.errorf("a second else")
		}
	}
	return n, nil
}

// strip takes parentheses around all of words away.
func strip(words []string) []string {
	for len(words) > 2 && words[0] == "(" && words[len(words)-1] == ")" {
		words = words[1 : len(words)-1]
	}
	return words
}

// readRef reads .claim or index . "claim", in parentheses or not, and returns what follows.
func readRef(words []string) (ref, []string, error) {
	depth := 0
	for len(words) > 0 && words[0] == "(" {
		depth++
		words = words[1:]
	}
	var r ref
	switch {
	case len(words) > 0 && len(words[0]) > 1 && words[0][0] == '.':
		r, words = ref{claim: words[0][1:]}, words[1:]
	case len(words) > 2 && words[0] == "index" && words[1] == "." && strings.HasPrefix(words[2], `"`):
		r, words = ref{claim: words[2][1:], optional: true}, words[3:]
	default:
		return r, nil, errors.New("not a claim")
	}
	for ; depth > 0; depth-- {
		if len(words) == 0 || words[0] != ")" {
			return r, nil, errors.New("a parenthesis is not closed")
		}
		words = words[1:]
	}
	if r.claim == "" {
		return r, nil, errors.New("a claim has no name")
	}
	return r, words, nil
}

// lex splits an action into words. A string keeps its opening quote as a mark; it has no escapes.
func lex(s string) ([]string, error) {
	var out []string
	for s = strings.TrimLeft(s, " \t"); s != ""; s = strings.TrimLeft(s, " \t") {
		switch s[0] {
		case '(', ')':
			out, s = append(out, s[:1]), s[1:]
		case '"':
			end := strings.IndexByte(s[1:], '"')
			if end < 0 || strings.ContainsRune(s[1:end+1], '\\') {
				return nil, errors.New("a string is not closed or has an escape")
			}
			out, s = append(out, s[:end+1]), s[end+2:]
		default:
			n := strings.IndexAny(s, " \t()\"")
			if n < 0 {
				n = len(s)
			}
			w := s[:n]
			for i := range len(w) {
				if ch := w[i]; !starByte(ch) && (ch != '.' || i > 0) {
					return nil, fmt.Errorf("%q is not known here", w)
				}
			}
			out, s = append(out, w), s[n:]
		}
	}
	return out, nil
}

// missingError is a claim that a template needs and that neither token nor defaults have.
type missingError struct{ claim string }

func (e *missingError) Error() string { return "neither the token nor the defaults have " + e.claim }

// refs yields every claim that the template reads. One that is only compared is optional when written with index.
func (t template) refs(yield func(ref) bool) {
	t.each(yield)
}

func (t template) each(yield func(ref) bool) bool {
	whole := len(t) == 1
	for _, n := range t {
		switch {
		case n.test != nil:
			if !yield(*n.test) || !n.yes.each(yield) || !n.no.each(yield) {
				return false
			}
		case n.ref != nil:
			if !yield(ref{n.ref.claim, n.ref.optional && whole}) {
				return false
			}
		}
	}
	return true
}

// render walks the template over values. An empty text means that the extension is left out.
func (t template) render(v values) (string, error) {
	if len(t) == 1 && t[0].ref != nil { // most templates are the name of a claim
		text, ok := v.get(t[0].ref.claim)
		if !ok && !t[0].ref.optional {
			return "", &missingError{t[0].ref.claim}
		}
		return text, tooLong(len(text))
	}
	var b strings.Builder
	if err := t.walk(v, &b); err != nil {
		return "", err
	}
	return b.String(), tooLong(b.Len())
}

func tooLong(n int) error {
	if n > maxRendered {
		return fmt.Errorf("a template gives %d bytes; the limit is %d", n, maxRendered)
	}
	return nil
}

func (t template) walk(v values, b *strings.Builder) error {
	for _, n := range t {
		switch {
		case n.test != nil:
			text, ok := v.get(n.test.claim)
			if !ok && !n.test.optional {
				return &missingError{n.test.claim}
			}
			branch := n.no
			if ok && text == n.value {
				branch = n.yes
			}
			if err := branch.walk(v, b); err != nil {
				return err
			}
		case n.ref != nil:
			text, ok := v.get(n.ref.claim)
			if !ok {
				return &missingError{n.ref.claim}
			}
			b.WriteString(text)
		default:
			b.WriteString(n.text)
		}
	}
	return nil
}
