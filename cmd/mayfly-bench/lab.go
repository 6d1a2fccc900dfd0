package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/dev"
	"github.com/mayfly-ca/mayfly/dev/idp"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/listen"
)

// benchLab is the target of a run and the source of its tokens.
type benchLab struct {
	rest, grpc, admin string // URLs, and the address of gRPC
	provider          *idp.Provider
	log               *benchLog      // nil: the log is not simulated by this tool
	closers           []func() error // called in reverse order

	processors int // number of processors of the server; 0: all
	placement  *benchPlacement
}

// benchPlacement says how a server was restricted to some of the processors.
type benchPlacement struct {
	Pinned bool `json:"pinned"` // bound to its processors; otherwise only GOMAXPROCS was set
	Shared bool `json:"shared"` // the load generator used the same processors
}

func (l *benchLab) close() error {
	var err error
	for i := len(l.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, l.closers[i]())
	}
	return err
}

// open starts a CA with the given number of processors (0: all), with its log and its provider, or prepares the access
// to a running CA.
func (f *benchFlags) open(ctx context.Context, o *cli.Common, std cli.Streams,
	processors int,
) (_ *benchLab, err error) {
	l := &benchLab{rest: f.target, grpc: f.grpc, admin: f.metrics, processors: processors}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if f.dir != "" {
		state, err := dev.ReadState(f.dir)
		if err != nil {
			return nil, err
		}
		l.provider, err = idp.New(idp.Options{Dir: state.Path("idp"), Issuer: state.Issuer, TokenLife: time.Hour})
		return l, err
	}
	dir, err := os.MkdirTemp("", "mayfly-bench")
	if err != nil {
		return nil, err
	}
	l.closers = append(l.closers, func() error { return os.RemoveAll(dir) })
	address := f.listenIDP
	if address == "" {
		address = "127.0.0.1:0"
	}
	if err := dev.CheckLoopback(address); err != nil {
		return nil, err
	}
	at, err := listen.Open(address)
	if err != nil {
		return nil, fault.Cure(fmt.Errorf("--listen-idp: %w", err), "choose another address")
	}
	issuer := "http://" + at.Addr().String()
	l.provider, err = idp.New(idp.Options{Dir: filepath.Join(dir, "idp"), Issuer: issuer, TokenLife: 12 * time.Hour})
	if err != nil {
		return nil, errors.Join(err, at.Close())
	}
	stop := dev.ServePages(at, l.provider.Handler())
	l.closers = append(l.closers, func() error { stop(); return nil })
	entry := fmt.Sprintf("  %q:\n    issuer-url: %q\n    client-id: sigstore\n    type: email\n", issuer, issuer)
	if !f.launched {
		fmt.Fprintf(std.Err,
			"during the run the CA must accept this issuer; add to its issuer file:\n\noidc-issuers:\n%s\n",
			entry)
		return l, nil
	}
	return l, l.launch(ctx, launch{flags: f, common: o, dir: dir, identity: "oidc-issuers:\n" + entry})
}

type launch struct {
	flags         *benchFlags
	common        *cli.Common
	dir, identity string
}

// launch writes the files of a CA and starts "mayfly serve" as a separate process, so that its processor time can be
// measured.
func (l *benchLab) launch(ctx context.Context, s launch) error {
	h, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "mayfly bench", Now: time.Now()})
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(h.Key)
	if err != nil {
		return err
	}
	var chain []byte
	for _, c := range h.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	logs := "  embedded: {dir: ct, origin: mayfly.local/ct}\n"
	var logKey []byte
	if !s.flags.embedded {
		var url string
		if url, logKey, err = l.startLog(h.Chain, s.flags.logLatency); err != nil {
			return err
		}
		logs = fmt.Sprintf("  logs:\n    - {name: bench, url: %q, public_key: log.pem}\n", url)
	}
	free, err := freeAddresses(3)
	if err != nil {
		return err
	}
	l.rest, l.grpc, l.admin = "http://"+free[0], free[1], "http://"+free[2]+"/metrics"
	settings := fmt.Sprintf("listen: {http: %q, grpc: %q, admin: %q}\nidentity: {file: identity.yaml}\nlimits: "+
		"{connections: 8192, connections_per_source: 8192}\n"+
		"ca:\n  file: {chain: chain.pem, key: key.pem}\nct:\n%s", free[0], free[1], free[2], logs)
	for name, data := range map[string][]byte{
		"chain.pem": chain, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"log.pem":       logKey,
		"identity.yaml": []byte(s.identity), "mayfly.yaml": []byte(settings),
	} {
		if err := durable.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return l.run(ctx, s)
}

