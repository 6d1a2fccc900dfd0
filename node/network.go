package node

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/server"
)

// CloseAll closes the listeners that are open. Closing twice is harmless.
func CloseAll(l server.Listeners) {
	for _, one := range []net.Listener{l.HTTP, l.GRPC, l.Admin} {
		if one != nil {
			_ = one.Close()
		}
	}
}

// ListenProblem says in words why an address cannot be listened on.
func ListenProblem(address string, err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return address + " is taken by another program"
	case errors.Is(err, syscall.EACCES):
		return "no permission to listen on " + address + " (ports below 1024 need a privilege)"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return address + " is no address of this machine"
	case errors.As(err, &dns):
		return "the host of " + address + " is unknown"
	}
	return err.Error()
}

// listenAdvice is what to do about it.
func listenAdvice(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "stop that one, or write another address"
	case errors.Is(err, syscall.EACCES):
		return "write a port from 1024 on, or give the process the privilege (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
	}
	return "write an address that this machine has, or 0.0.0.0 for all of them"
}

// ListenAddresses are the addresses as they stand in a configuration; "off" disables.
type ListenAddresses struct{ Http, Grpc, Admin string }

// Addresses are the addresses that were chosen, as a configuration writes them.
func Addresses(l server.Listeners) ListenAddresses {
	name := func(one net.Listener) string {
		if one == nil {
			return "off"
		}
		return one.Addr().String()
	}
	return ListenAddresses{Http: name(l.HTTP), Grpc: name(l.GRPC), Admin: name(l.Admin)}
}

func logListeners(log *slog.Logger, l server.Listeners) {
	a := Addresses(l)
	log.Info("listening", "http", a.Http, "grpc", a.Grpc, "admin", a.Admin)
}

// lateHandler serves the embedded log's read path once that log is open. Until then it answers 503.
type lateHandler struct{ current atomic.Pointer[http.Handler] }

// orNil is the handler, or nil where no embedded log is configured.
func (h *lateHandler) orNil(wanted bool) http.Handler {
	if !wanted {
		return nil
	}
	return h
}

func (h *lateHandler) set(l *embedded.Store) {
	if l != nil {
		handler := l.Handler()
		h.current.Store(&handler)
	}
}

func (h *lateHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if next := h.current.Load(); next != nil {
		(*next).ServeHTTP(w, r)
		return
	}
	w.Header().Set("Retry-After", "1")
	http.Error(w, "the log is being opened", http.StatusServiceUnavailable)
}
