package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/node"
)

func newServe(o *cli.Common) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the certificate authority",
		Long: "serve runs the CA with the configuration FILE until SIGINT or SIGTERM. \"mayfly config check\" shows\n" +
			"beforehand whether it would start.",
		Example: "  mayfly serve --config /etc/mayfly/mayfly.yaml",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			log, err := o.NewLogger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if path == "" {
				return cli.Usage("--config is missing; write --config FILE (docs/config.md describes it, \"mayfly " +
					"dev\" writes an example)")
			}
			n, err := node.Build(cmd.Context(), node.Options{Path: path, Logger: log})
			if e, ok := errors.AsType[*node.ListenError](err); ok {
				return &cli.Error{Status: cli.ExitFailed, Err: e}
			}
			if err != nil {
				return cli.Misconfigured(err)
			}
			return n.Run(cmd.Context())
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (required)")
	return cmd
}
