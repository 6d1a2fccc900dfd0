package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ceremony"
)

func newCACrossSign() *cobra.Command {
	f := &caSignFlags{}
	cmd := &cobra.Command{
		Use:   "cross-sign --certificate FILE --parent FILE --out FILE",
		Short: "Certify the name and the key of an existing CA certificate with another parent",
		Long: "cross-sign makes a second certificate for an existing CA: with the same name, key and key identifier,\n" +
			"and another parent. Verifiers that trust only the other parent can then verify the certificates of the\n" +
			"CA. The validity ends no later than that of the existing certificate and that of the parent. The path\n" +
			"length of the parent must allow the certificates below it: a root of \"mayfly ca init\" can cross-sign\n" +
			"the issuing certificate of another root, but not that root itself.\n\n" +
			"The certificate is linted before and after it is signed. cross-sign overwrites no file.",
		Example: "  mayfly ca cross-sign --certificate new/chain.pem --parent old/root.pem --key old/root-key.pem " +
			"--password-env ROOT_PASSWORD --out cross.pem",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.certificate == "":
				return missing("certificate", "FILE")
			case f.out == "":
				return missing("out", "FILE")
			}
			certs, in, err := readChainFile(cmd, f.certificate)
			if err != nil {
				return err
			}
			if len(certs) > 1 {
				fmt.Fprintf(cmd.ErrOrStderr(),
					"mayfly: %s has %d certificates; the first one, %s, is cross-signed\n", f.certificate,
					len(certs), certs[0].Subject)
			}
			return f.sign(cmd, ceremony.SignOptions{Certificate: certs[0], Inputs: []ceremony.Input{in}})
		}),
	}
	cmd.Flags().StringVar(&f.certificate, "certificate", "",
		"the CA certificate, or a chain that begins with it (PEM or DER; required)")
	f.register(cmd)
	return cmd
}
