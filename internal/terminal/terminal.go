// Package terminal writes for people: tables that fit the width of a terminal, attributes, and an output through which
// no text from outside can control the terminal.
package terminal

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// IsTerminal reports whether w writes to a terminal.
func IsTerminal(w any) bool {
	f, ok := unwrap(w).(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor fits
}

// Style writes terminal attributes, or nothing if the stream is not a terminal or NO_COLOR is set
// (https://no-color.org). It has the width of the terminal; 0 means no terminal.
type Style struct {
	On    bool
	Width int
}

// StyleFor returns the style for output to w.
func StyleFor(w io.Writer) Style {
	return Style{On: IsTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb", Width: columnsOf(w)}
}

func (s Style) wrap(code, text string) string {
	if !s.On {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Bold returns t in bold text.
func (s Style) Bold(t string) string { return s.wrap("1", t) }

// Dim returns t in faint text.
func (s Style) Dim(t string) string { return s.wrap("2", t) }

// Green returns t in green.
func (s Style) Green(t string) string { return s.wrap("32", t) }

// Yellow returns t in yellow.
func (s Style) Yellow(t string) string { return s.wrap("33", t) }

// Red returns t in red.
func (s Style) Red(t string) string { return s.wrap("31", t) }

// Table aligns rows of name and value.
type Table struct{ rows [][2]string }

// Add appends a row.
func (t *Table) Add(name, value string) { t.rows = append(t.rows, [2]string{cell(name), cell(value)}) }

// Write prints the rows, with names padded to one width and indented by two spaces. On a terminal, a long value
// continues below its beginning, or below its name if the space beside the name is too narrow.
func (t *Table) Write(w io.Writer, st Style) error {
	width := 0
	for _, r := range t.rows {
		width = max(width, len(r[0]))
	}
	for _, r := range t.rows {
		lead, value := "  "+st.Dim(r[0])+strings.Repeat(" ", width-len(r[0])+2), []string{r[1]}
		indent := width + 4
		switch room := st.Width - indent; {
		case st.Width == 0 || visible(r[1]) <= room:
		case room < wideCell:
			lead, indent = "  "+st.Dim(r[0])+"\n    ", 4
			value = folded(r[1], st.Width-indent)
		default:
			value = folded(r[1], room)
		}
		line := lead + strings.Join(value, "\n"+strings.Repeat(" ", indent)) + "\n"
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
	}
	return nil
}

// ErrNoTerminal says that a secret cannot be asked for, because standard input is not a terminal.
var ErrNoTerminal = errors.New("standard input is not a terminal")

// ReadSecret reads a line from the terminal in, which does not show what is typed. The prompt goes to out.
func ReadSecret(in any, out io.Writer, prompt string) ([]byte, error) {
	f, ok := in.(*os.File)
	if !ok || !IsTerminal(f) {
		return nil, ErrNoTerminal
	}
	if _, err := io.WriteString(out, prompt); err != nil {
		return nil, err
	}
	secret, err := term.ReadPassword(int(f.Fd())) //nolint:gosec // a file descriptor fits
	_, lineErr := io.WriteString(out, "\n")
	return secret, errors.Join(err, lineErr)
}
