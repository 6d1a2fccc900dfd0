package migrate

import (
	"fmt"
	"io"

	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// Report says what a translation amounts to. It has no secret.
type Report struct {
	// Source says where Fulcio's settings were found.
	Source string `json:"source"`
	// Settings are those that are set, in the order of the names of the flags.
	Settings []Setting `json:"settings"`
	// Ignored are settings that Fulcio does not read.
	Ignored []Ignored `json:"ignored"`
	// Differences are what operators and clients notice.
	Differences []Difference `json:"differences"`
	// Steps are what is left to do.
	Steps []Step `json:"steps"`
	// Lost cannot be carried over.
	Lost []Lost `json:"lost"`
	// Files are the names of the written files, relative to the directory.
	Files []string `json:"files"`
	// Problems are what "mayfly config check" says about the written configuration; empty if it would start.
	Problems []string `json:"problems"`
}

// Setting is a setting of Fulcio.
type Setting struct {
	// Flag is the name of the flag; Value is its value, or "(secret)"; From is flag, environment or settings file.
	Flag  string `json:"flag"`
	Value string `json:"value"`
	From  string `json:"from"`
	// Setting is the setting of mayfly.yaml; empty if there is none. Note says more.
	Setting string `json:"setting,omitempty"`
	Note    string `json:"note,omitempty"`
}

// Ignored is a setting that Fulcio does not read.
type Ignored struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Difference is a difference between Fulcio and mayfly. Row is the first cell of its row in docs/compatibility.md.
type Difference struct {
	// Area is clients, keys, ports, metrics or operation.
	Area string `json:"area"`
	What string `json:"what"`
	Row  string `json:"row"`
}

// Step is something that is left to do. Command is a shell command; it may be empty.
type Step struct {
	What    string `json:"what"`
	Command string `json:"command,omitempty"`
}

// Lost is what cannot be carried over.
type Lost struct {
	What    string `json:"what"`
	Why     string `json:"why"`
	Instead string `json:"instead"`
	Row     string `json:"row"`
}

// Ready reports whether the configuration is whole: it starts as it is.
func (r *Report) Ready() bool { return len(r.Lost) == 0 && len(r.Problems) == 0 }

// Write prints the report for people. dir is the directory of the files.
func (r *Report) Write(w io.Writer, dir string) error {
	st := terminal.StyleFor(w)
	p := &printer{w: w, st: st}
	p.line(st.Bold("Fulcio: ") + r.Source)
	g := terminal.Grid{Head: []string{"flag", "value", "from", "mayfly.yaml"}}
	for _, s := range r.Settings {
		g.Add("--"+s.Flag, s.Value, s.From, orDash(s.Setting))
	}
	if p.err == nil {
		p.err = g.Write(w, st)
	}
	p.section("Fulcio does not read", len(r.Ignored))
	for _, i := range r.Ignored {
		p.line("  " + i.Name + ": " + i.Why)
	}
	p.section("Cannot be carried over", len(r.Lost))
	for _, l := range r.Lost {
		p.line("  " + st.Red(l.What) + ": " + l.Why + ". Instead: " + l.Instead + rowOf(l.Row))
	}
	p.section("What differs", len(r.Differences))
	for _, d := range r.Differences {
		p.line("  " + d.Area + ": " + d.What + rowOf(d.Row))
	}
	p.section("What is left to do", len(r.Steps))
	for i, s := range r.Steps {
		p.line(fmt.Sprintf("  %d. %s", i+1, s.What))
		if s.Command != "" {
			p.line("     " + s.Command)
		}
	}
	p.section("Written to "+dir, len(r.Files))
	for _, f := range r.Files {
		p.line("  " + f)
	}
	p.section("mayfly.yaml does not load yet", len(r.Problems))
	for _, one := range r.Problems {
		p.line("  " + st.Red(one))
	}
	return p.err
}

func rowOf(row string) string { return " (docs/compatibility.md: " + row + ")" }

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// printer prints lines until the first error.
type printer struct {
	w   io.Writer
	st  terminal.Style
	err error
}

func (p *printer) line(s string) {
	if p.err == nil {
		p.err = terminal.Flow(p.w, p.st, s)
	}
}

func (p *printer) section(name string, count int) {
	if count > 0 {
		p.line("")
		p.line(p.st.Bold(name))
	}
}
