package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/reconcile"
)

func newAuditClear() *cobra.Command {
	var path string
	var order reconcile.Order
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "clear --config FILE [--log NAME | --alarm ID]",
		Short: "List the open alarms of the auditor, or close those that are resolved",
		Long: "clear lists the open alarms. With --alarm it closes one alarm. With --log it closes the alarms of a\n" +
			"log that violated its obligations, and the log is used for SCTs again. Without --yes it only says what\n" +
			"it would do. The running CA applies the order at its next audit, within audit.reconcile.every, and\n" +
			"records it in the journal.",
		Example: "  mayfly audit clear --config mayfly.yaml\n  mayfly audit clear --config mayfly.yaml " +
			"--log tesseract --yes",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			switch {
			case path == "":
				return cli.Usage("--config is missing; write --config FILE")
			case order.Log != "" && order.Alarm != "":
				return cli.Usage("--log and --alarm exclude each other; write one of them")
			}
			cfg, _, err := config.Load(path)
			if err != nil {
				return cli.Misconfigured(err)
			}
			if cfg.Audit == nil || cfg.Audit.File == "" {
				return cli.Usage("%s has no audit.file, so alarms are not stored", path)
			}
			open, quarantined, err := reconcile.OpenAlarms(cfg.Audit.File)
			if err != nil {
				return err
			}
			selected := []reconcile.Alarm{}
			for _, a := range open {
				if order == (reconcile.Order{}) || order.Closes(a.Finding) {
					selected = append(selected, a)
				}
			}
			if asJSON {
				err = cli.WriteJSON(cmd.OutOrStdout(), selected)
			} else {
				err = printAlarms(cmd, selected)
			}
			if err != nil || order == (reconcile.Order{}) {
				return err
			}
			if _, ok := quarantined[order.Log]; len(selected) == 0 && !ok {
				return cli.Usage("no open alarm matches; \"mayfly audit clear --config %s\" lists the open alarms",
					path)
			}
			if !yes {
				fmt.Fprintln(cmd.ErrOrStderr(), "Nothing was done. Add --yes to close them.")
				return nil
			}
			if err := reconcile.WriteOrder(cfg.Audit.File, order); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "The CA closes them at its next audit.")
			return nil
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (required)")
	cmd.Flags().StringVar(&order.Log, "log", "", "name of a log that was repaired")
	cmd.Flags().StringVar(&order.Alarm, "alarm", "", "ID of one alarm")
	cmd.Flags().BoolVar(&yes, "yes", false, "close the alarms")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printAlarms(cmd *cobra.Command, all []reconcile.Alarm) error {
	w := cmd.OutOrStdout()
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no alarm is open")
		return err
	}
	st := terminal.StyleFor(w)
	g := terminal.Grid{Head: []string{"RAISED", "ALARM", "KIND", "WHERE", "WHAT"}, Spare: []string{"RAISED", "WHERE"}}
	for _, a := range all {
		where := a.Log
		if where == "" {
			where = a.Journal
		}
		if a.Index != nil {
			where += fmt.Sprintf(" #%d", *a.Index)
		}
		text := a.Summary()
		if a.Count > 0 {
			text += fmt.Sprintf(" (%d more)", a.Count)
		}
		g.Add(a.Raised.Format(time.RFC3339), a.ID, st.Red(string(a.Kind)), terminal.OrDash(where),
			terminal.Printable(text))
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	for _, a := range all {
		if err := printCommands(w, st, a.Finding); err != nil {
			return err
		}
	}
	return nil
}
