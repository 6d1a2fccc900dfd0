package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/inspect"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
)

func newCA() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make, sign and check the keys and the chains of a CA",
		Args:  cobra.NoArgs,
		RunE:  runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newCAInit(), newCACSR(), newCASign(), newCACrossSign(), newCAShow(), newCACheck(), newCAReplay(),
		newCARotate())
	return cmd
}

// passwordFlags are the flags that name the source of one password.
type passwordFlags struct {
	source secret.Source
	prefix string // of the names of the flags: "" or "root-"
}

func (f *passwordFlags) register(cmd *cobra.Command, what string) {
	cmd.Flags().StringVar(&f.source.Env, f.prefix+"password-env", "", "environment variable with the password of "+what)
	cmd.Flags().StringVar(&f.source.File, f.prefix+"password-file", "", "file with the password of "+what)
}

func (f *passwordFlags) named() bool { return f.source.Env != "" || f.source.File != "" }

// read returns the password, or an error that names the flag.
func (f *passwordFlags) read() ([]byte, error) {
	if f.source.Env != "" && f.source.File != "" {
		return nil, cli.Usage("--%[1]spassword-env and --%[1]spassword-file are both set; remove one of them", f.prefix)
	}
	password, err := f.source.Read()
	s, ok := errors.AsType[*fault.Setting](err)
	switch {
	case ok && f.source.Env != "":
		return nil, cli.Usage("--%spassword-env %s: %s; %s", f.prefix, f.source.Env, s.Problem, s.Fix)
	case ok:
		return nil, cli.Usage("--%spassword-file %s: %s; %s", f.prefix, f.source.File, s.Problem, s.Fix)
	}
	return password, err
}

// keyFlags are the flags that name an existing key, or a key to make.
type keyFlags struct {
	config, file, generate string
	password               passwordFlags
	plain                  bool
}

// register defines the flags for a key. The help texts call the key what; making is true if the command can make a key.
func (f *keyFlags) register(cmd *cobra.Command, what string, making bool) {
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "mayfly.yaml, or a file with only its block ca: "+what+" in any key backend")
	fl.StringVar(&f.file, "key", "", what+" in a file (PEM)")
	f.password.register(cmd, "--key")
	if making {
		fl.StringVar(&f.generate, "generate", "",
			"make the key in the file --key: "+strings.Join(ceremony.Algorithms(), ", "))
		fl.BoolVar(&f.plain, "no-password", false, "write the new key without encryption")
		cli.CompleteWords(cmd, "generate", ceremony.Algorithms()...)
	}
}

func (f *keyFlags) given() bool { return f.config != "" || f.file != "" }

// open opens the key, and asks for a missing password if standard input is a terminal.
func (f *keyFlags) open(cmd *cobra.Command, o ceremony.Options) (*ceremony.Key, error) {
	if (f.config == "") == (f.file == "") {
		return nil, cli.Usage("write one of --config FILE and --key FILE")
	}
	if f.config != "" {
		if f.password.named() || f.generate != "" || f.plain {
			return nil,
				cli.Usage("the flags for passwords, --generate and --no-password belong to --key, not to --config")
		}
		table, err := config.LoadKeyBackend(f.config)
		if err != nil {
			return nil, err
		}
		key, err := ceremony.OpenKey(cmd.Context(), ceremony.KeySource{Table: table}, o)
		if err != nil {
			at := config.LocateIn(config.File{Path: f.config}, &config.Config{}, fault.Under(err, "ca"))
			if _, ok := errors.AsType[config.Problems](at); ok {
				return nil, cli.Misconfigured(at)
			}
			return nil, err
		}
		return key, nil
	}
	source := ceremony.FileKey(f.file, "", nil)
	source.Generate, source.Unencrypted = f.generate, f.plain
	var password []byte
	if f.password.named() {
		var err error
		if password, err = f.password.read(); err != nil {
			return nil, err
		}
	}
	switch {
	case f.generate == "" && f.plain:
		return nil, cli.Usage("--no-password needs --generate")
	case f.generate != "" && f.plain && password != nil:
		return nil, cli.Usage("--no-password and a password exclude each other; write one of them")
	case f.generate != "" && !f.plain && password == nil:
		ask := newAsker(cmd)
		if !ask.possible() {
			return nil, cli.Usage("write one of --password-env NAME, --password-file FILE and --no-password")
		}
		var err error
		if password, err = ask.newPassword("Password of the key " + f.file); err != nil {
			return nil, err
		}
	}
	if password != nil {
		source.Table.File.Password = secret.Typed(password)
	}
	key, err := ceremony.OpenKey(cmd.Context(), source, o)
	if s, ok := errors.AsType[*fault.Setting](err); ok && password == nil &&
		strings.Contains(s.Problem, "is encrypted") {
		if ask := newAsker(cmd); ask.possible() {
			if password, err = ask.secret("Password of " + f.file + ": "); err != nil {
				return nil, err
			}
			source.Table.File.Password = secret.Typed(password)
			key, err = ceremony.OpenKey(cmd.Context(), source, o)
		}
	}
	if s, ok := errors.AsType[*fault.Setting](err); ok {
		return nil, cli.Usage("--key %s: %s; %s", f.file, s.Problem, s.Fix)
	}
	return key, err
}

