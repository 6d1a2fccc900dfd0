// Package dev is the implementation of "mayfly dev": a complete Sigstore on loopback, with its keys and state in one
// directory. In one process are a CA, a log of certificates, a log of signatures, a timestamp authority, a TUF
// repository and an OpenID Connect provider that signs in everyone.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/listen"
	"github.com/mayfly-ca/mayfly/internal/pemfile"

	"github.com/mayfly-ca/mayfly/dev/idp"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/trial"
	"github.com/mayfly-ca/mayfly/trust"
	"github.com/mayfly-ca/mayfly/tsa"
)

// operator is the name of the operator in the files for clients.
const operator = "mayfly dev"

// selfTestEmail is the identity in the certificate of the self-test.
const selfTestEmail = "self-test@mayfly.invalid"

// Run runs the CA and the services around it until ctx ends. When the CA is ready, Run requests a certificate from it,
// verifies the certificate, and prints how to use the CA.
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
	if err := state.prepare(addressesOf(listeners), f.TLS); err != nil {
		listeners.Close()
		return errors.Join(err, idpListener.Close())
	}
	provider, err := idp.New(idp.Options{Dir: state.Path("idp"), Issuer: state.Issuer, Logger: log})
	if err != nil {
		listeners.Close()
		return errors.Join(err, idpListener.Close())
	}
	stopProvider := ServePages(idpListener, provider.Handler())
	defer stopProvider()

	url := f.scheme() + "://" + listeners.HTTP.Addr().String()
	n, err := node.Build(ctx, node.Options{
		Path: state.Path("mayfly.yaml"), Logger: log, Listeners: &listeners, Drain: time.Second, URL: url,
		Publish: func(m trust.Material) error { return state.publish(m, url) },
		Ready: func(ctx context.Context) error {
			if err := selfTest(ctx, provider, state, url); err != nil {
				return fmt.Errorf("self-test: %w", err)
			}
			if f.Ready != nil {
				return f.Ready(ctx, Instance{state: state, provider: provider, URL: url, Issuer: state.Issuer})
			}
			return banner{state: state, listeners: listeners, flags: f, took: time.Since(began)}.print(out)
		},
	})
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// selfTest signs with every service as clients do, and verifies the signature as they do.
func selfTest(ctx context.Context, p *idp.Provider, state *State, url string) error {
	token, err := p.Token(selfTestEmail, nil)
	if err != nil {
		return err
	}
	root, err := os.ReadFile(state.Path(trust.RootName))
	if err != nil {
		return err
	}
	o := trial.Options{
		CA: url, TSA: url + tsa.Path, Rekor: url, TrustedRoot: root, Token: token, Identity: selfTestEmail,
		Issuer: state.Issuer,
	}
	if strings.HasPrefix(url, "https:") {
		if o.Roots, err = pemfile.LoadPool(state.Path(certificateFile)); err != nil {
			return err
		}
	}
	_, err = trial.Sign(ctx, o)
	return err
}

// listen opens the four listeners. Its errors name the flag to change.
func (f *Options) listen() (l server.Listeners, idp net.Listener, err error) {
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if f.HTTP == "off" {
		return l, nil, usageErrorf("--http off: the development CA needs its REST port (--grpc and --admin may be off)")
	}
	if err := CheckLoopback(f.IDP); err != nil {
		return l, nil, err
	}
	open := func(flag, address string) (net.Listener, error) {
		if address == "off" {
			return nil, nil
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, usageErrorf("--%s %q: write HOST:PORT, for example 127.0.0.1:0", flag, address)
		}
		ln, err := listen.Open(address)
		if err != nil {
			return nil, fault.Cure(fmt.Errorf("--%s: %w", flag, err),
				fmt.Sprintf("choose another address with --%s HOST:PORT (port 0 picks a free one)", flag))
		}
		return ln, nil
	}
	if l.HTTP, err = open("http", f.HTTP); err != nil {
		return l, nil, err
	}
	if f.GRPC == f.HTTP {
		l.GRPC = l.HTTP
	} else if l.GRPC, err = open("grpc", f.GRPC); err != nil {
		return l, nil, err
	}
	if l.Admin, err = open("admin", f.Admin); err != nil {
		return l, nil, err
	}
	idp, err = open("idp", f.IDP)
	return l, idp, err
}

// CheckLoopback refuses an address that other machines can reach, because the provider signs in everyone.
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

// ServePages serves h until stop is called.
func ServePages(l net.Listener, h http.Handler) (stop func()) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		IdleTimeout: 30 * time.Second,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // returns when Close below is called
	}()
	return func() {
		_ = srv.Close()
		<-done
	}
}

// publish writes the trusted root and the signing configuration.
func (s *State) publish(m trust.Material, url string) error {
	services := trust.Services{
		CA: url, OIDC: s.Issuer, TSA: trust.At(url + tsa.Path), Rekor: trust.At(url), RekorV1: trust.At(url),
		Operator: operator,
		From:     m.Authorities[0].Chain[0].NotBefore,
	}
	return trust.WriteFiles(s.dir, m, services)
}

// addresses are the addresses of the listeners, in the form of the configuration.
type addresses struct{ http, grpc, admin string }

func addressesOf(l server.Listeners) addresses {
	name := func(one net.Listener) string {
		if one == nil {
			return "off"
		}
		return one.Addr().String()
	}
	return addresses{http: name(l.HTTP), grpc: name(l.GRPC), admin: name(l.Admin)}
}

// Options are the flags of "mayfly dev".
type Options struct {
	Dir                    string
	HTTP, GRPC, Admin, IDP string // addresses to listen on; "off" disables GRPC and Admin
	TLS                    bool   // with a self-signed certificate
	// Ready is called instead of printing how to use the CA, when the CA can issue certificates. An error ends Run.
	// Optional.
	Ready func(context.Context, Instance) error
}

// Instance is the running Sigstore.
type Instance struct {
	URL    string // of the CA, the log of signatures and, with the path [tsa.Path], the timestamp authority
	Issuer string // URL of the identity provider

	state    *State
	provider *idp.Provider
}

// Token returns an ID token for an e-mail address.
func (i Instance) Token(email string) (string, error) { return i.provider.Token(email, nil) }

// TrustedRoot returns trusted_root.json.
func (i Instance) TrustedRoot() ([]byte, error) { return os.ReadFile(i.state.Path(trust.RootName)) }

func (f *Options) scheme() string {
	if f.TLS {
		return "https"
	}
	return "http"
}

// UsageError is a wrong flag.
type UsageError struct{ text string }

// Error implements error.
func (e *UsageError) Error() string { return e.text }

func usageErrorf(format string, args ...any) error {
	return &UsageError{fmt.Sprintf(format, args...)}
}
