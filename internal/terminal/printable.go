package terminal

import (
	"io"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	escape "github.com/mayfly-ca/mayfly/internal/printable"
)

// Printable returns a text from outside (a server, a certificate, a bundle, a journal, a file) in a form that is safe
// for a terminal, on one line.
func Printable(s string) string { return escape.Escape(s) }

// attributes are the terminal sequences that style writes.
var attributes = []string{"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"}

// besides applies f to the text between the attributes in s.
func besides(s string, f func(string) string) string {
	if !strings.Contains(s, "\x1b") {
		return f(s)
	}
	var b strings.Builder
	for s != "" {
		at, which := len(s), ""
		for _, a := range attributes {
			if i := strings.Index(s, a); i >= 0 && i < at {
				at, which = i, a
			}
		}
		b.WriteString(f(s[:at]) + which)
		s = s[at+len(which):]
	}
	return b.String()
}

// cell returns a text with attributes in the form for a cell of a table.
func cell(s string) string { return besides(s, escape.Escape) }

// Screen is an output for people, through which no text from outside can control the terminal. Of the characters that
// are not visible it passes only line feeds, tabs and, if the output is styled, the attributes of style.
type Screen struct {
	To     io.Writer
	Styled bool

	mu   sync.Mutex
	rest []byte // the beginning of a character whose other bytes have not been written yet
}

// NewScreen returns a writer that escapes control characters.
func NewScreen(to io.Writer) *Screen { return &Screen{To: to, Styled: StyleFor(to).On} }

// Write implements [io.Writer].
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rest) == 0 && plain(p) {
		return s.To.Write(p)
	}
	data := slices.Concat(s.rest, p)
	whole := len(data)
	for i := max(0, whole-utf8.UTFMax+1); i < whole; i++ {
		if utf8.RuneStart(data[i]) && !utf8.FullRune(data[i:]) {
			whole = i
			break
		}
	}
	text := string(data[:whole])
	s.rest = append([]byte(nil), data[whole:]...)
	if s.Styled {
		text = besides(text, escape.Lines)
	} else {
		text = escape.Lines(text)
	}
	if _, err := io.WriteString(s.To, text); err != nil {
		return 0, err
	}
	return len(p), nil
}

// plain reports whether p has visible ASCII characters and line feeds only.
func plain(p []byte) bool {
	for _, c := range p {
		if (c < 0x20 || c >= 0x7f) && c != '\n' {
			return false
		}
	}
	return true
}

// behind returns the output of a screen, for progress lines, which control the terminal. Any other writer is returned
// unchanged.
func behind(w any) any {
	if s, ok := w.(*Screen); ok {
		return s.To
	}
	return w
}
