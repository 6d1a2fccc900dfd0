package node

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/listen"
	"github.com/mayfly-ca/mayfly/internal/systemd"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/admission"
	"github.com/mayfly-ca/mayfly/tsa"
)

// ListenError is an address that cannot be listened on, with the position of its setting in the configuration.
type ListenError struct{ error }

// Unwrap returns the error without the type.
func (e *ListenError) Unwrap() error { return e.error }

// openListeners opens the listeners of a configuration. The same address for REST and gRPC is one listener.
func openListeners(cfg *config.Config) (out server.Listeners, err error) {
	defer func() {
		if err != nil {
			out.Close()
			err = &ListenError{cfg.Locate(err)}
		}
	}()
	open := func(key, address string) (net.Listener, error) {
		if address == "off" {
			return nil, nil
		}
		if name, passed := strings.CutPrefix(address, config.SystemdPrefix); passed {
			l, err := systemd.Listener(name)
			if err != nil {
				return nil, fault.BadSetting(err.Error(), "write FileDescriptorName="+name+
					" into the socket unit, and have systemd start the service", "listen", key)
			}
			return l, nil
		}
		l, err := listen.Open(address)
		if e, ok := errors.AsType[*listen.Error](err); ok {
			return nil, fault.BadSetting(e.Error(), e.Fix(), "listen", key)
		}
		return l, err
	}
	if out.HTTP, err = open("http", cfg.Listen.HTTP); err != nil {
		return out, err
	}
	if cfg.Listen.GRPC == cfg.Listen.HTTP {
		out.GRPC = out.HTTP
	} else if out.GRPC, err = open("grpc", cfg.Listen.GRPC); err != nil {
		return out, err
	}
	out.Admin, err = open("admin", cfg.Listen.Admin)
	return out, err
}

func logListeners(log *slog.Logger, l server.Listeners) {
	address := func(one net.Listener) string {
		if one == nil {
			return "off"
		}
		return one.Addr().String()
	}
	log.Info("listening", "http", address(l.HTTP), "grpc", address(l.GRPC), "admin", address(l.Admin))
}

// newServer creates the server, whose requests wait, and then get status 503, until the first snapshot is installed.
func (n *Node) newServer(registry *prometheus.Registry) (err error) {
	cfg := n.started
	services := []server.Service{{Name: "tuf", Paths: []string{tufPath}, Handler: n.tufHandler()}}
	if cfg.CT.Embedded != nil {
		services = append(services, server.Service{
			Name: "ct", Paths: []string{"/ct/"}, Handler: http.StripPrefix("/ct", &n.ctHandler),
		})
	}
	if cfg.TSA != nil {
		services = append(services, server.Service{
			Name: tsaName, Paths: []string{tsa.Path, tsa.ChainPath}, Handler: &n.tsaHandler,
		})
	}
	services = append(services, n.findService()...)
	if n.rekor = newRekor(n); n.rekor != nil {
		services = append(services, n.rekor.service())
	}
	n.admission = admission.New(admission.Options{
		Requests: cfg.Limits.Requests, MaxWait: cfg.Limits.Wait, Processors: reserveProcessors(),
	})
	n.canary = canary.New(canary.Options{Target: n.canaryTarget, Compute: n.admission.Compute, Logger: n.log})
	n.server, err = server.New(server.Options{
		Canary: n.canary,
		Logger: n.log, Readiness: n.readiness, Registry: registry, Services: services,
		Limits: server.Limits{
			Drain: n.options.Drain, DrainDelay: cfg.Listen.DrainDelay, Age: cfg.Listen.MaxConnectionAge,
			Connections: cfg.Limits.Connections, PerSource: cfg.Limits.ConnectionsPerSource,
		},
		FulcioMetrics: cfg.Listen.FulcioMetrics, Tracer: n.tracer, Admission: n.admission,
		Proxies: cfg.Listen.Proxies(), Profiling: cfg.Listen.Profiling, TLS: n.tls,
		OnReadiness: n.tellReadiness, ProxyProtocol: cfg.Listen.ProxyProtocol, Forwarded: cfg.Listen.StandardHeader(),
	})
	if err != nil {
		return err
	}
	n.server.SetStarting()
	registry.MustRegister(n.server.Collectors()...)
	registry.MustRegister(n.tracer.Collectors()...)
	for _, s := range n.tls.Named() {
		registry.MustRegister(s.Collectors()...)
	}
	return nil
}

// lateHandler is the handler of a service that is opened after the server. It answers with status 503 until then.
type lateHandler struct{ current atomic.Pointer[http.Handler] }

func (h *lateHandler) set(to http.Handler) { h.current.Store(&to) }

func (h *lateHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if next := h.current.Load(); next != nil {
		(*next).ServeHTTP(w, r)
		return
	}
	w.Header().Set("Retry-After", "1")
	http.Error(w, "the service is starting", http.StatusServiceUnavailable)
}
