// Package manual writes the manual pages of a program: one page in man(7) for each command, from the texts that the
// command itself shows as its help.
//
// A tree of commands and a date go in, the texts of the pages come out. The same input MUST give the same bytes. The
// texts of commands are plain text, not Markdown: every character of them is shown as it is, and no line of a text is
// taken for a request of roff.
//
// The package does not use cobra/doc, which takes the texts of commands for Markdown: there, <ID>, *.pem and a_b lose
// characters.
package manual

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Section is the section of the manual to which the pages belong: commands of users.
const Section = "1"

// Options are what a page has beside the texts of its command.
type Options struct {
	// Date is the date of the pages, in UTC: the time of the commit, so that the pages of one commit are the same.
	Date time.Time
	// Version is the version of the program.
	Version string
}

// Page is one page.
type Page struct {
	// Name is the name of the file, such as "mayfly-ca-init.1".
	Name string
	// Text is the source of the page.
	Text []byte
}

// Pages returns the pages of a command and of all commands below it, in the order of their names. Hidden commands and
// the help command have none.
func Pages(root *cobra.Command, o Options) ([]Page, error) {
	if o.Date.IsZero() || o.Version == "" {
		return nil, errors.New("manual: the date or the version is missing")
	}
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var out []Page
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		out = append(out, Page{Name: name(c) + "." + Section, Text: page(c, o)})
		for _, below := range listed(c) {
			visit(below)
		}
	}
	visit(root)
	slices.SortFunc(out, func(a, b Page) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// listed returns the commands below c that have a page.
func listed(c *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, below := range c.Commands() {
		if below.IsAvailableCommand() && below.Name() != "help" {
			out = append(out, below)
		}
	}
	return out
}

// name returns the name of the page of a command.
func name(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// writer writes the source of a page.
type writer struct{ bytes.Buffer }

// request writes one line of roff: a macro and its arguments.
func (w *writer) request(macro string, arguments ...string) {
	w.WriteString("." + macro)
	for _, a := range arguments {
		w.WriteString(` "` + quoted(a) + `"`)
	}
	w.WriteByte('\n')
}

// quoted returns text for an argument of a macro, between quotation marks.
func quoted(text string) string { return strings.ReplaceAll(escape(text), `"`, `\(dq`) }

// line writes one line of text. markup is roff and has no line break.
func (w *writer) line(markup string) {
	if strings.HasPrefix(markup, ".") || strings.HasPrefix(markup, "'") {
		w.WriteString(`\&`) // without it, the line would be a request
	}
	w.WriteString(markup + "\n")
}

// escape returns text in roff: a hyphen is a minus sign that a reader can copy into a shell, and quotation marks,
// circumflexes, graves and tildes are those of ASCII.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "…", "...",
		"–", `\(en`, "§", `\(sc`, "→", `\(->`, "©", `\(co`).Replace(text)
}

func bold(text string) string { return `\fB` + escape(text) + `\fR` }

func italic(text string) string { return `\fI` + escape(text) + `\fR` }

// prose writes paragraphs. A line with leading space, such as an example or a row of a table, keeps its form.
func (w *writer) prose(text string) {
	literal, start := false, true
	for line := range strings.Lines(strings.Trim(text, "\n")) {
		line = strings.ReplaceAll(strings.TrimRight(line, " \t\n"), "\t", "  ")
		if line == "" {
			if literal {
				w.request("EE")
			}
			literal, start = false, true
			continue
		}
		indented := strings.HasPrefix(line, " ")
		switch {
		case indented && !literal:
			if start && w.paragraph() {
				w.request("PP")
			}
			w.request("EX")
		case !indented && literal:
			w.request("EE")
		case !indented && start && w.paragraph():
			w.request("PP")
		}
		literal, start = indented, false
		w.line(escape(line))
	}
	if literal {
		w.request("EE")
	}
}

// paragraph reports whether the next text needs a macro for a new paragraph: not after a heading.
func (w *writer) paragraph() bool {
	text := strings.TrimSuffix(w.String(), "\n")
	return !strings.HasPrefix(text[strings.LastIndexByte(text, '\n')+1:], ".SH ")
}

