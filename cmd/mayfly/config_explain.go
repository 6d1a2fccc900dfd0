package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/clients"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/inspect"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/oidc"
)

type explainFlags struct {
	config, token, claims, at string
	json                      bool
}

func newConfigExplain() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain --config FILE (--token FILE | --claims FILE)",
		Short: "Show what the CA would do with a token, step by step, and the certificate",
		Long: "explain evaluates a token, or its claims (a JSON object), with a configuration. It prints every step\n" +
			"with its result, the rule that decided, and the certificate that would be issued. It contacts no one\n" +
			"and signs nothing: the token's signature is verified only with static keys or with keys that a server\n" +
			"stored in state_dir. FILE may also be an issuer file alone; \"-\" is standard input.\n\n" +
			"Exit status: 0 a certificate would be issued, 2 the configuration is wrong, 3 the token would be\n" +
			"refused.",
		Example: "  mayfly config explain --config mayfly.yaml --token token.jwt\n  mayfly config explain --config " +
			"identity.yaml --claims claims.json --json",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return f.run(cmd) }),
	}
	cmd.Flags().StringVar(&f.config, "config", "", "configuration or issuer file (required)")
	cmd.Flags().StringVar(&f.token, "token", "", "file with an ID token")
	cmd.Flags().StringVar(&f.claims, "claims", "", "file with the claims of a token, as a JSON object")
	cmd.Flags().StringVar(&f.at, "at", "", "explain for this time instead of now (2026-01-02T15:04:05Z)")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

// explanationView is the output of "config explain --json".
type explanationView struct {
	Allowed     bool                 `json:"allowed"`
	Entry       string               `json:"entry,omitempty"`
	Rule        string               `json:"rule,omitempty"`
	Reason      string               `json:"reason,omitempty"` // as in the response to a client
	Message     string               `json:"message,omitempty"`
	Metadata    map[string]string    `json:"metadata,omitempty"`
	Steps       []oidc.Step          `json:"steps"`
	Certificate *inspect.Certificate `json:"-"`
	// Shown is Certificate, or an empty object if the token is refused before a certificate is built.
	Shown any `json:"certificate"`
}

func (f explainFlags) run(cmd *cobra.Command) error {
	if f.config == "" || (f.token == "") == (f.claims == "") {
		return cli.Usage("write --config FILE and one of --token FILE and --claims FILE")
	}
	now := time.Now()
	if f.at != "" {
		var err error
		if now, err = time.Parse(time.RFC3339, f.at); err != nil {
			return cli.Usage("--at %q: write a time such as 2026-01-02T15:04:05Z", f.at)
		}
	}
	issuers, main, err := config.LoadIdentity(f.config)
	if err != nil {
		return cli.Misconfigured(err)
	}
	e, err := oidc.NewExplainer(*issuers)
	if err != nil {
		return cli.Misconfigured(err)
	}
	if main != nil && main.StateDir != "" {
		e = e.WithState(main.StateDir)
	}
	x, err := f.explain(cmd.InOrStdin(), e, now)
	if err != nil {
		return err
	}
	view := explanationView{Allowed: x.Err == nil, Entry: x.Decision.Entry, Rule: x.Decision.Rule, Steps: x.Steps}
	if x.Decision.Identity.SAN.Value != "" {
		view.certificate(x, main, now)
	}
	if x.Err != nil {
		reason := fault.From(x.Err)
		view.Reason, view.Message, view.Metadata = string(reason.Reason), reason.Reason.Message(), reason.Meta
	}
	view.Shown = struct{}{}
	if view.Certificate != nil {
		view.Shown = view.Certificate
	}
	if f.json {
		err = cli.WriteJSON(cmd.OutOrStdout(), view)
	} else {
		err = view.print(cmd.OutOrStdout())
	}
	if err == nil && !view.Allowed {
		err = &cli.Error{Status: cli.ExitFound, Err: fmt.Errorf("mayfly: the token would be refused: %s", view.Reason)}
	}
	return err
}

func (f explainFlags) explain(stdin io.Reader, e *oidc.Explainer, now time.Time) (*oidc.Explanation, error) {
	if f.token != "" {
		token, err := clients.ReadToken(stdin, f.token)
		if err != nil {
			return nil, err
		}
		return e.Token(token, now), nil
	}
	all, err := readRecorded(stdin, f.claims)
	if err != nil {
		return nil, err
	}
	return e.Claims(all), nil
}

func readRecorded(stdin io.Reader, name string) (map[string]any, error) {
	data, err := input.Read(stdin, name)
	if err != nil {
		return nil, err
	}
	all, err := oidc.DecodeClaims(data)
	if err != nil {
		return nil, fault.Cure(fmt.Errorf("%s: %w", name, err), "write the claims of a token as one JSON object")
	}
	return all, nil
}

// certificate adds the certificate for the identity, or the step at which its construction fails.
func (v *explanationView) certificate(x *oidc.Explanation, main *config.Config, now time.Time) {
	o := ca.Options{Now: func() time.Time { return now }}
	issuedBy := "an example chain: FILE is an issuer file alone"
	if main != nil {
		o.Backdate = main.CA.BackdateOrDefault()
		if chain, err := node.PublicChain(main); err == nil {
			name, _ := main.CA.Selected()
			o.Chain, issuedBy = chain, "the chain in ca."+name+".chain"
		} else {
			issuedBy = "an example chain: " + err.Error()
		}
	}
	if o.Chain == nil {
		example, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "example", Now: now})
		if err != nil {
			v.fail(err)
			return
		}
		o.Chain = example.Chain
	}
	var c *x509.Certificate
	c, err := ca.Preview(o, x.Decision.Identity)
	if err != nil {
		v.fail(err)
		return
	}
	view, err := inspect.Describe(c, now, nil)
	if err != nil {
		v.fail(err)
		return
	}
	view.Kind = inspect.ToBeIssued
	view.Serial, view.PublicKey, view.SubjectKeyID, view.Fingerprint = "(random)", "(the caller's)", "", ""
	v.Certificate = &view
	v.Steps = append(v.Steps, oidc.Step{Name: "certificate", Result: oidc.Passed, Detail: "under " + issuedBy})
}

func (v *explanationView) fail(err error) {
	f := fault.From(err)
	v.Steps = append(v.Steps, oidc.Step{Name: "certificate", Result: oidc.Failed, Detail: err.Error()})
	if v.Allowed {
		v.Allowed, v.Reason = false, string(f.Reason)
	}
}

func (v explanationView) print(w io.Writer) error {
	st := terminal.StyleFor(w)
	marks := map[oidc.StepResult]string{
		oidc.Passed: st.Green("pass"), oidc.Failed: st.Red("FAIL"),
		oidc.Unknown: st.Yellow("?"), oidc.Noted: st.Dim("note"),
	}
	g := terminal.Grid{Head: []string{"step", "result", "detail"}}
	for _, s := range v.Steps {
		g.Add(s.Name, marks[s.Result], terminal.Printable(s.Detail))
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if !v.Allowed {
		return terminal.Flow(w, st, fmt.Sprintf("%s The client would get the message: %s (%s)", st.Red("Refused."),
			v.Message, v.Reason))
	}
	result := st.Green("Allowed.")
	if slices.ContainsFunc(v.Steps,
		func(s oidc.Step) bool { return s.Name == "signature" && s.Result == oidc.Unknown }) {
		result = st.Yellow("Allowed, if the signature is valid.")
	}
	if err := terminal.Flow(w, st,
		result+" This certificate would be issued, with an SCT list added by the logs:"); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if v.Certificate == nil {
		return nil
	}
	return v.Certificate.Write(w, st)
}
