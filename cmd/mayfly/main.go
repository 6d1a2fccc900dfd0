// Command mayfly is a certificate authority for code signing, and the tools around it.
//
// Each subcommand has a file. Results go to standard output, logs and errors to standard error. The exit status is 0
// for success, 1 for a failure at run time, 2 for wrong usage or a wrong configuration, and 3 if a check has findings.
package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/clients"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/dev"
	"github.com/mayfly-ca/mayfly/internal/version"
)

func main() { cli.Main(newRoot()) }

func newRoot() *cobra.Command {
	o := &cli.Common{}
	root := &cobra.Command{
		Use:   "mayfly",
		Short: "A certificate authority for code signing: identity token in, ten-minute certificate out",
		Long: "mayfly verifies an OpenID Connect identity token, issues an X.509 code-signing certificate for the\n" +
			"identity in the token, and logs the certificate to Certificate Transparency before it answers. The\n" +
			"certificate is valid for ten minutes. mayfly implements the API of Sigstore's Fulcio.\n\n" +
			"Start with \"mayfly dev\": a complete CA on this machine, with nothing to configure.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.Version = version.Read().Version
	root.SetVersionTemplate("mayfly {{.Version}}\n")
	o.Add(root)
	root.AddCommand(newDev(o), newInit(o), newServe(o), newStatus(), newDoctor(), clients.NewRequest(),
		clients.NewInspect(), clients.NewVerify(), newShadow(o),
		newFind(), newConfig(), newCA(), newTrust(), newAudit(), newLog(o), newBackup(), newRestore(), newMigrate(),
		newSLO(), newBench(),
		clients.NewVersion(include), newManual())
	cli.ExplainArguments(root)
	return root
}

// runs returns the RunE function of a cobra command that calls body, and sets the exit status of errors: 2 for errors
// of a configuration or of the usage.
func runs(body cli.Action) func(*cobra.Command, []string) error {
	return cli.Perform(func(cmd *cobra.Command, args []string) error {
		err := body(cmd, args)
		if s := (*cli.Error)(nil); err == nil || errors.As(err, &s) {
			return err
		}
		if _, ok := errors.AsType[config.Problems](err); ok {
			return cli.Misconfigured(err)
		}
		if wrong, ok := errors.AsType[*dev.UsageError](err); ok {
			return cli.Usage("%w", wrong)
		}
		return err
	})
}

// located adds the position of the setting to an error about a file that the configuration names. It returns other
// errors unchanged.
func located(cfg *config.Config, err error) error {
	at := cfg.Locate(err)
	if _, ok := errors.AsType[config.Problems](at); ok {
		return cli.Misconfigured(at)
	}
	return err
}
