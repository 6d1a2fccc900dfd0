package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// TestDev performs the steps of a new user: start, copy the printed lines, stop, start again.
func TestDev(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	dir := l.Path("development CA") // the space in the path tests that the printed commands quote paths
	dev := l.Dev(dir)
	banner := waitForBanner(l, dev)
	t.Logf("ready in %s", dev.ReadyIn)

	script := printedLines(t, banner)
	for _, want := range []string{
		" dev token ", " request ", " inspect ", "cosign sign-blob", "cosign verify-blob",
		"curl ", "grpcurl ",
	} {
		if !strings.Contains(script, want) {
			t.Errorf("the printed lines have no %q:\n%s", want, script)
		}
	}
	l.Write("lines.sh", "set -eu\n"+script)
	got := l.Run(lab.Command{Name: "sh", Args: []string{"-x", "lines.sh"}})
	for _, want := range []string{
		"Verified OK", "alice@example.com", "signedCertificateEmbeddedSct",
		"BEGIN CERTIFICATE", dev.Issuer,
	} {
		if !strings.Contains(got.Stdout+got.Stderr, want) {
			t.Errorf("the printed lines do not show %q:\n%s%s", want, got.Stdout, got.Stderr)
		}
	}

	certs := l.Certificates(l.Read(l.Path("cert.pem")))
	if len(certs) < 3 {
		t.Fatalf("cert.pem holds %d certificates, want leaf, intermediate and root", len(certs))
	}
	issued := lab.Issued{Leaf: certs[0], Issuer: certs[1]}
	before := l.CheckLog(dev.Log())
	firstIndex := l.CheckLogged(dev.Log(), issued)
	chain, key := l.Read(dir+"/chain.pem"), l.Read(dir+"/ct/log.pub.pem")

	if took := dev.Stop(); took > 2*time.Second {
		t.Errorf("Ctrl-C took %s", took)
	}
	again := dev.Again(l)
	waitForBanner(l, again)
	if l.Read(dir+"/chain.pem") != chain || l.Read(dir+"/ct/log.pub.pem") != key {
		t.Error("the second start made another CA or log")
	}
	l.Eventually("a larger checkpoint", func(context.Context) error { // published within the checkpoint interval
		if after := l.CheckLog(again.Log()); logSize(t, after) <= logSize(t, before) {
			return fmt.Errorf("%s before, %s after", before, after)
		}
		return nil
	})
	if index := l.CheckLogged(again.Log(), issued); index != firstIndex {
		t.Errorf("the certificate of the first start is leaf %d now, was %d", index, firstIndex)
	}
	l.Run(lab.Command{Name: "cosign", Args: []string{
		"verify-blob", "--trusted-root", dir + "/trusted_root.json", "--bundle", "hello.bundle.json",
		"--certificate-identity", "alice@example.com", "--certificate-oidc-issuer", dev.Issuer, "hello.txt",
	}})
	l.RunFails(lab.Command{Name: "mayfly", Args: []string{"dev", "--dir", dir}}, "in use")
	taken := strings.TrimPrefix(again.URL, "http://")
	l.RunFails(lab.Command{Name: "mayfly", Args: []string{"dev", "--dir", l.Path("other"), "--http", taken}}, "--http")
}

// TestKilledInTheMiddle kills a CA that issues to many callers at once, three times. After the restart, every
// certificate that a caller received must be in the log, and the log must be complete. // A2 B5
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	dev := l.Dev(l.Path("dev"))
	waitForBanner(l, dev)
	token := dev.Token(l, "load@example.com")
	var all []lab.Issued
	for round, want := range []int{50, 300, 600} {
		issued := issueUntilKilled(t, load{
			dev: dev, token: token, challenge: "load@example.com",
			callers: 16, want: want,
		})
		t.Logf("round %d: %d certificates before the end", round+1, len(issued))
		all = append(all, issued...)
		dev = dev.Again(l)
		waitForBanner(l, dev)
		highest := l.CheckLogged(dev.Log(), all...)
		if size := logSize(t, l.CheckLog(dev.Log())); size <= highest {
			t.Fatalf("round %d: the log has %d entries, the SCTs go up to leaf %d", round+1, size, highest)
		}
	}
	serials := map[string]bool{}
	for _, c := range all {
		serial := c.Leaf.SerialNumber.Text(16)
		if serials[serial] {
			t.Errorf("serial %s was issued twice", serial)
		}
		serials[serial] = true
	}
	dev.Stop()
}

type load struct {
	dev              *lab.Mayfly
	token, challenge string
	callers, want    int
}

// issueUntilKilled requests certificates from all callers, kills the CA when there are enough, and returns every
// certificate that a caller received in full.
func issueUntilKilled(t *testing.T, o load) []lab.Issued {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.callers}, Timeout: lab.MaxWait}
	defer client.CloseIdleConnections()
	answers := make(chan lab.Answer)
	stopped := make(chan error)
	for range o.callers {
		go func() {
			for {
				a, err := lab.RequestCertificate(t.Context(), client, o.dev.URL, o.token, o.challenge)
				if err != nil {
					stopped <- err
					return
				}
				answers <- a
			}
		}()
	}
	var issued []lab.Issued
	killed := false
	for running := o.callers; running > 0; {
		select {
		case a := <-answers:
			c, err := a.Signed()
			if err != nil {
				t.Errorf("before the kill: %v", err)
			} else {
				issued = append(issued, c)
			}
			if !killed && len(issued) >= o.want || err != nil {
				killed = true
				go o.dev.Kill() // while responses are being sent
			}
		case err := <-stopped:
			running--
			if !killed {
				t.Errorf("a caller stopped before the kill: %v", err)
			}
		}
	}
	<-o.dev.Done() // connections break before the process has released its files
	return issued
}
