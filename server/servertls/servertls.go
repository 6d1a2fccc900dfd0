// Package servertls has the TLS of listeners: the certificate of the server, from files that are read again when they
// change, from an ACME CA, or made by itself, and the CA certificates of clients.
//
// A certificate that cannot be used MUST NOT replace one that works: a damaged file, a key of another certificate, and
// a certificate that is no longer valid are reported, and the pair before them is served.
package servertls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/acme"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// Options for [Open].
type Options struct {
	Listener string           // in metrics
	StateDir string           // for a self-signed certificate
	Hosts    []string         // names and addresses of a self-signed certificate besides those of loopback
	Logger   *slog.Logger     // nil: none
	Now      func() time.Time // nil: time.Now
}

// Source has the certificate of a server. It is safe for concurrent use.
type Source struct {
	config Config
	log    *slog.Logger
	now    func() time.Time

	files   files // of the pair; empty for ACME
	manager *manager
	current atomic.Pointer[loaded] // nil for ACME
	problem atomic.Pointer[string] // why the files are not what is served; "": they are
}

// files are the files that are read.
type files struct{ certificate, key, clientCA string }

// loaded is the content of the files.
type loaded struct {
	pair    tls.Certificate                 // its Leaf is set
	clients *x509.CertPool                  // nil: clients present no certificate
	configs [len(protocolLists)]*tls.Config // by their application protocols
}

// Protocols are the application protocols of a listener (RFC 7301).
type Protocols int

// The application protocols of each kind of listener.
const (
	HTTP1 Protocols = iota // REST and pages for the operator
	HTTP2                  // gRPC
	Both                   // both on one port
)

var protocolLists = [...][]string{HTTP1: {"http/1.1"}, HTTP2: {"h2"}, Both: {"h2", "http/1.1"}}

// Open reads the files that c names, or makes the self-signed certificate. It makes no connection. Its errors are
// [fault.Setting] values below the block of c.
func Open(c Config, o Options) (*Source, error) {
	s := newSource(c, o)
	if c.SelfSigned {
		dir := filepath.Join(o.StateDir, "tls")
		s.files.certificate, s.files.key = filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")
		if err := makeSelfSigned(s.files, o.Hosts, s.now()); err != nil {
			return nil, fault.BadSetting("the self-signed certificate cannot be made: "+err.Error(),
				"make state_dir writable, or write certificate: and key:", "self_signed")
		}
	}
	if c.ACME != nil {
		var err error
		if s.manager, err = newManager(*c.ACME, o.Listener, s.log); err != nil {
			return nil, fault.Under(err, "acme")
		}
	}
	l, err := s.load()
	if err != nil {
		return nil, err
	}
	s.current.Store(l)
	return s, nil
}

// Verify reads the files that c names, and writes nothing. Its errors are those of [Open].
func Verify(c Config) error {
	if c.SelfSigned || c.ACME != nil { // there is no pair to read
		c.Certificate, c.Key = "", ""
	}
	s := newSource(c, Options{})
	_, err := s.load()
	if c.ACME != nil && c.ACME.CABundle != "" {
		_, e := pemfile.LoadPool(c.ACME.CABundle, "acme", "ca_bundle")
		err = errors.Join(err, e)
	}
	return err
}

