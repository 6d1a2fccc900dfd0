package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/migrate/chart"
)

func newMigrateHelmValues() *cobra.Command {
	var out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "helm-values FILE [--out FILE]",
		Short: "Translate values of Sigstore's Helm chart for Fulcio into values of mayfly's chart",
		Long: "helm-values reads values of the chart fulcio, or of a chart that contains it, as \"helm get values\n" +
			"RELEASE -o yaml\" prints them, and writes values for the chart in deploy/helm/mayfly. It says for\n" +
			"each value what became of it, what cannot be carried over and why, and what is left to do.\n\n" +
			"The values are written to standard output, and all else to standard error, unless there is --out.\n" +
			"An existing file is not replaced.\n\n" +
			"Exit status: 0 every value that had an effect was carried over, 2 the file has no values, 3 some\n" +
			"values cannot be carried over.",
		Example: "  helm get values fulcio -n fulcio-system -o yaml | mayfly migrate helm-values - --out values.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.Usage("the file of values is missing; write its name, or - for standard input")
			}
			data, err := input.Read(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			r, err := chart.Translate(data)
			if err != nil {
				return cli.Usage("%s: %w", args[0], err)
			}
			values, err := r.YAML()
			if err != nil {
				return err
			}
			if out != "" {
				if err := durable.CreateFile(out, values, 0o644); err != nil {
					return err
				}
			}
			switch {
			case asJSON:
				err = cli.WriteJSON(cmd.OutOrStdout(), r)
			case out != "":
				err = printTranslation(cmd.OutOrStdout(), r)
			default:
				if _, err = cmd.OutOrStdout().Write(values); err == nil {
					err = printTranslation(cmd.ErrOrStderr(), r)
				}
			}
			if err == nil && len(r.Lost) > 0 {
				return &cli.Error{
					Status: cli.ExitFound, Err: fmt.Errorf("mayfly: %d of the values cannot be carried over",
						len(r.Lost)),
				}
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "file for the values; it must not exist")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: the values, and what became of each value")
	return cmd
}

// printTranslation prints what became of each value.
func printTranslation(w io.Writer, r *chart.Result) error {
	st := terminal.StyleFor(w)
	g := terminal.Grid{Head: []string{"fulcio", "mayfly", "note"}}
	for _, c := range r.Carried {
		g.Add(terminal.Printable(c.Value), c.To, c.Note)
	}
	for _, u := range r.Unneeded {
		g.Add(terminal.Printable(u.Value), "–", u.Why)
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	for i, l := range r.Lost {
		if i == 0 {
			fmt.Fprintln(w, "\n"+st.Bold("Cannot be carried over"))
		}
		if err := terminal.Flow(w, st, "  "+st.Red(terminal.Printable(l.Value))+": "+l.Why); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "\n"+st.Bold("What is left to do"))
	for i, step := range r.Steps {
		if err := terminal.Flow(w, st, fmt.Sprintf("  %d. %s", i+1, terminal.Printable(step))); err != nil {
			return err
		}
	}
	return nil
}
