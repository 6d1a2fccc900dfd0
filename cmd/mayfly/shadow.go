package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/listen"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/shadow"
)

type shadowFlags struct {
	config, dir                     string
	upstream, upstreamGRPC          string
	candidate, candidateGRPC, share string
	listen, listenGRPC, listenAdmin string
	tlsCA                           string
	forwardedFor, values            bool
	queue                           int
}

func newShadow(o *cli.Common) *cobra.Command {
	f := &shadowFlags{}
	cmd := &cobra.Command{
		Use:   "shadow --upstream URL --config FILE --dir DIR",
		Short: "Compare a running CA with a configuration, request by request; then move its callers over",
		Long: "shadow stands in front of a running Fulcio or mayfly. Every request goes on to it unchanged, and its\n" +
			"answer goes back unchanged. Beside that, shadow decides each request for a certificate as the CA of\n" +
			"FILE would, without a key, and records in DIR what differs. \"mayfly shadow report DIR\" shows it.\n\n" +
			"With --candidate, \"mayfly shadow serve DIR 5%\" sends the requests of 5 % of all identities to a\n" +
			"running mayfly, without a restart; \"mayfly shadow serve DIR 0%\" is the way back. If the candidate\n" +
			"fails before it has answered, the upstream answers.\n\n" +
			"docs/shadow.md describes the move.",
		Example: "  mayfly shadow --upstream http://127.0.0.1:5555 --upstream-grpc http://127.0.0.1:5554 --config " +
			"mayfly.yaml --dir shadow",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			log, err := o.NewLogger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return f.run(cmd.Context(), log)
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.upstream, "upstream", "", "REST API of the running CA: http(s)://HOST:PORT (required)")
	fl.StringVar(&f.upstreamGRPC, "upstream-grpc", "", "its gRPC API (default: as --upstream)")
	fl.StringVar(&f.config, "config", "", "configuration to compare with; private keys need not exist (required)")
	fl.StringVar(&f.dir, "dir", "", "directory for the records, at most 16 MB (required)")
	fl.StringVar(&f.candidate, "candidate", "", "REST API of the mayfly that callers are moved to")
	fl.StringVar(&f.candidateGRPC, "candidate-grpc", "", "its gRPC API (default: as --candidate)")
	fl.StringVar(&f.share, "serve", "", "share of identities that the candidate serves, unless \"mayfly shadow "+
		"serve\" has written another one into DIR")
	fl.StringVar(&f.listen, "listen", "127.0.0.1:5555", "address for REST and gRPC, without TLS")
	fl.StringVar(&f.listenGRPC, "listen-grpc", "", "second address for REST and gRPC, without TLS")
	fl.StringVar(&f.listenAdmin, "listen-admin", "", "address for /metrics, /livez and /readyz")
	fl.StringVar(&f.tlsCA, "tls-ca", "", "file with the CA certificates, PEM, that the TLS certificates of upstream "+
		"and candidate must chain to (default: the system's)")
	fl.BoolVar(&f.forwardedFor, "forwarded-for", false, "append the address of the client to X-Forwarded-For")
	fl.BoolVar(&f.values, "show-values", false, "record the values that differ, which may be names, and not digests")
	fl.IntVar(&f.queue, "queue", shadow.DefaultQueue>>20, "memory for requests that wait to be compared, in MiB")
	cmd.AddCommand(newShadowReport(), newShadowServe())
	return cmd
}

// sites reads the flags about the two CAs.
func (f *shadowFlags) sites() (upstream shadow.Site, candidate *shadow.Site, err error) {
	var roots *x509.CertPool
	if f.tlsCA != "" {
		data, err := os.ReadFile(f.tlsCA)
		if err == nil {
			roots, err = pemfile.Pool(data)
		}
		if err != nil {
			return upstream, nil, cli.Usage("--tls-ca %s: %w", f.tlsCA, err)
		}
	}
	if upstream, err = shadow.ParseSite(f.upstream, f.upstreamGRPC); err != nil {
		return upstream, nil, cli.Usage("--upstream: %w", err)
	}
	upstream.Roots = roots
	if f.candidate == "" {
		return upstream, nil, nil
	}
	c, err := shadow.ParseSite(f.candidate, f.candidateGRPC)
	if err != nil {
		return upstream, nil, cli.Usage("--candidate: %w", err)
	}
	c.Roots = roots
	return upstream, &c, nil
}

// plan writes the share of --serve, unless there is a plan.
func (f *shadowFlags) plan() error {
	if f.share == "" {
		return nil
	}
	if f.candidate == "" {
		return cli.Usage("--serve needs --candidate URL")
	}
	share, err := shadow.ParseShare(f.share)
	if err != nil {
		return cli.Usage("--serve: %w", err)
	}
	if _, exists, err := shadow.ReadPlan(f.dir); exists || err != nil {
		return err
	}
	return shadow.WritePlan(f.dir, shadow.Plan{Share: share})
}

