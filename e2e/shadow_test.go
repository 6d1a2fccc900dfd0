package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestShadowKilled kills one of two shadows behind HAProxy under load, again and again: no client sees a failure, and
// the records of both are whole.
func TestShadowKilled(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	s := emptySite(l)
	ca := l.Serve(lab.ServeOptions{
		Name: "ca", PKI: l.PKI(), Identity: lab.EmailIssuer(s.issuer.URL), OnePort: true,
		CT: "  embedded: {dir: log, origin: e2e.test/shadow}\n", More: "audit: {file: journal.jsonl}\n",
	})
	var addresses, admins [2]string
	start := func(i int) *lab.Process {
		return l.Start(fmt.Sprintf("shadow-%d", i), lab.Command{Name: "mayfly", Args: []string{
			"shadow", "--upstream", ca.URL, "--config", l.Path("ca", "mayfly.yaml"), "--listen", addresses[i],
			"--listen-admin", admins[i], "--dir", l.Path(fmt.Sprintf("records-%d", i)),
		}}, func(ctx context.Context) error { return lab.GetOK(ctx, "http://"+admins[i]+"/readyz") })
	}
	var shadows [2]*lab.Process
	servers := func(grpc bool) (out string) {
		for i, address := range addresses {
			if grpc {
				out += fmt.Sprintf("    server s%d %s proto h2 track rest/s%d\n", i, address, i)
			} else {
				out += fmt.Sprintf("    server s%d %s check port %s\n", i, address, port(admins[i]))
			}
		}
		return out
	}
	for i := range shadows {
		addresses[i], admins[i] = l.Address(), l.Address()
		shadows[i] = start(i)
	}
	const health = "    balance leastconn\n    option httpchk GET /readyz\n    http-check expect status 200\n" +
		"    default-server inter 200ms fall 1 rise 1\n"
	file := l.Write("balancer/haproxy.cfg",
		"global\n    maxconn 1000\ndefaults\n    mode http\n    timeout client 60s\n"+
			"    timeout connect 2s\n    timeout server 60s\n    option redispatch 1\n    retries 3\n"+
			"    retry-on conn-failure empty-response response-timeout\n"+
			"frontend ca\n    bind "+bare(s.url)+" ssl crt "+s.both+
			" alpn h2,http/1.1\n    option http-buffer-request\n"+
			"    use_backend grpc if { req.hdr(content-type) -m beg application/grpc }\n    default_backend rest\n"+
			"backend rest\n"+health+servers(false)+"backend grpc\n    balance leastconn\n"+servers(true))
	l.Start("haproxy", lab.Command{Name: l.System("haproxy"), Args: []string{"-db", "-f", file}}, s.answers)

	end := s.load()
	for i := range 4 {
		time.Sleep(2 * time.Second) // of load
		shadows[i%2].Kill()
		time.Sleep(time.Second)
		shadows[i%2] = start(i % 2)
	}
	time.Sleep(time.Second)
	clients := end()
	if clients.lost != 0 || clients.answered["REST"] < 50 || clients.answered["gRPC"] < 50 {
		t.Error(clients)
	}
	if len(clients.failed) != 0 {
		t.Errorf("clients saw failures: %v", clients)
	}
	for _, p := range shadows {
		p.Stop()
	}
	out := l.Run(lab.Command{Name: "mayfly", Args: []string{
		"shadow", "report", l.Path("records-0"), l.Path("records-1"), "--json",
	}})
	var report struct{ Compared, Equal, Starts, Damaged int64 }
	if err := json.Unmarshal([]byte(out.Stdout), &report); err != nil {
		t.Fatal(err, out.Stdout)
	}
	answered := int64(clients.answered["REST"] + clients.answered["gRPC"])
	if report.Compared != report.Equal || report.Starts != 6 || report.Equal < answered/2 {
		t.Errorf("%+v for %v", report, clients)
	}
	t.Logf("%+v for %v", report, clients)
}
