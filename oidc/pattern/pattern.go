// Package pattern matches issuer URLs against patterns.
//
// A pattern is text in which each star stands for one or more of A-Z, a-z, 0-9, - and _. A star MUST NOT match a dot, a
// slash, a colon or a percent sign: a star in a host name cannot match another host (GHSA-59jp-pj84-45mr).
//
// A star matches only word bytes, so a pattern and a text that matches it are split into the same runs: word bytes,
// separators, word bytes, … All functions compare run by run.
package pattern

import "strings"

// IsWordByte reports whether a star can match c.
func IsWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// cutRun cuts the first run off s: bytes that are all word bytes or stars, or all separators.
func cutRun(s string) (first, rest string) {
	word := IsWordByte(s[0]) || s[0] == '*'
	for i := 1; i < len(s); i++ {
		if (IsWordByte(s[i]) || s[i] == '*') != word {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// Trie maps patterns to values. Its patterns MUST NOT overlap. The zero value is empty.
type Trie[V any] struct {
	literal map[string]*Trie[V] // children by the next run
	globs   []globEdge[V]       // children whose run has a star
	value   V                   // value of the pattern that ends here, if ends is set
	ends    bool
}

type globEdge[V any] struct {
	glob string
	next *Trie[V]
}

// Add sets the value of a pattern.
func (t *Trie[V]) Add(pattern string, v V) {
	if pattern == "" {
		t.value, t.ends = v, true
		return
	}
	first, rest := cutRun(pattern)
	if !strings.Contains(first, "*") {
		if t.literal == nil {
			t.literal = map[string]*Trie[V]{}
		}
		if t.literal[first] == nil {
			t.literal[first] = &Trie[V]{}
		}
		t.literal[first].Add(rest, v)
		return
	}
	for _, g := range t.globs {
		if g.glob == first {
			g.next.Add(rest, v)
			return
		}
	}
	next := &Trie[V]{}
	t.globs = append(t.globs, globEdge[V]{first, next})
	next.Add(rest, v)
}

// Find returns the value of the pattern that matches all of s. It does not allocate.
func (t *Trie[V]) Find(s string) (v V, ok bool) {
	if s == "" {
		return t.value, t.ends
	}
	if s[0] == '*' {
		return v, false // a star in the text is not a word byte
	}
	first, rest := cutRun(s)
	if next := t.literal[first]; next != nil {
		if v, ok := next.Find(rest); ok {
			return v, true
		}
	}
	if !IsWordByte(first[0]) || strings.Contains(first, "*") {
		return v, false
	}
	for _, g := range t.globs {
		if glob(g.glob, first) {
			if v, ok := g.next.Find(rest); ok {
				return v, true
			}
		}
	}
	return v, false
}

// glob reports whether all of s, a run of word bytes, matches g. A star matches every byte of such a run, so it is
// enough to try the leftmost place of each literal part.
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
		if !found { // the last literal part must end the text, after at least one byte for the star
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

// Match reports whether all of s matches pattern.
func Match(pattern, s string) bool {
	for pattern != "" && s != "" {
		var p, w string
		p, pattern = cutRun(pattern)
		if s[0] == '*' {
			return false
		}
		w, s = cutRun(s)
		if starred := strings.Contains(p, "*"); strings.Contains(w, "*") ||
			starred && !IsWordByte(w[0]) || !glob(p, w) {
			return false
		}
	}
	return pattern == "" && s == ""
}

// Overlap reports whether some text matches both patterns. It walks, run by run, the product of the two automata.
func Overlap(a, b string) bool {
	for a != "" && b != "" {
		var x, y string
		x, a = cutRun(a)
		y, b = cutRun(b)
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
		for _, x := range moves(a, p.i) {
			for _, y := range moves(b, p.j) {
				if x.star && (y.star || IsWordByte(y.c)) ||
					!x.star && (y.star && IsWordByte(x.c) || !y.star && x.c == y.c) {
					push(pair{x.to, y.to})
				}
			}
		}
	}
	return false
}

// move is a step of one automaton: the byte that it reads, and its position afterwards.
type move struct {
	star bool // reads any word byte
	c    byte // reads this byte if star is not set
	to   int
}

// moves lists the steps that the pattern p allows at position i.
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
