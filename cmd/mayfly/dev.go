package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/dev/idp"
	"github.com/mayfly-ca/mayfly/dev/tsa"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/trust"
)

// selfTestEmail is the identity that "mayfly dev" issues its first certificate to.
const selfTestEmail = "self-test@mayfly.invalid"

type devFlags struct {
	dir                    string
	http, grpc, admin, idp string
}

func newDev(o *common) *cobra.Command {
	f := &devFlags{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole CA on this machine, with nothing to configure",
		Long: "dev runs a CA, an embedded Certificate Transparency log, a small OpenID Connect provider and a timestamp authority on loopback. Keys, log and\n" +
			"trust material live in one directory; the next start goes on with them. When it can issue, it proves it and prints\n" +
			"lines to copy. The provider signs in whoever asks: it is for development only and listens on loopback only.",
		Example: "  mayfly dev\n  mayfly dev --dir /tmp/ca --http 127.0.0.1:8080 --grpc off",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			return dev(cmd.Context(), o, f, streams{cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()})
		}),
	}
	cmd.PersistentFlags().StringVar(&f.dir, "dir", ".mayfly-dev", "directory for keys, log and trust material")
	fl := cmd.Flags()
	fl.StringVar(&f.http, "http", "127.0.0.1:5555", "address for REST; port 0 picks a free one")
	fl.StringVar(&f.grpc, "grpc", "127.0.0.1:5554", "address for gRPC; the same as --http serves both on one port, \"off\" disables")
	fl.StringVar(&f.admin, "admin", "127.0.0.1:2112", "address for metrics and readiness; \"off\" disables")
	fl.StringVar(&f.idp, "idp", "127.0.0.1:5556", "loopback address for the OpenID Connect provider and the timestamp authority")
	cmd.AddCommand(newDevToken(f))
	return cmd
}

func dev(ctx context.Context, o *common, f *devFlags, std streams) error {
	began := time.Now()
	log, err := o.logger(std.err)
	if err != nil {
		return err
	}
	state, err := openState(f.dir)
	if err != nil {
		return err
	}
	defer state.close()
	listeners, idpListener, err := f.listen()
	if err != nil {
		return err
	}
	state.Issuer = "http://" + idpListener.Addr().String()
	if err := state.prepare(addresses(listeners)); err != nil {
		closeAll(listeners)
		return errors.Join(err, idpListener.Close())
	}
	provider, err := idp.New(idp.Options{Dir: state.path("idp"), Issuer: state.Issuer, Logger: log})
	if err != nil {
		closeAll(listeners)
		return errors.Join(err, idpListener.Close())
	}
	stamps, err := tsa.New(tsa.Options{Dir: state.path("tsa")})
	if err != nil {
		closeAll(listeners)
		return errors.Join(err, idpListener.Close())
	}
	pages := http.NewServeMux()
	pages.Handle("/", provider.Handler())
	pages.Handle(tsa.Path, stamps.Handler())
	pages.Handle(tsa.ChainPath, stamps.Handler())
	stopProvider := servePages(idpListener, pages)
	defer stopProvider()

	cfg, _, err := config.Load(state.path("mayfly.yaml"))
	if err != nil {
		closeAll(listeners)
		return misconfigured(err)
	}
	publish := func(m *material) error {
		url := "http://" + listeners.HTTP.Addr().String()
		return state.publish(exported{config: cfg, material: m, services: trust.Services{CA: url}}, stamps)
	}
	return serve(ctx, instance{
		path: state.path("mayfly.yaml"), known: config.Contents(cfg.Files), config: cfg, listeners: listeners, log: log, drain: time.Second,
		publish: publish,
		ready: func(ctx context.Context, m *material) error {
			url := "http://" + listeners.HTTP.Addr().String()
			if err := publish(m); err != nil {
				return err
			}
			if err := proveItself(ctx, provider, state, url); err != nil {
				return fmt.Errorf("the CA runs but its own certificate does not verify: %w", err)
			}
			return banner{
				state: state, listeners: listeners, flags: f, took: time.Since(began), chain: m.chain,
			}.print(std.out)
		},
	})
}

