package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/find"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/node"
)

// findFlags are the flags of "find".
type findFlags struct {
	config, url, tlsCA       string
	digest, artifact, serial string
	identity, issuer         string
	after                    string
	limit                    int
	asJSON                   bool
	query                    find.Query
}

const findTimeout = 30 * time.Second

func newFind() *cobra.Command {
	f := &findFlags{}
	cmd := &cobra.Command{
		Use: "find {--url URL | --config FILE} {--artifact FILE | --digest DIGEST | --identity " +
			"NAME | --serial NUMBER}",
		Short: "Find who signed an artifact, or what an identity signed",
		Long: "find searches the logs of a CA: the certificates in its Certificate Transparency log and the\n" +
			"signatures in its log of signatures. --url asks a running CA; --config asks the CA of that file, or\n" +
			"reads the index itself if that CA is not running. The configuration needs find: {dir: index}\n" +
			"(docs/find.md).\n\n" +
			"Exit status: 0 entries were found, 3 none.",
		Example: "  mayfly find --url https://ca.example.com --artifact app.tar.gz\n" +
			"  mayfly find --config mayfly.yaml --identity alice@example.com --issuer " +
			"https://accounts.example.com --json",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			a, err := f.find(cmd)
			if err != nil {
				return err
			}
			if f.asJSON {
				err = cli.WriteJSON(cmd.OutOrStdout(), a)
			} else {
				err = a.Write(cmd.OutOrStdout())
			}
			if err == nil && len(a.Entries) == 0 {
				err = &cli.Error{Status: cli.ExitFound, Err: errors.New("mayfly: no entry was found")}
			}
			return err
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.url, "url", "", "URL of the CA: http(s)://HOST:PORT")
	fl.StringVar(&f.tlsCA, "tls-ca", "",
		"file with the CA certificates, PEM, that the TLS certificate of the CA must chain to (default: the system's)")
	fl.StringVar(&f.config, "config", "", "configuration file of the CA")
	fl.StringVar(&f.artifact, "artifact", "", "file whose SHA-256 was signed; \"-\" is standard input")
	fl.StringVar(&f.digest, "digest", "", "digest that was signed: sha256:HEX, sha384:HEX or sha512:HEX")
	fl.StringVar(&f.identity, "identity", "", "subject alternative name, exactly as the certificate has it")
	fl.StringVar(&f.issuer, "issuer", "", "with --identity: OpenID Connect issuer in the certificate")
	fl.StringVar(&f.serial, "serial", "", "serial number of a certificate, hexadecimal")
	fl.IntVar(&f.limit, "limit", find.DefaultLimit, fmt.Sprintf("largest number of entries, at most %d", find.MaxLimit))
	fl.StringVar(&f.after, "after", "", "value of next in the previous answer")
	fl.BoolVar(&f.asJSON, "json", false, "print JSON")
	return cmd
}

// check makes the query.
func (f *findFlags) check() (err error) {
	if (f.url == "") == (f.config == "") {
		return cli.Usage("write one of --url and --config")
	}
	if f.artifact != "" && f.digest != "" {
		return cli.Usage("--artifact and --digest exclude each other")
	}
	f.query = find.Query{Identity: f.identity, Issuer: f.issuer, Limit: f.limit, After: f.after}
	if f.limit < 1 || f.limit > find.MaxLimit {
		return cli.Usage("--limit %d: write a number from 1 to %d", f.limit, find.MaxLimit)
	}
	if f.digest != "" {
		if f.query.Digest, err = find.ParseDigest(strings.TrimSpace(f.digest)); err != nil {
			return cli.Usage("--digest: %v", err)
		}
	}
	if f.serial != "" {
		if f.query.Serial, err = find.ParseSerial(strings.TrimSpace(f.serial)); err != nil {
			return cli.Usage("--serial: %v", err)
		}
	}
	if f.artifact == "" {
		if err := f.query.Check(); err != nil {
			return cli.Usage("%v", err)
		}
	}
	return nil
}

func (f *findFlags) find(cmd *cobra.Command) (*find.Answer, error) {
	if f.artifact != "" {
		sum, err := fileDigest(cmd.InOrStdin(), f.artifact)
		if err != nil {
			return nil, err
		}
		f.query.Digest = sum
		if err := f.query.Check(); err != nil {
			return nil, cli.Usage("%v", err)
		}
	}
	url := f.url
	if f.config != "" {
		cfg, _, err := config.Load(f.config)
		if err != nil {
			return nil, cli.Misconfigured(err)
		}
		if cfg.Find == nil {
			return nil, cli.Usage("%s has no index; write find: {dir: index} into it", f.config)
		}
		a, err := f.inFile(cmd, cfg)
		if !errors.Is(err, find.ErrInUse) {
			return a, err
		}
		url = cfg.PublicURL()
	}
	o := httpclient.Options{Timeout: findTimeout, UserAgent: version.UserAgent()}
	if f.tlsCA != "" {
		var err error
		if o.Roots, err = pemfile.LoadPool(f.tlsCA); err != nil {
			return nil, fmt.Errorf("--tls-ca: %w", err)
		}
	}
	return find.Ask(cmd.Context(), httpclient.New(o), url, f.query)
}

// inFile searches the index of a CA that does not run.
func (f *findFlags) inFile(cmd *cobra.Command, cfg *config.Config) (_ *find.Answer, err error) {
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	defer progress.Clear()
	x, err := find.Open(*cfg.Find, find.Options{
		Sources: func() ([]find.Source, error) { return node.FindSources(cfg) },
		Progress: func(log string, read,
			size uint64,
		) {
			progress.Showf("log %s: %d of %d entries read", log, read, size)
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	if err := x.Update(cmd.Context()); err != nil {
		return nil, err
	}
	return x.Find(cmd.Context(), f.query)
}

// fileDigest returns the SHA-256 of a file of any size.
func fileDigest(in io.Reader, name string) (sum []byte, err error) {
	if name != "-" {
		file, err := os.Open(name) //nolint:gosec // the caller names the file
		if err != nil {
			return nil, err
		}
		defer file.Close() //nolint:errcheck // only read
		in = file
	}
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
