package oidc

// A pattern is text in which each star stands for one or more of A-Z, a-z, 0-9, - and _. It never spans a dot, a slash, a
// colon or a percent sign, so that a star in a host cannot swallow another host (GHSA-59jp-pj84-45mr).

func starByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// match reports whether all of s matches pattern. Its time is at most the product of the two lengths.
func match(pattern, s string) bool {
	// The positions in pattern that what was read of s can have led to.
	states := map[int]bool{0: true}
	for i := range len(s) {
		next := make(map[int]bool, len(states))
		for p := range states {
			if p < len(pattern) && step(pattern[p], s[i]) {
				next[p+1] = true
			}
			if p > 0 && pattern[p-1] == '*' && starByte(s[i]) {
				next[p] = true
			}
		}
		if states = next; len(states) == 0 {
			return false
		}
	}
	return states[len(pattern)]
}

func step(p, c byte) bool { return p == '*' && starByte(c) || p != '*' && p == c }

// overlap reports whether some text matches both patterns: a walk over the product of the two automata.
func overlap(a, b string) bool {
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
