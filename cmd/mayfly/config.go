package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/config"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration",
		Args:  cobra.NoArgs,
		RunE:  runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newConfigCheck())
	return cmd
}

// checkResult is what "config check --json" prints.
type checkResult struct {
	File     string   `json:"file"`
	OK       bool     `json:"ok"`
	Error    string   `json:"error,omitempty"`
	Warnings []string `json:"warnings"`
	Digest   string   `json:"digest,omitempty"`
	Issuers  int      `json:"issuers"`
	Chain    []string `json:"chain,omitempty"`
	Logs     []string `json:"logs"`
}

func newConfigCheck() *cobra.Command {
	var path string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Say whether \"mayfly serve\" would start with this configuration",
		Long:  "check runs the code that \"mayfly serve\" runs before it opens a socket: configuration, issuer file, keys and chains.",
		Args:  cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && path == "" {
				path = args[0]
			}
			if path == "" {
				return usage("--config is missing; write --config FILE")
			}
			result, err := checkConfig(path)
			if asJSON {
				if werr := writeJSON(cmd.OutOrStdout(), result); werr != nil {
					return werr
				}
			}
			if err != nil {
				return misconfigured(err)
			}
			if asJSON {
				return nil
			}
			w, st := cmd.OutOrStdout(), styleFor(cmd.OutOrStdout())
			fmt.Fprintf(w, "%s %s\n", st.green("ok"), path)
			for _, warning := range result.Warnings {
				fmt.Fprintf(w, "  %s %s\n", st.yellow("warning"), warning)
			}
			var t table
			t.add("issuers", fmt.Sprint(result.Issuers))
			for _, c := range result.Chain {
				t.add("chain", c)
			}
			for _, l := range result.Logs {
				t.add("log", l)
			}
			t.add("digest", result.Digest)
			return t.write(w, st)
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (required)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func checkConfig(path string) (checkResult, error) {
	r := checkResult{File: path, Warnings: []string{}, Logs: []string{}}
	cfg, warnings, err := config.Load(path)
	for _, w := range warnings {
		r.Warnings = append(r.Warnings, w.String())
	}
	var m *material
	if err == nil {
		m, err = load(cfg)
	}
	if err == nil {
		err = checkChain(cfg, m)
	}
	if err != nil {
		r.Error = err.Error()
		return r, err
	}
	r.OK, r.Digest, r.Issuers = true, cfg.Digest, len(cfg.Issuers.Issuers)+len(cfg.Issuers.MetaIssuers)
	for _, c := range m.chain {
		r.Chain = append(r.Chain, fmt.Sprintf("%s, until %s", c.Subject, c.NotAfter.UTC().Format("2006-01-02")))
	}
	for _, l := range cfg.CT.Logs {
		r.Logs = append(r.Logs, l.Name+" "+l.URL)
	}
	if cfg.CT.Embedded != nil {
		r.Logs = append(r.Logs, "embedded "+cfg.CT.Embedded.Dir)
	}
	return r, nil
}
