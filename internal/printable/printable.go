// Package printable decides which characters of untrusted text may be displayed or certified in a name.
//
// Control characters can control a terminal (ECMA-48). Format characters and invisible characters can make two
// different texts look equal (UTS #39, UTS #55). Names with such characters MUST be refused. Other untrusted text MUST
// be passed through [Escape] before it is written to a terminal or to a log line for people.
//
// [Escape] is for one value, and also escapes line feeds. [Lines] is for whole outputs, and keeps line feeds and tabs.
package printable

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Visible reports whether r is a character that a reader can see and that does not change how its neighbours are shown.
// It is false for controls (Unicode Cc), format characters (Cf: bidirectional controls, zero-width characters, tags),
// line and paragraph separators (Zl, Zp), the other default-ignorable characters (UAX #44) and variation selectors, and
// for what is no character (surrogates, noncharacters, private use, the replacement character).
func Visible(r rune) bool {
	switch {
	case r >= 0x20 && r < 0x7f:
		return true
	case r == utf8.RuneError || r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef:
		return false
	}
	return !unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp,
		unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Hidden returns the first character of s that is not [Visible], and whether there is one. A byte that is not UTF-8
// counts as [utf8.RuneError].
func Hidden(s string) (rune, bool) {
	for _, r := range s {
		if !Visible(r) {
			return r, true
		}
	}
	return 0, false
}

// Escape returns s with every character that is not [Visible] written as an escape of a Go string literal: \x0d, \x1b,
// \u202e. A backslash stays as it is.
func Escape(s string) string {
	if _, hidden := Hidden(s); !hidden {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case Visible(r):
			b.WriteRune(r)
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// Lines returns s with every character that is not [Visible], except line feeds and tabs, written as an escape of a
// JSON string: \u001b (RFC 8259 §7). If s is JSON, its meaning does not change.
func Lines(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t' || Visible(r):
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		}
	}
	return b.String()
}
