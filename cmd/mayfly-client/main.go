// Command mayfly-client has the commands of mayfly for those who sign and verify: request, inspect, verify and version.
// Releases install it under the name mayfly where the CA does not run, which is Windows.
//
// The exit status is 0 for success, 1 for a failure at run time, 2 for wrong usage, and 3 if a check has findings.
package main

import (
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/clients"
	"github.com/mayfly-ca/mayfly/internal/version"
)

func main() { cli.Main(newRoot()) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "mayfly",
		Short: "Request certificates for code signing from a mayfly or Fulcio server, and verify signatures",
		Long: "This program has the commands of mayfly for those who sign and verify. The certificate authority and\n" +
			"its tools are in the mayfly of Linux and macOS.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.Version = version.Read().Version
	root.SetVersionTemplate("mayfly {{.Version}}\n")
	root.AddCommand(clients.NewRequest(), clients.NewInspect(), clients.NewVerify(), clients.NewVersion(nil))
	cli.ExplainArguments(root)
	return root
}
