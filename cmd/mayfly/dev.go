package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/dev"
	"github.com/mayfly-ca/mayfly/dev/idp"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/input"
)

func newDev(o *cli.Common) *cobra.Command {
	f := &dev.Options{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a complete private Sigstore on this machine, with nothing to configure",
		Long: "dev runs on loopback addresses, in one process: a CA, a log of certificates, a log of signatures\n" +
			"(Rekor), a timestamp authority, a TUF repository and a small OpenID Connect provider. Keys, logs and\n" +
			"trust material are in one directory, which the next start uses again. When all is ready, dev signs\n" +
			"with every service, verifies the signature, and prints a line to copy for each client. The provider\n" +
			"signs in everyone: it is for development only and listens on loopback only.",
		Example: "  mayfly dev\n  mayfly dev --dir /tmp/ca --http 127.0.0.1:8080 --grpc off",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			log, err := o.NewLogger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if f.TLS && !cmd.Flags().Changed("grpc") {
				f.GRPC = f.HTTP // as sigstore-java expects it: gRPC at the host and port of the URL
			}
			return dev.Run(cmd.Context(), f, log, cmd.OutOrStdout())
		}),
	}
	cmd.PersistentFlags().StringVar(&f.Dir, "dir", ".mayfly-dev", "directory for keys, log and trust material")
	fl := cmd.Flags()
	fl.StringVar(&f.HTTP, "http", "127.0.0.1:5555", "address for REST; port 0 picks a free one")
	fl.StringVar(&f.GRPC, "grpc", "127.0.0.1:5554",
		"address for gRPC; the same as --http serves both on one port, \"off\" disables")
	fl.StringVar(&f.Admin, "admin", "127.0.0.1:2112", "address for metrics and readiness; \"off\" disables")
	fl.StringVar(&f.IDP, "idp", "127.0.0.1:5556", "loopback address for the OpenID Connect provider")
	fl.BoolVar(&f.TLS, "tls", false,
		"serve REST and gRPC over TLS on one port (unless --grpc is set), with a self-signed certificate")
	cmd.AddCommand(newDevToken(f))
	return cmd
}

func newDevToken(f *dev.Options) *cobra.Command {
	var email, claimsFile string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "token --email ADDRESS",
		Short: "Print an identity token of the development provider",
		Long: "token prints an ID token that the CA of \"mayfly dev\" accepts. It needs only the directory of the\n" +
			"provider, not a running provider.",
		Example: "  mayfly dev token --email alice@example.com\n" +
			"  mayfly dev token --email alice@example.com --claims claims.json",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if email == "" {
				return cli.Usage("--email is missing; write --email alice@example.com")
			}
			if life < time.Second {
				return cli.Usage("--ttl %s: write a duration of at least one second, for example 1h",
					human.Duration(life))
			}
			claims, err := readClaims(claimsFile)
			if err != nil {
				return err
			}
			state, err := dev.ReadState(f.Dir)
			if err != nil {
				return err
			}
			p, err := idp.New(idp.Options{Dir: state.Path("idp"), Issuer: state.Issuer, TokenLife: life})
			if err != nil {
				return err
			}
			token, err := p.Token(email, claims)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		}),
	}
	cmd.Flags().StringVar(&email, "email", "", "the e-mail address in the token (required)")
	cmd.Flags().StringVar(&claimsFile, "claims", "",
		"file with a JSON object of claims, \"-\" for standard input; each replaces the usual claim, null removes it")
	cmd.Flags().Var(cli.DurationFlag(&life, idp.DefaultTokenLife), "ttl", "how long the token is valid")
	return cmd
}

// readClaims reads a JSON object from a file. It returns nil for an empty name.
func readClaims(name string) (map[string]any, error) {
	if name == "" {
		return nil, nil
	}
	data, err := input.Read(os.Stdin, name)
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	if err := decodeNumbers(data, &claims); err != nil {
		return nil, fault.Cure(fmt.Errorf("%s: %w", name, err),
			"write one JSON object, for example {\"groups\": [\"dev\"]}")
	}
	return claims, nil
}

// decodeNumbers decodes exactly one JSON value and keeps the digits of its numbers.
func decodeNumbers(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}
