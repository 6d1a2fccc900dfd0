package manual_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/manual"
)

var options = manual.Options{Date: time.Date(2026, 11, 30, 23, 59, 0, 0, time.UTC), Version: "v1.2.3-rc1"}

// program returns a command with everything that a page can have, and with texts that roff could take for its own.
func program() *cobra.Command {
	run := func(*cobra.Command, []string) error { return nil }
	root := &cobra.Command{Use: "mayfly", Short: "A CA: \"short\"", Long: "It is `a` CA.\n\nTry \"mayfly dev\"."}
	root.PersistentFlags().String("log-level", "info", "debug or info")
	sign := &cobra.Command{
		Use: "sign --key FILE [OUT]", Short: "Sign what a_b and *.pem name", RunE: run,
		Long: ".TH is no request.\n'so is this'.\nA\\fBbackslash^~\n\nA list:\n  --one -x <ID>\n  " +
			"two\n\n    three\n\nEnd.",
		Example: "  mayfly sign --key '.'\n  mayfly sign --key ~/key.pem",
	}
	sign.Flags().StringP("key", "k", "", "`FILE` with the key,\nin PEM")
	sign.Flags().Bool("yes", false, "do it")
	sign.Flags().Duration("wait", time.Minute, "how long")
	sign.Flags().String("old", "", "hidden")
	if err := sign.Flags().MarkHidden("old"); err != nil {
		panic(err)
	}
	root.AddCommand(sign, &cobra.Command{Use: "inner", Short: "Not for people", Hidden: true, RunE: run})
	return root
}

// The pages of a program are compared with a text in which each character was read: see [TestRendered] for what man(1)
// shows of it.
func TestPages(t *testing.T) {
	t.Parallel()
	pages, err := manual.Pages(program(), options)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range pages {
		names = append(names, p.Name)
	}
	want := []string{
		"mayfly-completion-bash.1", "mayfly-completion-fish.1", "mayfly-completion-powershell.1",
		"mayfly-completion-zsh.1", "mayfly-completion.1", "mayfly-sign.1", "mayfly.1",
	}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
	again, err := manual.Pages(program(), options)
	if err != nil || cmp.Diff(pages, again) != "" {
		t.Errorf("the same commands gave other pages: %v", err)
	}
	const source = `." This page is made from the help of the command.
.TH "MAYFLY\-SIGN" "1" "2026-11-30" "mayfly v1.2.3\-rc1" "Manual of mayfly"
.nh
.SH "NAME"
mayfly\-sign \- Sign what a_b and *.pem name
.SH "SYNOPSIS"
\fBmayfly sign\fR \fB\-\-key\fR FILE [OUT] [\fIoptions\fR]
.SH "DESCRIPTION"
\&.TH is no request.
\(aqso is this\(aq.
A\efBbackslash\(ha\(ti
.PP
A list:
.EX
  \-\-one \-x <ID>
  two
.EE
.PP
.EX
    three
.EE
.PP
End.
.SH "OPTIONS"
.TP
\fB\-k\fR, \fB\-\-key\fR=\fIFILE\fR
FILE with the key, in PEM
.TP
\fB\-\-wait\fR=\fIduration\fR
how long (default: 1m0s)
.TP
\fB\-\-yes\fR
do it
`
	for _, p := range pages {
		if p.Name == "mayfly-sign.1" {
			got, _, _ := strings.Cut(string(p.Text), ".SH \"GLOBAL OPTIONS\"\n")
			if d := cmp.Diff(strings.Replace(source, `."`, `.\"`, 1), got); d != "" {
				t.Error(d)
			}
		}
	}
}

// Without a date or a version there are no pages: they would differ from build to build.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	for _, o := range []manual.Options{{}, {Date: options.Date}, {Version: "v1"}} {
		if pages, err := manual.Pages(program(), o); err == nil || pages != nil {
			t.Errorf("%+v: %d pages, %v", o, len(pages), err)
		}
	}
}

// The program man shows every character of the texts of a command.
func TestRendered(t *testing.T) {
	t.Parallel()
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("groff is not installed (package groff-base)")
	}
	pages, err := manual.Pages(program(), options)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		cmd := exec.CommandContext(t.Context(), groff, "-man", "-Tascii", "-ww", "-P-c", "-P-b", "-P-u")
		cmd.Stdin = bytes.NewReader(p.Text)
		var out, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaints
		if err := cmd.Run(); err != nil || complaints.Len() > 0 {
			t.Errorf("%s: %v: %s", p.Name, err, complaints.String())
		}
		if p.Name != "mayfly-sign.1" {
			continue
		}
		shown := strings.Join(strings.Fields(out.String()), " ")
		for _, text := range []string{
			".TH is no request. 'so is this'. A\\fBbackslash^~", "--one -x <ID> two three", "a_b and *.pem",
			"mayfly sign --key '.' mayfly sign --key ~/key.pem", "-k, --key=FILE", "--log-level=string",
		} {
			if !strings.Contains(shown, text) {
				t.Errorf("%q is not shown in:\n%s", text, out.String())
			}
		}
	}
}

// mandoc(1), the formatter of the BSDs and Alpine, has nothing to complain about.
func TestLint(t *testing.T) {
	t.Parallel()
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("mandoc is not installed (package mandoc)")
	}
	pages, err := manual.Pages(program(), options)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	arguments := []string{"-T", "lint", "-W", "warning"}
	for _, p := range pages {
		path := filepath.Join(dir, p.Name)
		if err := os.WriteFile(path, p.Text, 0o644); err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, path)
	}
	if out, err := exec.CommandContext(t.Context(), mandoc, arguments...).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
