package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/shell"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/setup"
)

// initFlags are the flags of "init".
type initFlags struct {
	plan                   setup.Plan
	private                setup.Private
	sigstore               bool
	issuer                 setup.Issuer
	password, rootPassword passwordFlags
	plain                  bool
}

func newInit(o *cli.Common) *cobra.Command {
	f := &initFlags{rootPassword: passwordFlags{prefix: "root-"}}
	cmd := &cobra.Command{
		Use:   "init [--private-sigstore] [DIR]",
		Short: "Write the configuration of a new server",
		Long: "init writes a directory with mayfly.yaml and identity.yaml, both with comments, for a server in\n" +
			"production: TLS, a log of certificates, a journal, a canary. Then \"mayfly ca init\" makes the key and\n" +
			"the chain, and the server can start: init prints both commands. In a terminal, init asks for each\n" +
			"value that no flag sets.\n\n" +
			"With --private-sigstore, init makes a complete Sigstore: also the keys and chains of the CA and of a\n" +
			"timestamp authority, both logs, and a TUF repository that gives clients all they need. The server can\n" +
			"start at once. The keys that it does not need are in a directory of their own (--offline): move them\n" +
			"to a medium that is kept offline.\n\n" +
			"The configuration is checked before it is written. init overwrites no file.",
		Example: "  mayfly init /var/lib/mayfly --url https://ca.example.com --organization \"Example Inc.\" \\\n" +
			"    --issuer https://accounts.example.com --owner example.com --tls-certificate tls.pem --tls-key " +
			"tls-key.pem\n" +
			"  mayfly init ca --url https://ca.example.com --profile github-workflow --owner example --acme\n" +
			"  mayfly init --private-sigstore /var/lib/sigstore --url https://sigstore.example.com " +
			"--organization Example \\\n" +
			"    --issuer https://accounts.example.com --owner example.com --acme --password-file " +
			"/etc/sigstore/password \\\n" +
			"    --offline /media/stick --root-password-env ROOT_PASSWORD",
		Args: cobra.MaximumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if f.sigstore { // the log that is made has messages of its own
				if _, err := o.NewLogger(cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			return f.run(cmd, args)
		}),
	}
	fl := cmd.Flags()
	p := &f.plan
	fl.BoolVar(&f.sigstore, "private-sigstore", false, "make a complete private Sigstore, with its keys")
	fl.StringVar(&p.URL, "url", "", "URL at which clients reach the server, such as https://ca.example.com")
	fl.StringVar(&p.Organization, "organization", "", "name of the operator")
	fl.StringVar(&p.State, "state", "",
		"directory for what the server writes: journal, logs, state (default: DIR)")
	fl.StringVar(&f.issuer.URL, "issuer", "", "URL of the identity provider whose tokens get certificates")
	fl.StringVar(&f.issuer.Profile, "profile", "",
		"profile of the tokens of a CI system (\"mayfly config profiles\"); without it, certificates "+
			"name e-mail addresses")
	fl.StringVar(&f.issuer.Owner, "owner", "",
		"whose tokens get certificates: organization of GitHub, group of GitLab, or domain of e-mail "+
			"addresses (default: all)")
	fl.StringVar(&f.issuer.ClientID, "client-id", "sigstore", "audience of the tokens")
	fl.StringVar(&f.issuer.Web, "web", "", "web address of a CI system that you run, such as https://git.example.com")
	fl.StringVar(&p.TLS.Certificate, "tls-certificate", "", "file with the TLS certificate of the server (PEM)")
	fl.StringVar(&p.TLS.Key, "tls-key", "", "file with the key of --tls-certificate (PEM)")
	fl.BoolVar(&p.TLS.ACME, "acme", false, "get the TLS certificate from an ACME CA")
	fl.StringVar(&p.TLS.Directory, "acme-directory", "", "URL of the directory of an ACME CA (default: Let's Encrypt)")
	fl.StringVar(&p.TLS.Email, "acme-email", "", "e-mail address to which the ACME CA sends warnings")
	fl.StringVar(&p.TLS.CABundle, "acme-ca-bundle", "", "file with the CA certificates of the ACME CA's own TLS (PEM)")
	fl.BoolVar(&p.TLS.Proxy, "proxy", false, "a proxy on this machine has the TLS certificate")
	fl.StringVar(&p.Listen, "listen", "",
		"address for clients, HOST:PORT, or systemd:api for the socket of mayfly.socket (default: all addresses and\n"+
			"the port of --url; with --proxy, loopback)")
	fl.StringVar(&p.Admin, "admin", "", "address for operators, HOST:PORT (default: 127.0.0.1:2112)")
	fl.StringVar(&p.CAKey, "ca-key", "", "URI of the CA's key in a key management service (default: a file)")
	fl.StringVar(&f.private.TSAKey, "tsa-key", "",
		"URI of the key of the timestamp authority in a key management service (default: a file)")
	fl.StringVar(&f.private.RekorKey, "rekor-key", "",
		"URI of the key of the log of signatures in a key management service (default: the log makes its key)")
	fl.StringArrayVar(&f.private.TimeServers, "time-server", nil,
		"time server with which the timestamp authority compares its clock (nts://HOST or ntp://HOST); may be repeated")
	fl.StringVar(&f.private.Offline, "offline", "",
		"directory for the keys that the server does not need (default: DIR/offline)")
	f.password.register(cmd, "the keys that the server reads from files")
	f.rootPassword.register(cmd, "the keys in --offline")
	fl.BoolVar(&f.plain, "no-password", false, "keys for which no password is named are not encrypted")
	cli.CompleteWords(cmd, "profile", profileNames()...)
	return cmd
}

