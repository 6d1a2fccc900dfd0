package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/clients"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

func newCACheck() *cobra.Command {
	key := &keyFlags{}
	var asJSON, timestamping bool
	var transcript string
	cmd := &cobra.Command{
		Use:   "check [CHAIN] [--config FILE]",
		Short: "Check every requirement of an issuing chain, and that its key signs",
		Long: "check prints each requirement of a chain (issuing certificate first, root last), with its result and\n" +
			"what to do. With --config or --key, it also signs a random text, which is not a certificate, and\n" +
			"verifies the signature. Without CHAIN, it checks the chain of --config. With --transcript, it also\n" +
			"replays the ceremony; see \"mayfly ca replay\".\n\n" +
			"Results: ok; wrong: a CA does not start with the chain, or only without \"production: true\"; warning:\n" +
			"the CA starts and warns; note: a ceremony makes no such chain, but a running CA accepts it.\n\n" +
			"Exit status: 0 nothing is wrong, 1 a file or a key cannot be used, 3 something is wrong.",
		Example: "  mayfly ca check chain.pem\n  mayfly ca check --config mayfly.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			o := ceremony.CheckOptions{Now: time.Now(), Usage: x509.ExtKeyUsageCodeSigning}
			path, err := chainToCheck(args, key.config)
			if err != nil {
				return err
			}
			if o.Chain, err = clients.ReadCertificates(cmd.InOrStdin(), path); err != nil {
				return err
			}
			if key.given() {
				if o.Key, err = key.open(cmd, ceremonyOptions(cmd, false)); err != nil {
					return err
				}
			}
			if timestamping {
				o.Usage = x509.ExtKeyUsageTimeStamping
			}
			lines := ceremony.Check(o)
			if err := o.Key.Close(); err != nil {
				return err
			}
			if transcript != "" {
				more, err := replayed(cmd, transcript, "")
				if err != nil {
					return err
				}
				lines = append(lines, more...)
			}
			return printLines(cmd.OutOrStdout(), lines, asJSON)
		}),
	}
	key.register(cmd, "the CA's key", false)
	fl := cmd.Flags()
	fl.StringVar(&transcript, "transcript", "", "transcript to replay, of the ceremony that made the chain")
	fl.BoolVar(&timestamping, "timestamping", false, "the chain is that of a timestamp authority (RFC 3161)")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// chainToCheck returns the path of the chain: the argument, or the chain of the configuration.
func chainToCheck(args []string, configuration string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	if configuration == "" {
		return "", cli.Usage("the chain is missing; write mayfly ca check CHAIN, or --config FILE")
	}
	table, err := config.LoadKeyBackend(configuration)
	if err != nil {
		return "", err
	}
	if table.ChainFile() == "" {
		return "", cli.Usage("%s: the CA is ephemeral: its chain exists only while it runs", configuration)
	}
	return table.ChainFile(), nil
}

// printLines prints the results of checks. If a check failed, it returns an error with exit status 3.
func printLines(out io.Writer, lines []ceremony.Line, asJSON bool) error {
	if asJSON {
		if err := cli.WriteJSON(out, lines); err != nil {
			return err
		}
	} else if err := writeLines(out, lines); err != nil {
		return err
	}
	wrong := 0
	for _, l := range lines {
		if l.Result == ceremony.Wrong {
			wrong++
		}
	}
	if wrong == 0 {
		return nil
	}
	return &cli.Error{Status: cli.ExitFound, Err: errors.New("mayfly: " + countOf(wrong, len(lines)))}
}

func countOf(wrong, all int) string {
	return fmt.Sprintf("%d of %d checks failed", wrong, all)
}

func writeLines(out io.Writer, lines []ceremony.Line) error {
	st := terminal.StyleFor(out)
	mark := map[string]func(string) string{
		ceremony.OK: st.Green, ceremony.Wrong: st.Red, ceremony.Warning: st.Yellow, ceremony.Note: st.Dim,
	}
	var t terminal.Table
	for _, l := range lines {
		text := terminal.Printable(l.Check)
		if l.Detail != "" {
			text += ": " + terminal.Printable(l.Detail)
		}
		if l.Fix != "" {
			text += "; " + terminal.Printable(l.Fix)
		}
		t.Add(l.Result, mark[l.Result](text))
	}
	return t.Write(out, st)
}
