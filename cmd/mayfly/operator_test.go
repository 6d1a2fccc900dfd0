package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/ondisk"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// startable is a valid configuration with a journal and an embedded log; startableIn writes its files.
const startable = `listen: {http: "127.0.0.1:0", grpc: "127.0.0.1:0", admin: "127.0.0.1:0"}
identity: {file: identity.yaml}
ca:
  file: {chain: chain.pem, key: key.pem}
ct:
  embedded: {dir: log, origin: mayfly.test/ct}
audit:
  file: journal.jsonl
`

func startableIn(t *testing.T, text string) string {
	t.Helper()
	dir, p := t.TempDir(), pki.New(pki.Options{})
	for name, data := range map[string]string{
		"mayfly.yaml": text, "chain.pem": string(p.ChainPEM()), "key.pem": string(p.KeyPEM()), "junk": "junk\n",
		"identity.yaml": "oidc-issuers:\n  \"https://a.example.com\": {client-id: sigstore, type: email}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// G2: "config check" finds every error that stops a start. It names the position of the setting and the file, and
// changes nothing on disk.
func TestCheckFindsWhatStopsAStart(t *testing.T) {
	t.Parallel()
	with := func(old, text string) string { return strings.Replace(startable, old, text, 1) }
	logs := with("  embedded: {dir: log, origin: mayfly.test/ct}",
		"  logs:\n    - {name: a, url: \"https://ct.example.com/a\", public_key: KEY}")
	for name, row := range map[string]struct {
		text string
		make string // a file that is created before
		want string
	}{
		"good": {startable, "", ""},
		"a file above the log": {
			with("dir: log", "dir: junk/deep/log"), "",
			"mayfly.yaml:6:19: ct.embedded.dir: junk/deep/log: ",
		},
		"a file in the log": {startable, "log/.state", "mayfly.yaml:6:19: ct.embedded.dir: log/.state: "},
		"no journal":        {with("journal.jsonl", "junk"), "", "mayfly.yaml:8:9: audit.file: "},
		"no auditor's state": {
			startable, "journal.jsonl.reconcile",
			"mayfly.yaml:7:1: audit.reconcile: journal.jsonl.reconcile: ",
		},
		"a folder for the lock": {
			startable, "journal.jsonl.lock/x",
			"mayfly.yaml:8:9: audit.file: journal.jsonl.lock: ",
		},
		"a bearer that is not": {
			startable +
				"  alarm:\n    webhook: {url: \"https://a.example.com\", bearer: {env: MAYFLY_NO_SUCH}}\n", "",
			"mayfly.yaml:10:59: audit.alarm.webhook.bearer.env: ",
		},
		"a CA of the webhook": {
			startable +
				"  alarm:\n    webhook: {url: \"https://a.example.com\", ca_cert: junk}\n", "",
			"mayfly.yaml:10:54: audit.alarm.webhook.ca_cert: junk: ",
		},
		"a CA of the collector": {
			startable + "  otlp: {url: \"https://a.example.com\", ca_cert: junk}\n", "",
			"mayfly.yaml:9:49: audit.otlp.ca_cert: junk: ",
		},
		"a file above state_dir": {
			startable + "state_dir: junk/deep\n", "",
			"mayfly.yaml:9:12: state_dir: junk/deep: ",
		},
		"junk for a log's key": {
			strings.Replace(logs, "KEY", "junk", 1), "",
			"mayfly.yaml:7:62: ct.logs.0.public_key: junk: ",
		},
		"junk for a chain": {with("chain.pem", "junk"), "", "mayfly.yaml:4:17: ca.file.chain: junk: "},
		"junk for a key":   {with("key.pem", "junk"), "", "mayfly.yaml:4:33: ca.file.key: junk: "},
		"junk for a root": {
			with("audit:", "  policy: {trusted_root: junk}\naudit:"), "",
			"mayfly.yaml:7:26: ct.policy.trusted_root: junk: ",
		},
		"junk for a trusted root": {
			with("ca:\n", "ca:\n  trust: [chain.pem, junk]\n"), "",
			"mayfly.yaml:4:22: ca.trust.1: junk: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := startableIn(t, row.text)
			if row.make != "" {
				path := filepath.Join(dir, filepath.FromSlash(row.make))
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte("junk"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := ondisk.Listing(t, dir)
			out, err := process.Mayfly(dir, "config", "check", "--config", "mayfly.yaml")
			if after := ondisk.Listing(t, dir); after != before {
				t.Errorf("the check changed\n%s\nto\n%s", before, after)
			}
			if row.want == "" {
				if err != nil {
					t.Error(err, out)
				}
				return
			}
			cmd := exec.CommandContext(t.Context(), "mayfly", "serve", "--config", "mayfly.yaml")
			cmd.Dir = dir
			start, _ := cmd.CombinedOutput() // only the exit status is checked
			if err == nil || cmd.ProcessState.ExitCode() != cli.ExitUsage ||
				!strings.HasPrefix(string(start), row.want) {
				t.Errorf("check: %v; start: %s", err, start)
			}
			head, _, _ := strings.Cut(string(start), "\n")
			if !strings.Contains(head, "; ") {
				t.Errorf("the error does not say what to do: %s", head)
			}
		})
	}
}

// G2: "config check" succeeds while a CA writes its journal, closes segments and writes to its log.
func TestCheckBesideACA(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true,
		More: "audit: {file: journal.jsonl, max_size: 64KiB}\n",
	})
	requests := process.Requests(t, provider)
	call, release := s.Caller(t, true)
	defer release()
	for n := range 10 {
		for i := range 20 {
			if err := call(requests[(n*20+i)%len(requests)]); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := process.Mayfly(s.Dir, "config", "check", "--config", "mayfly.yaml"); err != nil {
			t.Fatal(err, out)
		}
	}
}

// G3: a reload does not change the settings that need a restart. The log names each with its position, and "config
// diff" shows them before the reload.
func TestReloadWaitsForRestart(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true,
		More: "audit:\n  file: journal.jsonl\n",
	})
	main := s.Read(t, "mayfly.yaml")
	s.Replace(t, "old.yaml", main)
	next := strings.NewReplacer("journal.jsonl", "other.jsonl", "origin: mayfly.local/ct",
		"origin: mayfly.local/ct, lead: 0s").Replace(string(main))
	s.Replace(t, "mayfly.yaml", []byte(next))
	s.Hangup(t)
	for value, want := range map[string]string{
		"0s}":         "ct.embedded.lead: 0s is new; restart to apply it",
		"other.jsonl": "audit.file: journal.jsonl → other.jsonl; restart to apply it",
	} {
		before, _, _ := strings.Cut(next, value)
		want = fmt.Sprintf("mayfly.yaml:%d:%d: %s", strings.Count(before, "\n")+1,
			len(before)-strings.LastIndex(before, "\n"), want)
		s.Until(t, "said: "+want, func() bool { return strings.Contains(s.Logs.String(), want) })
	}
	call, release := s.Caller(t, true)
	defer release()
	if err := call(process.Requests(t, provider)[0]); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "other.jsonl")); err == nil {
		t.Error("the other journal was created")
	}
	cmd := exec.CommandContext(t.Context(), "mayfly", "config", "diff", "old.yaml", "mayfly.yaml")
	cmd.Dir = s.Dir
	out, _ := cmd.CombinedOutput() // the exit status is 3
	if strings.Count(string(out), "(restart to apply it)") != 2 {
		t.Errorf("config diff: %s", out)
	}
}
