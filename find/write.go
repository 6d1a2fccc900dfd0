package find

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// Write prints the answer for people.
func (a *Answer) Write(w io.Writer) error {
	st := terminal.StyleFor(w)
	if len(a.Entries) == 0 {
		_, err := fmt.Fprintf(w, "No entry in %s.\n", a.logs())
		return err
	}
	g := terminal.Grid{
		Head:  []string{"WHAT", "IDENTITY", "TIME", "SIGNED", "SERIAL", "ENTRY", "ISSUER"},
		Spare: []string{"ISSUER", "SERIAL"},
	}
	for i := range a.Entries {
		e := &a.Entries[i]
		what := "certificate"
		if e.Kind == Signatures {
			what = "signature"
		}
		at := fmt.Sprintf("%s %d", terminal.Printable(e.Log), e.Index)
		for _, c := range e.Certificates {
			g.Add(what, terminal.Printable(strings.Join(c.Identities, ", ")), e.time(c).Format(time.DateTime),
				terminal.OrDash(e.Digest), terminal.OrDash(c.Serial), at, terminal.OrDash(c.Issuer))
		}
		for _, key := range e.Keys {
			g.Add(what, "key "+terminal.Printable(key), "-", terminal.OrDash(e.Digest), "-", at, "-")
		}
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	text := human.Count(len(a.Entries), "entry") + " in " + a.logs()
	if a.Next != "" {
		text += "; more with --after " + terminal.Printable(a.Next)
	}
	_, err := fmt.Fprintln(w, st.Dim(text+"."))
	return err
}

// time returns when a certificate was logged. A signature has no time in its log: that of its certificate is close.
func (e *Entry) time(c Certificate) time.Time {
	if e.Logged != nil {
		return e.Logged.UTC()
	}
	return c.NotBefore.UTC()
}

// logs says which logs have been searched.
func (a *Answer) logs() string {
	var out []string
	for _, l := range a.Logs {
		out = append(out, fmt.Sprintf("%s (%s)", terminal.Printable(l.Name), human.Count(int(l.Size), "entry"))) //nolint:gosec // for people
	}
	if out == nil {
		return "no log"
	}
	return strings.Join(out, ", ")
}