func (f *initFlags) run(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		f.plan.Dir = args[0]
	}
	if ask := newAsker(cmd); ask.possible() {
		if err := f.guide(ask); err != nil {
			return err
		}
	}
	if f.plan.Dir == "" {
		return cli.Usage("the directory is missing; write mayfly init DIR")
	}
	if err := f.complete(); err != nil {
		return err
	}
	w, err := f.plan.Write(cmd.Context())
	if s, ok := errors.AsType[*fault.Setting](err); ok && s.File == "" {
		return cli.Usage("%s", f.flagged(s))
	}
	if err != nil {
		return err
	}
	for _, one := range w.Warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "mayfly: warning:", one)
	}
	return f.print(cmd.OutOrStdout(), w)
}

// flagged returns a wrong setting with the flag that sets it.
func (f *initFlags) flagged(s *fault.Setting) string {
	name := strings.Join(s.Path, ".")
	switch name {
	case "":
		return s.Error()
	case "dir":
		return s.Problem + "; " + s.Fix
	}
	return "--" + name + ": " + s.Problem + "; " + s.Fix
}

// complete derives what the flags leave out.
func (f *initFlags) complete() error {
	if f.issuer.URL != "" || f.issuer.Profile != "" {
		f.plan.Issuers = []setup.Issuer{f.issuer}
	}
	f.plan.URL = strings.TrimSuffix(f.plan.URL, "/")
	if f.sigstore {
		f.plan.Private = &f.private
		f.private.Tool, f.private.Iterations = "mayfly "+version.Read().Version, keyIterations
	} else if f.private.TSAKey != "" || f.private.RekorKey != "" || f.private.Offline != "" || f.rootPassword.named() {
		return cli.Usage("--tsa-key, --rekor-key, --offline and the flags for the root password need " +
			"--private-sigstore")
	}
	if err := f.secrets(); err != nil {
		return err
	}
	if f.password.named() {
		f.plan.Password = &f.password.source
	}
	if f.rootPassword.named() {
		f.private.RootPassword = &f.rootPassword.source
	}
	return nil
}

// secrets checks that each key in a file has a password, or explicitly none.
func (f *initFlags) secrets() error {
	outside := f.plan.CAKey != "" && !f.sigstore
	switch {
	case outside && (f.password.named() || f.plain):
		return cli.Usage("--ca-key names a key outside this machine; the flags for passwords belong to a key in a file")
	case f.plain && f.password.named() && (!f.sigstore || f.rootPassword.named()):
		return cli.Usage("write one of --password-env NAME, --password-file FILE and --no-password")
	case !outside && !f.plain && !f.password.named():
		return cli.Usage("write one of --password-env NAME, --password-file FILE and --no-password: where the server " +
			"gets the password of its keys")
	case f.sigstore && !f.plain && !f.rootPassword.named():
		return cli.Usage("write one of --root-password-env NAME, --root-password-file FILE and --no-password: the " +
			"password of the keys in --offline")
	}
	return nil
}

// The answers to the question for the identity provider.
const (
	answerPeople = "people"
	answerGitHub = "github"
	answerGitLab = "gitlab"
)

// guide asks for the values that no flag sets. Each question says what an empty answer means.
func (f *initFlags) guide(ask *asker) error {
	p := &f.plan
	if p.Dir != "" && p.URL != "" && p.Organization != "" && (f.issuer.URL != "" || f.issuer.Profile != "") {
		return nil // the rest has defaults, or is an error that names the flag
	}
	fmt.Fprint(ask.out,
		"This writes the configuration of a new server. Nothing is written before the last question, and "+
			"no file is replaced.\n\n")
	for _, q := range []struct {
		at                 *string
		question, fallback string
	}{
		{&p.Dir, "Directory of the server", "mayfly"},
		{&p.Organization, "Name of the organization that runs it", "Example"},
		{&p.URL, "URL at which clients will reach it", "https://ca.example.com"},
	} {
		if *q.at != "" {
			continue
		}
		var err error
		if *q.at, err = ask.ask(q.question, q.fallback); err != nil {
			return err
		}
	}
	if err := f.guideIssuer(ask); err != nil {
		return err
	}
	if err := f.guideTLS(ask); err != nil {
		return err
	}
	if (p.CAKey == "" || f.sigstore) && !f.password.named() && !f.plain {
		f.password.source.Env = passwordVariable
	}
	if env := f.password.source.Env; env != "" {
		fmt.Fprintf(ask.out, "\nThe server gets the password of its keys from the environment variable %s.\n", env)
	}
	fmt.Fprintf(ask.out, "\nFiles: %s\n\n", p.Dir)
	return ask.confirm("Write them?")
}

