package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ceremony"
)

func newCACSR() *cobra.Command {
	key := &keyFlags{}
	r := ceremony.RequestOptions{}
	var dry bool
	cmd := &cobra.Command{
		Use:   "csr --config FILE --common-name NAME --organization NAME --out FILE",
		Short: "Make a certificate signing request for the key of a CA",
		Long: "csr makes a certificate signing request (PKCS #10) for an issuing certificate that another CA signs:\n" +
			"the offline root, a corporate CA, OpenBao, AWS Private CA, Google CAS or step-ca. The key does not\n" +
			"leave its backend. The request contains CA:TRUE, path length 0, keyCertSign, cRLSign and codeSigning.\n" +
			"\"mayfly ca sign --import\" checks the certificate that the other CA returns.\n\n" +
			"csr overwrites no file.",
		Example: "  mayfly ca csr --config mayfly.yaml --common-name \"Example issuing 2027\" " +
			"--organization \"Example Inc.\" --out issuing.csr\n" +
			"  mayfly ca csr --key ca-key.pem --generate ecdsa-p256 --password-env CA_PASSWORD " +
			"--common-name I --organization O --out issuing.csr",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if r.Out == "" {
				return missing("out", "FILE")
			}
			o := ceremonyOptions(cmd, dry)
			k, err := key.open(cmd, o)
			if err != nil {
				return err
			}
			defer k.Close() //nolint:errcheck // the request is made or not
			result, err := ceremony.NewRequest(k, r, o)
			if err != nil {
				return err
			}
			if err := concluded(cmd, result, dry); err != nil || dry {
				return err
			}
			if err := printWritten(cmd.OutOrStdout(), result); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(),
				"next: have the parent sign %s, for example with mayfly ca sign --csr %[1]s\n", r.Out)
			return err
		}),
	}
	key.register(cmd, "the CA's key", true)
	fl := cmd.Flags()
	fl.StringVar(&r.Subject.CommonName, "common-name", "", "name of the issuing certificate (required)")
	fl.StringVar(&r.Subject.Organization, "organization", "", "organization that runs the CA (required)")
	fl.StringVar(&r.Subject.OrganizationalUnit, "organizational-unit", "", "part of the organization")
	fl.StringVar(&r.Subject.Country, "country", "", "country code of two letters")
	fl.StringVar(&r.Subject.Province, "province", "", "state or province")
	fl.StringVar(&r.Subject.Locality, "locality", "", "city")
	fl.StringVar(&r.Out, "out", "", "file for the request (required)")
	fl.BoolVar(&dry, "dry-run", false, "print the files; sign and write nothing")
	return cmd
}
