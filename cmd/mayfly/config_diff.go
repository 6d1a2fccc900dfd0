package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// diffView is the output of "config diff --json".
type diffView struct {
	Settings []config.Change `json:"settings"`
	Tokens   []tokenChange   `json:"tokens"`
	Compared int             `json:"compared"` // number of recorded tokens
}

// tokenChange is the difference for one recorded token.
type tokenChange struct {
	File string `json:"file"`
	oidc.DecisionChange
}

func newConfigDiff() *cobra.Command {
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show which issuers, rules and certificates differ between two configurations",
		Long: "diff compares two configurations or issuer files, setting by setting. With --claims it also evaluates\n" +
			"every *.json in DIR, each with the claims of one token, with both, and shows who gains a certificate,\n" +
			"who loses it, and whose certificate changes.\n\n" +
			"Exit status: 0 nothing differs, 2 a configuration is wrong, 3 something differs.",
		Example: "  mayfly config diff identity.yaml identity.new.yaml --claims recorded/",
		Args:    cobra.ExactArgs(2),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			view, err := diffConfigs(args[0], args[1], dir)
			if err != nil {
				return err
			}
			if asJSON {
				err = cli.WriteJSON(cmd.OutOrStdout(), view)
			} else {
				err = view.print(cmd.OutOrStdout())
			}
			if err == nil && len(view.Settings)+len(view.Tokens) > 0 {
				err = &cli.Error{Status: cli.ExitFound, Err: errors.New("mayfly: the configurations differ")}
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&dir, "claims", "", "directory with recorded claims, one JSON object per *.json")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func diffConfigs(oldPath, newPath, dir string) (diffView, error) {
	view := diffView{Settings: []config.Change{}, Tokens: []tokenChange{}}
	var explainers [2]*oidc.Explainer
	var configs [2]oidc.Config
	var mains [2]*config.Config
	for i, path := range []string{oldPath, newPath} {
		c, main, err := config.LoadIdentity(path)
		if err != nil {
			return view, cli.Misconfigured(err)
		}
		if explainers[i], err = oidc.NewExplainer(*c); err != nil {
			return view, cli.Misconfigured(err)
		}
		configs[i], mains[i] = *c, main
	}
	if mains[0] != nil && mains[1] != nil {
		view.Settings = append(view.Settings, config.DiffMain(mains[0], mains[1])...)
	}
	view.Settings = append(view.Settings, config.Diff(configs[0], configs[1])...)
	if dir == "" {
		return view, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return view, err
	}
	for _, e := range entries {
		if e.IsDir() || filepath.Ext(e.Name()) != ".json" {
			continue
		}
		claims, err := readRecorded(nil, filepath.Join(dir, e.Name()))
		if err != nil {
			return view, err
		}
		view.Compared++
		if c := oidc.Compare(explainers[0], explainers[1], claims); c.Change != "" {
			view.Tokens = append(view.Tokens, tokenChange{File: e.Name(), DecisionChange: c})
		}
	}
	return view, nil
}

func (v diffView) print(w io.Writer) error {
	st := terminal.StyleFor(w)
	if len(v.Settings) == 0 {
		fmt.Fprintln(w, "No setting differs.")
	}
	entry := ""
	for _, c := range v.Settings {
		if c.Entry != entry {
			entry = c.Entry
			fmt.Fprintln(w, st.Bold(terminal.Printable(entry)))
		}
		line := fmt.Sprintf("  %s %s: %s → %s", st.Yellow("~"), c.Key, terminal.Printable(c.Old),
			terminal.Printable(c.New))
		switch {
		case c.Old == "":
			line = fmt.Sprintf("  %s %s", st.Green("+"), strings.TrimSpace(c.Key+" "+terminal.Printable(c.New)))
		case c.New == "":
			line = fmt.Sprintf("  %s %s", st.Red("-"), strings.TrimSpace(c.Key+" "+terminal.Printable(c.Old)))
		}
		if c.Restart {
			line += " " + st.Dim("(restart to apply it)")
		}
		if err := terminal.Flow(w, st, line); err != nil {
			return err
		}
	}
	if v.Compared == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%d recorded tokens, %d with a difference.\n", v.Compared, len(v.Tokens))
	if len(v.Tokens) == 0 {
		return nil
	}
	words := map[string]string{
		"gains": st.Green("gains a certificate"), "loses": st.Red("loses its certificate"),
		"certificate": st.Yellow("different certificate"),
		"reason":      "different reason", "rule": "different rule",
	}
	g := terminal.Grid{Head: []string{"token", "change", "before", "after", "fields"}, Spare: []string{"fields"}}
	for _, t := range v.Tokens {
		g.Add(t.File, words[t.Change], terminal.Printable(t.Old), terminal.Printable(t.New),
			strings.Join(t.Fields, " "))
	}
	return g.Write(w, st)
}
