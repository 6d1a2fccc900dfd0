package server_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/mayfly-ca/mayfly/server"
)

// probe is a client that says over which connection it was answered.
type probe struct {
	*http.Client
	url string
}

func newProbe(address string, h2 bool) probe {
	tr := &http.Transport{}
	if h2 {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	return probe{&http.Client{Timeout: 20 * time.Second, Transport: tr}, "http://" + address + "/healthz"}
}

// get returns the local address of the connection, and whether the server asks for another one.
func (p probe) get(t *testing.T) (address string, last bool) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { address = i.Conn.LocalAddr().String() },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	must(t, err)
	res, err := p.Do(req)
	must(t, err)
	defer res.Body.Close() //nolint:errcheck // read to the end
	_, err = io.Copy(io.Discard, res.Body)
	must(t, err)
	if res.StatusCode != http.StatusOK {
		t.Errorf("%s", res.Status)
	}
	return address, res.Close
}

// A connection that has reached its age is replaced by its client, and no request fails: over REST, over HTTP/2 on one
// port, and over gRPC in both modes.
func TestConnectionAge(t *testing.T) {
	t.Parallel()
	for _, one := range []bool{false, true} {
		w := newFixture(t, false)
		s := w.serve(server.Options{Limits: server.Limits{Age: 300 * time.Millisecond}}, true, true, one)
		for _, h2 := range []bool{false, true} {
			if h2 && !one {
				continue // the port of REST speaks HTTP/1.1
			}
			p := newProbe(s.rest, h2)
			first, last := p.get(t)
			if again, _ := p.get(t); again != first || last {
				t.Errorf("one port %t, HTTP/2 %t: the connection is not used again", one, h2)
			}
			eventually(t, "another connection", func() bool { address, _ := p.get(t); return address != first })
		}
		conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		must(t, err)
		defer conn.Close() //nolint:errcheck // nothing is lost
		dial := func() string {
			var at peer.Peer
			_, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{},
				grpc.Peer(&at))
			must(t, err)
			return at.LocalAddr.String()
		}
		first := dial()
		eventually(t, "another connection of gRPC", func() bool { return dial() != first })
	}
}

// A server that is to stop is not ready at once, and serves new and old connections for the drain delay. Over HTTP/1.1
// each response asks for a new connection, over HTTP/2 none does. Then no connection is accepted.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	for _, one := range []bool{false, true} {
		w := newFixture(t, false)
		const delay = 3 * time.Second
		s := w.serve(server.Options{Limits: server.Limits{DrainDelay: delay}}, true, true, one)
		conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		must(t, err)
		defer conn.Close() //nolint:errcheck // nothing is lost
		ctx, cancel := context.WithTimeout(t.Context(), maxWait)
		defer cancel()
		watch, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		must(t, err)
		health := func() grpc_health_v1.HealthCheckResponse_ServingStatus {
			t.Helper()
			m, err := watch.Recv()
			must(t, err)
			return m.GetStatus()
		}
		if h := health(); h != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("%s", h)
		}
		kept := newProbe(s.rest, false)
		if _, last := kept.get(t); last {
			t.Error("a server that is not stopped asks for another connection")
		}
		began := time.Now()
		s.stop()
		eventually(t, "not ready", func() bool {
			out := httpGet(s.srv.AdminHandler(), "/readyz")
			return out.Code == http.StatusServiceUnavailable && strings.Contains(out.Body.String(), "stopping")
		})
		if h := health(); h != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("%s", h)
		}
		for _, p := range []probe{kept, newProbe(s.rest, false)} {
			if _, last := p.get(t); !last {
				t.Error("a response over HTTP/1.1 does not ask for another connection")
			}
		}
		if one {
			p := newProbe(s.rest, true)
			first, _ := p.get(t)
			if again, _ := p.get(t); again != first {
				t.Error("a response over HTTP/2 asks for another connection")
			}
		}
		for name, ask := range w.askers(s) {
			if err := ask(t.Context()); err != nil {
				t.Errorf("%s during the drain delay: %v", name, err)
			}
		}
		eventually(t, "no new connection", func() bool {
			c, err := net.Dial("tcp", s.rest)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		})
		if took := time.Since(began); took < delay {
			t.Errorf("connections are refused after %s", took)
		}
		if m, err := watch.Recv(); err == nil {
			t.Errorf("the watch goes on: %v", m)
		}
		must(t, await(t, "the end of the server", s.done))
	}
}
