package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/history"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/testkit/site"
)

// auditLab is a CA with a journal, whose process can be stopped and started, and a webhook that receives its alarms.
type auditLab struct {
	t              *testing.T
	dir            string
	pki            *pki.PKI
	log            *ct.Log // nil: the embedded log
	provider       *idp.Provider
	requests       []process.Request
	process        *process.Server
	admin          string
	hook           *httptest.Server
	mu             sync.Mutex
	received       []reconcile.Finding
	authorizations []string
	refuse         int // number of POST requests that the webhook refuses
}

func newAuditLab(t *testing.T, remote bool) *auditLab {
	t.Helper()
	l := &auditLab{
		t: t, dir: t.TempDir(), pki: pki.New(pki.Options{}), provider: idp.New(t, idp.Options{}),
		admin: process.FreeAddress(t), refuse: 1,
	}
	l.hook = httptest.NewServer(http.HandlerFunc(l.listen))
	t.Cleanup(l.hook.Close)
	l.requests = process.Requests(t, l.provider)
	logs := "  embedded: {dir: log, origin: mayfly.local/ct}\n"
	if remote {
		l.log = site.NewTestLog(t, l.pki)
		l.write("ct.pem", l.log.PublicKeyPEM())
		logs = fmt.Sprintf("  logs: [{name: lab, url: %q, public_key: ct.pem, max_merge_delay: 1m}]\n", l.log.URL())
	}
	l.write("chain.pem", l.pki.ChainPEM())
	l.write("key.pem", l.pki.KeyPEM())
	l.write("bearer", []byte("hook-secret\n"))
	l.write("identity.yaml", fmt.Appendf(nil, "oidc-issuers:\n  %q: {client-id: sigstore, type: email}\n",
		l.provider.URL()))
	l.process = &process.Server{Dir: l.dir, HTTP: process.FreeAddress(t), GRPC: process.FreeAddress(t)}
	l.write("mayfly.yaml",
		fmt.Appendf(nil,
			"listen: {http: %q, grpc: %q, admin: %q}\nidentity: {file: identity.yaml}\nca:\n  file: {chain: "+
				"chain.pem, key: key.pem}\n"+
				"audit:\n  file: journal.jsonl\n  reconcile: {every: 1s}\n  alarm: {webhook: {url: %q, bearer: "+
				"{file: bearer}}}\nct:\n%s",
			l.process.HTTP, l.process.GRPC, l.admin, l.hook.URL, logs))
	return l
}

func (l *auditLab) write(name string, data []byte) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), data, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// listen is the handler of the webhook.
func (l *auditLab) listen(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse > 0 {
		l.refuse--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var in struct{ Finding reconcile.Finding }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		l.t.Errorf("webhook: %v", err)
	}
	l.received = append(l.received, in.Finding)
	l.authorizations = append(l.authorizations, r.Header.Get("Authorization"))
}

func (l *auditLab) alarmKinds() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []string{}
	for _, f := range l.received {
		out = append(out, string(f.Kind))
	}
	return out
}

