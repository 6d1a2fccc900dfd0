package printable_test

import (
	"encoding/json"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/internal/printable"
)

func TestEscape(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                    "",
		"Ünïcode 日本 é\u0301":  "Ünïcode 日本 é\u0301",
		`back\slash`:          `back\slash`,
		"a\x1b[2Kb\r\n":       `a\x1b[2Kb\x0d\x0a`,
		"\u009b31m":           `\x9b31m`,
		"ali\u200bce":         `ali\u200bce`,
		"\u202eecila":         `\u202eecila`,
		"\u202a\u202b\u202d":  `\u202a\u202b\u202d`,
		"\u2066\u2067\u2068":  `\u2066\u2067\u2068`,
		"\u200e\u200f\u2028":  `\u200e\u200f\u2028`,
		"\ufeff\u00ad\u034f":  `\ufeff\xad\u034f`,
		"\U000e0041\ufe0f":    `\U000e0041\ufe0f`,
		"\u3164\u115f\u180b":  `\u3164\u115f\u180b`,
		"\xff\xfe":            `\xff\xfe`,
		"\ufffd":              `\ufffd`,
		"\ue000\uffff\ufdd0":  `\ue000\uffff\ufdd0`,
		"emoji \U0001f600":    "emoji \U0001f600",
		"no-break\u00a0space": "no-break\u00a0space",
	} {
		if got := printable.Escape(in); got != want {
			t.Errorf("Escape(%+q) = %s; want %s", in, got, want)
		}
		if _, hidden := printable.Hidden(in); hidden == (in == want) {
			t.Errorf("Hidden(%+q) = %t", in, hidden)
		}
	}
}

// An escaped JSON text has the same meaning.
func TestLines(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                     "",
		"a\n\tb é":             "a\n\tb é",
		"a\x1b[2J\r":           `a\u001b[2J\u000d`,
		"\u009b\u202e\x7f":     `\u009b\u202e\u007f`,
		"\U000e0041\u200b":     `\udb40\udc41\u200b`,
		"\xff":                 `\ufffd`,
		"\"\u202e\U000e0041\"": `"\u202e\udb40\udc41"`,
	} {
		if got := printable.Lines(in); got != want {
			t.Errorf("Lines(%+q) = %s; want %s", in, got, want)
		}
	}
	const hostile = "a\u202e\U000e0041\u2028\u007f\u009b\ufeff"
	data, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	var back string
	if err := json.Unmarshal([]byte(printable.Lines(string(data))), &back); err != nil || back != hostile {
		t.Errorf("JSON of %+q becomes %+q, %v", hostile, back, err)
	}
}

// The test checks each category of characters by itself, to find errors in the combined check of Visible.
func TestVisible(t *testing.T) {
	t.Parallel()
	for r := rune(0); r <= utf8.MaxRune; r++ {
		hidden := unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Co, r) ||
			unicode.Is(unicode.Cs, r) ||
			unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) ||
			unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) ||
			unicode.Is(unicode.Variation_Selector, r) || unicode.Is(unicode.Noncharacter_Code_Point, r) ||
			r == utf8.RuneError
		if printable.Visible(r) == hidden {
			t.Fatalf("Visible(%U) = %t", r, !hidden)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a\x1b\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		out := printable.Escape(s)
		if r, hidden := printable.Hidden(out); hidden {
			t.Fatalf("Escape(%+q) = %+q has %U", s, out, r)
		}
		if again := printable.Escape(out); again != out {
			t.Fatalf("Escape is not idempotent: %+q, then %+q", out, again)
		}
	})
}
