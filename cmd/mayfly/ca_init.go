package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/youmark/pkcs8"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

func newCA() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make the keys and the chain of a new CA",
		Args:  cobra.NoArgs,
		RunE:  runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newCAInit())
	return cmd
}

// caInitFlags are those of "ca init".
type caInitFlags struct {
	dir, organization string
	password          secret.Source
	plain             bool
}

func newCAInit() *cobra.Command {
	f := &caInitFlags{}
	cmd := &cobra.Command{
		Use:   "init --dir DIR",
		Short: "Make a root and an issuing certificate with their keys",
		Long: "init makes a P-384 root that is valid for ten years and a P-256 issuing certificate below it. The " +
			"issuing certificate is\n" +
			"valid for five years, has path length 0 and signs code-signing certificates only. The keys are " +
			"encrypted (PKCS#8) with a\n" +
			"password from the environment or from a file. init replaces no file.\n\n" +
			"The running CA does not need root-key.pem: keep it offline, for the next issuing certificate.",
		Example: "  CA_PASSWORD=... mayfly ca init --dir ca --organization \"Example Inc.\" --password-env CA_PASSWORD",
		Args:    cobra.NoArgs,
		RunE:    runs(func(cmd *cobra.Command, _ []string) error { return f.run(cmd.OutOrStdout()) }),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.dir, "dir", "", "directory for the files; made if it does not exist (required)")
	fl.StringVar(&f.organization, "organization", "mayfly", "organization in the names of both certificates")
	fl.StringVar(&f.password.Env, "password-env", "", "environment variable with the password of the keys")
	fl.StringVar(&f.password.File, "password-file", "", "file with the password of the keys")
	fl.BoolVar(&f.plain, "no-password", false, "write the keys without encryption")
	return cmd
}

func (f *caInitFlags) run(out io.Writer) error {
	if f.dir == "" {
		return cli.Usage("--dir is missing; write --dir DIR")
	}
	named := f.password.Env != "" || f.password.File != ""
	if named == f.plain {
		return cli.Usage("write one of --password-env NAME, --password-file FILE and --no-password")
	}
	var password []byte
	if named {
		if err := f.password.Check(); err != nil {
			return cli.Usage("write one of --password-env NAME, --password-file FILE and --no-password")
		}
		var err error
		if password, err = f.password.Read(); err != nil {
			return f.passwordProblem(err)
		}
	}
	for _, name := range caFiles {
		if path := filepath.Join(f.dir, name); there(path) {
			return fmt.Errorf("%s is there: keys are not replaced; choose another directory with --dir", path)
		}
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	h, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: f.organization, Now: time.Now()})
	if err != nil {
		return err
	}
	var chain []byte
	for _, c := range h.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	for i, key := range []any{h.RootKey, h.Key} {
		text, err := privatePEM(key, password)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(f.dir, caFiles[i]), text, 0o600); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(filepath.Join(f.dir, caFiles[2]), chain, 0o644); err != nil {
		return err
	}
	setting := ""
	switch {
	case f.password.Env != "":
		setting = fmt.Sprintf("\n    password: {env: %s}", f.password.Env)
	case f.password.File != "":
		setting = fmt.Sprintf("\n    password: {file: %s}", f.password.File)
	}
	_, err = fmt.Fprintf(out, "# in mayfly.yaml; %s is to be kept off-line\nca:\n  file:\n    chain: %s\n    key: %s%s\n",
		filepath.Join(f.dir, caFiles[0]), filepath.Join(f.dir, caFiles[2]), filepath.Join(f.dir, caFiles[1]), setting)
	return err
}

// passwordProblem says which flag names no password.
func (f *caInitFlags) passwordProblem(err error) error {
	s, ok := errors.AsType[*fault.Setting](err)
	switch {
	case ok && f.password.Env != "":
		return cli.Usage("--password-env %s: %s; %s", f.password.Env, s.Problem, s.Fix)
	case ok:
		return cli.Usage("--password-file %s: %s; %s", f.password.File, s.Problem, s.Fix)
	}
	return err
}

// privatePEM encodes a key as PKCS#8, encrypted if there is a password.
func privatePEM(key any, password []byte) ([]byte, error) {
	if len(password) == 0 {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
	}
	der, err := pkcs8.MarshalPrivateKey(key, password, &pkcs8.Opts{
		Cipher: pkcs8.AES256CBC, KDFOpts: pkcs8.PBKDF2Opts{
			SaltSize: 16, IterationCount: 600_000,
			HMACHash: crypto.SHA256,
		},
	})
	if err != nil {
		return nil, errors.New("the private key cannot be encrypted") // the cause may quote it
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}), nil
}

// caFiles are the files of a CA, in the order in which they are written.
var caFiles = []string{"root-key.pem", "ca-key.pem", "chain.pem"}

func there(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}
