package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/rotation"
)

// rotateFlags are the flags of the commands that change the state of a chain.
type rotateFlags struct {
	config, chain, reason string
	active                string // of prepare
	since, activate       string // of compromise
	force, stop, json     bool
}

func newCARotate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the issuing chain step by step",
		Long: "A chain goes through the states prepared, published, accepted, active, retiring and retired. A chain\n" +
			"can become active only after three conditions are met: the trust bundle, the trusted root and the TUF\n" +
			"repository have had the chain for the propagation delay, every log lists its root, and a trial\n" +
			"certificate verified. The state file of the configuration (ca.state) records the state of each chain,\n" +
			"and a running CA applies every change of the file. Run these commands as the user that the CA runs as\n" +
			"and with the same environment variables, because they sign trials with the keys.\n\n" +
			"docs/rotation.md describes a complete rotation.",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newRotatePlan(), newRotatePrepare(), newRotateActivate(), newRotateRetire(), newRotateAbort(),
		newRotateCompromise())
	return cmd
}

// add defines the flags that all commands have.
func (f *rotateFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration file (required)")
	fl.BoolVar(&f.json, "json", false, "print JSON")
}

// addChange defines the flags of the commands that change the state file.
func (f *rotateFlags) addChange(cmd *cobra.Command, chain string) {
	f.add(cmd)
	cmd.Flags().StringVar(&f.chain, "chain", "", chain)
	cmd.Flags().StringVar(&f.reason, "reason", "", "why; kept in the history")
}

// open returns the chains of the configuration.
func (f *rotateFlags) open() (*node.Rotator, error) {
	if f.config == "" {
		return nil, cli.Usage("--config is missing; write --config FILE")
	}
	if f.force && strings.TrimSpace(f.reason) == "" {
		return nil, cli.Usage("--force needs a reason for the history; write --reason TEXT")
	}
	return node.OpenRotator(node.RotatorOptions{Path: f.config})
}

func newRotatePlan() *cobra.Command {
	f := &rotateFlags{}
	cmd := &cobra.Command{
		Use:   "plan --config FILE",
		Short: "Show every chain and its gates, with the cause of each closed gate",
		Long: "plan checks where verifiers can get each chain, requests the accepted roots of the logs, and signs a\n" +
			"trial with each key that is not active yet. It changes nothing.",
		Example: "  mayfly ca rotate plan --config mayfly.yaml",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			p, err := r.Plan(cmd.Context())
			if err != nil {
				return err
			}
			if f.json {
				return cli.WriteJSON(cmd.OutOrStdout(), p)
			}
			return printPlan(cmd.OutOrStdout(), p)
		}),
	}
	f.add(cmd)
	return cmd
}

func newRotatePrepare() *cobra.Command {
	f := &rotateFlags{}
	cmd := &cobra.Command{
		Use:   "prepare --config FILE",
		Short: "Add a new chain to the trust bundle; the CA does not sign with it yet",
		Long: "prepare signs a trial with the key of a chain that is new in ca.chains, and adds the chain to the\n" +
			"state file. The CA then serves the chain in its trust bundle. prepare also writes the chain to\n" +
			"publish.trusted_root and, if DIR/keys has the key of the role targets, to the TUF repository. If it\n" +
			"cannot write one of them, it prints the command that you must run.",
		Example: "  mayfly ca rotate prepare --config mayfly.yaml\n" +
			"  mayfly ca rotate prepare --config mayfly.yaml --chain 2027 --reason \"yearly rotation\"",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			c, err := r.Prepare(cmd.Context(), f.chain, f.active, f.reason)
			return f.report(cmd, c, err)
		}),
	}
	f.addChange(cmd, "chain to prepare (default: the only new one)")
	cmd.Flags().StringVar(&f.active, "active", "",
		"chain that signs now, for a CA without a state file (default: the only other one)")
	return cmd
}

func newRotateActivate() *cobra.Command {
	f := &rotateFlags{}
	cmd := &cobra.Command{
		Use:   "activate --config FILE",
		Short: "Sign with a chain from now on, if every gate is open",
		Long: "activate makes the chain active and the former active chain retiring, in one change of the state file.\n" +
			"A running CA applies the change within seconds. If a gate is closed, the command does not activate the\n" +
			"chain, lists the closed gates and exits with 3. With --force and --reason, it activates the chain\n" +
			"nevertheless. A retiring chain can become active again.",
		Example: "  mayfly ca rotate activate --config mayfly.yaml",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			c, err := r.Activate(cmd.Context(),
				node.ActivateOptions{Chain: f.chain, Reason: f.reason, Force: f.force})
			return f.report(cmd, c, err)
		}),
	}
	f.addChange(cmd, "chain to make active (default: the only one that has not signed)")
	cmd.Flags().BoolVar(&f.force, "force", false,
		"activate the chain although gates are closed: verifiers may refuse what it signs; needs --reason")
	return cmd
}

