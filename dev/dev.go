// Package dev is what "mayfly dev" runs: a CA, an embedded log, an OpenID Connect provider and a timestamp authority on
// loopback, whose keys and state lie in one directory.
package dev

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/mayfly-ca/mayfly/internal/hostname"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/dev/idp"
	"github.com/mayfly-ca/mayfly/dev/tsa"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/trust"
)

// selfTestEmail is the identity that "mayfly dev" issues its first certificate to.
const selfTestEmail = "self-test@mayfly.invalid"

func Run(ctx context.Context, f *Options, log *slog.Logger, out io.Writer) error {
	began := time.Now()
	state, err := OpenState(f.Dir)
	if err != nil {
		return err
	}
	defer state.Close()
	listeners, idpListener, err := f.listen()
	if err != nil {
		return err
	}
	state.Issuer = "http://" + idpListener.Addr().String()
	if err := state.prepare(node.Addresses(listeners)); err != nil {
		node.CloseAll(listeners)
		return errors.Join(err, idpListener.Close())
	}
	provider, err := idp.New(idp.Options{Dir: state.Path("idp"), Issuer: state.Issuer, Logger: log})
	if err != nil {
		node.CloseAll(listeners)
		return errors.Join(err, idpListener.Close())
	}
	stamps, err := tsa.New(tsa.Options{Dir: state.Path("tsa")})
	if err != nil {
		node.CloseAll(listeners)
		return errors.Join(err, idpListener.Close())
	}
	pages := http.NewServeMux()
	pages.Handle("/", provider.Handler())
	pages.Handle(tsa.Path, stamps.Handler())
	pages.Handle(tsa.ChainPath, stamps.Handler())
	stopProvider := ServePages(idpListener, pages)
	defer stopProvider()

	cfg, _, err := config.Load(state.Path("mayfly.yaml"))
	if err != nil {
		node.CloseAll(listeners)
		return err
	}
	publish := func(m *node.Material) error {
		url := "http://" + listeners.HTTP.Addr().String()
		return state.publish(node.Exported{Config: cfg, Material: m, Services: trust.Services{CA: url}}, stamps)
	}
	return node.Serve(ctx, node.Instance{
		Path: state.Path("mayfly.yaml"), Known: config.Contents(cfg.Files), Config: cfg, Listeners: listeners, Log: log, Drain: time.Second,
		Publish: publish,
		Ready: func(ctx context.Context, m *node.Material) error {
			url := "http://" + listeners.HTTP.Addr().String()
			if err := publish(m); err != nil {
				return err
			}
			if err := proveItself(ctx, provider, state, url); err != nil {
				return fmt.Errorf("the CA runs but its own certificate does not verify: %w", err)
			}
			return banner{
				state: state, listeners: listeners, flags: f, took: time.Since(began), chain: m.Chain,
			}.print(out)
		},
	})
}

// proveItself gets one certificate the way any signer does and verifies it in full.
func proveItself(ctx context.Context, p *idp.Provider, state *devState, url string) error {
	token, err := p.Token(selfTestEmail, nil)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(state.Path("trusted_root.json"))
	if err != nil {
		return err
	}
	root, err := trust.ParseTrustedRoot(data)
	if err != nil {
		return err
	}
	t := root.ForClient()
	c, err := client.New(client.Options{URL: url, Trust: &t, UserAgent: version.UserAgent(), Timeout: 10 * time.Second})
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
func (f *Options) listen() (l server.Listeners, idp net.Listener, err error) {
	defer func() {
		if err != nil {
			node.CloseAll(l)
		}
	}()
	if f.Http == "off" {
		return l, nil, usageErrorf("--http off: the development CA needs its REST port (--grpc and --admin may be off)")
	}
	if err := CheckLoopback(f.Idp); err != nil {
		return l, nil, err
	}
	open := func(flag, address string) (net.Listener, error) {
		if address == "off" {
			return nil, nil
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, usageErrorf("--%s %q: write HOST:PORT, for example 127.0.0.1:0", flag, address)
		}
		ln, err := net.Listen("tcp", address) //nolint:noctx // it does not wait
		if err != nil {
			return nil, fmt.Errorf("--%s: %s; choose another address with --%s HOST:PORT (port 0 picks a free one)", flag, node.ListenProblem(address, err), flag)
		}
		return ln, nil
	}
	if l.HTTP, err = open("http", f.Http); err != nil {
		return l, nil, err
	}
	if f.Grpc == f.Http {
		l.GRPC = l.HTTP
	} else if l.GRPC, err = open("grpc", f.Grpc); err != nil {
		return l, nil, err
	}
	if l.Admin, err = open("admin", f.Admin); err != nil {
		return l, nil, err
	}
	idp, err = open("idp", f.Idp)
	return l, idp, err
}

// CheckLoopback refuses an address that other machines could reach: the provider signs in whoever asks.
func CheckLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return usageErrorf("--idp %q: write HOST:PORT, for example 127.0.0.1:5556", address)
	}
	if hostname.IsLoopback(host) {
		return nil
	}
	return usageErrorf("--idp %s: the development provider signs in every caller, so it listens on loopback "+
		"only; write 127.0.0.1:PORT", address)
}

// ServePages serves until the returned func is called.
func ServePages(l net.Listener, h http.Handler) (stop func()) {
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
func (s *devState) publish(e node.Exported, stamps *tsa.Authority) error {
	chain := stamps.Chain()
	e.Services.TSA = s.Issuer + tsa.Path
	e.Timestamps = []trust.Authority{{URL: e.Services.TSA, Chain: chain, From: chain[0].NotBefore, To: chain[0].NotAfter}}
	e.Services.OIDC, e.Services.Operator, e.Services.From = s.Issuer, "mayfly dev", e.Material.Chain[0].NotBefore
	return e.Write(s.dir)
}

type Options struct {
	Dir                    string
	Http, Grpc, Admin, Idp string
}

// UsageError is a wrong flag.
type UsageError struct{ text string }

// Error implements error.
func (e *UsageError) Error() string { return e.text }

func usageErrorf(format string, args ...any) error {
	return &UsageError{fmt.Sprintf(format, args...)}
}