// page returns the source of the page of one command.
func page(c *cobra.Command, o Options) []byte {
	w := &writer{}
	w.WriteString(".\\\" This page is made from the help of the command.\n")
	root := c.Root().Name()
	// Hyphens of a date are not escaped: programs read it.
	fmt.Fprintf(w, ".TH \"%s\" \"%s\" \"%s\" \"%s\" \"%s\"\n", quoted(strings.ToUpper(name(c))), Section,
		o.Date.UTC().Format(time.DateOnly), quoted(root+" "+o.Version), quoted("Manual of "+root))
	w.request("nh") // commands and options are not hyphenated
	w.request("SH", "NAME")
	w.line(escape(name(c)) + ` \- ` + escape(c.Short))
	w.request("SH", "SYNOPSIS")
	w.synopsis(c)
	w.request("SH", "DESCRIPTION")
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	w.prose(long)
	if below := listed(c); len(below) > 0 {
		w.request("SH", "COMMANDS")
		for _, b := range below {
			w.request("TP")
			w.line(bold(b.CommandPath()))
			w.line(escape(b.Short) + "; see " + bold(name(b)) + "(" + Section + ").")
		}
	}
	w.options("OPTIONS", c.NonInheritedFlags())
	w.options("GLOBAL OPTIONS", c.InheritedFlags())
	if c.Example != "" {
		w.request("SH", "EXAMPLES")
		w.prose(c.Example)
	}
	w.request("SH", "EXIT STATUS")
	for _, s := range [][2]string{
		{"0", "done"},
		{"1", "failed at run time"},
		{"2", "the command line or the configuration is wrong"},
		{"3", "a check found something"},
	} {
		w.request("TP", "4")
		w.line(s[0])
		w.line(escape(s[1]))
	}
	w.related(c)
	return w.Bytes()
}

// synopsis writes the command line: the words in bold, the places for arguments in italics.
func (w *writer) synopsis(c *cobra.Command) {
	line := bold(c.CommandPath())
	words := strings.Fields(c.Use)[1:]
	if listed(c) != nil && !c.Runnable() {
		words = append(words, "COMMAND")
	}
	for _, word := range words {
		if strings.HasPrefix(word, "--") {
			line += " " + bold(word)
		} else {
			line += " " + escape(word)
		}
	}
	if c.HasAvailableFlags() {
		line += " [" + italic("options") + "]"
	}
	w.line(line)
}

// options writes flags under a heading, or nothing if there are none.
func (w *writer) options(heading string, flags *pflag.FlagSet) {
	headed := false
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" || f.Name == "help" {
			return
		}
		if !headed {
			w.request("SH", heading)
			headed = true
		}
		w.request("TP")
		head := bold("--" + f.Name)
		if f.Shorthand != "" && f.ShorthandDeprecated == "" {
			head = bold("-"+f.Shorthand) + ", " + head
		}
		kind, usage := pflag.UnquoteUsage(f)
		if f.Value.Type() == "bool" {
			kind = ""
		}
		if kind != "" {
			head += "=" + italic(kind)
		}
		w.line(head)
		usage = strings.ReplaceAll(usage, "\n", " ")
		if !silent(f) {
			usage += fmt.Sprintf(" (default: %s)", f.DefValue)
		}
		w.line(escape(usage))
	})
}

// silent reports whether the default of a flag says nothing.
func silent(f *pflag.Flag) bool {
	return slices.Contains([]string{"", "0", "0s", "false", "[]"}, f.DefValue)
}

// related writes the pages to which this one refers: the command above and the commands beside this one.
func (w *writer) related(c *cobra.Command) {
	var names []string
	if c.HasParent() {
		names = append(names, name(c.Parent()))
		for _, one := range listed(c.Parent()) {
			if one != c {
				names = append(names, name(one))
			}
		}
	}
	for _, one := range listed(c) {
		names = append(names, name(one))
	}
	if len(names) == 0 {
		return
	}
	w.request("SH", "SEE ALSO")
	for i, one := range names {
		end := ","
		if i == len(names)-1 {
			end = ""
		}
		w.line(bold(one) + "(" + Section + ")" + end)
	}
}
