package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/shadow"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// shadowProcess is a running "mayfly shadow".
type shadowProcess struct {
	cmd  *exec.Cmd
	logs *logbuf.Buffer
	url  string
}

func startShadow(t *testing.T, dir string, flags ...string) *shadowProcess {
	t.Helper()
	address := process.FreeAddress(t)
	p := &shadowProcess{logs: &logbuf.Buffer{}, url: "http://" + address}
	p.cmd = exec.Command("mayfly", append([]string{
		"shadow", "--config", filepath.Join(dir, "mayfly.yaml"), "--dir", filepath.Join(dir, "shadow"),
		"--listen", address,
	}, flags...)...)
	p.cmd.Stderr = p.logs
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // it may have ended
	process.Poll(t, "shadow listens", func() bool {
		resp, err := http.Get(p.url + "/healthz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

func (p *shadowProcess) post(t *testing.T, r process.Request) {
	t.Helper()
	resp, err := http.Post(p.url+"/api/v2/signingCert", "application/json", bytes.NewReader(r.JSON))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v %d %s", err, resp.StatusCode, body)
	}
}

// A shadow compares without the key of the CA. It is killed and started again, and the report counts each request that
// was answered long before. Its callers are moved to another CA and back.
func TestShadow(t *testing.T) {
	t.Parallel()
	provider, keys := idp.New(t, idp.Options{}), pki.New(pki.Options{})
	setup := process.Setup{PKI: keys, Issuer: provider.URL(), One: true}
	upstream, candidate := process.Serve(t, setup), process.Serve(t, setup)
	dir := t.TempDir()
	for _, name := range []string{"mayfly.yaml", "identity.yaml", "chain.pem", "ct.pem"} { // and not key.pem
		data, err := os.ReadFile(filepath.Join(upstream.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	report := func() (r shadow.Report, err error) {
		out, err := process.Mayfly(dir, "shadow", "report", "shadow", "--json")
		if e := json.Unmarshal([]byte(out), &r); e != nil {
			t.Fatalf("%v %s", e, out)
		}
		return r, err
	}
	requests := process.Requests(t, provider)
	flags := []string{"--upstream", "http://" + upstream.HTTP, "--candidate", "http://" + candidate.HTTP}
	p := startShadow(t, dir, flags...)
	for _, r := range requests {
		p.post(t, r)
	}
	process.Poll(t, "all are compared", func() bool {
		r, err := report()
		return r.Equal == int64(len(requests)) && err == nil
	})
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait() // it was killed
	p = startShadow(t, dir, flags...)
	for _, r := range requests {
		p.post(t, r)
	}
	if out, err := process.Mayfly(dir, "shadow", "serve", "shadow", "100%"); err != nil || out != "share 100%\n" {
		t.Fatal(out, err)
	}
	process.Poll(t, "the candidate serves", func() bool {
		p.post(t, requests[0])
		return strings.Contains(p.logs.String(), "share_percent")
	})
	process.Poll(t, "served requests are recorded", func() bool {
		p.post(t, requests[1])
		r, _ := report()
		return r.NotCompared[shadow.Served] > 0
	})
	if out, err := process.Mayfly(dir, "shadow", "serve", "shadow", "0%"); err != nil || out != "share 0%\n" {
		t.Fatal(out, err)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, p.logs)
	}
	r, err := report()
	if err != nil || r.Equal < int64(2*len(requests)) || r.Different+r.Explained != 0 || r.Starts != 2 {
		t.Errorf("%v %+v", err, r)
	}
	for _, form := range [][]string{nil, {"--html"}} {
		out, err := process.Mayfly(dir, append([]string{"shadow", "report", "shadow"}, form...)...)
		if err != nil || !strings.Contains(out, "equal") {
			t.Error(err, out)
		}
	}
	if strings.Contains(p.logs.String(), "user0") {
		t.Error("the log has a name")
	}
}

// Wrong usage is refused before anything is opened.
func TestShadowRefuses(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"shadow"},
		{"shadow", "--upstream", "ftp://x", "--config", "x", "--dir", "d"},
		{"shadow", "--upstream", "http://x", "--config", "missing.yaml", "--dir", "d"},
		{"shadow", "--upstream", "http://x", "--config", "x", "--dir", "d", "--queue", "0"},
		{"shadow", "report"},
		{"shadow", "serve", "d", "200%"},
	} {
		out, err := process.Mayfly(t.TempDir(), args...)
		if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 2 { //nolint:errorlint // Output returns it as it is
			t.Errorf("%v: %v %s", args, err, out)
		}
	}
}

// Requests of every kind get the same answers from a released Fulcio through a shadow as without it, byte for byte
// except for what varies from run to run, and the report explains each difference.
func TestShadowOfFulcio(t *testing.T) {
	t.Parallel()
	path := os.Getenv(fulcioEnv)
	if path == "" {
		t.Skip(fulcioEnv + " is not set; make e2e sets it")
	}
	provider, keys := idp.New(t, idp.Options{}), pki.New(pki.Options{})
	fulcio := startFulcio(t, fulcioSetup{path: path, pki: keys, issuer: provider.URL()})
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"chain.pem": keys.ChainPEM(),
		"identity.yaml": fmt.Appendf(nil, "oidc-issuers:\n  %q: {issuer-url: %q, client-id: sigstore, type: email}\n",
			provider.URL(), provider.URL()),
		"mayfly.yaml": []byte("identity: {file: identity.yaml}\nca:\n  file: {chain: chain.pem, key: key.pem}\n" +
			"ct:\n  embedded: {dir: log, origin: mayfly.local/ct}\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := startShadow(t, dir, "--upstream", fulcio.rest, "--upstream-grpc", "http://"+fulcio.grpc, "--show-values")
	w := newWire(t, fulcio, provider)
	w.settled(t)
	direct := w.all(t)
	w.server.rest, w.server.grpc = p.url, strings.TrimPrefix(p.url, "http://")
	for name, answer := range w.all(t) {
		// This header is about one connection: Fulcio closes its own after a body that is too large.
		if diff := gocmp.Diff(strings.ReplaceAll(direct[name], "Connection: close\n", ""), answer); diff != "" {
			t.Errorf("%s: (-direct +shadow)\n%s", name, diff)
		}
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, p.logs)
	}
	out, err := process.Mayfly(dir, "shadow", "report", "shadow")
	if err != nil || !strings.Contains(out, "NotBefore") {
		t.Errorf("%v\n%s", err, out)
	}
}

// With a shadow, 99 of 100 callers wait at most 5 ms longer.
func TestShadowLatency(t *testing.T) { //nolint:paralleltest // it measures
	if os.Getenv("MAYFLY_SHADOW") == "" {
		t.Skip("make shadow measures it, on a machine that does nothing else")
	}
	provider := idp.New(t, idp.Options{})
	ca := process.Serve(t, process.Setup{PKI: pki.New(pki.Options{}), Issuer: provider.URL(), One: true})
	requests := process.Requests(t, provider)
	p := startShadow(t, ca.Dir, "--upstream", "http://"+ca.HTTP)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	const count, rounds, rate = 200, 12, 100
	measure := func(url string) []time.Duration {
		took := make([]time.Duration, count)
		var all sync.WaitGroup
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		for i := range count {
			<-tick.C
			all.Go(func() {
				began := time.Now()
				resp, err := client.Post(url+"/api/v2/signingCert", "application/json",
					bytes.NewReader(requests[i%len(requests)].JSON))
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
					t.Error(resp.Status, err)
				}
				took[i] = time.Since(began)
			})
		}
		all.Wait()
		return took
	}
	direct := "http://" + ca.HTTP
	measure(direct) // warms up
	var without, with []time.Duration
	for range rounds { // in turn, so that what else the machine does concerns both
		without, with = append(without, measure(direct)...), append(with, measure(p.url)...)
	}
	slices.Sort(without)
	slices.Sort(with)
	const p50, p99 = rounds * count / 2, rounds * count * 99 / 100
	t.Logf("directly: p50 %s, p99 %s; with a shadow: p50 %s, p99 %s", without[p50], without[p99], with[p50], with[p99])
	if with[p99]-without[p99] > 5*time.Millisecond {
		t.Error("99 of 100 callers wait more than 5 ms longer")
	}
}
