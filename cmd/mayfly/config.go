package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

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

// checkResult is what "config check --json" prints.
type checkResult struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Error    string           `json:"error,omitempty"`
	Problems []problemView    `json:"problems,omitempty"`
	Warnings []string         `json:"warnings"`
	Digest   string           `json:"digest,omitempty"`
	Issuers  int              `json:"issuers"`
	Entries  []oidc.EntryInfo `json:"entries,omitempty"`
	Chain    []string         `json:"chain,omitempty"`
	Logs     []string         `json:"logs"`
	Online   []onlineView     `json:"online,omitempty"` // with --online
	// OnlineLogs is what the logs answered, with --online.
	OnlineLogs []node.OnlineLog `json:"online_logs,omitempty"`
}

// problemView is one thing that is wrong in a file; line and column are 0 for the file as a whole.
type problemView struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	What   string `json:"what"`
	Fix    string `json:"fix,omitempty"`
}

// onlineView is whether the keys of an issuer could be had.
type onlineView struct {
	Issuer string `json:"issuer"`
	OK     bool   `json:"ok"`
	Cause  string `json:"cause,omitempty"`
}

func newConfigCheck() *cobra.Command {
	var path string
	var asJSON, online bool
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Check that \"mayfly serve\" would start with this configuration",
		Long: "check runs the same code as \"mayfly serve\" before it opens a socket: configuration, issuer file, policies and their\n" +
			"tests, keys and chains, journal and log, and write access to directories and files. It changes nothing. Run it as the\n" +
			"user that the CA runs as.\n\n" +
			"With --online it also fetches the keys of every identity provider, and from every log the accepted roots (the CA's root\n" +
			"must be one of them), a tree head that is signed with the configured key, and the time.\n\n" +
			"Exit status: 0 no problem was found, 2 the configuration is wrong, 3 a provider or a log could not be reached or cannot\n" +
			"be used.",
		Example: "  mayfly config check --config mayfly.yaml --online",
		Args:    cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && path != "" {
				return cli.Usage("two configurations, --config %s and %s; name one", path, args[0])
			}
			if len(args) == 1 {
				path = args[0]
			}
			if path == "" {
				return cli.Usage("--config is missing; write --config FILE")
			}
			result, err := checkConfig(cmd.Context(), path, online)
			if asJSON {
				if werr := cli.WriteJSON(cmd.OutOrStdout(), result); werr != nil {
					return werr
				}
			}
			if err != nil {
				return cli.Misconfigured(err)
			}
			if !asJSON {
				if err := result.print(cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			for _, o := range result.Online {
				if !o.OK {
					return &cli.Error{Status: cli.ExitFound, Err: fmt.Errorf("mayfly: not every identity provider could be reached")}
				}
			}
			for _, l := range result.OnlineLogs {
				if !l.OK {
					return &cli.Error{Status: cli.ExitFound, Err: fmt.Errorf("mayfly: the log %s would not do: %s", l.Name, l.Problems[0])}
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

func checkConfig(ctx context.Context, path string, online bool) (r checkResult, err error) {
	r = checkResult{File: path, Warnings: []string{}, Logs: []string{}}
	cfg, warnings, err := config.Load(path)
	for _, w := range warnings {
		r.Warnings = append(r.Warnings, w.String())
	}
	var m *node.Material
	if err == nil {
		m, err = node.Prove(ctx, cfg)
	}
	if err == nil {
		defer func() { err = errors.Join(err, m.Close()) }()
		r.Warnings = append(r.Warnings, m.Skipped(cfg)...)
	}
	var v *oidc.Verifier
	if err == nil {
		v, err = node.NewVerifier(cfg, node.Instance{})
		err = cfg.Locate(err)
	}
	if err != nil {
		r.Error, r.Problems = err.Error(), problemsOf(err)
		return r, err
	}
	defer v.Wait()
	for _, w := range m.Warnings {
		r.Warnings = append(r.Warnings, w.String())
	}
	e, err := oidc.NewExplainer(cfg.Issuers)
	if err != nil {
		return r, err
	}
	r.OK, r.Digest, r.Entries = true, cfg.Digest, e.Entries()
	r.Issuers = len(r.Entries)
	for _, c := range m.Chain {
		r.Chain = append(r.Chain, fmt.Sprintf("%s, until %s", c.Subject, c.NotAfter.UTC().Format("2006-01-02")))
	}
	for _, l := range cfg.CT.Logs {
		r.Logs = append(r.Logs, l.Name+" "+l.URL)
	}
	if cfg.CT.Embedded != nil {
		r.Logs = append(r.Logs, "embedded "+cfg.CT.Embedded.Dir)
	}
	if online {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		for _, s := range v.Probe(ctx) {
			r.Online = append(r.Online, onlineView{s.Issuer, s.OK, s.Cause})
		}
		r.OnlineLogs = m.AskLogs(ctx, cfg)
	}
	return r, nil
}

func problemsOf(err error) []problemView {
	var all config.Problems
	if !errors.As(err, &all) {
		return []problemView{{What: err.Error()}}
	}
	var out []problemView
	for _, p := range all {
		out = append(out, problemView{p.File, p.Line, p.Column, p.What, p.Fix})
	}
	return out
}

func (r checkResult) print(w io.Writer) error {
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
	g := terminal.Grid{Head: []string{"issuer", "type", "audience", "policy", "keys"}, Spare: []string{"audience", "type"}}
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
			k = st.Dim("when a token comes")
		default:
			k = st.Dim("not asked")
		}
		g.Add(e.Key, kind, strings.Join(e.Audiences, " "), policy, k)
	}
	fmt.Fprintln(w)
	if err := g.Write(w, st); err != nil {
		return err
	}
	return r.printClaims(w, st)
}

// printClaims says what a token must have for each profile that is used.
func (r checkResult) printClaims(w io.Writer, st terminal.Style) error {
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
			"  mayfly config profiles github-workflow > profile.yaml   # to change it: paste it under ci-issuer-metadata",
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
		return cli.Usage("the profile %s has no templates: it certifies e-mail addresses; claims: %s", p.Name, strings.Join(p.Claims, ", "))
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

// yamlText writes a text in single quotes, in which YAML has no other escape than two of them.
func yamlText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func newConfigSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema mayfly|identity",
		Short: "Print the JSON Schema of the configuration or of the issuer file, for editors",
		Example: "  mayfly config schema mayfly > mayfly.schema.json\n" +
			"  # and as the first line of mayfly.yaml:\n" +
			"  # yaml-language-server: $schema=mayfly.schema.json",
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{"mayfly", "identity"},
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			text, ok := config.Schema(args[0])
			if !ok {
				return cli.Usage("there is no schema %q; write mayfly or identity", args[0])
			}
			_, err := cmd.OutOrStdout().Write(text)
			return err
		}),
	}
}