// start starts the CA and waits until it is ready.
func (l *auditLab) start() {
	l.t.Helper()
	s := l.process
	s.Logs = &logbuf.Buffer{}
	s.Cmd = exec.Command("mayfly", "serve", "--config", filepath.Join(l.dir, "mayfly.yaml"), "--log-level", "warn")
	s.Cmd.Stderr = s.Logs
	if err := s.Cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	cmd := s.Cmd
	l.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	s.Until(l.t, "serving", func() bool {
		resp, err := http.Get("http://" + s.HTTP + "/api/v2/trustBundle")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// end ends the CA with a signal.
func (l *auditLab) end(signal syscall.Signal) {
	l.t.Helper()
	if err := l.process.Cmd.Process.Signal(signal); err != nil {
		l.t.Fatal(err)
	}
	_ = l.process.Cmd.Wait() // the error is expected: the process was killed
}

// issue requests n certificates.
func (l *auditLab) issue(n int) {
	l.t.Helper()
	call, done := l.process.Caller(l.t, false)
	defer done()
	for i := range n {
		if err := call(l.requests[i%len(l.requests)]); err != nil {
			l.t.Fatalf("%v; log:\n%s", err, l.process.Logs)
		}
	}
}

// misissue submits a precertificate that was signed with the CA's key outside of the CA.
func (l *auditLab) misissue() {
	l.t.Helper()
	if err := l.log.Add(append([][]byte{l.pki.Leaf(time.Now().UnixNano(), true)}, l.pki.ChainDER()...),
		true); err != nil {
		l.t.Fatal(err)
	}
}

// mayfly runs a command and returns its output and its exit status.
func (l *auditLab) mayfly(args ...string) (out, stderr string, status int) {
	l.t.Helper()
	cmd := exec.Command("mayfly", args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// reconcile audits everything and returns the kinds of the findings.
func (l *auditLab) reconcile(args ...string) (kinds []string, status int) {
	l.t.Helper()
	out, stderr, status := l.mayfly(append([]string{
		"audit", "reconcile", "--json", "--config",
		filepath.Join(l.dir, "mayfly.yaml"),
	}, args...)...)
	var r reconcile.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		l.t.Fatalf("%v: %s%s", err, out, stderr)
	}
	for _, f := range r.Findings {
		kinds = append(kinds, string(f.Kind))
	}
	if status == 1 {
		l.t.Log(stderr)
	}
	return kinds, status
}

func (l *auditLab) get(path string) (string, int) {
	resp, err := http.Get("http://" + l.admin + path)
	if err != nil {
		return err.Error(), 0
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body), resp.StatusCode
}

// G6: a certificate that was signed with the CA's key outside of the CA is found by the command and by the running CA.
// The CA reports it once: in the journal, the metrics, /readyz, the log and the webhook.
func TestAuditMisissuance(t *testing.T) {
	t.Parallel()
	l := newAuditLab(t, true)
	l.start()
	l.issue(20)
	if kinds, status := l.reconcile(); status != 0 {
		t.Fatalf("before: %v, status %d", kinds, status)
	}
	l.misissue()
	l.process.Until(t, "received", func() bool { return len(l.alarmKinds()) > 0 })
	kinds, status := l.reconcile()
	if diff := cmp.Diff([]string{"unintended_entry"}, kinds); diff != "" || status != cli.ExitFound {
		t.Errorf("the command: status %d, %s", status, diff)
	}
	out, _, status := l.mayfly("audit", "reconcile", "--config", filepath.Join(l.dir, "mayfly.yaml"))
	for _, want := range []string{"unintended_entry", "lab", "1 finding", "stop issuing", "verified"} {
		if !strings.Contains(out, want) || status != cli.ExitFound {
			t.Errorf("the table has no %q: %s", want, out)
		}
	}
	for want, args := range map[string][]string{
		`--log "another": unknown log; the configuration has lab`: {"--log", "lab", "--log", "another"},
		"--lag -5m0s: write the greatest delay":                   {"--lag", "-5m"},
		`--since "soon": write RFC 3339`:                          {"--since", "soon"},
	} {
		_, stderr, status := l.mayfly(append([]string{
			"audit", "reconcile", "--config",
			filepath.Join(l.dir, "mayfly.yaml"),
		}, args...)...)
		if status != cli.ExitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%v: status %d, %s", args, status, stderr)
		}
	}
	// Each report of the alarm has the identity, the entry and the commands to run.
	received := l.received[0]
	if received.Identity != "rogue@example.com" || received.Index == nil || len(received.Commands) < 4 ||
		received.Signature != reconcile.SignatureVerified {
		t.Errorf("the webhook got %+v", received)
	}
	journalled, _, _ := l.mayfly("audit", "query", "--config", filepath.Join(l.dir, "mayfly.yaml"), "--reason",
		"unintended_entry", "--san", "rogue@example.com")
	asJSON, _, _ := l.mayfly("audit", "reconcile", "--config", filepath.Join(l.dir, "mayfly.yaml"), "--json")
	listed, _, _ := l.mayfly("audit", "clear", "--config", filepath.Join(l.dir, "mayfly.yaml"))
	for what, text := range map[string]string{
		"the log": l.process.Logs.String(), "the journal": journalled, "the table": out, "JSON": asJSON,
		"the list of open alarms": listed,
	} {
		if !strings.Contains(text, "rogue@example.com") ||
			what != "the journal" && !strings.Contains(text, "mayfly audit query --config") ||
			!strings.Contains(text, received.Serial[len(received.Serial)-16:]) {
			t.Errorf("%s does not name identity, serial number and commands: %s", what, text)
		}
	}
	if metrics, _ := l.get("/metrics"); !strings.Contains(metrics,
		`mayfly_audit_alarms_total{kind="unintended_entry"} 1`) ||
		!strings.Contains(metrics, "mayfly_audit_alarms_open 1") {
		t.Error("no metric shows the alarm")
	}
	if ready, code := l.get("/readyz"); code != http.StatusOK ||
		!strings.Contains(ready, "open alarms: 1, the newest is unintended_entry") {
		t.Errorf("readiness %d: %s", code, ready)
	}
	if !strings.Contains(l.process.Logs.String(), "audit alarm") {
		t.Errorf("the log does not have the alarm: %s", l.process.Logs)
	}
	l.end(syscall.SIGTERM)
	l.start()
	l.issue(1)
	l.process.Until(t, "audited after the restart", func() bool {
		m, _ := l.get("/metrics")
		return strings.Contains(m, `mayfly_audit_runs_total{result="complete"}`) &&
			!strings.Contains(m, `mayfly_audit_runs_total{result="complete"} 0`)
	})
	if diff := cmp.Diff([]string{"unintended_entry"}, l.alarmKinds()); diff != "" {
		t.Errorf("the webhook got the alarm again: %s", diff)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.authorizations, []string{"Bearer hook-secret"}) {
		t.Errorf("authorization: %q", l.authorizations)
	}
	journal, err := os.ReadFile(filepath.Join(l.dir, "journal.jsonl"))
	if err != nil || bytes.Count(journal, []byte(`"kind":"alarm"`)) != 1 {
		t.Errorf("%d alarms in the journal, %v", bytes.Count(journal, []byte(`"kind":"alarm"`)), err)
	}
}

// G5 // G9: another process edits the journal while the CA writes it. No certificate is issued until the journal is
// restored. The alarm is reported and stays open until it is cleared, which is journalled.
func TestAuditJournalEdited(t *testing.T) {
	t.Parallel()
	l := newAuditLab(t, false)
	l.start()
	l.issue(5)
	path := filepath.Join(l.dir, "journal.jsonl")
	ready := func(code int, text string) func() bool {
		return func() bool { body, got := l.get("/readyz"); return got == code && strings.Contains(body, text) }
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l.process.Replace(t, "journal.jsonl", bytes.Replace(good, []byte(`"kind":"intent"`), []byte(`"kind":"outcom"`), 1))
	l.process.Until(t, "out of service", ready(http.StatusServiceUnavailable, "was replaced by another file"))
	l.process.Until(t, "received", func() bool { return slices.Contains(l.alarmKinds(), "journal_broken") })
	call, done := l.process.Caller(t, false)
	defer done()
	if err := call(l.requests[0]); err == nil {
		t.Error("a certificate was issued")
	}
	l.process.Replace(t, "journal.jsonl", good)
	l.process.Until(t, "in service again, with the alarm open", ready(http.StatusOK, "journal_broken"))
	l.issue(1)
	config := filepath.Join(l.dir, "mayfly.yaml")
	listed, _, status := l.mayfly("audit", "clear", "--config", config, "--json")
	var alarms []reconcile.Alarm
	if err := json.Unmarshal([]byte(listed), &alarms); err != nil || status != 0 || len(alarms) == 0 ||
		!strings.Contains(alarms[0].Text, "another process changed the journal") {
		t.Fatalf("%v: %s", err, listed)
	}
	for _, a := range alarms {
		l.shell(a.Commands[len(a.Commands)-1], 0) // audit clear
	}
	l.process.Until(t, "cleared",
		func() bool { m, _ := l.get("/metrics"); return strings.Contains(m, "mayfly_audit_alarms_open 0") })
	l.end(syscall.SIGTERM)
	journal, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(journal, []byte("alarms were cleared: alarm "+alarms[0].ID+", by user ")) ||
		!bytes.Contains(journal, []byte(`"kind":"alarm"`)) {
		t.Errorf("the journal has no record of it: %v", err)
	}
	if out, stderr, status := l.mayfly("audit", "verify", "--config", config); status != 0 {
		t.Errorf("the journal is not intact: %s%s", out, stderr)
	}
}

// shell runs a command as printed, and returns its output.
func (l *auditLab) shell(command string, want ...int) string {
	l.t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	code := 0
	if exit != nil {
		code = exit.ExitCode()
	}
	if !slices.Contains(want, code) {
		l.t.Errorf("%s: exit %d: %s", command, code, out)
	}
	return string(out)
}

// G6: the printed commands of a finding work: the first shows the log entry, and the others show the records of the
// journal.
func TestAuditCommands(t *testing.T) {
	t.Parallel()
	l := newAuditLab(t, false)
	l.start()
	l.issue(2)
	l.end(syscall.SIGTERM)
	for _, suffix := range []string{"", ".head", ".lock", ".reconcile"} { // the CA continues with a new journal
		if err := os.Rename(filepath.Join(l.dir, "journal.jsonl"+suffix),
			filepath.Join(l.dir, "kept"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	l.start()
	l.issue(1)
	l.end(syscall.SIGTERM)
	for _, suffix := range []string{"", ".head", ".lock", ".reconcile"} {
		if err := os.Rename(filepath.Join(l.dir, "kept"+suffix),
			filepath.Join(l.dir, "journal.jsonl"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	out, stderr, status := l.mayfly("audit", "reconcile", "--json", "--config", filepath.Join(l.dir, "mayfly.yaml"))
	var r reconcile.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || status != cli.ExitFound || len(r.Findings) != 1 {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	f := r.Findings[0]
	if f.Kind != reconcile.UnintendedEntry || !strings.HasSuffix(f.Identity, "@example.com") ||
		f.Issuer != l.provider.URL() || f.Signature != reconcile.SignatureVerified {
		t.Errorf("%+v", f)
	}
	for i, command := range f.Commands {
		text := l.shell(command, 0, cli.ExitFound)
		if i == 0 && (!strings.Contains(text, f.Identity) || !strings.Contains(text, strings.TrimLeft(f.Serial, "0"))) {
			t.Errorf("%s does not show the entry: %s", command, text)
		}
	}
	if len(f.Commands) < 4 {
		t.Errorf("commands: %q", f.Commands)
	}
}

// G6 // G9: a log that loses entries gets no submissions, even after a restart, until an operator releases it; the
// order is journalled.
func TestAuditQuarantine(t *testing.T) {
	t.Parallel()
	l := newAuditLab(t, true)
	l.start()
	l.issue(10)
	audited := func() bool {
		data, err := os.ReadFile(filepath.Join(l.dir, "journal.jsonl.reconcile"))
		return err == nil && bytes.Contains(data, fmt.Appendf(nil, `"size":%d,`, l.log.Size()))
	}
	l.process.Until(t, "audited", audited)
	l.log.Truncate(3)
	down := func() bool { _, code := l.get("/readyz"); return code == http.StatusServiceUnavailable }
	l.process.Until(t, "out of service without its only log", down)
	l.process.Until(t, "out of service with the cause", func() bool {
		ready, _ := l.get("/readyz")
		return strings.Contains(ready, "the log has fewer entries than before")
	})
	l.end(syscall.SIGTERM)
	l.start()
	l.process.Until(t, "out of service after a restart", down)
	config := filepath.Join(l.dir, "mayfly.yaml")
	if out, _, status := l.mayfly("audit", "clear", "--config", config, "--log", "lab"); status != 0 ||
		!strings.Contains(out, "log_shrunk") {
		t.Errorf("the dry run: status %d, %s", status, out)
	}
	if _, _, status := l.mayfly("audit", "clear", "--config", config, "--log", "another",
		"--yes"); status != cli.ExitUsage {
		t.Errorf("another log: status %d", status)
	}
	time.Sleep(1200 * time.Millisecond) // time for an audit in the other process: a dry run must not write an order
	if !down() {
		t.Fatal("the dry run released the log")
	}
	if _, stderr, status := l.mayfly("audit", "clear", "--config", config, "--log", "lab", "--yes"); status != 0 {
		t.Fatalf("status %d, %s", status, stderr)
	}
	l.process.Until(t, "in service again", func() bool { _, code := l.get("/readyz"); return code == http.StatusOK })
	l.issue(1)
	journal, err := os.ReadFile(filepath.Join(l.dir, "journal.jsonl"))
	if err != nil || !bytes.Contains(journal, []byte("alarms were cleared: log lab")) {
		t.Errorf("the order is not in the journal: %v", err)
	}
}

// G4 // G6 // B12: after a process is killed while it issues, all differences have a harmless explanation. Changed and
// removed entries of the embedded log are found.
func TestAuditKilled(t *testing.T) {
	t.Parallel()
	l := newAuditLab(t, false)
	var size int64 // of the journal at the last kill
	for range 2 {
		l.start()
		var callers sync.WaitGroup
		for i := range 8 {
			call, done := l.process.Caller(t, i%2 == 0)
			callers.Go(func() {
				defer done()
				for n := i; call(l.requests[n%len(l.requests)]) == nil; n += 8 { // until the process is killed
				}
			})
		}
		l.process.Until(t, "busy", func() bool {
			st, err := os.Stat(filepath.Join(l.dir, "journal.jsonl"))
			return err == nil && st.Size() > size+150<<10
		})
		if st, err := os.Stat(filepath.Join(l.dir, "journal.jsonl")); err == nil {
			size = st.Size()
		}
		l.end(syscall.SIGKILL)
		callers.Wait()
	}
	l.start() // the log publishes the remaining entries
	l.issue(300)
	if kinds, status := l.reconcile(); status != 0 {
		t.Errorf("after two kills: %v, status %d", kinds, status)
	}
	l.end(syscall.SIGTERM)
	if kinds, status := l.reconcile(); status != 0 {
		t.Errorf("without a running CA: %v, status %d", kinds, status)
	}
	tile := filepath.Join(l.dir, "log", "tile", "data", "000")
	good, err := os.ReadFile(tile)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(good)
	bad[100] ^= 1
	for name, change := range map[string]func() error{
		"altered": func() error { return os.WriteFile(tile, bad, 0o600) },
		"removed": func() error { return os.Remove(tile) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if kinds, status := l.reconcile(); status != cli.ExitFound || !slices.Equal(kinds, []string{"log_mismatch"}) {
			t.Errorf("%s: %v, status %d", name, kinds, status)
		}
	}
	if err := os.WriteFile(tile, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(l.dir, "log", "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if _, status := l.reconcile(); status != cli.ExitFailed {
		t.Errorf("a log that cannot be read: status %d", status)
	}
}

// BenchmarkReconcile runs the command with a million entries and their two million records, and reports time and
// memory.
func BenchmarkReconcile(b *testing.B) {
	entries := 1_000_000
	if testing.Short() {
		entries = 20_000
	}
	dir, p := b.TempDir(), pki.New(pki.Options{})
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	write("chain.pem", p.ChainPEM())
	write("key.pem", p.KeyPEM())
	write("identity.yaml", []byte("oidc-issuers:\n  https://a.example.com: {client-id: sigstore, type: email}\n"))
	write("mayfly.yaml",
		[]byte("identity: {file: identity.yaml}\nca:\n  file: {chain: chain.pem, key: key.pem}\naudit: "+
			"{file: journal.jsonl}\n"+
			"ct:\n  embedded: {dir: log, origin: mayfly.local/ct}\n"))
	began := time.Now()
	if _, err := history.Write(history.Options{
		PKI: p, Log: filepath.Join(dir, "log"), Origin: "mayfly.local/ct", Journal: filepath.Join(dir, "journal.jsonl"),
		Entries: entries, End: time.Now(),
	}); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d entries and their records were made in %s", entries, time.Since(began).Round(time.Second))
	for b.Loop() {
		cmd := exec.Command("mayfly", "audit", "reconcile", "--config", filepath.Join(dir, "mayfly.yaml"))
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("nothing found\n")) {
			b.Fatalf("%v\n%s", err, out)
		}
		b.Logf("\n%s", out)
		use := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		rss := use.Maxrss
		if runtime.GOOS == "linux" {
			rss <<= 10
		}
		b.ReportMetric(float64(rss)/(1<<20), "peak-rss-MB")
		b.ReportMetric(float64(cmd.ProcessState.UserTime().Milliseconds()+cmd.ProcessState.SystemTime().Milliseconds())/1e3, "cpu-s")
	}
}
