package terminal

import (
	"io"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	escape "github.com/mayfly-ca/mayfly/internal/printable"
)

// Printable escapes untrusted text (from a server, a certificate, a bundle, a journal, a file) for output on one line
// of a terminal.
func Printable(s string) string { return escape.Escape(s) }

// OrDash returns untrusted text for a cell of a table: [Printable], or "-" if there is none.
func OrDash(s string) string {
	if s == "" {
		return "-"
	}
	return Printable(s)
}

// attributes are the escape sequences that [Style] writes.
var attributes = []string{"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"}

// mapText applies f to the text between the attributes in s.
func mapText(s string, f func(string) string) string {
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

// cell escapes a text for a line of a table, but keeps attributes.
func cell(s string) string { return mapText(s, escape.Escape) }

// Screen is an output for people. It escapes every invisible character, so that no untrusted text can control the
// terminal. Line feeds, tabs and, if Styled, the attributes of [Style] are not escaped.
type Screen struct {
	To     io.Writer
	Styled bool

	mu   sync.Mutex
	rest []byte // the first bytes of a character whose other bytes have not been written yet
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
		text = mapText(text, escape.Lines)
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

// Binary returns the output of a screen, for data that is not text. It returns false for a terminal.
func Binary(w io.Writer) (io.Writer, bool) {
	to, ok := unwrap(w).(io.Writer)
	return to, ok && !IsTerminal(w)
}

// unwrap returns the output of a screen, and any other w unchanged.
func unwrap(w any) any {
	if s, ok := w.(*Screen); ok {
		return s.To
	}
	return w
}
