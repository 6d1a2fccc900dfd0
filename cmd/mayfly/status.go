package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
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
		Long: "status asks the admin listener of a CA and prints one page: whether the CA is ready and why not, each\n" +
			"dependency, what ends and when, the logs, the journal, the last run of the canary, certificates and\n" +
			"refusals since the start, and how much of the limits is in use. --json prints the same as one object\n" +
			"(docs/operations.md).\n\n" +
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
				err = r.Write(cmd.OutOrStdout())
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
