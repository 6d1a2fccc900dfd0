package terminal

import (
	"bytes"
	"strings"
	"testing"
)

// A table fits every width of a terminal and names the omitted columns. Output that is not a terminal is complete.
func TestGridFits(t *testing.T) {
	t.Parallel()
	const digest = "7a3f00000000000000000000000000000000beef"
	g := func() *Grid {
		out := &Grid{
			Head:  []string{"SEQ", "WHO", "ISSUER", "SERIAL", "server µs/cert", "WHY"},
			Spare: []string{"ISSUER", "SEQ"},
		}
		out.Add("1", "alice@example.com", "https://issuer.example.com/a/long/path/of/its/own", digest, "12",
			"a reason that takes more than one line on most terminals")
		out.Add("200", "-", "-", "-", "3",
			Style{On: true}.Red("a painted reason that takes more than one line on most terminals"))
		return out
	}
	printed := func(width int) string {
		var b bytes.Buffer
		if err := g().Write(&b, Style{Width: width}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	wide := printed(0)
	if lines := strings.Count(wide, "\n"); lines != 3 || !strings.Contains(wide, digest) {
		t.Errorf("not on a terminal:\n%s", wide)
	}
	if printed(500) != wide {
		t.Errorf("a wide terminal differs:\n%s", printed(500))
	}
	for width := 40; width < 220; width++ {
		out := printed(width)
		for line := range strings.Lines(out) {
			if n := visible(strings.TrimRight(line, "\n")); n > width {
				t.Errorf("%d of %d columns: %q", n, width, line)
			}
		}
		if strings.Count(out, "\x1b[31m") != strings.Count(out, "\x1b[0m") {
			t.Errorf("an attribute is not reset at %d columns:\n%q", width, out)
		}
		for _, head := range []string{"ISSUER", "SEQ"} {
			if !strings.Contains(out, head) {
				t.Errorf("%s is omitted without a note at %d columns:\n%s", head, width, out)
			}
		}
		if !strings.Contains(out, digest[:5]) || !strings.Contains(out, "WHY") {
			t.Errorf("%d columns:\n%s", width, out)
		}
	}
	if narrow := printed(60); !strings.Contains(narrow, "not shown: ISSUER") || !strings.Contains(narrow, "…") {
		t.Errorf("60 columns:\n%s", narrow)
	}
}

func TestFolded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"", 5, ""},
		{"one two", 7, "one two"},
		{"one two three", 7, "one two|three"},
		{"one two three", 8, "one two|three"},
		{"abcdefghij", 4, "abcd|efgh|ij"},
		{"https://a.example/b", 12, "https://a.|example/b"},
		{"\x1b[31mone two\x1b[0m x", 4, "\x1b[31mone\x1b[0m|\x1b[31mtwo\x1b[0m|x"},
		{"ä ö ü", 3, "ä ö|ü"},
	} {
		if got := strings.Join(folded(c.text, c.width), "|"); got != c.want {
			t.Errorf("%q at %d: %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestTableFits(t *testing.T) {
	t.Parallel()
	var tb Table
	tb.Add("name", "a value of some words that goes on for a while")
	tb.Add("longer name", strings.Repeat("0123456789abcdef", 4))
	for _, width := range []int{0, 24, 40, 60} {
		var b bytes.Buffer
		if err := tb.Write(&b, Style{Width: width}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if n := visible(strings.TrimRight(line, "\n")); width > 0 && n > width {
				t.Errorf("%d of %d columns: %q", n, width, line)
			}
		}
		if width == 0 && strings.Count(b.String(), "\n") != 2 {
			t.Errorf("not on a terminal:\n%s", b.String())
		}
	}
}