func (f *initFlags) guideIssuer(ask *asker) error {
	i := &f.issuer
	if i.URL != "" || i.Profile != "" {
		return nil
	}
	kind, err := ask.ask("Who signs? people (with e-mail addresses), github (workflows), gitlab (pipelines), or a "+
		"profile of \"mayfly config profiles\"", answerPeople)
	if err != nil {
		return err
	}
	owner := ""
	switch kind {
	case answerPeople:
		owner = "Domain of their e-mail addresses (empty: every domain)"
		i.URL, err = ask.ask("URL of their identity provider (the issuer of its tokens)",
			"https://accounts.example.com")
	case answerGitHub:
		i.Profile, i.URL, owner = setup.GitHub, setup.GitHubURL,
			"Organization whose workflows get certificates (empty: all)"
	case answerGitLab:
		i.Profile, owner = setup.GitLab, "Group whose pipelines get certificates (empty: all)"
		i.URL, err = ask.ask("URL of GitLab", setup.GitLabURL)
	default:
		if !slices.Contains(profileNames(), kind) {
			return cli.Usage("%q is not a profile; write one of %s", kind, strings.Join(profileNames(), ", "))
		}
		i.Profile = kind
		i.URL, err = ask.ask("URL of the provider (the issuer of its tokens; empty: the public one)", "")
	}
	if err != nil || owner == "" {
		return err
	}
	i.Owner, err = ask.ask(owner, "")
	return err
}

func (f *initFlags) guideTLS(ask *asker) error {
	t := &f.plan.TLS
	if !strings.HasPrefix(f.plan.URL, "https:") || t.Certificate != "" || t.Key != "" || t.ACME || t.Proxy {
		return nil
	}
	kind, err := ask.ask("Where is the TLS certificate from? acme (Let's Encrypt), proxy (a proxy on this machine has "+
		"it), or the path of a file", "acme")
	switch {
	case err != nil:
		return err
	case kind == "acme":
		t.ACME = true
	case kind == "proxy":
		t.Proxy = true
	default:
		t.Certificate = kind
		t.Key, err = ask.ask("Path of its key", "")
	}
	return err
}

// print prints what to do next. The commands can be copied.
func (f *initFlags) print(out io.Writer, w *setup.Written) error {
	p := &f.plan
	if p.Private != nil {
		return f.printPrivate(out, w)
	}
	fmt.Fprintf(out, "# %s has %s and %s: read both.\n", p.Dir, setup.ConfigFile, setup.IssuersFile)
	if p.CAKey != "" {
		fmt.Fprintf(out, "# The key of the CA is %s. Make its chain from a plan: docs/ceremony.md.\n"+
			"# The chain belongs in %s.\n", p.CAKey, filepath.Join(p.Dir, setup.CADir, "chain.pem"))
	} else {
		fmt.Fprintf(out,
			"# The key and the chain of the CA, then the server:\nmayfly ca init --dir %s --organization %s%s\n",
			shell.Quote(filepath.Join(p.Dir, setup.CADir)), shell.Quote(p.Organization), f.passwordFlags())
	}
	_, err := fmt.Fprintf(out, "mayfly serve --config %s\n# In a second terminal, what works and what does not:\n"+
		"mayfly doctor --config %s\n", shell.Quote(w.Config), shell.Quote(w.Config))
	return err
}

// printPrivate prints what to do with a private Sigstore.
func (f *initFlags) printPrivate(out io.Writer, w *setup.Written) error {
	p := &f.plan
	in := func(name string) string { return filepath.Join(p.Dir, name) }
	fmt.Fprintf(out, "# %s is a complete Sigstore: read %s and %s.\n", p.Dir, setup.ConfigFile, setup.IssuersFile)
	fmt.Fprintf(out,
		"# Move the keys in %s to a medium that is kept offline, with a copy elsewhere: the roots of both\n"+
			"# chains, and the keys of the TUF roles root and targets. The server does not need them.\n", w.Offline)
	if s := p.Password; s != nil && s.Env != "" {
		fmt.Fprintf(out, "# The server gets the password of its keys from the environment variable %s.\n", s.Env)
	}
	fmt.Fprintf(out, "# Clients need %s and the URL of the TUF repository, or the files in %s.\n",
		in(setup.TrustDir+"/1.root.json"), in(setup.TrustDir))
	_, err := fmt.Fprintf(out, "mayfly serve --config %s\n# In a second terminal, what works and what does not:\n"+
		"mayfly doctor --config %s\n", shell.Quote(w.Config), shell.Quote(w.Config))
	return err
}

// passwordFlags returns the flags for the password of a key, for a command to copy.
func (f *initFlags) passwordFlags() string {
	switch {
	case f.password.source.Env != "":
		return " --password-env " + f.password.source.Env
	case f.password.source.File != "":
		return " --password-file " + shell.Quote(f.password.source.File)
	}
	return " --no-password"
}