func newRotateRetire() *cobra.Command {
	f := &rotateFlags{}
	cmd := &cobra.Command{
		Use:   "retire --config FILE",
		Short: "Remove a chain that no longer signs from the trust bundle",
		Long: "A chain can be retired when its last certificate has expired: after ca.rotation.keep, and after the\n" +
			"end of the last certificate in the journal. The trusted root keeps the chain with the end of its\n" +
			"validity, so that earlier signatures verify.",
		Example: "  mayfly ca rotate retire --config mayfly.yaml",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			c, err := r.Retire(cmd.Context(), node.ActivateOptions{Chain: f.chain, Reason: f.reason, Force: f.force})
			return f.report(cmd, c, err)
		}),
	}
	f.addChange(cmd, "chain to retire (default: the only retiring one)")
	cmd.Flags().BoolVar(&f.force, "force", false,
		"retire the chain before its last certificate has expired; needs --reason")
	return cmd
}

func newRotateAbort() *cobra.Command {
	f := &rotateFlags{}
	cmd := &cobra.Command{
		Use:   "abort --config FILE",
		Short: "Remove a chain that has not signed",
		Long: "abort removes the chain from the state file, the trust bundle, publish.trusted_root and the TUF\n" +
			"repository. The history still has the chain. The chain can be prepared again.",
		Example: "  mayfly ca rotate abort --config mayfly.yaml --reason \"the log does not take the root\"",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			c, err := r.Abort(cmd.Context(), f.chain, f.reason)
			return f.report(cmd, c, err)
		}),
	}
	f.addChange(cmd, "chain to remove (default: the only one that has not signed)")
	return cmd
}

func newRotateCompromise() *cobra.Command {
	f := &rotateFlags{}
	cmd := &cobra.Command{
		Use:   "compromise --config FILE --chain NAME --reason TEXT {--activate NAME | --stop}",
		Short: "End the trust in a chain whose key may be known to others",
		Long: "compromise removes the chain from the trust bundle, and ends its validity in publish.trusted_root and\n" +
			"in the TUF repository at --since. If the chain is active, --activate names another chain, which signs\n" +
			"at once even if its gates are closed. With --stop, the CA issues no certificates until a chain is\n" +
			"active. The command lists the certificates in the journal that the key signed since then, and says\n" +
			"what verifiers must do. Run the command again if publish.trusted_root or the TUF repository could not\n" +
			"be written, or with an earlier --since.",
		Example: "  mayfly ca rotate compromise --config mayfly.yaml --chain 2026 --since 2026-11-24T12:00:00Z \\\n" +
			"    --activate 2027 --reason \"the key was on a stolen disk\"",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.chain == "":
				return cli.Usage("--chain is missing; write --chain NAME")
			case strings.TrimSpace(f.reason) == "":
				return cli.Usage("--reason is missing; write --reason TEXT: the history keeps the reason")
			case f.activate != "" && f.stop:
				return cli.Usage("write one of --activate NAME and --stop")
			}
			since, err := moment("--since", cmp.Or(f.since, "0s"), time.Now())
			if err != nil {
				return err
			}
			r, err := f.open()
			if err != nil {
				return err
			}
			c, err := r.Compromise(cmd.Context(), node.CompromiseOptions{
				Chain: f.chain, Reason: f.reason, Since: since, Successor: f.activate, Stop: f.stop,
			})
			if errors.Is(err, rotation.ErrSuccessor) {
				return cli.Usage("chain %q is active; write --activate NAME, the chain to sign from now on, or --stop",
					f.chain)
			}
			return f.report(cmd, c, err)
		}),
	}
	f.addChange(cmd, "chain whose key may be known to others (required)")
	fl := cmd.Flags()
	fl.StringVar(&f.since, "since", "",
		"earliest time at which others may have had the key: RFC 3339, a date, or how long ago (default: now)")
	fl.StringVar(&f.activate, "activate", "", "chain to sign with from now on")
	fl.BoolVar(&f.stop, "stop", false, "activate no other chain: the CA issues no certificates")
	return cmd
}

