package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/internal/shell"
)

// caInitFlags are the flags of "ca init".
type caInitFlags struct {
	dir, organization           string
	plan, algorithm             string
	password, rootPassword      passwordFlags
	plain, timestamping, signed bool
	dry                         bool

	// passwords that were typed at the terminal
	typedRoot, typedIssuing []byte
}

func newCAInit() *cobra.Command {
	f := &caInitFlags{rootPassword: passwordFlags{prefix: "root-"}}
	cmd := &cobra.Command{
		Use:   "init [--dir DIR | --plan FILE]",
		Short: "Make a root and an issuing certificate with their keys",
		Long: "init makes a P-384 root that is valid for ten years, and an issuing certificate below it with a P-256\n" +
			"key. The issuing certificate is valid for five years, has path length 0 and signs only code-signing\n" +
			"certificates. The keys are encrypted (PKCS#8) with passwords from the environment or from files. In a\n" +
			"terminal, init asks for each value that no flag sets.\n\n" +
			"With --plan, names, validities, algorithms and key backends come from one YAML file, which can be\n" +
			"reviewed beforehand. The keys can be in a KMS or HSM.\n\n" +
			"Every certificate is linted before its TBSCertificate is signed, and again with its signature. init\n" +
			"overwrites no file, and writes the chain last. A transcript records every input, digest and output;\n" +
			"see \"mayfly ca replay\".\n\n" +
			"The running CA does not need root-key.pem. Keep this file offline: it signs the next issuing\n" +
			"certificate.",
		Example: "  CA_PASSWORD=... mayfly ca init --dir ca --organization \"Example Inc.\" " +
			"--password-env CA_PASSWORD\n  mayfly ca init --plan plan.yaml --dry-run",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return f.run(cmd) }),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.dir, "dir", "", "directory for the files; made if it does not exist")
	fl.StringVar(&f.plan, "plan", "", "YAML file that describes what to make, instead of the other flags")
	fl.StringVar(&f.organization, "organization", "mayfly", "organization in the names of both certificates")
	fl.StringVar(&f.algorithm, "algorithm", "", "algorithm of both keys, instead of ecdsa-p384 and ecdsa-p256: "+
		strings.Join(ceremony.Algorithms(), ", ")+"; ml-dsa-* is experimental")
	cli.CompleteWords(cmd, "algorithm", ceremony.Algorithms()...)
	f.password.register(cmd, "the keys")
	f.rootPassword.register(cmd, "the root's key, if it is a different one")
	fl.BoolVar(&f.plain, "no-password", false, "write the keys without encryption")
	fl.BoolVar(&f.timestamping, "timestamping", false,
		"make the chain of a timestamp authority (RFC 3161) instead of a CA")
	fl.BoolVar(&f.signed, "sign-transcript", false, "sign the transcript with the root's key")
	fl.BoolVar(&f.dry, "dry-run", false, "print the files and the certificates; sign and write nothing")
	return cmd
}

func (f *caInitFlags) run(cmd *cobra.Command) error {
	o := ceremonyOptions(cmd, f.dry)
	plan := &ceremony.Plan{}
	if f.plan != "" {
		if f.dir != "" || f.password.named() || f.rootPassword.named() || f.plain || f.timestamping || f.signed ||
			f.algorithm != "" || cmd.Flags().Changed("organization") {
			return cli.Usage("--plan sets everything; the only other flag it allows is --dry-run")
		}
		data, err := config.Decode(config.File{Path: f.plan}, plan, plan.Check)
		if err != nil {
			return err
		}
		in := ceremony.FileInput(f.plan, data)
		o.PlanFile = &in
	} else {
		if err := f.complete(cmd); err != nil {
			return err
		}
		plan = f.planned()
		if err := plan.Check(); err != nil {
			if s, ok := errors.AsType[*fault.Setting](err); ok && slices.Contains(s.Path, "generate") {
				return cli.Usage("--algorithm: %s; %s", s.Problem, s.Fix)
			} else if ok { // no other flag can be wrong
				return cli.Usage("--organization: %s; %s", s.Problem, s.Fix)
			}
			return err
		}
		if f.typedRoot != nil {
			o.Password = func(s *secret.Source) ([]byte, error) {
				if s == plan.Root.Key.File.Password {
					return f.typedRoot, nil
				}
				return f.typedIssuing, nil
			}
		}
	}
	r, err := plan.Run(cmd.Context(), o)
	if err != nil {
		if f.plan != "" {
			at := config.LocateIn(config.File{Path: f.plan, Data: []byte(o.PlanFile.Content)}, &ceremony.Plan{}, err)
			if _, ok := errors.AsType[config.Problems](at); ok {
				return cli.Misconfigured(at)
			}
		}
		return err
	}
	if err := concluded(cmd, r, f.dry); err != nil || f.dry {
		return err
	}
	return f.print(cmd.OutOrStdout(), plan, r)
}

