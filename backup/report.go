package backup

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/shell"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// Write says for people what an archive has, what it does not have, and how to try it. file is its path; "": it is not
// in a file.
func (m *Manifest) Write(w io.Writer, file string) error {
	st := terminal.StyleFor(w)
	if err := m.describe(w, st); err != nil {
		return err
	}
	for _, o := range m.Omitted {
		fmt.Fprintln(w, "not in the archive: "+terminal.Printable(o))
	}
	if len(m.Environment) > 0 {
		fmt.Fprintln(w, "The secrets in these environment variables are not in the archive: "+
			strings.Join(m.Environment, ", ")+".")
	}
	if file == "" {
		return nil
	}
	return terminal.Flow(w, st,
		"The archive contains private keys: keep it where only you can read it. Try a restore: mayfly restore --from "+
			shell.Quote(file)+" --to DIR")
}

// describe writes what an archive has.
func (m *Manifest) describe(w io.Writer, st terminal.Style) error {
	var t terminal.Table
	for _, l := range m.Logs {
		for _, s := range l.Shards {
			t.Add(l.Setting, s.Origin+", "+human.Count(int(s.Size), "entry")) //nolint:gosec // it fits
		}
	}
	if m.Journal != nil {
		t.Add("journal", fmt.Sprintf("up to record %d", m.Journal.Seq))
	}
	t.Add("written", m.Begun.Format(time.RFC3339)+" to "+m.Ended.Format(time.RFC3339))
	return t.Write(w, st)
}

// Write says for people what was restored, and what to do next. The commands can be copied.
func (r *Restored) Write(w io.Writer) error {
	st := terminal.StyleFor(w)
	m := &r.Manifest
	if err := m.describe(w, st); err != nil {
		return err
	}
	for _, u := range r.Unverified {
		fmt.Fprintln(w, st.Yellow("not verified: "+terminal.Printable(u)))
	}
	fmt.Fprintf(w, "%s restored and verified.\n", human.Count(r.Files+r.Elsewhere, "file"))
	if len(m.Environment) > 0 {
		fmt.Fprintln(w, "Set these environment variables, which have secrets: "+strings.Join(m.Environment, ", ")+".")
	}
	config := shell.Quote(r.Config)
	if !r.Continue && len(m.Logs) > 0 {
		if err := terminal.Flow(w, st,
			"The server may have signed more after the backup, so its logs do not continue. Close them, make logs "+
				"with new keys, and give verifiers the new trusted root:"); err != nil {
			return err
		}
		fmt.Fprintf(w, "mayfly log rotate --config %s --restored --yes\n"+
			"mayfly trust export --config %s --url URL --out trust\n", config, config)
	}
	_, err := fmt.Fprintf(w, "mayfly doctor --config %s\nmayfly serve --config %s\n", config, config)
	return err
}
