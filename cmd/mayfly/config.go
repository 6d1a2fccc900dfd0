package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/oidc"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, explain and compare configurations",
		Args:  cobra.NoArgs,
		RunE:  runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newConfigCheck(), newConfigExplain(), newConfigDiff(), newConfigProfiles(), newConfigSchema())
	return cmd
}

func newConfigCheck() *cobra.Command {
	var path string
	var asJSON, online bool
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Check that \"mayfly serve\" would start with this configuration",
		Long: "check runs the same code as \"mayfly serve\" before it opens a socket: configuration, issuer file,\n" +
			"policies and their tests, keys and chains, journal and log, and write access to directories and files.\n" +
			"It changes nothing. Run it as the user that the CA runs as.\n\n" +
			"With --online it also fetches the keys of every identity provider, and from every log the accepted\n" +
			"roots (the CA's root must be one of them), a tree head that is signed with the configured key, and the\n" +
			"time.\n\n" +
			"Exit status: 0 no problem was found, 2 the configuration is wrong, 3 a provider or a log could not be\n" +
			"reached or cannot be used.",
		Example: "  mayfly config check --config mayfly.yaml --online",
		Args:    cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && path != "" {
				return cli.Usage("two configurations, --config %s and %s; write only one", path, args[0])
			}
			if len(args) == 1 {
				path = args[0]
			}
			if path == "" {
				return cli.Usage("--config is missing; write --config FILE")
			}
			result, err := node.Check(cmd.Context(), path, online)
			if asJSON {
				if werr := cli.WriteJSON(cmd.OutOrStdout(), result); werr != nil {
					return werr
				}
			}
			if err != nil {
				return cli.Misconfigured(err)
			}
			if !asJSON {
				if err := printCheck(cmd.OutOrStdout(), result); err != nil {
					return err
				}
			}
			for _, o := range result.Online {
				if !o.OK {
					return &cli.Error{
						Status: cli.ExitFound,
						Err:    fmt.Errorf("mayfly: not every identity provider could be reached"),
					}
				}
			}
			for _, l := range result.OnlineLogs {
				if !l.OK {
					return &cli.Error{
						Status: cli.ExitFound,
						Err:    fmt.Errorf("mayfly: the log %s cannot be used: %s", l.Name, l.Problems[0]),
					}
				}
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (required)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&online, "online", false,
		"also check every identity provider and every log over the network")
	return cmd
}

func printCheck(w io.Writer, r node.Report) error {
	st := terminal.StyleFor(w)
	fmt.Fprintf(w, "%s %s\n", st.Green("ok"), r.File)
	for _, warning := range r.Warnings {
		if err := terminal.Flow(w, st, "  "+st.Yellow("warning")+" "+warning); err != nil {
			return err
		}
	}
	var t terminal.Table
	for _, c := range r.Chain {
		t.Add("chain", c)
	}
	for _, l := range r.Logs {
		t.Add("log", l)
	}
	for _, l := range r.OnlineLogs {
		state := st.Green("ok")
		if !l.OK {
			state = st.Red("no")
		}
		t.Add("log "+l.Name, state)
		for _, p := range l.Problems {
			t.Add("", st.Red(terminal.Printable(p)))
		}
		for _, p := range l.Warnings {
			t.Add("", st.Yellow("warning")+" "+terminal.Printable(p))
		}
	}
	t.Add("digest", r.Digest)
	if err := t.Write(w, st); err != nil {
		return err
	}
	keys := map[string]string{}
	for _, o := range r.Online {
		keys[o.Issuer] = st.Green("ok")
		if !o.OK {
			keys[o.Issuer] = st.Red(o.Cause)
		}
	}
	g := terminal.Grid{
		Head:  []string{"issuer", "type", "audience", "policy", "keys"},
		Spare: []string{"audience", "type"},
	}
	for _, e := range r.Entries {
		kind := e.Type
		if e.Profile != "" {
			kind += " " + e.Profile
		}
		policy := strings.Join(e.Rules, ", ")
		if policy == "" {
			policy = st.Dim("none")
		}
		k := keys[e.Key]
		switch {
		case k != "":
		case e.StaticKeys:
			k = "static"
		case e.Pattern:
			k = st.Dim("fetched with the first token")
		default:
			k = st.Dim("not checked")
		}
		g.Add(e.Key, kind, strings.Join(e.Audiences, " "), policy, k)
	}
	fmt.Fprintln(w)
	if err := g.Write(w, st); err != nil {
		return err
	}
	return printClaims(w, r, st)
}

