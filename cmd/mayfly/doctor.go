package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/clients"
	"github.com/mayfly-ca/mayfly/doctor"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

func newDoctor() *cobra.Command {
	f := &adminFlags{}
	o := doctor.Options{}
	var asJSON bool
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "doctor --config FILE [--admin URL]... [--trial]",
		Short: "Examine everything that a CA depends on, and say what to do",
		Long: "doctor shows for each part of a CA whether it works, why not, and what to do: files and their\n" +
			"permissions, key and chain, TLS, identity providers, logs, journal, disks, clocks, ports, limits, and\n" +
			"the running CA, if there is one. The last row is the whole path, from a token to SCTs: a run of the\n" +
			"canary of the running CA. If no CA is running, --trial tries the path in this process. Run doctor as\n" +
			"the user that the CA runs as.\n\n" +
			"With --token-file, doctor also signs once with every service of the running CA, over the URLs that\n" +
			"clients use: a certificate, a timestamp, an entry in the log of signatures. It fetches the trusted\n" +
			"root as clients do, and verifies the signature with that. SSL_CERT_FILE names the CA certificates of a\n" +
			"private TLS CA.\n\n" +
			"Exit status: 0 there is no problem (there may be warnings), 3 there is a problem, 2 the configuration\n" +
			"cannot be loaded.",
		Example: "  mayfly doctor --config /etc/mayfly/mayfly.yaml",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if o.Path == "" {
				return cli.Usage("--config is missing; write --config FILE")
			}
			for _, url := range o.Admins {
				if _, err := f.options(url); err != nil {
					return err
				}
			}
			o.Client = f.options
			if tokenFile != "" {
				var err error
				if o.Token, err = clients.ReadToken(cmd.InOrStdin(), tokenFile); err != nil {
					return err
				}
			}
			progress := terminal.NewProgress(cmd.ErrOrStderr())
			o.Progress = func(running []string) { progress.Showf("examining %s", strings.Join(running, ", ")) }
			r, err := doctor.Run(cmd.Context(), o)
			progress.Clear()
			if err != nil {
				return err
			}
			if asJSON {
				err = cli.WriteJSON(cmd.OutOrStdout(), r)
			} else {
				err = r.Write(cmd.OutOrStdout())
			}
			if err == nil && !r.OK {
				err = &cli.Error{
					Status: cli.ExitFound,
					Err:    fmt.Errorf("mayfly: %s found", human.Count(r.Problems(), "problem")),
				}
			}
			return err
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&o.Path, "config", "", "configuration file (required)")
	fl.StringArrayVar(&o.Admins, "admin", nil,
		"URL of the admin listener of a running CA; may be repeated; by default that "+
			"of the configuration")
	fl.StringVar(&tokenFile, "token-file", "",
		"file with an ID token that the CA accepts (\"-\" is standard input): sign once with every service, "+
			"and verify as a client")
	fl.BoolVar(&o.Trial, "trial", false, "try the whole path in this process if no CA is running")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	f.register(cmd)
	return cmd
}
