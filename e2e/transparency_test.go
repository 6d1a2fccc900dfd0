package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// certificate requests one certificate over REST.
func certificate(ctx context.Context, ca *lab.Mayfly, issuer *lab.Issuer) (lab.Answer, error) {
	client := &http.Client{Timeout: lab.MaxWait}
	return lab.RequestCertificate(ctx, client, ca.URL, issuer.Email("alice@example.com"), "alice@example.com")
}

// severalLogs returns the ct: block for remote logs, each with a different operator.
func severalLogs(policy string, logs ...*lab.Log) string {
	out := "  logs:\n"
	for _, g := range logs {
		out += fmt.Sprintf("    - {name: %s, url: %q, public_key: %s, origin: %q, operator: operator-of-%s, "+
			"max_merge_delay: 1m}\n",
			g.Name, g.URL, g.Key.Public, strings.TrimSpace(g.Origin+" "), g.Name)
	}
	out = strings.ReplaceAll(out, `, origin: ""`, "")
	return out + "  policy: " + policy + "\n"
}

// TestManyLogs checks that a CA with three real logs of two kinds meets its policy of two SCTs from two operators while
// logs are killed, stopped, filled and started again. // B1 B2 B8 B10
func TestManyLogs(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	pki := l.PKI()
	issuer := l.Issuer(nil)
	a := l.TesseraCTIn(lab.LogPlace{Name: "tesseract-a", Roots: pki.RootFile})
	b := l.TesseraCTIn(lab.LogPlace{Name: "tesseract-b", Roots: pki.RootFile})
	c := l.CTFEIn(lab.LogPlace{Name: "ctfe", Roots: pki.RootFile})
	logs := []*lab.Log{a, b, c}
	ca := l.Serve(lab.ServeOptions{
		Name: "many", PKI: pki, Identity: lab.EmailIssuer(issuer.URL),
		CT: severalLogs("{min_scts: 2, min_operators: 2, stagger: 300ms}", logs...),
	})
	issue := func(what string, n int, limit time.Duration) (from map[string]int) {
		t.Helper()
		from = map[string]int{}
		slowest := time.Duration(0)
		for range n {
			answer, err := certificate(t.Context(), ca, issuer)
			if err != nil {
				t.Fatal(err)
			}
			issued, err := answer.Signed()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			scts := 0
			for _, g := range logs {
				if l.HasSCT(g, issued) {
					scts++
					from[g.Name]++
					if g.Server != nil {
						l.CheckLogged(g, issued)
					}
				}
			}
			if scts < 2 {
				t.Errorf("%s: a certificate with SCTs of %d of our logs, want 2", what, scts)
			}
			slowest = max(slowest, answer.Took)
		}
		if slowest > limit {
			t.Errorf("%s: the slowest answer took %s, want at most %s", what, slowest, limit)
		}
		t.Logf("%s: %d certificates, slowest %s, SCTs of %v", what, n, slowest.Round(time.Millisecond), from)
		return from
	}
	issue("three logs", 10, 5*time.Second)

	a.Server.Kill()
	if from := issue("one killed", 10, 8*time.Second); from[a.Name] != 0 {
		t.Errorf("%d SCTs of a log that is dead", from[a.Name])
	}

	b.Server.Pause()
	answer, err := certificate(t.Context(), ca, issuer)
	if err != nil {
		t.Fatal(err)
	}
	refusal, err := answer.Refused()
	if err != nil || answer.Status != http.StatusServiceUnavailable || answer.Took > 20*time.Second ||
		len(refusal.Details) == 0 || refusal.Details[0].Reason != "LOG_UNAVAILABLE" {
		t.Errorf("one log is left of two that are needed: status %d after %s: %s", answer.Status,
			answer.Took, answer.Body)
	}
	t.Logf("one killed, one stopped: refused after %s", answer.Took.Round(time.Millisecond))
	b.Server.Continue()
	l.Eventually("certificates again", func(ctx context.Context) error {
		answer, err := certificate(ctx, ca, issuer)
		if err == nil {
			_, err = answer.Signed()
		}
		return err
	})

	a.Restart(l)
	l.Eventually("the first log is asked again", func(ctx context.Context) error {
		answer, err := certificate(ctx, ca, issuer)
		if err != nil {
			return err
		}
		issued, err := answer.Signed()
		if err == nil && !l.HasSCT(a, issued) {
			err = errors.New("no SCT of it yet")
		}
		return err
	})
	c.Server.Pause()
	issue("another one stopped", 10, 8*time.Second)
	c.Server.Continue()
	ca.Stop()
}

