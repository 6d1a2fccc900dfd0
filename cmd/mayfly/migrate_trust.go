package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/trust"
)

// formerFlags say where the trust material of the former CA is.
type formerFlags struct {
	root             string // trusted_root.json
	tuf, tufRoot     string
	chain, tsaChain  string
	ctKeys, rekor    []string
	caURL, rekorURL  string
	config, url, out string
	signing          string
	offline          string
}

func newMigrateTrust() *cobra.Command {
	f := &formerFlags{}
	t := &tufFlags{}
	cmd := &cobra.Command{
		Use:   "trust --config FILE {--trusted-root FILE | --tuf URL | --chain FILE} {--dir DIR | --out DIR}",
		Short: "Publish one trusted root for the former CA and for mayfly",
		Long: "trust makes a trusted root with the CA, the logs and the timestamp authorities of the former\n" +
			"Sigstore and with those of a configuration of mayfly, so that earlier signatures and new ones\n" +
			"verify. It refuses to write one in which something of the former Sigstore is missing or trusted\n" +
			"for a shorter time.\n\n" +
			"The former Sigstore is its trusted_root.json (--trusted-root), its TUF repository (--tuf), or\n" +
			"files in PEM (--chain, --ct-key, --rekor-key, --tsa-chain).\n\n" +
			"With --dir, the trusted root is published in the TUF repository DIR, which is made if there is\n" +
			"none: with the file trusted_root.json, and with the files fulcio_v1.crt.pem, ctfe.pub and\n" +
			"rekor.pub, which older clients read. Afterwards \"mayfly trust tuf\" and a CA with publish.tuf.dir\n" +
			"maintain it. With --out, trusted_root.json is written for a TUF repository that other programs\n" +
			"maintain.",
		Example: "  " + tufPasswordEnv +
			"=... mayfly migrate trust --config mayfly.yaml --url https://ca.example.com \\\n" +
			"    --trusted-root fulcio/trusted_root.json --dir tuf/\n" +
			"  mayfly migrate trust --config mayfly.yaml --tuf https://tuf.example.com --tuf-root root.json --out new/",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return f.run(cmd, t) }),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration of mayfly (required)")
	fl.StringVar(&f.url, "url", "", "URL of mayfly for clients (default: publish.url)")
	fl.StringVar(&f.root, "trusted-root", "", "trusted_root.json of the former Sigstore")
	fl.StringVar(&f.tuf, "tuf", "", "URL of its TUF repository; needs --tuf-root")
	fl.StringVar(&f.tufRoot, "tuf-root", "", "root.json of that repository, as clients have it")
	fl.StringVar(&f.chain, "chain", "", "PEM file with its chains, each with the issuing certificate first")
	fl.StringArrayVar(&f.ctKeys, "ct-key", nil, "PEM file with the public key of its CT log; may be repeated")
	fl.StringArrayVar(&f.rekor, "rekor-key", nil, "PEM file with the public key of its Rekor; may be repeated")
	fl.StringVar(&f.rekorURL, "rekor-url", "", "URL of its Rekor, for --rekor-key")
	fl.StringVar(&f.tsaChain, "tsa-chain", "", "PEM file with the chain of its timestamp authority")
	fl.StringVar(&f.caURL, "ca-url", "", "URL of the former CA, for --chain")
	fl.StringVar(&f.signing, "signing-config", "", "signing_config.json to publish as well")
	fl.StringVar(&t.dir, "dir", "", "directory of the TUF repository")
	t.lives(fl)
	fl.StringVar(&f.offline, "offline", "",
		"directory for the keys of root and targets of a new repository (default: DIR)")
	fl.StringVar(&f.out, "out", "", "directory for trusted_root.json")
	return cmd
}