func newSource(c Config, o Options) *Source {
	s := &Source{config: c, log: o.Logger, now: o.Now, files: files{c.Certificate, c.Key, c.ClientCA}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.problem.Store(new(string))
	return s
}

// Files are the files whose changes matter.
func (s *Source) Files() []string {
	return slices.DeleteFunc([]string{s.files.certificate, s.files.key, s.files.clientCA},
		func(name string) bool { return name == "" })
}

// Collectors returns the metrics of the source.
func (s *Source) Collectors() []prometheus.Collector {
	if s.manager == nil {
		return nil
	}
	return []prometheus.Collector{s.manager.calls}
}

// Reload reads the files again, and serves them if they can be used.
func (s *Source) Reload() {
	l, err := s.load()
	if err != nil {
		text := err.Error()
		s.problem.Store(&text)
		s.log.Error("the TLS certificate is not replaced; the one before stays in use", "cause", text)
		return
	}
	s.problem.Store(new(string))
	before := s.current.Swap(l)
	if s.manager == nil && !bytes.Equal(before.pair.Certificate[0], l.pair.Certificate[0]) {
		s.log.Info("TLS certificate replaced", "subject", l.pair.Leaf.Subject.String(),
			"names", strings.Join(l.pair.Leaf.DNSNames, ","), "not_after", l.pair.Leaf.NotAfter)
	}
}

// load reads the files. Its errors are [fault.Setting] values below the block.
func (s *Source) load() (*loaded, error) {
	l := &loaded{}
	var err error
	if s.files.certificate != "" {
		if l.pair, err = s.loadPair(); err != nil {
			return nil, err
		}
	}
	if s.files.clientCA != "" {
		if l.clients, err = pemfile.LoadPool(s.files.clientCA, "client_ca"); err != nil {
			return nil, err
		}
	}
	for i, protocols := range protocolLists {
		l.configs[i] = s.configFor(l, protocols)
	}
	return l, nil
}

func (s *Source) loadPair() (tls.Certificate, error) {
	bad := func(problem, fix string) error {
		return fault.BadSetting(problem, fix, "certificate").In(s.files.certificate)
	}
	pair, err := pemfile.LoadKeyPair(s.files.certificate, s.files.key)
	if err != nil {
		return pair, bad(err.Error(), "write a certificate chain and its private key, both in PEM")
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return pair, bad(err.Error(), "write a certificate chain in PEM")
		}
	}
	now := s.now()
	switch leaf := pair.Leaf; {
	case now.After(leaf.NotAfter):
		return pair, bad("the TLS certificate ended at "+leaf.NotAfter.UTC().Format(time.RFC3339),
			"renew the certificate")
	case now.Before(leaf.NotBefore):
		return pair, bad("the TLS certificate begins at "+leaf.NotBefore.UTC().Format(time.RFC3339),
			"correct the clock, or wait until the certificate begins")
	case leaf.IsCA && !s.config.SelfSigned && len(pair.Certificate) > 1:
		return pair, bad("the first certificate is that of a CA",
			"write the certificate of the server first, and those of the CAs after it")
	case len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0:
		return pair, bad("the TLS certificate has neither a DNS name nor an IP address",
			"obtain a certificate with subjectAltName, because clients ignore the common name")
	}
	return pair, nil
}

// configFor returns the configuration of one handshake.
func (s *Source) configFor(l *loaded, protocols []string) *tls.Config {
	c := &tls.Config{
		MinVersion: versions[s.config.MinVersion], NextProtos: slices.Clone(protocols), Time: s.now,
		CurvePreferences: s.curves(),
	}
	if l.clients != nil {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, l.clients
		c.SessionTicketsDisabled = true // a session would outlast the removal of its client's CA
	}
	if s.manager != nil {
		c.GetCertificate = s.manager.certificate
		c.NextProtos = append(c.NextProtos, acme.ALPNProto)
	} else {
		c.Certificates = []tls.Certificate{l.pair}
	}
	return c
}

// curves returns the accepted key exchanges. Package tls orders them by its own preference: hybrid ones first.
func (s *Source) curves() []tls.CurveID {
	if len(s.config.KeyExchange) == 0 {
		return []tls.CurveID{
			tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024, tls.X25519, tls.CurveP256,
			tls.CurveP384,
		}
	}
	var out []tls.CurveID
	for _, name := range s.config.KeyExchange {
		out = append(out, keyExchanges[name])
	}
	return out
}

// Config returns the configuration of a listener. Each handshake uses what is loaded when it begins.
func (s *Source) Config(p Protocols) *tls.Config {
	c := s.current.Load().configs[p].Clone()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		l := s.current.Load()
		if s.manager != nil && slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto}) {
			return s.challengeConfig(), nil
		}
		return l.configs[p], nil
	}
	return c
}

// Status is what an operator wants to know about the certificate.
type Status struct {
	NotBefore, NotAfter time.Time // the zero value: there is no certificate yet
	Problem             string    // why what is served is not what should be; empty: it is
}

// Status returns the state of the certificate.
func (s *Source) Status() Status {
	if s.manager != nil {
		return s.manager.status()
	}
	leaf := s.current.Load().pair.Leaf
	return Status{NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Problem: *s.problem.Load()}
}

// Run obtains and renews the certificates of an ACME CA until ctx ends, and calls changed after each attempt. For other
// certificates it returns at once.
func (s *Source) Run(ctx context.Context, changed func()) {
	if s.manager != nil {
		s.manager.run(ctx, changed)
	}
}