// proveItself gets one certificate the way any signer does and verifies it in full.
func proveItself(ctx context.Context, p *idp.Provider, state *devState, url string) error {
	token, err := p.Token(selfTestEmail, nil)
	if err != nil {
		return err
	}
	t, err := loadTrust(state.path("trusted_root.json"))
	if err != nil {
		return err
	}
	c, err := client.New(client.Options{URL: url, Trust: &t, UserAgent: userAgent(), Timeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer c.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	got, err := c.Request(ctx, client.Request{Token: token, Signer: key})
	if err != nil {
		return errors.New(client.Explain(err))
	}
	if got.Identity.SAN.Value != selfTestEmail {
		return fmt.Errorf("it names %q, not %q", got.Identity.SAN.Value, selfTestEmail)
	}
	return nil
}

// listen opens the four listeners; an error names the flag to change.
func (f *devFlags) listen() (l server.Listeners, idp net.Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(l)
		}
	}()
	if f.http == "off" {
		return l, nil, usage("--http off: the development CA needs its REST port (--grpc and --admin may be off)")
	}
	if err := checkLoopback(f.idp); err != nil {
		return l, nil, err
	}
	open := func(flag, address string) (net.Listener, error) {
		if address == "off" {
			return nil, nil
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, usage("--%s %q: write HOST:PORT, for example 127.0.0.1:0", flag, address)
		}
		ln, err := net.Listen("tcp", address) //nolint:noctx // it does not wait
		if err != nil {
			return nil, fmt.Errorf("--%s: %s; choose another address with --%s HOST:PORT (port 0 picks a free one)", flag, listenProblem(address, err), flag)
		}
		return ln, nil
	}
	if l.HTTP, err = open("http", f.http); err != nil {
		return l, nil, err
	}
	if f.grpc == f.http {
		l.GRPC = l.HTTP
	} else if l.GRPC, err = open("grpc", f.grpc); err != nil {
		return l, nil, err
	}
	if l.Admin, err = open("admin", f.admin); err != nil {
		return l, nil, err
	}
	idp, err = open("idp", f.idp)
	return l, idp, err
}

// checkLoopback refuses an address that other machines could reach: the provider signs in whoever asks.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return usage("--idp %q: write HOST:PORT, for example 127.0.0.1:5556", address)
	}
	if hostname.IsLoopback(host) {
		return nil
	}
	return usage("--idp %s: the development provider signs in every caller, so it listens on loopback "+
		"only; write 127.0.0.1:PORT", address)
}

// servePages serves until the returned func is called.
func servePages(l net.Listener, h http.Handler) (stop func()) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close below; there is nobody to tell
	}()
	return func() {
		_ = srv.Close()
		<-done
	}
}

// publish writes what verifiers and signers need.
func (s *devState) publish(e exported, stamps *tsa.Authority) error {
	chain := stamps.Chain()
	e.services.TSA = s.Issuer + tsa.Path
	e.timestamps = []trust.Authority{{URL: e.services.TSA, Chain: chain, From: chain[0].NotBefore, To: chain[0].NotAfter}}
	e.services.OIDC, e.services.Operator, e.services.From = s.Issuer, "mayfly dev", e.material.chain[0].NotBefore
	return e.write(s.dir)
}

func newDevToken(f *devFlags) *cobra.Command {
	var email, claimsFile string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "token --email ADDRESS",
		Short: "Print an identity token of the development provider",
		Long:  "token prints an ID token that the CA of \"mayfly dev\" accepts. It needs no running provider, only its directory.",
		Example: "  mayfly dev token --email alice@example.com\n" +
			"  mayfly dev token --email alice@example.com --claims claims.json",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if email == "" {
				return usage("--email is missing; write --email alice@example.com")
			}
			if life < time.Second {
				return usage("--ttl %s: write a duration of at least one second, for example 1h", human.Duration(life))
			}
			claims, err := readClaims(claimsFile)
			if err != nil {
				return err
			}
			state, err := readState(f.dir)
			if err != nil {
				return err
			}
			p, err := idp.New(idp.Options{Dir: state.path("idp"), Issuer: state.Issuer, TokenLife: life})
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
	cmd.Flags().StringVar(&email, "email", "", "the address that the token names (required)")
	cmd.Flags().StringVar(&claimsFile, "claims", "",
		"file with a JSON object of claims, \"-\" for standard input; each replaces the usual claim, null removes it")
	cmd.Flags().Var(lasting(&life, idp.DefaultTokenLife), "ttl", "how long the token is valid")
	return cmd
}

// readClaims reads a JSON object; an empty name means none.
func readClaims(name string) (map[string]any, error) {
	if name == "" {
		return nil, nil
	}
	data, err := readInput(os.Stdin, name)
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	if err := decodeNumbers(data, &claims); err != nil {
		return nil, fmt.Errorf("%s: %w; write one JSON object, for example {\"groups\": [\"dev\"]}", name, err)
	}
	return claims, nil
}
