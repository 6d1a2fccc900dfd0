package clients

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/inspect"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/trust"
)

// passwordEnv holds the password of --key.
const passwordEnv = "MAYFLY_KEY_PASSWORD"

type requestFlags struct {
	url, tlsCA, trustedRoot, key, out, keyOut string
	// --identity: the expected identity in the certificate; "" is that of the token
	identity               string
	csr                    string // "": no CSR; "-": create one with the key; else a file
	grpc, insecure, asJSON bool
	timeout                time.Duration
	signIn                 signIn
}

// NewRequest returns "mayfly request".
func NewRequest() *cobra.Command {
	f := &requestFlags{}
	cmd := &cobra.Command{
		Use:   "request --url URL [--trusted-root FILE]",
		Short: "Request a certificate, and verify it",
		Long: "request sends an identity token and a proof of possession to the CA, and verifies the certificate\n" +
			"before it writes or shows it. The certificate must have the key that was sent, and the identity and\n" +
			"issuer of the token (or of --identity and --issuer). Its chain must end at an authority that the\n" +
			"trusted root accepts now, and it must be for code signing. If the trusted root has Certificate\n" +
			"Transparency logs, one of them must have signed an SCT for it.\n\n" +
			"The token comes from --token-file, or from SIGSTORE_ID_TOKEN, or from standard input if it is a pipe,\n" +
			"or from a sign-in in the browser (--device: on another machine). request makes a new P-256 key, unless\n" +
			"--key names a key; MAYFLY_KEY_PASSWORD decrypts it.",
		Example: "  mayfly request --url http://127.0.0.1:5555 --trusted-root " +
			".mayfly-dev/trusted_root.json --out cert.pem\n" +
			"  mayfly dev token --email alice@example.com | mayfly request --url 127.0.0.1:5554 --grpc " +
			"--trusted-root .mayfly-dev/trusted_root.json",
		Args: cobra.MaximumNArgs(1),
		RunE: cli.Perform(func(cmd *cobra.Command, args []string) error {
			if err := f.check(args); err != nil {
				return err
			}
			return f.run(cmd.Context(), cli.Streams{
				In: cmd.InOrStdin(), Out: cmd.OutOrStdout(),
				Err: cmd.ErrOrStderr(),
			})
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.url, "url", "", "the CA: http(s)://HOST:PORT, or HOST:PORT with --grpc (required)")
	fl.BoolVar(&f.grpc, "grpc", false, "use gRPC instead of REST")
	fl.StringVar(&f.trustedRoot, "trusted-root", "", "trusted_root.json to verify the certificate with")
	fl.BoolVar(&f.insecure, "insecure-skip-verify", false,
		"accept the certificate unverified (instead of --trusted-root)")
	fl.StringVar(&f.tlsCA, "tls-ca", "",
		"file with the CA certificates, PEM, that the TLS certificate of the CA must chain to (default: the system's)")
	fl.StringVar(&f.signIn.file, "token-file", "", "file with the identity token; \"-\" is standard input")
	fl.StringVar(&f.identity, "identity", "",
		"address, URI or name that the certificate must have (default: from the token)")
	fl.StringVar(&f.signIn.issuer, "issuer", "",
		"OpenID Connect issuer that the certificate must have (default: the token's), and to sign in at\n"+
			"(default: the CA's first e-mail issuer)")
	fl.StringVar(&f.signIn.clientID, "client-id", "sigstore", "OAuth 2.0 client ID for the sign-in")
	fl.BoolVar(&f.signIn.device, "device", false, "sign in with a code on another device")
	fl.StringVar(&f.key, "key", "", "private key to certify, PEM (default: a new P-256 key)")
	fl.StringVar(&f.csr, "csr", "",
		"prove possession with a certificate signing request: a new one, or that of the given file")
	fl.Lookup("csr").NoOptDefVal = "-"
	fl.StringVar(&f.out, "out", "", "file for the certificate chain, PEM; a new key is written to the same directory")
	fl.StringVar(&f.keyOut, "key-out", "", "file for the new key (default: --out with .key.pem)")
	fl.Var(cli.DurationFlag(&f.timeout, 30*time.Second), "timeout", "longest wait for the certificate")
	fl.BoolVar(&f.asJSON, "json", false, "show the certificate as JSON")
	return cmd
}

func (f *requestFlags) check(args []string) error {
	if len(args) == 1 {
		if f.csr != "-" {
			return cli.Usage("unexpected argument %q", args[0])
		}
		f.csr = args[0] // "--csr FILE"
	}
	switch {
	case f.url == "":
		return cli.Usage("--url is missing; for the CA of \"mayfly dev\" it is --url http://127.0.0.1:5555")
	case f.trustedRoot == "" && !f.insecure:
		return cli.Usage("--trusted-root is missing; the certificate is verified before anything is written " +
			"(--insecure-skip-verify turns that off)")
	case f.trustedRoot != "" && f.insecure:
		return cli.Usage("--trusted-root and --insecure-skip-verify exclude each other")
	case f.csr != "" && f.csr != "-" && f.key != "":
		return cli.Usage("--key and a --csr file exclude each other: the signing request is already signed")
	case f.timeout <= 0:
		return cli.Usage("--timeout %s: write a positive duration such as 30s", f.timeout)
	}
	return nil
}

func (f *requestFlags) run(ctx context.Context, std cli.Streams) error {
	opts := client.Options{
		URL: f.url, GRPC: f.grpc, SkipVerify: f.insecure, UserAgent: version.UserAgent(),
		Timeout: f.timeout,
	}
	if f.tlsCA != "" {
		var err error
		if opts.Roots, err = pemfile.LoadPool(f.tlsCA); err != nil {
			return err
		}
	}
	if f.trustedRoot != "" {
		m, err := ReadTrustedRoot(f.trustedRoot)
		if err != nil {
			return err
		}
		warnSkipped(std.Err, f.trustedRoot, m.Skipped)
		t := m.ForClient()
		opts.Trust = &t
	}
	c, err := client.New(opts)
	if err != nil {
		return cli.Usage("%v", err)
	}
	defer c.Close()
	req, fresh, err := f.request()
	if err != nil {
		return err
	}
	if req.Token, err = f.signIn.token(ctx, std, c); err != nil {
		return err
	}
	req.Identity, req.Issuer = f.identity, f.signIn.issuer
	cert, err := c.Request(ctx, req)
	if err != nil {
		return errors.New(client.Explain(err) + f.expected(err))
	}
	if f.insecure {
		fmt.Fprintln(std.Err,
			terminal.StyleFor(std.Err).Yellow("warning: the certificate is not verified (--insecure-skip-verify)"))
	}
	if err := f.write(std, cert, fresh); err != nil {
		return err
	}
	return f.show(std.Out, cert)
}

// expected returns a hint about the flags for the expected identity if the certificate has another identity than the
// token.
func (f *requestFlags) expected(err error) string {
	if !errors.Is(err, client.ErrOtherIdentity) {
		return ""
	}
	return "\n  nothing was written; with --identity SAN and --issuer URL the certificate must have these instead " +
		"of the identity and the issuer of the token"
}

// request prepares key and proof. fresh is the new key, nil if the key or the signing request is from a file.
func (f *requestFlags) request() (req client.Request, fresh *ecdsa.PrivateKey, err error) {
	if f.csr != "" && f.csr != "-" {
		data, err := input.Read(nil, f.csr)
		if err != nil {
			return req, nil, err
		}
		if _, err := pemfile.Only(data, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"); err != nil {
			return req, nil, fmt.Errorf("%s: %w", f.csr, err)
		}
		return client.Request{CSRPEM: data}, nil, nil
	}
	req.CSR = f.csr == "-"
	if f.key != "" {
		data, err := input.Read(nil, f.key)
		if err != nil {
			return req, nil, err
		}
		var signer crypto.Signer
		if signer, err = file.ParseKey(file.KeyOptions{
			Key:      data,
			Password: []byte(os.Getenv(passwordEnv)),
		}); err != nil {
			return req, nil, fmt.Errorf("%s: %w", f.key, err)
		}
		req.Signer = signer
		return req, nil, nil
	}
	if fresh, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return req, nil, err
	}
	req.Signer = fresh
	return req, fresh, nil
}

// write writes the chain and a new key to their files. It MUST be called only after the certificate was verified.
func (f *requestFlags) write(std cli.Streams, cert *client.Certificate, fresh *ecdsa.PrivateKey) error {
	if f.out == "" {
		if fresh != nil && f.keyOut == "" {
			fmt.Fprintln(std.Err, "The new key of this certificate is not stored; --out FILE stores both.")
		}
	} else if err := durable.WriteFile(f.out, cert.PEM(), 0o644); err != nil {
		return err
	}
	keyOut := f.keyOut
	if keyOut == "" && f.out != "" {
		keyOut = strings.TrimSuffix(f.out, filepath.Ext(f.out)) + ".key.pem"
	}
	if fresh == nil || keyOut == "" {
		return nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(fresh)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(keyOut, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		0o600); err != nil {
		return err
	}
	fmt.Fprintf(std.Err, "Key written to %s (readable by you only).\n", keyOut)
	return nil
}

func (f *requestFlags) show(w io.Writer, cert *client.Certificate) error {
	view, err := inspect.Describe(cert.Leaf, time.Now(), nil)
	if err != nil {
		return err
	}
	if f.asJSON {
		return cli.WriteJSON(w, struct {
			Certificate inspect.Certificate `json:"certificate"`
			Chain       string              `json:"chain_pem"`
			Verified    bool                `json:"verified"`
		}{view, string(cert.PEM()), !f.insecure})
	}
	if err := view.Write(w, terminal.StyleFor(w)); err != nil {
		return err
	}
	if f.out == "" {
		_, err = fmt.Fprintf(w, "\n%s", cert.PEM())
	}
	return err
}

// ReadTrustedRoot reads a trusted_root.json.
func ReadTrustedRoot(name string) (trust.Material, error) {
	data, err := input.Read(nil, name)
	if err != nil {
		return trust.Material{}, err
	}
	m, err := trust.ParseTrustedRoot(data)
	if err != nil {
		return trust.Material{}, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// warnSkipped warns about the entries of a trusted root that could not be read.
func warnSkipped(w io.Writer, name string, skipped []string) {
	for _, s := range skipped {
		fmt.Fprintln(w,
			terminal.StyleFor(w).Yellow(fmt.Sprintf("warning: %s: an entry of the trusted root is left out: %s",
				name, terminal.Printable(s))))
	}
}
