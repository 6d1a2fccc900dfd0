// Package cli has the code that the commands of this repository share: exit statuses, flags for the log, and help for
// wrong arguments.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	ExitFailed = 1
	ExitUsage  = 2
	ExitFound  = 3
)

// Error is an error with the exit status of the process.
type Error struct {
	Status int
	Err    error
}

func (s *Error) Error() string { return s.Err.Error() }

func (s *Error) Unwrap() error { return s.Err }

// Streams are the process's standard streams.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Main executes the command line of this process with root, and ends the process. The context of the command ends with
// SIGINT and SIGTERM; a second signal ends the process immediately.
func Main(root *cobra.Command) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, cancel) // the default action of a signal applies again
	status := Execute(ctx, root, os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	cancel()
	os.Exit(status)
}

// Execute executes one command line and returns the exit status.
func Execute(ctx context.Context, root *cobra.Command, args []string, std Streams) int {
	std.Out, std.Err = terminal.NewScreen(std.Out), terminal.NewScreen(std.Err)
	root.SetArgs(args)
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var s *Error
	if errors.As(err, &s) {
		fmt.Fprintln(std.Err, s)
		return s.Status
	}
	// Other errors come from cobra, which reports wrong command lines.
	fmt.Fprintf(std.Err, "%s: %v\nRun \"%s --help\" to see how it is used.\n", root.Name(), err, cmd.CommandPath())
	return ExitUsage
}

// ExplainArguments makes cmd and all commands below it report which argument is missing or unexpected. Cobra itself
// reports only the expected number of arguments.
func ExplainArguments(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		ExplainArguments(c)
	}
	check := cmd.Args
	if check == nil || cmd.HasSubCommands() { // the argument is the name of a subcommand
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) == nil {
			return nil
		}
		most := 0
		for _, word := range strings.Fields(cmd.Use)[1:] {
			if strings.HasPrefix(word, "-") || strings.HasPrefix(word, "[") || strings.HasPrefix(word, "{") {
				break // flags and optional arguments come last
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

// CompleteWords sets the words that shell completion offers for a flag.
func CompleteWords(cmd *cobra.Command, flag string, words ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic("completion of --" + flag + ": " + err.Error()) // the flag is not defined: a programming error
	}
}

// Action is the body of a subcommand. An error that is not an [*Error] ends the process with status 1.
type Action func(cmd *cobra.Command, args []string) error

// Perform returns the RunE function of a cobra command that calls body. An error that is not an [*Error] gets status 1.
func Perform(body Action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := body(cmd, args)
		var s *Error
		if err == nil || errors.As(err, &s) {
			return err
		}
		return &Error{ExitFailed, fmt.Errorf("mayfly: %w%s", err, advice(err))}
	}
}

// advice returns what to do about an error of the operating system, unless the error says it itself.
func advice(err error) string {
	var cured *fault.Cured
	what := fault.Advice(err)
	if what == "" || errors.As(err, &cured) {
		return ""
	}
	return "; " + what
}

// Usage returns an error about the command line, with exit status 2.
func Usage(format string, args ...any) error {
	return &Error{ExitUsage, fmt.Errorf("mayfly: "+format, args...)}
}

// Misconfigured returns an error about a configuration file, with exit status 2. The text, which starts with
// FILE:LINE:COL, has no prefix.
func Misconfigured(err error) error { return &Error{ExitUsage, err} }

// WriteJSON writes v as indented JSON.
func WriteJSON(w interface{ Write([]byte) (int, error) }, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