// keyIterations replaces the number of iterations of the key derivation in tests.
var keyIterations = ceremony.DefaultIterations

// ceremonyOptions returns the options that all ceremonies of this program have in common.
func ceremonyOptions(cmd *cobra.Command, dry bool) ceremony.Options {
	return ceremony.Options{
		DryRun: dry, Tool: "mayfly " + version.Read().Version, Iterations: keyIterations,
		Warn: func(s *fault.Setting) { fmt.Fprintln(cmd.ErrOrStderr(), "mayfly: warning:", s) },
	}
}

// readPublic reads a public file of a ceremony. The second result records the file in the transcript.
func readPublic(cmd *cobra.Command, path string) ([]byte, ceremony.Input, error) {
	data, err := input.Read(cmd.InOrStdin(), path)
	if err != nil {
		return nil, ceremony.Input{}, err
	}
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") { // it would be copied into the transcript
			return nil, ceremony.Input{}, fmt.Errorf("%s has a private key; name a file with certificates only",
				path)
		}
	}
	return data, ceremony.FileInput(path, data), nil
}

// readChainFile reads certificates in PEM.
func readChainFile(cmd *cobra.Command, path string) ([]*x509.Certificate, ceremony.Input, error) {
	data, in, err := readPublic(cmd, path)
	if err != nil {
		return nil, in, err
	}
	certs, err := inspect.ParseCertificates(data)
	if err != nil {
		return nil, in, fmt.Errorf("%s: %w", path, err)
	}
	if !bytes.Contains(data, []byte("-----BEGIN")) { // a transcript is text
		var text bytes.Buffer
		for _, c := range certs {
			if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
				return nil, in, err
			}
		}
		in = ceremony.FileInput(path, text.Bytes())
	}
	return certs, in, nil
}

// concluded writes the files of a result. After a dry run, it prints which files would be written.
func concluded(cmd *cobra.Command, r *ceremony.Result, dry bool) error {
	out := cmd.OutOrStdout()
	for _, w := range r.Warnings {
		if err := terminal.Flow(cmd.ErrOrStderr(), terminal.StyleFor(cmd.ErrOrStderr()),
			"mayfly: warning: "+w); err != nil {
			return err
		}
	}
	if dry {
		return printDryRun(out, r)
	}
	return r.Write()
}

// printDryRun prints the files that would be written and the certificates.
func printDryRun(out io.Writer, r *ceremony.Result) error {
	st := terminal.StyleFor(out)
	fmt.Fprintln(out, "This would be written, in this order; nothing was signed or written:")
	var t terminal.Table
	for _, o := range r.Outputs {
		t.Add(o.Path, fmt.Sprintf("%s, mode %04o", o.What, o.Mode))
	}
	if err := t.Write(out, st); err != nil {
		return err
	}
	var views []inspect.Certificate
	for _, c := range r.Certificates {
		v, err := inspect.Describe(c, time.Now(), nil)
		if err != nil {
			return err
		}
		v.Fingerprint = "" // the signature is by a temporary key
		if v.Subject == v.IssuedBy {
			v.Kind = "root certificate"
		}
		views = append(views, v)
	}
	fmt.Fprintln(out)
	return inspect.WriteAll(out, views)
}

// printWritten lists the files of a ceremony.
func printWritten(out io.Writer, r *ceremony.Result) error {
	var t terminal.Table
	for _, o := range r.Outputs {
		t.Add(o.Path, o.What)
	}
	for _, k := range r.Keys {
		where := k.Backend
		if k.Place != "" {
			where += " " + k.Place
		}
		t.Add("key", where+"; can be exported: "+k.Exportable+", "+k.Reason)
	}
	return t.Write(out, terminal.StyleFor(out))
}

// transcriptFor returns the path of the transcript of the file out, in the same directory.
func transcriptFor(out string) string {
	return strings.TrimSuffix(out, filepath.Ext(out)) + ".transcript.json"
}

// missing returns the error for a required flag that is not set.
func missing(flag, value string) error {
	return cli.Usage("--%s is missing; write --%s %s", flag, flag, value)
}

func there(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}
