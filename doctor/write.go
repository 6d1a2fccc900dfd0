package doctor

import (
	"io"

	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// Problems returns the number of rows that are a problem.
func (r *Report) Problems() (n int) {
	for _, row := range r.Rows {
		if row.State == Problem {
			n++
		}
	}
	return n
}

// Write writes the report for people, in colour if w is a terminal.
func (r *Report) Write(w io.Writer) error {
	st := terminal.StyleFor(w)
	paint := map[State]func(string) string{OK: st.Green, Warning: st.Yellow, Problem: st.Red, Skipped: st.Dim}
	g := terminal.Grid{Head: []string{"check", "state", "what was found", "what to do"}}
	for _, row := range r.Rows {
		g.Add(row.Check, paint[row.State](string(row.State)), terminal.Printable(row.Cause),
			terminal.Printable(row.Fix))
	}
	return g.Write(w, st)
}
