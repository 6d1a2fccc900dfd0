package server_test

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
)

// F9: a check that hangs delays neither readiness, health, metrics nor Replace, and makes the server not ready within
// seconds; the report names the check and its age. When the check returns again, the server is ready again.
func TestReadinessOfWhatHangs(t *testing.T) {
	t.Parallel()
	w := newFixture(t, false)
	logs := &logbuf.Buffer{}
	registry := prometheus.NewRegistry()
	readiness := server.NewReadiness(time.Now)
	srv, err := server.New(server.Options{
		Logger: slog.New(slog.NewJSONHandler(logs, nil)), Readiness: readiness,
		Registry: registry,
	})
	must(t, err)
	registry.MustRegister(srv.Collectors()...)
	srv.SetCore(w.core)
	var hang atomic.Bool
	release := make(chan struct{})
	var once sync.Once
	free := func() { once.Do(func() { hang.Store(false); close(release) }) }
	t.Cleanup(free)
	disk := server.Check{Name: "disk", Ask: func() server.Health {
		if hang.Load() {
			<-release
		}
		return server.Health{OK: true, Advisory: true}
	}}
	readiness.Replace([]server.Check{disk, {Name: "group", All: func() map[string]server.Health {
		return map[string]server.Health{"log a": {OK: true}, "log b": {Advisory: true, Cause: "down"}}
	}}})
	s := runServer(t, srv)
	report := func() (int, server.Report) {
		t.Helper()
		began := time.Now()
		out := httpGet(srv.AdminHandler(), "/readyz")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a report took %s", took)
		}
		var r server.Report
		must(t, json.Unmarshal(out.Body.Bytes(), &r))
		return out.Code, r
	}
	code, r := report()
	if code != http.StatusOK || !r.Dependencies["disk"].OK || !r.Dependencies["log a"].OK ||
		r.Dependencies["log b"].Cause != "down" || r.Oldest.IsZero() {
		t.Fatalf("%d %+v", code, r)
	}
	eventually(t, "the log says ready", func() bool { return strings.Contains(logs.String(), `"msg":"ready"`) })

	hang.Store(true)
	eventually(t, "not ready", func() bool {
		code, r := report()
		return code == http.StatusServiceUnavailable && strings.Contains(r.Dependencies["disk"].Cause, "hangs") &&
			r.Dependencies["log a"].OK
	})
	metrics := httpGet(srv.AdminHandler(), "/metrics").Body.String()
	for _, want := range []string{
		"mayfly_ready 0", `mayfly_dependency_ready{dependency="disk"} 0`,
		`mayfly_dependency_ready{dependency="log a"} 1`, `mayfly_dependency_ready{dependency="log b"} 0`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no metric %s", want)
		}
	}
	eventually(t, "the log says why", func() bool {
		return strings.Contains(logs.String(), `"msg":"not ready"`) &&
			strings.Contains(logs.String(), "disk: no result for")
	})
	began := time.Now()
	readiness.Replace([]server.Check{disk})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the change of checks took %s", took)
	}
	if code, r := report(); code != http.StatusServiceUnavailable || len(r.Dependencies) != 2 ||
		r.Dependencies["disk"].OK {
		t.Errorf("after the change: %d %+v", code, r)
	}
	free()
	eventually(t, "ready again", func() bool { code, _ := report(); return code == http.StatusOK })
	eventually(t, "the log says ready again", func() bool { return strings.Count(logs.String(), `"msg":"ready"`) == 2 })
	s()
	if !strings.Contains(logs.String(), `"msg":"stopping"`) {
		t.Error("the log does not speak of the stop")
	}
	if code, r := report(); code != http.StatusServiceUnavailable || r.Dependencies["server"].Cause != "stopping" {
		t.Errorf("after the stop: %d %+v", code, r)
	}
}

// runServer serves REST; the result stops the server and waits.
func runServer(t *testing.T, srv *server.Server) (stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := contextOf(t)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, server.Listeners{HTTP: ln}) }()
	return func() {
		cancel()
		must(t, await(t, "the end of the server", done))
	}
}

// A check that panics counts as failed.
func TestReadinessOfWhatPanics(t *testing.T) {
	t.Parallel()
	r := server.NewReadiness(time.Now)
	r.Add(server.Check{Name: "bad", Ask: func() server.Health { panic("canary") }})
	if out := r.Report(); out.Ready || !strings.Contains(out.Dependencies["bad"].Cause, "canary") {
		t.Errorf("%+v", out)
	}
}

// Profiles are served at loopback addresses and for their names only (DNS rebinding); if the configuration allows it,
// at all addresses.
func TestProfiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		local, host string
		everywhere  bool
		code        int
	}{
		{"127.0.0.1", "127.0.0.1:2112", false, 200},
		{"127.0.0.1", "localhost:2112", false, 200},
		{"127.0.0.1", "LOCALHOST.", false, 200},
		{"127.0.0.1", "mayfly.localhost", false, 200},
		{"::1", "[::1]:2112", false, 200},
		{"127.0.0.1", "evil.example.com", false, 403},
		{"127.0.0.1", "evil.example.com:2112", false, 403},
		{"127.0.0.1", "localhost.evil.example.com", false, 403},
		{"127.0.0.1", "127.0.0.1.evil.example.com", false, 403},
		{"127.0.0.1", "", false, 403},
		{"192.0.2.1", "192.0.2.1:2112", false, 403},
		{"192.0.2.1", "localhost", false, 403},
		{"192.0.2.1", "mayfly.example.com", true, 200},
	} {
		srv, err := server.New(server.Options{Profiling: c.everywhere})
		must(t, err)
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"} {
			req := httptest.NewRequest(http.MethodGet, path, nil)
			req.Host = c.host
			req = req.WithContext(localAddr(req.Context(), c.local))
			out := httptest.NewRecorder()
			srv.AdminHandler().ServeHTTP(out, req)
			if out.Code != c.code {
				t.Errorf("%s at %s for %q, everywhere %t: %d", path, c.local, c.host, c.everywhere, out.Code)
			}
		}
	}
}
