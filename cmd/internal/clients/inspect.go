package clients

import (
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/inspect"
	"github.com/mayfly-ca/mayfly/internal/input"
)

// NewInspect returns "mayfly inspect".
func NewInspect() *cobra.Command {
	var asJSON bool
	var trustedRoot string
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Describe the content of a certificate or a chain",
		Long: "inspect reads certificates (one or more in PEM, or one in DER; \"-\" is standard input) and prints\n" +
			"identity, issuer, extensions by name, embedded SCTs and the remaining validity. It verifies nothing;\n" +
			"use \"mayfly request\" or cosign to verify.",
		Example: "  mayfly inspect cert.pem\n  mayfly inspect --json --trusted-root trusted_root.json cert.pem",
		Args:    cobra.ExactArgs(1),
		RunE: cli.Perform(func(cmd *cobra.Command, args []string) error {
			certs, err := ReadCertificates(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			logs, err := logNames(trustedRoot)
			if err != nil {
				return err
			}
			var views []inspect.Certificate
			for _, c := range certs {
				v, err := inspect.Describe(c, time.Now(), logs)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				views = append(views, v)
			}
			if asJSON {
				return cli.WriteJSON(cmd.OutOrStdout(), views)
			}
			return inspect.WriteAll(cmd.OutOrStdout(), views)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&trustedRoot, "trusted-root", "", "trusted_root.json, to name the logs of the SCTs")
	return cmd
}

// ReadCertificates reads PEM certificates, or one in DER, from a file or, for "-", from standard input.
func ReadCertificates(stdin io.Reader, name string) ([]*x509.Certificate, error) {
	data, err := input.Read(stdin, name)
	if err != nil {
		return nil, err
	}
	certs, err := inspect.ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return certs, nil
}

// logNames returns the names of the logs in a trusted root, by log ID, or nil without a file.
func logNames(file string) (map[[32]byte]string, error) {
	if file == "" {
		return nil, nil
	}
	data, err := input.Read(nil, file)
	if err != nil {
		return nil, err
	}
	names, err := inspect.LogNames(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return names, nil
}
