package main

import (
	"crypto/tls"
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
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/status"
)

// adminFlags say how to reach the admin listener of a CA.
type adminFlags struct{ config, ca, certificate, key string }

func (f *adminFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.ca, "ca", "",
		"PEM file of the CA certificates that verify the TLS of the admin listener; by default "+
			"those of the system")
	fl.StringVar(&f.certificate, "client-certificate", "",
		"PEM file of the certificate for an admin listener with client_ca")
	fl.StringVar(&f.key, "client-key", "", "PEM file of the key of --client-certificate")
}

// options returns how to ask the CA at a URL.
func (f *adminFlags) options(url string) (o status.Options, err error) {
	url = strings.TrimRight(url, "/")
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return o, cli.Usage("--admin %q: write a URL such as %s", url, "http://"+config.DefaultAdmin)
	}
	c := httpclient.Options{Timeout: status.Timeout, UserAgent: version.UserAgent()}
	if f.ca != "" {
		if c.Roots, err = pemfile.LoadPool(f.ca); err != nil {
			return o, fmt.Errorf("--ca: %w", err)
		}
	}
	if (f.certificate == "") != (f.key == "") {
		return o, cli.Usage("--client-certificate and --client-key belong together")
	}
	if f.certificate != "" {
		pair, err := tls.LoadX509KeyPair(f.certificate, f.key)
		if err != nil {
			return o, fmt.Errorf("--client-certificate: %w", err)
		}
		c.Certificate = func() (*tls.Certificate, error) { return &pair, nil }
	}
	return status.Options{URL: url, Client: httpclient.New(c)}, nil
}

func newStatus() *cobra.Command {
	f := &adminFlags{}
	var url string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [--admin URL] [--config FILE]",
		Short: "Show the state of a running CA",
		Long: "status asks the admin listener of a CA and prints one page: whether the CA is ready and " +
			"why not, each dependency, what\n" +
			"ends and when, the logs, the journal, the last run of the canary, certificates and " +
			"refusals since the start, and how\n" +
			"much of the limits is in use. --json prints the same as one object (docs/operations.md).\n\n" +
			"Exit status: 0 the CA is ready, 3 the CA is not ready, 1 the CA cannot be reached.",
		Example: "  mayfly status\n  mayfly status --config /etc/mayfly/mayfly.yaml --json",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			at := url
			if at == "" {
				at = "http://" + config.DefaultAdmin
			}
			if url == "" && f.config != "" {
				cfg, _, err := config.Load(f.config)
				if err != nil {
					return cli.Misconfigured(err)
				}
				if at = cfg.Listen.AdminURL(); at == "" {
					return cli.Usage("listen.admin is %s in %s; write --admin URL", cfg.Listen.Admin, f.config)
				}
			}
			o, err := f.options(at)
			if err != nil {
				return err
			}
			r, err := status.Ask(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				err = cli.WriteJSON(cmd.OutOrStdout(), r)
			} else {
				err = printStatus(cmd.OutOrStdout(), r)
			}
			if err == nil && !r.Ready {
				err = &cli.Error{Status: cli.ExitFound, Err: errors.New("mayfly: the CA is not ready")}
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&f.config, "config", "", "configuration file whose listen.admin is used")
	cmd.Flags().StringVar(&url, "admin", "", "URL of the admin listener; by default that of --config, or http://"+
		config.DefaultAdmin)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	f.register(cmd)
	return cmd
}

// printStatus prints a report for people.
func printStatus(w io.Writer, r *status.Report) error {
	st := terminal.StyleFor(w)
	var t terminal.Table
	state := st.Green("ready")
	if !r.Ready {
		state = st.Red("not ready")
	}
	t.Add("state", state)
	for _, c := range r.Causes {
		t.Add("", st.Red(terminal.Printable(c)))
	}
	t.Add("asked", r.URL)
	if b := r.Build; b != nil {
		t.Add("version", terminal.Printable(strings.TrimSpace(b.Version+" "+b.Commit)))
	}
	if r.Started != nil {
		t.Add("running", fmt.Sprintf("%s, since %s", human.Duration(time.Duration(r.Uptime)*time.Second),
			r.Started.Format(time.RFC3339)))
	}
	if c := r.Config; c != nil {
		t.Add("configuration", fmt.Sprintf("generation %d, digest %s", c.Generation, terminal.Printable(c.Digest)))
	}
	for _, e := range r.Expiries {
		t.Add("ends", terminal.Printable(strings.TrimSpace(e.Kind+" "+e.Name)+" at "+e.At.Format(time.RFC3339)))
	}
	for _, l := range r.Logs {
		state := st.Green("usable")
		switch {
		case l.Quarantined:
			state = st.Red("in quarantine")
		case !l.Usable:
			state = st.Red("set aside")
		}
		t.Add("log", fmt.Sprintf("%s: %s, %d accepted, %d failed", terminal.Printable(l.Name), state,
			l.Accepted, l.Failed))
	}
	if j := r.Journal; j != nil {
		t.Add("journal", fmt.Sprintf("%s, %d waiting, %s, %s only counted", human.Count(j.Records, "record"), j.Queued,
			human.Count(j.Failures, "failure"), human.Count(j.Dropped, "denial")))
	}
	t.Add("canary", canaryText(r, st))
	t.Add("certificates", fmt.Sprintf("%d issued", r.Certificates.Issued))
	for _, reason := range slices.Sorted(maps.Keys(r.Certificates.Refused)) {
		t.Add("", fmt.Sprintf("%d × %s", r.Certificates.Refused[reason], terminal.Printable(reason)))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Limits.Connections)) {
		u := r.Limits.Connections[name]
		t.Add("connections", fmt.Sprintf("%s: %d of %d", terminal.Printable(name), u.Now, u.Limit))
	}
	if d := r.Limits.Descriptors; d != nil {
		t.Add("descriptors", fmt.Sprintf("%d of %d files", d.Now, d.Limit))
	}
	t.Add("requests", fmt.Sprintf("%d running, %d waiting for a processor", r.Limits.Running, r.Limits.Waiting))
	if err := t.Write(w, st); err != nil {
		return err
	}
	g := terminal.Grid{Head: []string{"dependency", "state", "since", "what"}, Spare: []string{"since"}}
	for _, name := range slices.Sorted(maps.Keys(r.Dependencies)) {
		d := r.Dependencies[name]
		state, text := st.Green("ok"), d.Cause
		switch {
		case !d.OK:
			state = st.Red("no")
		case d.Warning != "":
			state = st.Yellow("warning")
		}
		if d.Warning != "" {
			text = strings.TrimPrefix(text+"; "+d.Warning, "; ")
		}
		g.Add(name, state, d.Since.Format(time.RFC3339), text)
	}
	fmt.Fprintln(w)
	return g.Write(w, st)
}

// canaryText describes the canary in one line.
func canaryText(r *status.Report, st terminal.Style) string {
	_, on := r.Dependencies["canary"]
	switch c := r.Canary; {
	case c == nil && on:
		return "no run yet"
	case c == nil:
		return st.Dim("off")
	case c.OK:
		return fmt.Sprintf("%s at %s, in %.3f s", st.Green("succeeded"), c.Began.Format(time.RFC3339), c.Seconds)
	default:
		return fmt.Sprintf("%s at %s, in the stage %s: %s", st.Red("failed"), c.Began.Format(time.RFC3339),
			terminal.Printable(c.Stage), terminal.Printable(c.Cause))
	}
}