// complete checks the flags. In a terminal, it asks for the values that no flag sets.
func (f *caInitFlags) complete(cmd *cobra.Command) error {
	passwords := f.password.named() || f.plain
	if ask := newAsker(cmd); (f.dir == "" || !passwords) && ask.possible() {
		if err := f.guide(cmd, ask); err != nil {
			return err
		}
		passwords = true
	}
	switch {
	case f.dir == "":
		return missing("dir", "DIR")
	case !passwords, f.password.named() && f.plain && f.typedRoot == nil, f.plain && f.rootPassword.named():
		return cli.Usage("write one of --password-env NAME, --password-file FILE and --no-password")
	case f.typedRoot != nil || f.plain:
		return nil
	}
	for _, p := range []*passwordFlags{&f.password, &f.rootPassword} {
		if p.named() {
			if _, err := p.read(); err != nil {
				return err
			}
		}
	}
	return nil
}

// passwordVariable is the environment variable in the printed configuration if the password was typed.
const passwordVariable = "MAYFLY_CA_PASSWORD" //nolint:gosec // the name of a variable

// guide asks for the values that no flag sets.
func (f *caInitFlags) guide(cmd *cobra.Command, ask *asker) error {
	fmt.Fprint(ask.out,
		"This makes a root and an issuing certificate with their keys. Nothing is written before the last "+
			"question, and no file is replaced.\n\n")
	var err error
	if !cmd.Flags().Changed("organization") {
		if f.organization, err = ask.ask("Organization in the certificates", f.organization); err != nil {
			return err
		}
	}
	if f.dir == "" {
		if f.dir, err = ask.ask("Directory for the files", "ca"); err != nil {
			return err
		}
	}
	if !f.password.named() && !f.plain {
		fmt.Fprintln(ask.out,
			"\nThe root's key is kept offline, the CA's key is used by the running CA: two passwords.")
		if f.typedRoot, err = ask.newPassword("Password of the root's key"); err != nil {
			return err
		}
		if f.typedIssuing, err = ask.newPassword("Password of the CA's key"); err != nil {
			return err
		}
		f.password.source.Env = passwordVariable
	}
	plan := f.planned()
	fmt.Fprintf(ask.out, "\nThe root:                %s, valid for ten years; its key, %s, goes offline\n"+
		"The issuing certificate: %s, valid for five years\nFiles:                   %s\n\n",
		plan.Root.Subject.CommonName, plan.Root.Key.File.Key, plan.Issuing.Subject.CommonName, f.dir)
	return ask.confirm("Make them?")
}

// planned returns the plan that the flags describe.
func (f *caInitFlags) planned() *ceremony.Plan {
	in := func(name string) string { return filepath.Join(f.dir, name) }
	part := func(name, algorithm, key, chain string) ceremony.Part {
		return ceremony.Part{
			Subject:  ceremony.Subject{Organization: f.organization, CommonName: f.organization + " " + name},
			Generate: cmp.Or(f.algorithm, algorithm), Unencrypted: f.plain,
			Key: backends.Table{File: &file.Settings{Key: in(key), Chain: in(chain)}},
		}
	}
	p := &ceremony.Plan{
		Root:           part("root", "ecdsa-p384", "root-key.pem", "root.pem"),
		Issuing:        part("issuing", "ecdsa-p256", "ca-key.pem", "chain.pem"),
		SignTranscript: f.signed,
	}
	if f.timestamping {
		p.Purpose = ceremony.Timestamping
		p.Root = part("timestamp root", "ecdsa-p384", "root-key.pem", "root.pem")
		p.Issuing = part("timestamp authority", "ecdsa-p256", "tsa-key.pem", "chain.pem")
	}
	if !f.plain {
		root, issuing := f.password.source, f.password.source
		if f.rootPassword.named() {
			root = f.rootPassword.source
		}
		p.Root.Key.File.Password, p.Issuing.Key.File.Password = &root, &issuing
	}
	return p
}

// print prints where the keys are, the block for mayfly.yaml and the next command. The output is YAML: everything
// except the block is a comment.
func (f *caInitFlags) print(out io.Writer, plan *ceremony.Plan, r *ceremony.Result) error {
	var text bytes.Buffer
	if err := printWritten(&text, r); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		fmt.Fprint(out, "# ", line)
	}
	chain := plan.Issuing.Key.ChainFile()
	if root := plan.Root.Key.File; root != nil {
		at, err := filepath.Abs(root.Key)
		if err != nil {
			return err
		}
		fmt.Fprintf(out,
			"#\n# The root's key is %s: move it to a medium that is kept offline, with a copy elsewhere.\n", at)
	}
	if plan.Purpose == ceremony.Timestamping {
		_, err := fmt.Fprintf(out, "# next: mayfly ca check --timestamping %s\n", shell.Quote(chain))
		return err
	}
	if f.typedIssuing != nil {
		fmt.Fprintf(out, "# The CA takes the password that you typed from the environment variable %s.\n",
			passwordVariable)
	}
	block, err := config.KeyBackend(plan.Issuing.Key)
	if err != nil {
		return err
	}
	if _, err = fmt.Fprintf(out, "# next: mayfly ca check %s, then put this into mayfly.yaml\n%s",
		shell.Quote(chain), block); err != nil || !ca.HasMLDSA(r.Chain) {
		return err
	}
	_, err = fmt.Fprint(out, "# ML-DSA keys in a chain are experimental: few verifiers know them (docs/keys-mldsa.md)\n"+
		"experimental:\n  mldsa_ca: true\n")
	return err
}
