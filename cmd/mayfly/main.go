// Command mayfly is a certificate authority for code signing, and the tools around it.
//
// One file holds one subcommand; serve.go is the wiring and reads from top to bottom. Results go to standard output, logs and
// errors to standard error. The exit status is 0 when the work is done, 1 when it failed at run time, 2 for wrong usage or a
// wrong configuration, and 3 when a check found something.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
	exitFound  = 3
)

// stop is an error that decides the exit status.
type stop struct {
	status int
	err    error
}

func (s *stop) Error() string { return s.err.Error() }
func (s *stop) Unwrap() error { return s.err }

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, cancel) // from then on a second signal ends the process at once
	status := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	cancel()
	os.Exit(status)
}

// streams are the process's standard streams.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, std streams) int {
	std.out, std.err = newScreen(std.out), newScreen(std.err)
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var s *stop
	if errors.As(err, &s) {
		fmt.Fprintln(std.err, s)
		return s.status
	}
	// What cobra itself reports is a wrong command line.
	fmt.Fprintf(std.err, "mayfly: %v\nRun \"%s --help\" to see how it is used.\n", err, cmd.CommandPath())
	return exitUsage
}

func newRoot() *cobra.Command {
	o := &common{}
	root := &cobra.Command{
		Use:   "mayfly",
		Short: "A certificate authority for code signing: identity token in, ten-minute certificate out",
		Long: "mayfly checks an OpenID Connect identity token, issues an X.509 code-signing certificate that lives ten minutes and\n" +
			"names that identity, and logs it to Certificate Transparency before it answers. It speaks the API of Sigstore's Fulcio.\n\n" +
			"Start with \"mayfly dev\": a whole CA on this machine, nothing to configure.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.Version = readBuildInfo().Version
	root.SetVersionTemplate("mayfly {{.Version}}\n")
	root.PersistentFlags().StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	root.PersistentFlags().StringVar(&o.logFormat, "log-format", "auto", "text, json, or auto: text in a terminal, else json")
	completeWords(root, "log-level", "debug", "info", "warn", "error")
	completeWords(root, "log-format", "auto", "text", "json")
	root.AddCommand(newDev(o), newServe(o), newRequest(o), newInspect(), newVerify(), newConfig(), newCA(), newTrust(),
		newAudit(), newLog(), newBench(o), newVersion())
	explainArguments(root)
	return root
}

// explainArguments has cmd and all commands below it say which argument is missing or unexpected, in place of how many
// cobra wants.
func explainArguments(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		explainArguments(c)
	}
	check := cmd.Args
	if check == nil || cmd.HasSubCommands() { // an argument of those is the name of a command
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) == nil {
			return nil
		}
		most := 0
		for _, word := range strings.Fields(cmd.Use)[1:] {
			if strings.HasPrefix(word, "-") || strings.HasPrefix(word, "[") || strings.HasPrefix(word, "{") {
				break // flags and what is optional come last
			}
			if most++; most > len(args) {
				return fmt.Errorf("the argument %s is missing; write %s %s", word, cmd.CommandPath(),
					strings.Join(strings.Fields(cmd.Use)[1:], " "))
			}
		}
		for most < len(args) && check(cmd, args[:most+1]) == nil {
			most++
		}
		return fmt.Errorf("unexpected argument %q; quote an argument that has spaces", args[most])
	}
}

// completeWords gives a flag its shell completion.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic("completion of --" + flag + ": " + err.Error()) // a flag that the lines above did not define
	}
}

// action is the body of a subcommand. Its errors end the process with status 1 unless they say otherwise.
type action func(cmd *cobra.Command, args []string) error

// runs turns a body into cobra's form and gives its plain errors their exit status.
func runs(body action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := body(cmd, args)
		var s *stop
		if err == nil || errors.As(err, &s) {
			return err
		}
		return &stop{exitFailed, fmt.Errorf("mayfly: %w%s", err, advice(err))}
	}
}

// located is an error about a file that a configuration names, with the place of the setting; any other error stays as it is.
func located(cfg *config.Config, err error) error {
	at := cfg.Locate(err)
	if _, ok := errors.AsType[config.Problems](at); ok {
		return misconfigured(at)
	}
	return err
}

// advice is what to do about an error of the operating system that does not say so itself.
func advice(err error) string {
	what := fault.Advice(err)
	if what == "" || strings.Contains(err.Error(), "; ") {
		return ""
	}
	return "; " + what
}

// usage is an error in the command line: exit status 2.
func usage(format string, args ...any) error {
	return &stop{exitUsage, fmt.Errorf("mayfly: "+format, args...)}
}

// misconfigured is an error in a configuration file: exit status 2, and the text starts with FILE:LINE:COL as it stands.
func misconfigured(err error) error { return &stop{exitUsage, err} }
