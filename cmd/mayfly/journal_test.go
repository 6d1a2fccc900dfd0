package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/testkit/process"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// F11 // G4 // G5: reloads with another key, then SIGTERM under load. Every certificate that a client received is in
// the journal as issued, every signature has a record, and the journal is intact and ends with a stop record.
func TestJournalUnderLoad(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true,
		More: "audit: {file: journal.jsonl, max_size: 64KiB}\n",
	})
	requests := process.Requests(t, provider)
	var mu sync.Mutex
	held := map[string]bool{} // SHA-256 of the certificates that clients received
	var callers sync.WaitGroup
	enough := make(chan struct{})
	var once sync.Once
	for i := range 8 {
		conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		c := fulciopb.NewCAClient(conn)
		callers.Go(func() {
			defer conn.Close()
			for n := i; ; n += 8 {
				out, err := c.CreateSigningCertificate(t.Context(), requests[n%len(requests)].Proto)
				if err != nil {
					return // the server has stopped
				}
				block, _ := pem.Decode([]byte(out.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()[0]))
				sum := sha256.Sum256(block.Bytes)
				mu.Lock()
				if held[hex.EncodeToString(sum[:])] = true; len(held) == 300 {
					once.Do(func() { close(enough) })
				}
				mu.Unlock()
			}
		})
	}
	for n := range 5 {
		s.Replace(t, "identity.yaml", fmt.Appendf(nil,
			"oidc-issuers:\n  %q: {client-id: sigstore, type: email, description: \"%d\"}\n", provider.URL(), n))
		before, _ := s.Generation(t)
		s.Hangup(t)
		s.Until(t, "reloaded", func() bool { now, _ := s.Generation(t); return now != before })
	}
	<-enough
	if err := s.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
	if err := s.Cmd.Wait(); err != nil {
		t.Fatalf("%v; log:\n%s", err, s.Logs)
	}
	path := filepath.Join(s.Dir, "journal.jsonl")
	summary, findings, err := journal.Verify(path, journal.VerifyOptions{})
	if err != nil || len(findings) > 0 {
		t.Fatalf("%v %v", findings, err)
	}
	if summary.Kinds[journal.Trial] != 1 || summary.Kinds[journal.Reload] < 5 || summary.Open != 0 ||
		summary.Kinds[journal.Stop] != 1 || summary.Segments < 2 {
		t.Errorf("%+v", summary)
	}
	for e, err := range journal.Read(path, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Result == journal.Issued {
			delete(held, e.Certificate)
		}
	}
	if len(held) > 0 {
		t.Errorf("%d certificates are not in the journal", len(held))
	}
}

// G4: if the journal cannot be opened, the CA does not start, and the error says what to do.
func TestJournalRefusesStart(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true,
		More: "audit: {file: journal.jsonl}\n",
	})
	_ = s.Cmd.Process.Signal(os.Interrupt)
	_ = s.Cmd.Wait()
	path := filepath.Join(s.Dir, "journal.jsonl")
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	// The CA runs as a separate process, because the storage library logs to a global logger that a start sets while
	// other tests log.
	again := exec.CommandContext(t.Context(), "mayfly", "serve", "--config", filepath.Join(s.Dir, "mayfly.yaml"))
	out, err := again.CombinedOutput()
	if again.ProcessState.ExitCode() != cli.ExitUsage {
		t.Errorf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "records are missing or damaged") ||
		!strings.Contains(string(out), "mayfly audit verify") {
		t.Error(string(out))
	}
}
