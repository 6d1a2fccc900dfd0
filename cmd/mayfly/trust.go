package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/trust"
)

func newTrust() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Make the files that verifiers and signers trust this CA by",
		Args:  cobra.NoArgs,
		RunE:  runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newTrustExport())
	return cmd
}

func newTrustExport() *cobra.Command {
	var path, out, url, issuer, operator, tsa, rekor string
	cmd := &cobra.Command{
		Use:   "export --config FILE --out DIR",
		Short: "Write trusted_root.json and signing_config.json",
		Long: "export writes trusted_root.json (every chain and every log of the configuration, for verifiers) and signing_config.json\n" +
			"(where signers send their requests) into DIR. It reads the configuration; the CA need not run.",
		Example: "  mayfly trust export --config mayfly.yaml --url https://ca.example.com --out trust/",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if path == "" || out == "" {
				return usage("--config and --out are required; write --config FILE --out DIR")
			}
			cfg, _, err := config.Load(path)
			if err != nil {
				return misconfigured(err)
			}
			if cfg.CA.Ephemeral != nil {
				return usage("%s: the CA is ephemeral: its chain exists only while it runs, so there is nothing to export", path)
			}
			m, err := load(cfg)
			if err != nil {
				return misconfigured(err)
			}
			if url == "" {
				url = "http://" + cfg.Listen.HTTP
			}
			if issuer == "" {
				issuer = firstEmailIssuer(cfg)
			}
			root, signing, err := exportFiles(cfg, m, trust.Services{
				CA: url, OIDC: issuer, Operator: operator, From: m.chain[0].NotBefore.UTC().Truncate(time.Second), TSA: tsa, Rekor: rekor,
			})
			if err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // trust material is public
				return err
			}
			for name, data := range map[string][]byte{"trusted_root.json": root, "signing_config.json": signing} {
				if err := writeFile(filepath.Join(out, name), data, 0o644); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", filepath.Join(out, "trusted_root.json"), filepath.Join(out, "signing_config.json"))
			return err
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&path, "config", "", "configuration file (required)")
	fl.StringVar(&out, "out", "", "directory for the two files (required)")
	fl.StringVar(&url, "url", "", "URL of the CA as clients reach it (default: http:// and listen.http)")
	fl.StringVar(&issuer, "issuer", "", "OpenID Connect issuer that people sign in at (default: the first e-mail issuer)")
	fl.StringVar(&operator, "operator", "mayfly", "name of the operator")
	fl.StringVar(&tsa, "tsa", "", "URL of a timestamp authority for signers (optional)")
	fl.StringVar(&rekor, "rekor", "", "URL of a Rekor v2 log for signers (optional)")
	return cmd
}

// exportFiles makes the content of trusted_root.json and signing_config.json.
func exportFiles(cfg *config.Config, m *material, s trust.Services) (root, signing []byte, err error) {
	out, err := m.export(cfg, s.CA)
	if err != nil {
		return nil, nil, err
	}
	if root, err = out.TrustedRoot(); err != nil {
		return nil, nil, err
	}
	signing, err = s.SigningConfig()
	return root, signing, err
}

func firstEmailIssuer(cfg *config.Config) string {
	first := ""
	for url, i := range cfg.Issuers.Issuers {
		if i.Type == "email" && (first == "" || url < first) {
			first = url
		}
	}
	return first
}

// embeddedKeyFile is where the embedded log keeps its public key.
func embeddedKeyFile(dir string) string { return filepath.Join(dir, "log.pub.pem") }
