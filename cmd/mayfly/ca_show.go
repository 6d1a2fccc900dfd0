package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/cmd/internal/clients"
	"github.com/mayfly-ca/mayfly/inspect"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// caShown is the output of "ca show --json".
type caShown struct {
	Certificates []inspect.Certificate `json:"certificates,omitempty"`
	Key          *shownKey             `json:"key,omitempty"`
}

type shownKey struct {
	ceremony.KeyStatement
	Algorithm string `json:"algorithm"`
	// Belongs reports whether the key is that of the first certificate. Nil: no certificate is shown.
	Belongs *bool `json:"belongs_to_certificate,omitempty"`
}

func newCAShow() *cobra.Command {
	key := &keyFlags{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show [CHAIN] [--config FILE]",
		Short: "Show the certificates of a chain, where its key is, and whether the key can be exported",
		Long: "show describes the certificates of a chain. With --config or --key, it also shows the key: its\n" +
			"algorithm, where it is, and whether it can be exported, as the key backend reports it. It signs\n" +
			"nothing.",
		Example: "  mayfly ca show chain.pem\n  mayfly ca show --config mayfly.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			var shown caShown
			path, err := chainToCheck(args, key.config)
			if err != nil && (len(args) == 1 || !key.given()) {
				return err
			}
			if path != "" && (len(args) == 1 || there(path)) { // for a CSR, the chain need not exist yet
				certs, err := clients.ReadCertificates(cmd.InOrStdin(), path)
				if err != nil {
					return err
				}
				for _, c := range certs {
					v, err := inspect.Describe(c, time.Now(), nil)
					if err != nil {
						return fmt.Errorf("%s: %w", path, err)
					}
					shown.Certificates = append(shown.Certificates, v)
				}
			}
			if key.given() {
				k, err := key.open(cmd, ceremonyOptions(cmd, false))
				if err != nil {
					return err
				}
				defer k.Close() //nolint:errcheck // it is shown or not
				shown.Key = &shownKey{KeyStatement: k.Statement, Algorithm: inspect.KeyName(k.Signer.Public())}
				if len(shown.Certificates) > 0 {
					same := shown.Certificates[0].PublicKeySHA256 == k.Statement.PublicKey
					shown.Key.Belongs = &same
				}
			}
			if asJSON {
				return cli.WriteJSON(cmd.OutOrStdout(), shown)
			}
			return shown.write(cmd.OutOrStdout())
		}),
	}
	key.register(cmd, "the CA's key", false)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (s caShown) write(out io.Writer) error {
	if err := inspect.WriteAll(out, s.Certificates); err != nil || s.Key == nil {
		return err
	}
	st := terminal.StyleFor(out)
	if len(s.Certificates) > 0 {
		fmt.Fprintln(out)
	}
	fmt.Fprintln(out, st.Bold("Key"))
	var t terminal.Table
	place := s.Key.Backend
	if s.Key.Place != "" {
		place += " " + s.Key.Place
	}
	t.Add("place", terminal.Printable(place))
	t.Add("algorithm", s.Key.Algorithm)
	t.Add("public key", "sha256 "+s.Key.PublicKey)
	t.Add("can be exported", s.Key.Exportable+": "+terminal.Printable(s.Key.Reason))
	for _, name := range slices.Sorted(maps.Keys(s.Key.Evidence)) {
		t.Add(name, terminal.Printable(s.Key.Evidence[name]))
	}
	if s.Key.Belongs != nil {
		belongs := st.Green("it is the key of the first certificate")
		if !*s.Key.Belongs {
			belongs = st.Red("it is not the key of the first certificate")
		}
		t.Add("certificate", belongs)
	}
	return t.Write(out, st)
}
