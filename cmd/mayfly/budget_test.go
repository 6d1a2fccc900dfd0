package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// ahead is the clock of a provider that is a few seconds ahead, so that its tokens are younger than the memory of a
// server that has just started.
func ahead() time.Time { return time.Now().Add(5 * time.Second) }

// budget is an entry of an issuer file.
func budget(provider *idp.Provider, settings string) string {
	return fmt.Sprintf("  %q: {client-id: sigstore, type: email, %s}\n", provider.URL(), settings)
}

// D20: a leaked token that 50 clients use at once at three servers with a shared store gets exactly as many
// certificates as allowed. Without the store, an issuer entry refuses or issues, as it says; a rate counts at each
// server.
func TestLeakedTokenAtThreeServers(t *testing.T) {
	t.Parallel()
	store := miniredis.RunT(t)
	strict, lenient := idp.New(t, idp.Options{Now: ahead}), idp.New(t, idp.Options{Now: ahead})
	other := idp.New(t, idp.Options{})
	var servers []*process.Server
	for range 3 {
		servers = append(servers, process.Serve(t, process.Setup{
			PKI: pki.New(pki.Options{}), Issuer: other.URL(), Embedded: true, Admin: true,
			Issuers: budget(strict, "certificates-per-token: 4") +
				budget(lenient, "single-use: true, budget-unavailable: issue"),
			More: "limits: {identity: {rate: 0.001, burst: 30}}\n" +
				"shared: {valkey: {addresses: [\"" + store.Addr() + "\"], timeout: 5s}}\n",
		}))
	}
	requests := process.Requests(t, strict)
	var calls []func(process.Request) error
	for n, s := range servers {
		call, done := s.Caller(t, n%2 == 0)
		t.Cleanup(done)
		calls = append(calls, call)
	}
	var issued, replayed, limited atomic.Int32
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			switch err := calls[n%3](requests[0]); {
			case err == nil:
				issued.Add(1)
			case strings.Contains(err.Error(), "used as often"):
				replayed.Add(1)
			case strings.Contains(err.Error(), "too many requests"):
				limited.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if issued.Load() != 4 || replayed.Load() != 26 || limited.Load() != 20 {
		t.Errorf("%d certificates, %d refusals for the token, %d for the identity", issued.Load(), replayed.Load(),
			limited.Load())
	}

	store.SetError("ERR out of order")
	servers[0].Until(t, "the store is reported", func() bool {
		_, body := process.Get(t, "http://"+servers[0].Admin+"/readyz")
		return strings.Contains(string(body), "out of order")
	})
	if code, body := process.Get(t, "http://"+servers[0].Admin+"/readyz"); code != http.StatusOK {
		t.Errorf("the server is not ready without the store: %s", body)
	}
	if err := calls[0](requests[1]); err == nil || !strings.Contains(err.Error(), "BUDGET_UNAVAILABLE") {
		t.Errorf("%v", err)
	}
	alone := process.Requests(t, lenient)[2]
	if err := calls[0](alone); err != nil {
		t.Error(err)
	}
	if err := calls[0](alone); err == nil || !strings.Contains(err.Error(), "TOKEN_REPLAYED") {
		t.Errorf("%v", err)
	}
	store.SetError("")
	servers[0].Until(t, "the store is used again", func() bool { return calls[0](requests[1]) == nil })
	_, metrics := process.Get(t, "http://"+servers[0].Admin+"/metrics")
	for _, name := range []string{
		"mayfly_shared_call_seconds_count", "mayfly_shared_available_ratio 1",
		`mayfly_shared_fallbacks_total{operation="spend"} 1`, `result="uncounted"} 1`,
	} {
		if !strings.Contains(string(metrics), name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
}

// D20: however often the process is killed while tokens are used, no token gets a second certificate.
func TestTokenBudgetAfterKill(t *testing.T) {
	t.Parallel()
	provider, other := idp.New(t, idp.Options{Now: ahead}), idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: other.URL(), Embedded: true, More: "state_dir: state\n",
		Issuers: budget(provider, "single-use: true"),
	})
	requests := process.Requests(t, provider)
	issued := make([]atomic.Int32, len(requests))
	for round := range 4 {
		call, done := s.Caller(t, true)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for n := worker; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					at := n % (10 * (round + 1)) // tokens of earlier rounds, and ten new ones
					if call(requests[at]) == nil {
						issued[at].Add(1)
					}
				}
			})
		}
		time.Sleep(time.Duration(20+30*round) * time.Millisecond) // so that the kill interrupts requests
		s.KillAndStart(t)
		close(stop)
		wg.Wait()
		done()
	}
	call, done := s.Caller(t, true)
	defer done()
	total := 0
	for n := range requests {
		if call(requests[n]) == nil {
			issued[n].Add(1)
		}
		if got := int(issued[n].Load()); got > 1 {
			t.Errorf("token %d got %d certificates", n, got)
		} else {
			total += got
		}
	}
	if total < len(requests)/2 {
		t.Errorf("of %d tokens, %d got a certificate", len(requests), total)
	}

	// A damaged file stops the start, with what to do.
	if err := s.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.Cmd.Wait() // it was killed
	name := filepath.Join(s.Dir, "state", "token-uses")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[100] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "mayfly", "serve", "--config", filepath.Join(s.Dir, "mayfly.yaml"))
	out, err := cmd.CombinedOutput()
	if text := string(out); err == nil || !strings.Contains(text, "damaged at byte 64") ||
		!strings.Contains(text, "move the file away") {
		t.Errorf("%v: %s", err, text)
	}
}

// D20: a token that was used as often as allowed gets no certificate after the place where uses are counted has
// changed: from a file to a store that has counted before, and back.
func TestTokenBudgetMoves(t *testing.T) {
	t.Parallel()
	store := miniredis.RunT(t)
	store.SetTime(time.Now().Add(-time.Hour)) // the memory of the store begins before that of the file
	provider, other := idp.New(t, idp.Options{Now: ahead}), idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: other.URL(), Embedded: true, More: "state_dir: state\n",
		Issuers: budget(provider, "single-use: true"),
	})
	name := filepath.Join(s.Dir, "mayfly.yaml")
	alone, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	restart := func(settings string) {
		t.Helper()
		if err := os.WriteFile(name, append(alone, settings...), 0o600); err != nil {
			t.Fatal(err)
		}
		s.KillAndStart(t)
	}
	use := func(r process.Request, want string) {
		t.Helper()
		call, done := s.Caller(t, true)
		defer done()
		if text := fmt.Sprint(call(r)); !strings.Contains(text, want) {
			t.Errorf("%s; want %s", text, want)
		}
	}
	shared := "shared: {valkey: {addresses: [\"" + store.Addr() + "\"], timeout: 5s}}\n"
	old := process.Requests(t, provider)[0]
	use(old, "<nil>")
	restart(shared)
	use(old, "TOKEN_REPLAYED")
	hourAgo := time.Now().Add(-time.Hour) // as if the file had not been used for long
	if err := os.Chtimes(filepath.Join(s.Dir, "state", "token-uses.retired"), hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
	restart(shared)
	use(process.Requests(t, provider)[1], "<nil>")
	young := process.Requests(t, provider)[2]
	use(young, "<nil>")
	time.Sleep(7 * time.Second) // the token is then older than the next process
	restart("")
	use(young, "TOKEN_REPLAYED")
}