func (f *formerFlags) run(cmd *cobra.Command, t *tufFlags) error {
	sources := 0
	for _, s := range []string{f.root, f.tuf, f.chain} {
		if s != "" {
			sources++
		}
	}
	switch {
	case f.config == "":
		return cli.Usage("--config is missing; write --config FILE")
	case sources != 1:
		return cli.Usage("write one of --trusted-root FILE, --tuf URL and --chain FILE: where the former Sigstore's " +
			"trust material is")
	case (f.tuf == "") != (f.tufRoot == ""):
		return cli.Usage("--tuf and --tuf-root belong together: the repository is verified from the root.json that " +
			"clients have")
	case len(f.rekor) > 0 && f.rekorURL == "":
		return cli.Usage("--rekor-url is missing; write the URL of the Rekor of --rekor-key")
	case t.dir == "" && f.out == "":
		return cli.Usage("write --dir DIR for a TUF repository, or --out DIR for a file")
	}
	cfg, _, err := config.LoadPublic(f.config)
	if err != nil {
		return cli.Misconfigured(err)
	}
	if f.url == "" {
		f.url = cfg.PublicURL()
	}
	former, err := f.former(cmd)
	if err != nil {
		return err
	}
	own, _, err := node.TrustFiles(cfg, f.url, time.Now())
	if err != nil {
		return located(cfg, err)
	}
	next, err := trust.Succeed(former, own)
	if err != nil {
		return err
	}
	if f.out != "" {
		if err := os.MkdirAll(f.out, 0o755); err != nil { //nolint:gosec // trust material is public
			return err
		}
		name := filepath.Join(f.out, trust.RootName)
		if err := durable.WriteFile(name, next, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), name)
	}
	if t.dir == "" {
		return nil
	}
	contents := [][]byte{next}
	if f.signing != "" {
		data, err := input.Read(cmd.InOrStdin(), f.signing)
		if err != nil {
			return err
		}
		contents = append(contents, data)
	}
	return f.publish(cmd, t, contents)
}

// publish publishes files in a TUF repository, which is made if there is none.
func (f *formerFlags) publish(cmd *cobra.Command, t *tufFlags, contents [][]byte) error {
	o, err := t.options()
	if err != nil {
		return err
	}
	r, err := trust.OpenTUF(o)
	if errors.Is(err, trust.ErrNoRepository) {
		o.Offline = f.offline
		r, err = trust.InitTUF(o)
		if err == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "Give clients %s.\n", filepath.Join(t.dir, "repository", "1.root.json"))
		}
	}
	if err != nil {
		return err
	}
	if r.HasKeys("targets") {
		if _, err := r.Publish(contents...); err != nil {
			return err
		}
		return showTUF(cmd.OutOrStdout(), r)
	}
	data, err := r.Request(contents...)
	if err != nil || data == nil {
		return err
	}
	name := filepath.Join(t.dir, trust.RequestName)
	if err := durable.WriteFile(name, data, 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "Sign %s with the offline keys: mayfly trust tuf sign --help\n", name)
	return err
}

// former returns the trusted root of the former Sigstore.
func (f *formerFlags) former(cmd *cobra.Command) ([]byte, error) {
	if f.root != "" {
		return input.Read(cmd.InOrStdin(), f.root)
	}
	m := trust.Former{URL: f.caURL, RekorURL: f.rekorURL}
	if f.tuf != "" {
		root, err := input.Read(nil, f.tufRoot)
		if err != nil {
			return nil, err
		}
		return trust.FetchFormer(cmd.Context(),
			trust.Mirror{URL: f.tuf, Root: root, UserAgent: version.UserAgent()}, m)
	}
	var err error
	if m.CA, err = input.Read(nil, f.chain); err != nil {
		return nil, err
	}
	if f.tsaChain != "" {
		if m.TSA, err = input.Read(nil, f.tsaChain); err != nil {
			return nil, err
		}
	}
	for names, to := range map[*[]string]*[][]byte{&f.ctKeys: &m.CT, &f.rekor: &m.Rekor} {
		if *to, err = readAll(nil, *names); err != nil {
			return nil, err
		}
	}
	all, err := m.Material()
	if err != nil {
		return nil, err
	}
	return all.TrustedRoot()
}
