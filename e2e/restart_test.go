package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// traffic is what clients of a site have experienced. A client sends each request once, over a connection that it
// keeps. After a failure it tries again, up to five times.
type traffic struct {
	mu       sync.Mutex
	answered map[string]int // requests that succeeded at once, by transport
	failed   map[string]int // attempts that failed, by transport and error
	lost     int            // requests that failed five times
}

// load sends requests over REST and gRPC from four clients each, until the returned function is called.
func (s *site) load() (end func() *traffic) {
	ctx, cancel := context.WithCancel(s.Context())
	t := &traffic{answered: map[string]int{}, failed: map[string]int{}}
	var all sync.WaitGroup
	for i := range 8 {
		transport, send := "REST", s.rest
		if i%2 == 1 {
			transport, send = "gRPC", s.grpc
		}
		client := s.client(fmt.Sprintf("127.0.0.%d", 2+i), transport == "gRPC")
		all.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				t.send(transport, func() error { return send(s.Context(), client) })
				time.Sleep(20 * time.Millisecond) // the rate of a client
			}
		})
	}
	return func() *traffic {
		cancel()
		all.Wait()
		return t
	}
}

func (t *traffic) send(transport string, try func() error) {
	for i := range 5 {
		err := try()
		t.mu.Lock()
		switch {
		case err == nil && i == 0:
			t.answered[transport]++
		case err != nil:
			t.failed[fmt.Sprintf("%s: %.300s", transport, err)]++
		}
		t.mu.Unlock()
		if err == nil {
			return
		}
		time.Sleep(300 * time.Millisecond) // the pause of a client
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost++
}

// failures returns the number of attempts that failed.
func (t *traffic) failures() (n int) {
	for _, one := range t.failed {
		n += one
	}
	return n
}

func (t *traffic) String() string {
	return fmt.Sprintf("%v answered at once, %d attempts failed, %d requests lost; %s", t.answered,
		t.failures(), t.lost,
		strings.Join(slices.Sorted(maps.Keys(t.failed)), "; "))
}

// restart stops and starts each server in turn, as an upgrade does.
func (s *site) restart() {
	s.Helper()
	for _, m := range s.servers {
		terminate(s.Lab, m)
		if status := m.Wait(); status != 0 {
			s.Errorf("exit status %d", status)
		}
		m.ServeAgain(s.Lab)
		time.Sleep(4 * time.Second) // until the balancer sends requests again
	}
}

// TestRestartUnderLoad restarts each of three servers behind a balancer while clients send requests that they do not
// repeat: none fails, with each balancer and all modes of the listeners. Connections that are older than their age are
// replaced meanwhile. When a server is killed, only requests that it had received fail, and their repetition succeeds.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	plain := func(s *site) *lab.Process { // as the sample says for servers without TLS
		const verified = "ssl verify required ca-file /etc/haproxy/ca.pem verifyhost ca.example.com "
		return s.haproxy(verified+"alpn h2 send-proxy-v2", "proto h2", verified+"alpn http/1.1 send-proxy-v2", "")
	}
	for _, c := range []struct {
		name   string
		mode   int
		listen string
		start  func(*site) *lab.Process
		kill   bool
	}{
		{"haproxy-one-port-tls", onePortTLS, "  proxy_protocol: true\n", (*site).haproxyTLS, true},
		{"haproxy-one-port", onePort, "", plain, false},
		{"haproxy-two-ports", twoPorts, "", plain, false},
		{"nginx-two-ports", twoPorts, "", (*site).nginx, false},
		{"envoy-one-port", onePort, "", (*site).envoy, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(lab.New(t), c.mode,
				"  trusted_proxies: [127.0.0.1]\n  drain_delay: 4s\n  max_connection_age: 3s\n"+c.listen)
			c.start(s)
			end := s.load()
			s.restart()
			seen := end()
			t.Log(seen)
			if seen.failures() > 0 || seen.answered["REST"] < 100 || seen.answered["gRPC"] < 100 {
				t.Errorf("a restart is noticed: %s", seen)
			}
			if !c.kill {
				return
			}
			end = s.load()
			time.Sleep(2 * time.Second)
			s.servers[1].Kill()
			time.Sleep(4 * time.Second)
			seen = end()
			t.Logf("kill -9: %s", seen)
			if seen.failures() > 8 || seen.lost > 0 {
				t.Errorf("more than the requests of eight clients fail, or one is lost: %s", seen)
			}
		})
	}
}