// printClaims prints the claims that a token must have, for each profile in use.
func printClaims(w io.Writer, r node.Report, st terminal.Style) error {
	claims := map[string][]string{}
	for _, e := range r.Entries {
		if len(e.Claims) > 0 {
			claims[e.Profile] = e.Claims
		}
	}
	if len(claims) == 0 {
		return nil
	}
	g := terminal.Grid{Head: []string{"profile", "claims that a token must have"}}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		g.Add(name, strings.Join(claims[name], " "))
	}
	fmt.Fprintln(w)
	return g.Write(w, st)
}

func newConfigProfiles() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "profiles [NAME]",
		Short: "List the profiles of CI providers that mayfly ships, or print one for an issuer file",
		Example: "  mayfly config profiles\n" +
			"  mayfly config profiles github-workflow > profile.yaml   # to change it: paste it " +
			"under ci-issuer-metadata",
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return profileNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			w := cmd.OutOrStdout()
			if len(args) == 1 {
				for _, p := range oidc.Profiles() {
					if p.Name == args[0] {
						return printProfile(w, p)
					}
				}
				return cli.Usage("profile %q is unknown; \"mayfly config profiles\" lists them", args[0])
			}
			if asJSON {
				return cli.WriteJSON(w, oidc.Profiles())
			}
			st := terminal.StyleFor(w)
			g := terminal.Grid{Head: []string{"profile", "for", "parameters"}}
			for _, p := range oidc.Profiles() {
				var parameters []string
				for _, name := range slices.Sorted(maps.Keys(p.Parameters)) {
					if v := p.Parameters[name]; v != "" {
						name += "=" + v
					}
					parameters = append(parameters, name)
				}
				g.Add(p.Name, p.Summary, strings.Join(parameters, " "))
			}
			return g.Write(w, st)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func profileNames() []string {
	var out []string
	for _, p := range oidc.Profiles() {
		out = append(out, p.Name)
	}
	return out
}

// printProfile writes a profile in the form of an issuer file.
func printProfile(w io.Writer, p oidc.ProfileInfo) error {
	if p.Config.SAN == "" {
		return cli.Usage("the profile %s has no templates: it certifies e-mail addresses; claims: %s", p.Name,
			strings.Join(p.Claims, ", "))
	}
	fmt.Fprintf(w, "ci-issuer-metadata:\n  %s:\n", p.Name)
	block := func(key string, values map[string]string) {
		if len(values) > 0 {
			fmt.Fprintf(w, "    %s:\n", key)
		}
		for _, k := range slices.Sorted(maps.Keys(values)) {
			fmt.Fprintf(w, "      %s: %s\n", k, yamlText(values[k]))
		}
	}
	block("default-template-values", p.Config.Defaults)
	block("extension-templates", p.Config.Extensions)
	list := func(key string, values []string) {
		for i := range values {
			values[i] = yamlText(values[i])
		}
		fmt.Fprintf(w, "    %s: [%s]\n", key, strings.Join(values, ", "))
	}
	if p.Config.Defaults != nil {
		list("claims", slices.Clone(p.Config.Claims))
	}
	if p.Config.Segments != nil {
		list("segments", slices.Clone(p.Config.Segments))
	}
	if p.Config.Under != "" {
		fmt.Fprintf(w, "    under: %s\n", yamlText(p.Config.Under))
	}
	_, err := fmt.Fprintf(w, "    subject-alternative-name-template: %s\n", yamlText(p.Config.SAN))
	return err
}

// yamlText writes a text in single quotes. The only escape in such a YAML text is a doubled single quote.
func yamlText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func newConfigSchema() *cobra.Command {
	return &cobra.Command{
		Use: "schema mayfly|identity|plan",
		Short: "Print the JSON Schema of the configuration, of the issuer file or of the plan of a " +
			"ceremony, for editors",
		Example: "  mayfly config schema mayfly > mayfly.schema.json\n" +
			"  # and as the first line of mayfly.yaml:\n" +
			"  # yaml-language-server: $schema=mayfly.schema.json",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{"mayfly", "identity", "plan"},
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			text, ok := config.Schema(args[0])
			if !ok {
				return cli.Usage("unknown schema %q; write mayfly, identity or plan", args[0])
			}
			_, err := cmd.OutOrStdout().Write(text)
			return err
		}),
	}
}
