package oidc

import "strings"

// A pattern is text in which each star stands for one or more of A-Z, a-z, 0-9, - and _. It never spans a dot, a slash, a
// colon or a percent sign, so that a star in a host cannot swallow another host (GHSA-59jp-pj84-45mr).
//
// A star's bytes are never separators, so pattern and text fall into the same runs: word, separators, word, … Run by run,
// a trie finds the one pattern among many that matches.

func starByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// run cuts the first run off s: bytes that are all of a star's class (stars of a pattern included), or all not.
func run(s string) (first, rest string) {
	word := starByte(s[0]) || s[0] == '*'
	for i := 1; i < len(s); i++ {
		if (starByte(s[i]) || s[i] == '*') != word {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// trie finds a pattern's row. Its patterns do not overlap.
type trie struct {
	literal map[string]*trie
	globs   []globEdge // runs with a star
	row     *row       // of the pattern that ends here
}

type globEdge struct {
	glob string
	next *trie
}

func (t *trie) add(pattern string, r *row) {
	if pattern == "" {
		t.row = r
		return
	}
	first, rest := run(pattern)
	if !strings.Contains(first, "*") {
		if t.literal == nil {
			t.literal = map[string]*trie{}
		}
		if t.literal[first] == nil {
			t.literal[first] = &trie{}
		}
		t.literal[first].add(rest, r)
		return
	}
	for _, g := range t.globs {
		if g.glob == first {
			g.next.add(rest, r)
			return
		}
	}
	next := &trie{}
	t.globs = append(t.globs, globEdge{first, next})
	next.add(rest, r)
}

// find returns the row whose pattern matches all of s, or nil. It allocates nothing.
func (t *trie) find(s string) *row {
	if s == "" {
		return t.row
	}
	if s[0] == '*' {
		return nil // in a text a star is no byte of a star
	}
	first, rest := run(s)
	if next := t.literal[first]; next != nil {
		if r := next.find(rest); r != nil {
			return r
		}
	}
	if !starByte(first[0]) || strings.Contains(first, "*") {
		return nil
	}
	for _, g := range t.globs {
		if glob(g.glob, first) {
			if r := g.next.find(rest); r != nil {
				return r
			}
		}
	}
	return nil
}

// glob reports whether all of s, a word, matches g. Within a word a star may stand for any bytes, so the leftmost place of
// each literal part is as good as any.
func glob(g, s string) bool {
	head, g, found := strings.Cut(g, "*")
	if !found {
		return s == head
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		part, more, found := strings.Cut(g, "*")
		if !found { // the last literal part is the end of the text, after at least one byte for the star
			return len(s) > len(part) && strings.HasSuffix(s, part)
		}
		if len(s) == 0 {
			return false
		}
		i := strings.Index(s[1:], part)
		if i < 0 {
			return false
		}
		s, g = s[1+i+len(part):], more
	}
}

// match reports whether all of s matches pattern.
func match(pattern, s string) bool {
	for pattern != "" && s != "" {
		var p, w string
		p, pattern = run(pattern)
		if s[0] == '*' {
			return false
		}
		w, s = run(s)
		if starred := strings.Contains(p, "*"); strings.Contains(w, "*") || starred && !starByte(w[0]) || !glob(p, w) {
			return false
		}
	}
	return pattern == "" && s == ""
}

// overlap reports whether some text matches both patterns: run by run, a walk over the product of the two automata.
func overlap(a, b string) bool {
	for a != "" && b != "" {
		var x, y string
		x, a = run(a)
		y, b = run(b)
		starred := strings.Contains(x, "*") || strings.Contains(y, "*")
		if !starred && x != y || starred && !overlapRun(x, y) {
			return false
		}
	}
	return a == "" && b == ""
}

func overlapRun(a, b string) bool {
	type pair struct{ i, j int }
	seen := map[pair]bool{{}: true}
	todo := []pair{{}}
	push := func(p pair) {
		if !seen[p] {
			seen[p] = true
			todo = append(todo, p)
		}
	}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if p.i == len(a) && p.j == len(b) {
			return true
		}
		// Each side offers the byte classes that it can read next, and where it is afterwards.
		for _, x := range moves(a, p.i) {
			for _, y := range moves(b, p.j) {
				if x.star && (y.star || starByte(y.c)) || !x.star && (y.star && starByte(x.c) || !y.star && x.c == y.c) {
					push(pair{x.to, y.to})
				}
			}
		}
	}
	return false
}

type move struct {
	star bool // any byte of a star
	c    byte
	to   int
}

func moves(p string, i int) []move {
	var out []move
	if i > 0 && p[i-1] == '*' {
		out = append(out, move{star: true, to: i})
	}
	if i < len(p) {
		out = append(out, move{star: p[i] == '*', c: p[i], to: i + 1})
	}
	return out
}