// report prints the result of a change. Closed gates have exit status 3.
func (f *rotateFlags) report(cmd *cobra.Command, c node.Change, err error) error {
	if closed := (*rotation.ClosedError)(nil); errors.As(err, &closed) {
		if f.json {
			if err := cli.WriteJSON(cmd.OutOrStdout(), struct {
				node.Change
				Gates []rotation.Gate `json:"closed_gates"`
			}{c, closed.Gates}); err != nil {
				return err
			}
		} else if err := printGates(cmd.OutOrStdout(), closed.Gates); err != nil {
			return err
		}
		return &cli.Error{Status: cli.ExitFound, Err: fmt.Errorf("mayfly: chain %q cannot become %s: %s closed",
			closed.Chain, closed.To, gateWord(len(closed.Gates)))}
	}
	if c.Revision == 0 {
		return err
	}
	var printed error
	if f.json {
		printed = cli.WriteJSON(cmd.OutOrStdout(), c)
	} else {
		printed = printChange(cmd.OutOrStdout(), c)
	}
	return errors.Join(err, printed)
}

func gateWord(n int) string {
	if n == 1 {
		return "1 gate is"
	}
	return fmt.Sprintf("%d gates are", n)
}

func printPlan(w io.Writer, p node.Plan) error {
	st := terminal.StyleFor(w)
	g := terminal.Grid{
		Head:  []string{"CHAIN", "STATUS", "SINCE", "EXPIRES", "TRUSTED UNTIL", "SHA-256"},
		Spare: []string{"SHA-256", "TRUSTED UNTIL"},
	}
	for _, c := range p.Chains {
		status := string(c.Status)
		switch c.Status {
		case rotation.Active:
			status = st.Green(status)
		case rotation.Compromised:
			status = st.Red(status)
		case "":
			status = "not prepared"
		}
		g.Add(terminal.Printable(c.Name), status, logMoment(c.Since), logMoment(c.NotAfter), logMoment(c.TrustedTo),
			c.SHA256)
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	for _, c := range p.Chains {
		if c.Problem != "" {
			fmt.Fprintf(w, "\n%s: %s\n", terminal.Printable(c.Name), terminal.Printable(c.Problem))
		}
		if c.Next == "" {
			continue
		}
		closed := len(rotation.Closed(c.Gates))
		fmt.Fprintf(w, "\n%s\n", st.Bold(fmt.Sprintf("%s → %s", terminal.Printable(c.Name), c.Next)))
		if err := printGates(w, c.Gates); err != nil {
			return err
		}
		if closed == 0 {
			fmt.Fprintf(w, "run: %s\n", terminal.Printable(c.Command))
		}
	}
	return nil
}

func printGates(w io.Writer, gates []rotation.Gate) error {
	if len(gates) == 0 {
		return nil
	}
	st := terminal.StyleFor(w)
	g := terminal.Grid{Head: []string{"GATE", "STATE", "WHY"}}
	for _, one := range gates {
		state := st.Green("open")
		if !one.Open {
			state = st.Yellow("closed")
		}
		why := terminal.Printable(one.Cause)
		g.Add(terminal.Printable(one.Name), state, why)
	}
	return g.Write(w, st)
}

func printChange(w io.Writer, c node.Change) error {
	st := terminal.StyleFor(w)
	for _, t := range c.Transitions {
		if err := terminal.Flow(w, st, terminal.Printable(t.String())); err != nil {
			return err
		}
	}
	for _, text := range c.Warnings {
		fmt.Fprintln(w, st.Yellow("warning: "+terminal.Printable(text)))
	}
	for _, p := range c.Published {
		text := p.Place + " " + p.Name + ": "
		switch {
		case p.Cause != "":
			text += p.Cause + "; run: " + p.Command
		case p.Changed:
			text += "written"
		default:
			text += "nothing to change"
		}
		if err := terminal.Flow(w, st, terminal.Printable(text)); err != nil {
			return err
		}
	}
	if c.Verifiers == nil {
		return nil
	}
	return printCompromise(w, c)
}

// printCompromise prints which certificates a compromised key signed, and what verifiers must do.
func printCompromise(w io.Writer, c node.Change) error {
	st := terminal.StyleFor(w)
	fmt.Fprintf(w, "\nSigned since then, by the journal: %s\n", human.Count(len(c.Signed), "certificate"))
	if len(c.Signed) > 0 {
		g := terminal.Grid{Head: []string{"TIME", "SERIAL", "RESULT", "ISSUER", "SAN"}, Spare: []string{"ISSUER"}}
		for _, s := range c.Signed {
			g.Add(logMoment(s.Time), s.Serial, cmp.Or(string(s.Result), "unknown"), terminal.Printable(s.Issuer),
				terminal.Printable(s.SAN))
		}
		if err := g.Write(w, st); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "\nWhat verifiers must do:")
	for i, text := range c.Verifiers {
		if err := terminal.Flow(w, st, fmt.Sprintf("%d. %s", i+1, terminal.Printable(text))); err != nil {
			return err
		}
	}
	return nil
}
