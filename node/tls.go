package node

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/servertls"
)

// openTLS reads the certificates of the listeners. Its errors are settings of cfg.
func openTLS(cfg *config.Config, log *slog.Logger) (out server.TLS, err error) {
	var errs []error
	for key, c := range cfg.Listen.Secured() {
		to, name := &out.API, server.APIListener
		if c == cfg.Listen.AdminTLS {
			to, name = &out.Admin, server.AdminListener
		}
		*to, err = servertls.Open(*c, servertls.Options{
			Listener: name, StateDir: cfg.StateDir, Hosts: cfg.Listen.Hosts(), Logger: log,
		})
		if err != nil {
			errs = append(errs, fault.Under(err, "listen", key))
		}
	}
	return out, cfg.Locate(errors.Join(errs...))
}

// checkTLS reads the certificates of the listeners, and writes nothing. Its errors are settings of cfg.
func checkTLS(cfg *config.Config) error {
	var errs []error
	for key, c := range cfg.Listen.Secured() {
		errs = append(errs, fault.Under(servertls.Verify(*c), "listen", key))
	}
	return cfg.Locate(errors.Join(errs...))
}

// keepTLS reads the certificates of the listeners again when their files change, and renews those of an ACME CA, until
// ctx ends. A change of the configuration does not wait for it, nor it for such a change: a certificate is renewed
// while the configuration has an error.
func (n *Node) keepTLS(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, s := range n.tls.Named() {
		all.Go(func() { s.Run(ctx, n.wakeCounts) })
		if len(s.Files()) == 0 {
			continue
		}
		all.Go(func() {
			read := config.Contents(s.Files())
			s.Reload() // the files may have changed since the start
			known := func() map[string][32]byte { return read }
			config.Watch(ctx, config.WatchOptions{Files: s.Files, Known: known, Logger: n.log}, func() {
				s.Reload()
				n.wakeCounts()
			})
		})
	}
}

// tlsExpiries are the ends of the certificates of the listeners.
func (n *Node) tlsExpiries() (out []expiry) {
	for name, s := range n.tls.Named() {
		if st := s.Status(); !st.NotAfter.IsZero() {
			out = append(out, expiry{
				kind: "tls", name: name, at: st.NotAfter, ahead: ca.WarnBefore(st.NotAfter.Sub(st.NotBefore)),
			})
		}
	}
	return out
}

// tlsCheck is the line about the certificates of the listeners in /readyz. It is advisory: a client that is refused by
// its own check of the certificate says so.
func (n *Node) tlsCheck() server.Check {
	return server.Check{Name: "tls", Ask: func() server.Health {
		var problems []string
		for name, s := range n.tls.Named() {
			if p := s.Status().Problem; p != "" {
				problems = append(problems, "listener "+name+": "+p)
			}
		}
		return server.Health{OK: true, Advisory: true, Warning: strings.Join(problems, "; ")}
	}}
}
