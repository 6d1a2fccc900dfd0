package terminal

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// columnsOf returns the width of the terminal w in characters. It returns 0, which means no limit, if w is not a
// terminal or its width is unknown.
func columnsOf(w any) int {
	f, ok := unwrap(w).(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd())) //nolint:gosec // a file descriptor fits
	if err != nil || width < 20 {
		return 0
	}
	return width
}

// glyph is a character with its terminal attributes.
type glyph struct {
	r    rune
	look string
}

// glyphs splits a text into characters and their terminal attributes.
func glyphs(s string) []glyph {
	var out []glyph
	look := ""
	for s != "" {
		if strings.HasPrefix(s, "\x1b[") {
			if end := strings.IndexByte(s, 'm'); end >= 0 {
				if look += s[:end+1]; s[:end+1] == "\x1b[0m" {
					look = ""
				}
				s = s[end+1:]
				continue
			}
		}
		r, size := utf8.DecodeRuneInString(s)
		out, s = append(out, glyph{r, look}), s[size:]
	}
	return out
}

// rendered is the reverse of glyphs. All attributes are reset at the end.
func rendered(line []glyph) string {
	var b strings.Builder
	look := ""
	for _, g := range line {
		if g.look != look {
			if look != "" {
				b.WriteString("\x1b[0m")
			}
			b.WriteString(g.look)
			look = g.look
		}
		b.WriteRune(g.r)
	}
	if look != "" {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// folded breaks a text into lines of at most width characters, at spaces. A word that is longer than a line is broken
// after a punctuation character if possible, as in a URL.
func folded(s string, width int) []string {
	text := glyphs(s)
	var out []string
	for len(text) > width {
		at, skip := width, 0
		if i := lastIndex(text[:width+1], func(r rune) bool { return r == ' ' }); i > 0 {
			at, skip = i, 1
		} else if i := lastIndex(text[:width],
			func(r rune) bool { return strings.ContainsRune("/,;:=&?@.-", r) }); i >= width/3 {
			at = i + 1
		}
		out = append(out, rendered(text[:at]))
		text = text[at+skip:]
	}
	return append(out, rendered(text))
}

func lastIndex(text []glyph, is func(rune) bool) int {
	for i, g := range slices.Backward(text) {
		if is(g.r) {
			return i
		}
	}
	return -1
}

// cut shortens a text to width characters; the last one is then "…".
func cut(s string, width int) string {
	text := glyphs(s)
	if len(text) <= width {
		return s
	}
	text = text[:width]
	text[width-1].r = '…'
	return rendered(text)
}

// isDigest reports whether a cell is a long hexadecimal number, which may be shortened for people.
func isDigest(cell string) bool {
	return visible(cell) > wideCell && strings.IndexFunc(cell,
		func(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF:", r) }) < 0
}

// Flow prints a paragraph. On a terminal the text is broken at spaces, and all lines but the first are indented.
func Flow(w io.Writer, st Style, text string) error {
	const indent = "    "
	text = cell(text)
	lines := []string{text}
	if st.Width > 0 && visible(text) > st.Width {
		lead := text[:len(text)-len(strings.TrimLeft(text, " "))]
		lines = folded(strings.TrimLeft(text, " "), st.Width-len(indent)-len(lead))
		for i := range lines {
			if lines[i] = lead + lines[i]; i > 0 {
				lines[i] = indent + lines[i]
			}
		}
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}