// run starts the process and waits until the CA is ready.
func (l *benchLab) run(ctx context.Context, s launch) error {
	self, err := s.flags.server()
	if err != nil {
		return err
	}
	name := filepath.Join(s.dir, "server.log")
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	argv := []string{
		"serve", "--config", filepath.Join(s.dir, "mayfly.yaml"), "--log-level", s.common.LogLevel,
		"--log-format", "json",
	}
	cmd := exec.Command(self, argv...) //nolint:gosec,noctx // the operator names the binary; stopServer stops the process
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt must not stop the server; stopServer does
	ended := make(chan error, 1)
	start := func() error {
		if err := errors.Join(cmd.Start(), out.Close()); err != nil {
			return err
		}
		go func() { ended <- cmd.Wait() }()
		l.closers = append(l.closers, func() error { return stopServer(cmd, ended) })
		return nil
	}
	if err := l.start(cmd, start); err != nil {
		return err
	}
	ready := strings.TrimSuffix(l.admin, "/metrics") + "/readyz"
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, err := fetch(ctx, ready); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			ended <- err
			text, _ := os.ReadFile(name) // may be incomplete
			return fmt.Errorf("the CA did not start: %w\n%s", err, text)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return errors.New("the CA is not ready after 20s")
		}
	}
}

// server returns the path of the mayfly binary.
func (f *benchFlags) server() (string, error) {
	if f.mayfly != "" {
		return exec.LookPath(f.mayfly)
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), "mayfly")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("mayfly")
	if err != nil {
		return "", cli.Usage("mayfly is neither in the directory of mayfly-bench nor on the PATH; write --mayfly FILE")
	}
	return path, nil
}

// start calls start, and restricts the server to its processors.
func (l *benchLab) start(cmd *exec.Cmd, start func() error) (err error) {
	if l.processors == 0 {
		return start()
	}
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GOMAXPROCS=") })
	if runtime.GOOS != "linux" { // on Linux the CPU affinity determines the number
		cmd.Env = append(cmd.Env, "GOMAXPROCS="+strconv.Itoa(l.processors))
	}
	var undo func() error
	if l.placement, undo, err = place(l.processors, start); err == nil {
		l.closers = append(l.closers, undo)
	}
	return err
}

func stopServer(cmd *exec.Cmd, ended <-chan error) error {
	_ = cmd.Process.Signal(syscall.SIGTERM) // fails if the process has ended
	select {
	case err := <-ended:
		return err
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("the CA did not stop in time"), cmd.Process.Kill())
	}
}

// freeAddresses returns n loopback addresses that are not in use. Their ports lie below those that the system gives to
// listeners on port 0 and to connections, so that no other process gets one of them before the CA listens.
func freeAddresses(n int) ([]string, error) {
	const first, count = 10_000, 20_000
	var out []string
	for i := range count {
		port := first + (os.Getpid()*97+i)%count
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // listening does not block
		if err != nil {
			continue
		}
		defer l.Close() //nolint:errcheck // closed only at the end, so that all addresses differ
		if out = append(out, l.Addr().String()); len(out) == n {
			return out, nil
		}
	}
	return nil, errors.New("no address on loopback is free")
}

// fetch sends a GET request and returns the body, within five seconds.
func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return fetchLong(ctx, url)
}

func fetchLong(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	data, err := bounded.ReadAll(res.Body, 16<<20)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", url, res.Status)
	}
	return data, err
}

// processUsage is the resource usage of the server, from its metrics page.
type processUsage struct {
	cpu time.Duration
	rss float64 // bytes
	ok  bool
}

func (l *benchLab) usage(ctx context.Context) processUsage {
	if l.admin == "" {
		return processUsage{}
	}
	page, err := fetch(ctx, l.admin)
	if err != nil {
		return processUsage{}
	}
	var u processUsage
	lines := bufio.NewScanner(strings.NewReader(string(page)))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "process_cpu_seconds_total":
			u.cpu, u.ok = time.Duration(n*float64(time.Second)), true
		case "process_resident_memory_bytes":
			u.rss = n
		}
	}
	return u
}

// profile starts a CPU profile of the CA for the length of the run. The returned function waits for the end and writes
// the file.
func (l *benchLab) profile(ctx context.Context, f *benchFlags) func() error {
	if f.profile == "" {
		return func() error { return nil }
	}
	seconds := int(f.step.Seconds()*float64(len(f.plan))) + 1
	type answer struct {
		data []byte
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		data, err := fetchLong(ctx, strings.TrimSuffix(l.admin, "/metrics")+"/debug/pprof/profile?seconds="+
			strconv.Itoa(seconds))
		done <- answer{data, err}
	}()
	return func() error {
		a := <-done
		if a.err != nil {
			return a.err
		}
		return os.WriteFile(f.profile, a.data, 0o644) //nolint:gosec // no secret
	}
}
