package main

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/clients"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/trust"
)

func newTrust() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Make the files that verifiers and signers need to trust this CA",
		Args:  cobra.NoArgs,
		RunE:  runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newTrustExport(), newTUF())
	return cmd
}

// exportFlags are the flags of "trust export". They have what is not in the configuration: the URL of the CA for
// clients, and other services.
type exportFlags struct {
	config, out, url, issuer, operator string
	tsa, tsaChain                      string
	rekor, rekorKey, rekorOrigin       string
	timestamps                         []trust.Authority
	signatures                         []trust.Log
}

func newTrustExport() *cobra.Command {
	f := &exportFlags{}
	cmd := &cobra.Command{
		Use:   "export --config FILE --out DIR",
		Short: "Write trusted_root.json and signing_config.json",
		Long: "export writes two files into DIR: trusted_root.json for verifiers (every chain and every log of the\n" +
			"configuration with their validity) and signing_config.json for signers (where to send requests). It\n" +
			"reads the configuration, the chains and the public keys. The CA need not run; neither its private key\n" +
			"nor a password is needed.\n\n" +
			"Flags add a timestamp authority and a Rekor log of yours to both files.",
		Example: "  mayfly trust export --config mayfly.yaml --url https://ca.example.com --out trust/\n" +
			"  mayfly trust export --config mayfly.yaml --url https://ca.example.com --out trust/ \\\n" +
			"    --tsa https://tsa.example.com/api/v1/timestamp --tsa-chain tsa.pem --rekor " +
			"https://rekor.example.com --rekor-key rekor.pub",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return f.run(cmd.OutOrStdout(), cmd.ErrOrStderr()) }),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration file (required)")
	fl.StringVar(&f.out, "out", "", "directory for the two files (required)")
	fl.StringVar(&f.url, "url", "", "URL of the CA for clients (default: http:// and listen.http)")
	fl.StringVar(&f.issuer, "issuer", "", "OpenID Connect issuer for sign-in (default: the first e-mail issuer)")
	fl.StringVar(&f.operator, "operator", "", "name of the operator (default: publish.operator)")
	fl.StringVar(&f.tsa, "tsa", "", "URL of a timestamp authority, with its path; needs --tsa-chain")
	fl.StringVar(&f.tsaChain, "tsa-chain", "", "PEM file with its chain: signing certificate first, root last")
	fl.StringVar(&f.rekor, "rekor", "", "URL of a Rekor v2 log; needs --rekor-key")
	fl.StringVar(&f.rekorKey, "rekor-key", "", "PEM file with its public key")
	fl.StringVar(&f.rekorOrigin, "rekor-origin", "", "origin in its checkpoints (default: the host name of --rekor)")
	return cmd
}

func (f *exportFlags) run(w, warnings io.Writer) error {
	if f.config == "" || f.out == "" {
		return cli.Usage("--config and --out are required; write --config FILE --out DIR")
	}
	cfg, _, err := config.LoadPublic(f.config)
	if err != nil {
		return cli.Misconfigured(err)
	}
	if _, backend := cfg.CA.Selected(); backend.Temporary() {
		return cli.Usage("%s: the CA is ephemeral: its chain exists only while the CA runs, so "+
			"there is nothing to export",
			f.config)
	}
	if f.url == "" {
		f.url = "http://" + cfg.Listen.HTTP
	} else if u, err := url.Parse(f.url); err != nil || u.Hostname() == "" ||
		u.Scheme != "https" && u.Scheme != "http" {
		return cli.Usage("--url %q: write the URL of the CA, for example https://ca.example.com", f.url)
	}
	if err := f.services(); err != nil {
		return err
	}
	m, services, err := node.TrustFiles(cfg, f.url, time.Now())
	if err != nil {
		return located(cfg, err)
	}
	services.OIDC, services.Operator = cmp.Or(f.issuer, services.OIDC), cmp.Or(f.operator, services.Operator)
	if f.tsa != "" {
		services.TSA = trust.At(f.tsa)
	}
	if f.rekor != "" {
		services.Rekor, services.RekorV1 = trust.At(f.rekor), nil
	}
	for i := range f.signatures {
		f.signatures[i].NotBefore, f.signatures[i].Operator = services.From, services.Operator
	}
	m.Timestamps, m.Rekor = append(m.Timestamps, f.timestamps...), append(m.Rekor, f.signatures...)
	if err := os.MkdirAll(f.out, 0o755); err != nil { //nolint:gosec // trust material is public
		return err
	}
	if err := trust.WriteFiles(f.out, m, services); err != nil {
		return err
	}
	if len(services.TSA)+len(services.Rekor) == 0 {
		fmt.Fprintln(warnings,
			"warning: there is neither a timestamp authority nor a Rekor log, so a signature verifies only while its "+
				"certificate is valid "+
				"(10 minutes); write tsa in the configuration, or name one with --tsa and "+
				"--tsa-chain, or with --rekor and "+
				"--rekor-key")
	}
	for _, name := range []string{trust.RootName, trust.SigningName, trust.ConfigName} {
		if _, err := fmt.Fprintln(w, filepath.Join(f.out, name)); err != nil {
			return err
		}
	}
	return nil
}

// services reads the keys of the services that the flags name.
func (f *exportFlags) services() error {
	if (f.tsa == "") != (f.tsaChain == "") {
		return cli.Usage("--tsa and --tsa-chain belong together: signers need the URL, verifiers the chain")
	}
	if (f.rekor == "") != (f.rekorKey == "") {
		return cli.Usage("--rekor and --rekor-key belong together: signers need the URL, verifiers the key")
	}
	if f.tsa != "" {
		chain, err := clients.ReadCertificates(nil, f.tsaChain)
		if err != nil {
			return fmt.Errorf("--tsa-chain: %w", err)
		}
		f.timestamps = []trust.Authority{{URL: f.tsa, Chain: chain, From: chain[0].NotBefore, To: chain[0].NotAfter}}
	}
	if f.rekor == "" {
		return nil
	}
	u, err := url.Parse(f.rekor)
	if err != nil || u.Hostname() == "" {
		return cli.Usage("--rekor %q: write the URL of the log, for example https://rekor.example.com", f.rekor)
	}
	data, err := input.Read(nil, f.rekorKey)
	if err != nil {
		return fmt.Errorf("--rekor-key: %w", err)
	}
	key, err := pemfile.PublicKey(data)
	if err != nil {
		return fmt.Errorf("--rekor-key %s: %w", f.rekorKey, err)
	}
	f.signatures = []trust.Log{{Log: loglist.Log{
		URL: f.rekor, Origin: cmp.Or(f.rekorOrigin, u.Hostname()), Operator: f.operator, Key: key,
	}}}
	return nil
}