func (f *shadowFlags) run(ctx context.Context, log *slog.Logger) (err error) {
	if f.upstream == "" || f.config == "" || f.dir == "" {
		return cli.Usage("write --upstream URL, --config FILE and --dir DIR")
	}
	if f.queue < 1 || f.queue > 64<<10 {
		return cli.Usage("--queue %d: write a number of MiB from 1 to 65536", f.queue)
	}
	upstream, candidate, err := f.sites()
	if err != nil {
		return err
	}
	preview, err := node.OpenPreview(node.PreviewOptions{
		Path: f.config, Processors: shadow.Processors(), Logger: log,
	})
	if err != nil {
		return cli.Misconfigured(err)
	}
	defer preview.Wait()
	for _, w := range preview.Warnings() {
		log.Warn("configuration", "warning", w.String())
	}
	store, err := shadow.OpenStore(f.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := f.plan(); err != nil {
		return err
	}
	l, err := f.open()
	if err != nil {
		return &cli.Error{Status: cli.ExitFailed, Err: err}
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	preview.Start(background)
	p := shadow.New(shadow.Options{
		Upstream: upstream, Candidate: candidate, Store: store, Logger: log,
		Own: shadow.Own{
			Handler: preview.Handler(), Chain: preview.Chain(), Logged: preview.Logged(), Config: preview.Digest(),
		},
		ForwardedFor: f.forwardedFor, Values: f.values, Queue: int64(f.queue) << 20,
		Collectors: preview.Collectors(),
	})
	for _, one := range l.API {
		log.Info("listening", "address", one.Addr().String(), "upstream", f.upstream)
	}
	if l.Admin != nil {
		log.Info("listening for the operator", "address", l.Admin.Addr().String())
	}
	return p.Run(ctx, l, f.dir)
}

// open opens the listeners.
func (f *shadowFlags) open() (l shadow.Listeners, err error) {
	defer func() {
		if err != nil {
			for _, open := range l.API {
				_ = open.Close() // it was not used
			}
		}
	}()
	for _, address := range []string{f.listen, f.listenGRPC} {
		if address == "" {
			continue
		}
		one, err := listen.Open(address)
		if err != nil {
			return l, err
		}
		l.API = append(l.API, one)
	}
	if f.listenAdmin != "" {
		l.Admin, err = listen.Open(f.listenAdmin)
	}
	return l, err
}

func newShadowReport() *cobra.Command {
	var asJSON, asHTML bool
	cmd := &cobra.Command{
		Use:   "report DIR...",
		Short: "Show what a shadow found: how many requests are equal, and each kind of difference",
		Long: "report sums up the records of one shadow or of several, also while they run. A difference has its\n" +
			"number, an example, and the row of docs/compatibility.md that explains it, if there is one.\n\n" +
			"Exit status: 0 every difference is explained, 3 some are not, or nothing was compared.",
		Example: "  mayfly shadow report shadow\n  mayfly shadow report shadow-1 shadow-2 --html > report.html",
		Args:    cobra.MinimumNArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if asJSON && asHTML {
				return cli.Usage("--json and --html exclude each other")
			}
			r, err := shadow.ReadReport(args...)
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				err = cli.WriteJSON(cmd.OutOrStdout(), r)
			case asHTML:
				err = r.WriteHTML(cmd.OutOrStdout())
			default:
				err = r.Write(cmd.OutOrStdout())
			}
			if err == nil && !r.Agrees() {
				err = &cli.Error{Status: cli.ExitFound, Err: fmt.Errorf(
					"mayfly: %d requests were compared, and %d differ without an explanation", r.Compared, r.Different)}
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&asHTML, "html", false, "print an HTML page")
	return cmd
}

func newShadowServe() *cobra.Command {
	var identities []string
	cmd := &cobra.Command{
		Use:   "serve DIR SHARE",
		Short: "Say which share of the identities the candidate of a shadow serves",
		Long: "serve changes what a running shadow sends to its candidate, within a second and without a restart.\n" +
			"SHARE is a percentage of all identities, from 0% to 100%: an identity stays with the candidate while\n" +
			"the share grows. \"serve DIR 0%\" is the way back: all requests go to the upstream.",
		Example: "  mayfly shadow serve shadow 0% --identity https://accounts.example.com\n" +
			"  mayfly shadow serve shadow 25%\n  mayfly shadow serve shadow 0%",
		Args: cobra.ExactArgs(2),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			share, err := shadow.ParseShare(args[1])
			if err != nil {
				return cli.Usage("%w", err)
			}
			p := shadow.Plan{Share: share}
			for _, one := range identities {
				issuer, subject, _ := strings.Cut(one, " ")
				p.Subjects = append(p.Subjects, shadow.Chosen{Issuer: issuer, Subject: subject})
			}
			if err := shadow.WritePlan(args[0], p); err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), p)
			return err
		}),
	}
	cmd.Flags().StringArrayVar(&identities, "identity", nil, "serve these identities in any case: \"ISSUER\" or "+
		"\"ISSUER SUBJECT\", as in tokens; may be repeated")
	return cmd
}
