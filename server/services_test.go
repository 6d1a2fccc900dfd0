package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/rate"
	"github.com/mayfly-ca/mayfly/server"
)

// echo is a service that answers with the body of a request. The body "panic" makes it panic, "refuse" refuse.
type echo struct {
	srv *server.Server
	id  string // of the last request
}

func (e *echo) call(ctx context.Context, body string) (out string, err error) {
	err = e.srv.Call(ctx, server.Call{Service: "echo", Method: "Echo"},
		func(_ context.Context, r *server.Request) error {
			r.Add("size", fmt.Sprint(len(body)))
			e.id = r.ID
			switch body {
			case "panic":
				panic("a fault of the service")
			case "refuse":
				return fault.New(fault.KeyMalformed, errors.New("the cause"))
			}
			out = body
			return nil
		})
	return out, err
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	out, err := e.call(r.Context(), string(body))
	if err != nil {
		e.srv.WriteError(w, r, err)
		return
	}
	_, _ = io.WriteString(w, out)
}

func (e *echo) register(to grpc.ServiceRegistrar) {
	to.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, ctx context.Context,
			decode func(any) error, _ grpc.UnaryServerInterceptor,
		) (any, error) {
			var in wrapperspb.StringValue
			if err := decode(&in); err != nil {
				return nil, err
			}
			out, err := e.call(ctx, in.GetValue())
			if err != nil {
				return nil, err
			}
			return wrapperspb.String(out), nil
		}}},
	}, e)
}

// F4, F8: the calls of another service on the same listeners have what requests for certificates have, over REST and
// gRPC: a request id, a limit of the body, a panic guard, metrics, one log line, and the source limit, which counts
// each service by itself. Paths of the CA stay those of the CA.
func TestServices(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	e := &echo{}
	s := w.serve(server.Options{Logger: w.logger, Services: []server.Service{{
		Name: "echo", Paths: []string{"/echo", "/echo/"}, Handler: e, Body: 256 << 10, Register: e.register,
	}}}, true, true, false)
	e.srv = s.srv
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close() //nolint:errcheck // nothing is sent any more
	post := func(path, body string) (int, string, http.Header) {
		t.Helper()
		resp, err := http.Post("http://"+s.rest+path, "text/plain", strings.NewReader(body))
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, string(text), resp.Header
	}
	overGRPC := func(body string) (string, error) {
		var out wrapperspb.StringValue
		err := conn.Invoke(t.Context(), "/test.Echo/Echo", wrapperspb.String(body), &out)
		return out.GetValue(), err
	}
	large := strings.Repeat("x", 200<<10) // above the limit of the CA's requests
	for _, body := range []string{"hello", large} {
		if code, text, h := post("/echo", body); code != http.StatusOK || text != body ||
			h.Get("X-Request-Id") != e.id {
			t.Errorf("status %d, %.100s", code, text)
		}
	}
	if code, _, _ := post("/echo/x", large+large); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a body above the limit: status %d", code)
	}
	if out, err := overGRPC("hello"); err != nil || out != "hello" {
		t.Errorf("over gRPC: %q, %v", out, err)
	}
	if code, text, _ := post("/echo", "refuse"); code != http.StatusBadRequest || !strings.Contains(text,
		string(fault.KeyMalformed)) || strings.Contains(text, "the cause") {
		t.Errorf("refused: status %d, %s", code, text)
	}
	if code, text, _ := post("/echo", "panic"); code != http.StatusInternalServerError ||
		strings.Contains(text, "a fault of") {
		t.Errorf("panic over REST: status %d, %s", code, text)
	}
	if _, err := overGRPC("panic"); status.Code(err) != codes.Internal {
		t.Errorf("panic over gRPC: %v", err)
	}
	if code, _, _ := post("/api/v2/signingCert", "{}"); code != http.StatusUnauthorized &&
		code != http.StatusBadRequest {
		t.Errorf("the CA: status %d", code)
	}

	core := *w.core
	core.Rates = server.Rates{Source: &rate.Config{Rate: 1. / 3600, Burst: 2}}
	s.srv.SetCore(&core)
	for n, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		if code, text, h := post("/echo", "hello"); code != want ||
			(want != http.StatusOK) != (h.Get("Retry-After") != "") {
			t.Errorf("request %d: status %d, %s", n, code, text)
		}
	}
	if _, err := overGRPC("hello"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("over gRPC: %v", err)
	}
	if code, text, _ := post("/api/v2/signingCert", "{}"); code == http.StatusTooManyRequests {
		t.Errorf("the limit of a service stopped the CA: %s", text)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.srv.Collectors()...)
	page := httpGet(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), "/metrics").Body.String()
	for _, line := range []string{
		`mayfly_server_requests_total{code="OK",method="Echo",reason="",transport="rest"} 4`,
		`mayfly_server_requests_total{code="Internal",method="Echo",reason="INTERNAL",transport="grpc"} 1`,
		`mayfly_server_requests_total{code="ResourceExhausted",method="echo",reason="RATE_LIMITED",transport="rest"} 1`,
		`mayfly_server_panics_total 2`,
		`mayfly_slo_requests_total{fault="caller"} 2`, // of the CA
	} {
		if !strings.Contains(page, line) {
			t.Errorf("no %s in\n%s", line, page)
		}
	}
	if log := w.logs.String(); !strings.Contains(log, `"method":"Echo"`) || !strings.Contains(log, `"size":"204800"`) {
		t.Error("no line of the call in the log")
	}
}