// TestFullDisks fills the disks of a log and of the journal. // B1 B10 G4
func TestFullDisks(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	pki := l.PKI()
	issuer := l.Issuer(nil)
	small := l.SmallDisk("small", "4m")
	full := l.TesseraCTIn(lab.LogPlace{Name: "tesseract-full", Roots: pki.RootFile, Dir: filepath.Join(small, "log")})
	good := l.TesseraCTIn(lab.LogPlace{Name: "tesseract-good", Roots: pki.RootFile})
	journal := l.SmallDisk("journal", "1m")
	ca := l.Serve(lab.ServeOptions{
		Name: "full", PKI: pki, Identity: lab.EmailIssuer(issuer.URL),
		// a log waits for its checkpoint
		CT:   severalLogs("{min_scts: 1, stagger: 300ms, attempt: 10s, budget: 18s}", full, good),
		More: "audit: {file: " + journal + "/journal.jsonl}\n",
	})
	one := func(ctx context.Context) (lab.Issued, error) {
		answer, err := certificate(ctx, ca, issuer)
		if err != nil {
			return lab.Issued{}, err
		}
		return answer.Signed()
	}
	fill := func(dir string) (empty func()) {
		t.Helper()
		name := filepath.Join(dir, "ballast")
		// ends when the disk is full
		_ = exec.CommandContext(t.Context(), "dd", "if=/dev/zero", "of="+name, "bs=4k").Run()
		return func() {
			if err := os.Remove(name); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := one(t.Context()); err != nil {
		t.Fatal(err)
	}

	empty := fill(small)
	for range 20 {
		issued, err := one(t.Context())
		if err != nil {
			t.Fatalf("one of two logs is full: %v", err)
		}
		if l.HasSCT(full, issued) {
			l.CheckLogged(full, issued) // an SCT of the full log is an obligation to merge the entry
		} else {
			l.CheckLogged(good, issued)
		}
	}
	empty()

	empty = fill(journal)
	refused := false
	for range 50 {
		answer, err := certificate(t.Context(), ca, issuer)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status == http.StatusOK {
			continue // the last page of the file system had room for these records
		}
		refusal, err := answer.Refused()
		if err != nil || answer.Status != http.StatusServiceUnavailable || len(refusal.Details) == 0 ||
			refusal.Details[0].Reason != "JOURNAL_UNAVAILABLE" {
			t.Fatalf("the journal's disk is full: status %d: %s", answer.Status, answer.Body)
		}
		refused = true
		break
	}
	if !refused {
		t.Error("50 certificates without room for their records")
	}
	l.Eventually("not ready without a journal", func(ctx context.Context) error { // readiness is sampled once a second
		if err := lab.GetOK(ctx, ca.Admin+"/readyz"); err == nil {
			return errors.New("ready")
		}
		return nil
	})
	empty()
	l.Eventually("certificates again", func(ctx context.Context) error {
		_, err := one(ctx)
		return err
	})
	ca.Stop()
	l.Run(lab.Command{Name: "mayfly", Args: []string{"audit", "verify", journal + "/journal.jsonl"}})
	l.Run(lab.Command{Name: "mayfly", Args: []string{"audit", "reconcile", "--config", ca.Dir + "/mayfly.yaml"}})
}

// auditedCase is a CA with three logs, one of them embedded, whose alarms go to a webhook.
type auditedCase struct {
	*lab.Lab

	pki         lab.PKI
	issuer      *lab.Issuer
	hook        *lab.Webhook
	static, rfc *lab.Log
}

func newAuditedCase(t *testing.T) auditedCase {
	t.Helper()
	l := lab.New(t)
	c := auditedCase{Lab: l, pki: l.PKI(), issuer: l.Issuer(nil), hook: l.Webhook()}
	c.static, c.rfc = l.TesseraCT(c.pki.RootFile), l.CTFE(c.pki.RootFile)
	return c
}

// serve starts the CA in a folder. scts is how many SCTs a certificate needs; ca is the block of that name, "" a key
// file.
func (c auditedCase) serve(name string, scts int, ca string) *lab.Mayfly {
	c.Helper()
	return c.Serve(lab.ServeOptions{
		Name: name, PKI: c.pki, Identity: lab.EmailIssuer(c.issuer.URL), CA: ca,
		CT: severalLogs(fmt.Sprintf("{min_scts: %d}", scts), c.static, c.rfc) +
			"  embedded: {dir: log, origin: e2e.test/own}\n",
		More: fmt.Sprintf("audit:\n  file: journal.jsonl\n  reconcile: {every: 1s}\n  alarm: {webhook: {url: %q}}\n",
			c.hook.URL),
	})
}

// issue requests one certificate.
func (c auditedCase) issue(ca *lab.Mayfly) lab.Issued {
	c.Helper()
	answer, err := certificate(c.Context(), ca, c.issuer)
	if err != nil {
		c.Fatal(err)
	}
	issued, err := answer.Signed()
	if err != nil {
		c.Fatal(err)
	}
	return issued
}

// reconcile expects that journal and logs agree and that no alarm was sent. It returns the command.
func (c auditedCase) reconcile(ca *lab.Mayfly) lab.Command {
	c.Helper()
	command := lab.Command{Name: "mayfly", Args: []string{"audit", "reconcile", "--config", ca.Dir + "/mayfly.yaml"}}
	c.Run(command)
	if said := c.hook.Said(); len(said) != 0 {
		c.Errorf("alarms without a cause: %q", said)
	}
	return command
}

// TestStolenKey signs with the CA's key outside of mayfly, and removes an entry from a log: both the command and the
// running CA report it, and the running CA notifies a webhook. // G6
func TestStolenKey(t *testing.T) {
	t.Parallel()
	l := newAuditedCase(t)
	ca := l.serve("stolen", 2, "")
	for range 10 {
		l.issue(ca)
	}
	reconcile := l.reconcile(ca)
	for _, g := range []*lab.Log{l.static, l.rfc} {
		serial := fmt.Sprintf("%x", l.SignOutsideCA(l.pki, g, "mallory@example.com"))
		l.Eventually("the alarm arrives", func(context.Context) error {
			for _, text := range l.hook.Said() {
				if strings.Contains(text, "unintended") && strings.Contains(text, serial) {
					return nil
				}
			}
			return fmt.Errorf("it said %q", l.hook.Said())
		})
	}
	if r := l.RunFails(reconcile, "unintended"); r.Status != 3 {
		t.Errorf("reconcile ends with status %d, want 3", r.Status)
	}
	ca.Stop()
}

// TestPrecertIssuer issues through a precertificate signing certificate: TesseraCT, the log of Trillian and the
// embedded log accept it below an issuing certificate with a path length of 0, their SCTs are for the certificate, and
// the journal, the logs and the auditor agree. // A4 B1 G6
func TestPrecertIssuer(t *testing.T) {
	t.Parallel()
	l := newAuditedCase(t)
	ca := l.serve("indirect", 3,
		fmt.Sprintf("  file: {chain: %q, key: %q}\n  precert_issuer: true\n", l.pki.ChainFile, l.pki.KeyFile))
	for range 10 {
		issued := l.issue(ca)
		for _, g := range []*lab.Log{l.static, l.rfc} {
			if !l.HasSCT(g, issued) {
				t.Errorf("no SCT of %s", g.Name)
			}
			l.CheckLogged(g, issued)
		}
	}
	l.reconcile(ca)
	serial := fmt.Sprintf("%x", l.SignOutsideCA(l.pki, l.rfc, "mallory@example.com"))
	l.Eventually("the alarm arrives", func(context.Context) error {
		if said := l.hook.Said(); !strings.Contains(strings.Join(said, " "), serial) {
			return fmt.Errorf("it said %q", said)
		}
		return nil
	})
	ca.Stop()
	l.Run(lab.Command{Name: "mayfly", Args: []string{"audit", "verify", ca.Dir + "/journal.jsonl"}})
	l.Run(lab.Command{Name: "mayfly", Args: []string{"log", "fsck", "--dir", ca.Dir + "/log"}})
}

// TestKilledAtEachStep ends the CA with SIGKILL at its first, second, … system call of each kind that makes something
// durable or sends data, while requests arrive, and then reconciles journal and logs: every certificate that a caller
// received is in both, and every operation that a kill interrupted is explained. // A2 G4 G6 F11
func TestKilledAtEachStep(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	l := lab.New(t)
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace (apt-get install strace)")
	}
	if out, err := exec.CommandContext(t.Context(), "strace", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("this machine does not let strace trace: %v: %s", err, out)
	}
	pki := l.PKI()
	issuer := l.Issuer(nil)
	rfc := l.CTFE(pki.RootFile)
	own := &lab.Log{Name: "embedded", Origin: "e2e.test/own"}
	ca := l.Serve(lab.ServeOptions{
		Name: "killed", PKI: pki, Identity: lab.EmailIssuer(issuer.URL),
		CT:   severalLogs("{min_scts: 2}", rfc) + "  embedded: {dir: log, origin: e2e.test/own}\n",
		More: "audit: {file: journal.jsonl, reconcile: {every: off}}\n",
	})
	own.URL, own.Key.Public = ca.URL+"/ct", ca.Dir+"/log/log.pub.pem"
	ca.Stop()
	var got []lab.Issued
	kills := 0
	// strace -D runs the tracer in a separate process, so that the process started, killed and awaited here is mayfly
	// itself.
	for _, calls := range []string{"fsync,fdatasync", "write", "rename,renameat,renameat2,link,linkat"} {
		for _, n := range []int{1, 2, 3, 5, 8, 12, 17, 23, 30, 40} {
			ca.Spawned(l, "strace", "-D", "-f", "-qq", "-o", os.DevNull, "-e", "trace="+calls, "-e",
				fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", calls, n))
			received := 0
			for deadline := time.Now().Add(10 * time.Second); received < 30 && !ca.Ended() &&
				time.Now().Before(deadline); {
				answer, err := certificate(t.Context(), ca, issuer)
				if err != nil {
					// not listening yet, or exiting: there is no event of that process to wait for
					time.Sleep(10 * time.Millisecond)
					continue
				}
				if issued, err := answer.Signed(); err == nil {
					received++
					got = append(got, issued)
				}
			}
			if ca.Ended() {
				kills++
			}
			ca.Kill()
		}
	}
	if kills < 10 {
		t.Errorf("only %d kills struck", kills)
	}
	ca.ServeAgain(l)
	for _, issued := range got {
		l.CheckLogged(own, issued)
		l.CheckLogged(rfc, issued)
		l.Run(lab.Command{Name: "mayfly", Args: []string{
			"audit", "query", ca.Dir + "/journal.jsonl", "--result", "issued", "--serial",
			fmt.Sprintf("%040x", issued.Leaf.SerialNumber), "--json",
		}})
	}
	ca.Stop()
	l.Run(lab.Command{Name: "mayfly", Args: []string{"audit", "verify", ca.Dir + "/journal.jsonl"}})
	r := l.Run(lab.Command{Name: "mayfly", Args: []string{"audit", "reconcile", "--config", ca.Dir + "/mayfly.yaml"}})
	t.Logf("%d kills, %d certificates received, each in both logs and the journal:\n%s", kills, len(got), r.Stdout)
}
