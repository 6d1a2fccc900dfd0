package pattern

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// asRegexp translates a pattern into a regular expression.
func asRegexp(pattern string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, "[-_a-zA-Z0-9]+") + "$")
}

// D7 // D8: the trie, Match and a regular expression agree, and two patterns that match the same text overlap.
func FuzzPattern(f *testing.F) {
	f.Add("https://*.example.com/id/*", "https://x*y.example.com/*/*", "https://xay.example.com/id/1")
	f.Add("a*b*c", "a**c", "abbbc")
	f.Add("*", "*-*", "--")
	f.Add("x*", "*x", "x*x")
	f.Fuzz(func(t *testing.T, a, b, s string) {
		if !utf8.ValidString(a) || !utf8.ValidString(s) || len(a)+len(b) > 200 || strings.Count(a+b, "*") > 20 {
			return
		}
		if strings.Contains(s, "*") || strings.Contains(s+a, "\n") {
			return // Match refuses a star in the text; $ of regexp also matches before a line end
		}
		var root Trie[int]
		root.Add(a, 1)
		want := asRegexp(a).MatchString(s)
		if got := Match(a, s); got != want {
			t.Errorf("Match(%q, %q) = %t", a, s, got)
		}
		if _, got := root.Find(s); got != want && (s != "" || a != "") {
			t.Errorf("Find(%q, %q) = %t", a, s, got)
		}
		if want && Match(b, s) && !Overlap(a, b) {
			t.Errorf("%q matches %q and %q, which do not overlap", s, a, b)
		}
	})
}
