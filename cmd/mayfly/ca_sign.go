package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/shell"
)

// caSignFlags are the flags of "ca sign" and "ca cross-sign".
type caSignFlags struct {
	key              keyFlags
	csr, certificate string
	parent, imported string
	out, transcript  string
	notBefore        string
	validFor         time.Duration
	pathLength       int
	signed, dry      bool
}

// register defines the flags that both commands have.
func (f *caSignFlags) register(cmd *cobra.Command) {
	f.key.register(cmd, "the parent's key", false)
	fl := cmd.Flags()
	fl.StringVar(&f.parent, "parent", "",
		"PEM file with the parent's certificate, followed by the certificates above it up to the root (required)")
	fl.StringVar(&f.out, "out", "", "file for the chain: the new certificate, then its parents (required)")
	fl.StringVar(&f.transcript, "transcript", "", "file for the transcript (default: beside --out)")
	fl.StringVar(&f.notBefore, "not-before", "",
		"start of the validity, as in 2027-01-01T00:00:00Z (default: now)")
	fl.Var(cli.DurationFlag(&f.validFor, 0), "valid-for",
		"for how long the certificate is valid, as in 43800h (default: five years, or as "+
			"long as the parent)")
	fl.IntVar(&f.pathLength, "path-length", 0, "maximum number of CA certificates below the new certificate")
	fl.BoolVar(&f.signed, "sign-transcript", false, "sign the transcript with the parent's key")
	fl.BoolVar(&f.dry, "dry-run", false, "print the files and the certificate; sign and write nothing")
}

func newCASign() *cobra.Command {
	f := &caSignFlags{}
	cmd := &cobra.Command{
		Use:   "sign --csr FILE --parent FILE --out FILE",
		Short: "Sign the issuing certificate for a request, or import one that another CA signed",
		Long: "sign makes an issuing certificate for a certificate signing request of \"mayfly ca csr\". The\n" +
			"certificate has the name and the key of the request. This program sets all other fields: CA:TRUE, path\n" +
			"length 0, keyCertSign, cRLSign, codeSigning. The parent's key is in a file or in any key backend. The\n" +
			"certificate is linted before and after it is signed. sign overwrites no file.\n\n" +
			"With --import, another CA has signed the certificate. sign compares the certificate with the request,\n" +
			"checks all requirements of a chain, and writes the chain. It needs no key.",
		Example: "  mayfly ca sign --csr issuing.csr --parent root.pem --key root-key.pem --password-env " +
			"ROOT_PASSWORD --out chain.pem\n" +
			"  mayfly ca sign --csr issuing.csr --import issued.pem --parent corporate.pem --out chain.pem",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return f.run(cmd) }),
	}
	cmd.Flags().StringVar(&f.csr, "csr", "", "certificate signing request in PEM (required)")
	cmd.Flags().StringVar(&f.imported, "import", "",
		"certificate that another CA issued for the request (PEM or DER)")
	f.register(cmd)
	return cmd
}

func (f *caSignFlags) run(cmd *cobra.Command) error {
	switch {
	case f.csr == "":
		return missing("csr", "FILE")
	case f.out == "":
		return missing("out", "FILE")
	}
	data, in, err := readPublic(cmd, f.csr)
	if err != nil {
		return err
	}
	request, err := ceremony.ParseRequest(data)
	if err != nil {
		return fmt.Errorf("--csr %s: %w", f.csr, err)
	}
	if f.imported != "" {
		return f.take(cmd, request)
	}
	return f.sign(cmd, ceremony.SignOptions{Request: request, Inputs: []ceremony.Input{in}})
}

// take writes the chain of a certificate that another CA signed.
func (f *caSignFlags) take(cmd *cobra.Command, request *x509.CertificateRequest) error {
	if f.key.given() || f.signed {
		return cli.Usage("--import adds a certificate that a parent CA has already signed: remove the " +
			"flags of the parent's key")
	}
	chain, _, err := readChainFile(cmd, f.imported)
	if err != nil {
		return err
	}
	if f.parent != "" {
		parents, _, err := readChainFile(cmd, f.parent)
		if err != nil {
			return err
		}
		chain = appendNew(chain, parents)
	}
	r, err := ceremony.Import(ceremony.ImportOptions{Request: request, Chain: chain, Out: f.out},
		ceremonyOptions(cmd, f.dry))
	if err != nil {
		return err
	}
	if err := concluded(cmd, r, f.dry); err != nil || f.dry {
		return err
	}
	return f.next(cmd, r)
}

// appendNew appends the certificates of more that the chain does not have yet. Some CAs return their own certificates
// with the new one.
func appendNew(chain, more []*x509.Certificate) []*x509.Certificate {
	for _, c := range more {
		known := false
		for _, old := range chain {
			known = known || old.Equal(c)
		}
		if !known {
			chain = append(chain, c)
		}
	}
	return chain
}

// sign makes a certificate below the parent.
func (f *caSignFlags) sign(cmd *cobra.Command, s ceremony.SignOptions) error {
	if f.parent == "" {
		return missing("parent", "FILE")
	}
	if f.validFor < 0 || f.validFor%time.Second != 0 || f.validFor > 0 && f.validFor < time.Hour {
		return cli.Usage("--valid-for %s: write at least 1h, in whole seconds", f.validFor)
	}
	if f.notBefore != "" {
		at, err := time.Parse(time.RFC3339, f.notBefore)
		if err != nil {
			return cli.Usage("--not-before %q: write a time such as 2027-01-01T00:00:00Z", f.notBefore)
		}
		s.NotBefore = at
	}
	parents, in, err := readChainFile(cmd, f.parent)
	if err != nil {
		return err
	}
	s.Parents, s.For, s.PathLength, s.Inputs = parents, f.validFor, f.pathLength, append(s.Inputs, in)
	s.Out, s.Transcript, s.SignTranscript = f.out, f.transcript, f.signed
	if s.Transcript == "" {
		s.Transcript = transcriptFor(f.out)
	}
	o := ceremonyOptions(cmd, f.dry)
	k, err := f.key.open(cmd, o)
	if err != nil {
		return err
	}
	r, err := ceremony.Sign(cmd.Context(), k, s, o)
	if err = errors.Join(err, k.Close()); err != nil {
		return err
	}
	if err := concluded(cmd, r, f.dry); err != nil || f.dry {
		return err
	}
	return f.next(cmd, r)
}

func (f *caSignFlags) next(cmd *cobra.Command, r *ceremony.Result) error {
	if err := printWritten(cmd.OutOrStdout(), r); err != nil {
		return err
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "next: mayfly ca check %s\n", shell.Quote(f.out))
	return err
}
