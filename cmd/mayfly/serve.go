package main

import (
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/node"
)

func newServe(o *cli.Common) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the certificate authority",
		Long: "serve runs the CA with the configuration FILE until SIGINT or SIGTERM. \"mayfly config check\" " +
			"shows beforehand whether it would start.",
		Example: "  mayfly serve --config /etc/mayfly/mayfly.yaml",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			log, err := o.NewLogger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if path == "" {
				return cli.Usage("--config is missing; write --config FILE (docs/config.md describes it, \"mayfly dev\" makes an example)")
			}
			cfg, warnings, err := config.Load(path)
			if err != nil {
				return cli.Misconfigured(err)
			}
			known := config.Contents(cfg.Files)
			m, err := node.Prove(cmd.Context(), cfg)
			if err != nil {
				return cli.Misconfigured(err)
			}
			warnings = append(warnings, m.Warnings...)
			for _, w := range warnings {
				log.Warn("configuration", "warning", w.String())
			}
			for _, text := range m.Skipped(cfg) {
				log.Warn("configuration", "warning", text)
			}
			listeners, err := node.Listen(cfg.Listen)
			if err != nil {
				return &cli.Error{Status: cli.ExitFailed, Err: cfg.Locate(err)}
			}
			return node.Serve(cmd.Context(), node.Instance{Path: path, Known: known, Warnings: warnings, Config: cfg, Material: m, Listeners: listeners, Log: log})
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (required)")
	return cmd
}
