package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/trust"
)

// publishing is a CA that publishes and serves a TUF repository.
type publishing struct {
	*process.Server
	t *testing.T
}

func startPublishing(t *testing.T, more string) *publishing {
	t.Helper()
	provider := idp.New(t, idp.Options{})
	return &publishing{process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true, Admin: true, CA: more,
		More: "publish: {tuf: {dir: tuf, serve: true}}\n",
	}), t}
}

func (p *publishing) run(args ...string) string {
	p.t.Helper()
	out, err := process.Mayfly(p.Dir, args...)
	if err != nil {
		p.t.Fatalf("mayfly %s: %v\n%s\nlog:\n%s", strings.Join(args, " "), err, out, p.Logs)
	}
	return out
}

func (p *publishing) get(url string) (int, string) {
	p.t.Helper()
	response, err := http.Get(url)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// fetched returns the trusted root as clients get it.
func (p *publishing) fetched() (trust.Material, error) {
	data, err := trust.Fetch(p.t.Context(), p.URL()+"/tuf", p.Read(p.t, "tuf/repository/1.root.json"), "test")
	if err != nil {
		return trust.Material{}, err
	}
	return trust.ParseTrustedRoot(data)
}

func (p *publishing) ready() string {
	_, body := p.get("http://" + p.Admin + "/readyz")
	return body
}

// The CA publishes chain and log to a new repository and serves it; a new shard of the log is published without an
// operator. A change of the directory by others reaches no client, and /readyz reports it.
func TestServePublishesTUF(t *testing.T) {
	t.Parallel()
	p := startPublishing(t, "")
	if status, body := p.get(p.URL() + "/tuf/timestamp.json"); status != http.StatusServiceUnavailable {
		t.Errorf("without a repository: %d %s", status, body)
	}
	p.Until(t, "reported", func() bool { return strings.Contains(p.ready(), "mayfly trust tuf init") })
	p.run("trust", "tuf", "init", "--dir", "tuf")
	logs := func(n int) func() bool {
		return func() bool {
			m, err := p.fetched()
			return err == nil && len(m.Authorities) == 1 && len(m.Logs) == n
		}
	}
	p.Until(t, "published", logs(1))
	signing, err := filepath.Glob(filepath.Join(p.Dir, "tuf", "repository", "targets", "*.signing_config.v0.2.json"))
	if err != nil || len(signing) != 1 {
		t.Fatalf("%q, %v", signing, err)
	}
	if data := p.Read(t, "tuf/repository/targets/"+filepath.Base(signing[0])); !bytes.Contains(data, []byte(p.URL())) {
		t.Errorf("%s", data)
	}
	p.run("log", "rotate", "--config", "mayfly.yaml", "--at", nextShard(), "--yes")
	p.Until(t, "published the new shard", logs(2))
	if out := p.run("trust", "tuf", "show", "--dir", "tuf"); !strings.Contains(out, "trusted_root.json") {
		t.Error(out)
	}
	p.Until(t, "up to date", func() bool { return !strings.Contains(p.ready(), "was changed after it was published") })

	for _, name := range []string{"timestamp.json", "1.root.json"} {
		if err := os.WriteFile(filepath.Join(p.Dir, "tuf", "repository", name), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.Until(t, "reported", func() bool { return strings.Contains(p.ready(), "was changed after it was published") })
	if status, body := p.get(p.URL() + "/tuf/timestamp.json"); status != http.StatusOK || body == "{}" {
		t.Errorf("tampered: %d %s", status, body)
	}
	p.run("trust", "tuf", "restore", "--dir", "tuf")
	p.Until(t, "restored", func() bool { return !strings.Contains(p.ready(), "was changed after it was published") })
	if !logs(2)() {
		t.Error("clients do not get both logs")
	}
	p.Replace(t, "mayfly.yaml", bytes.Replace(p.Read(t, "mayfly.yaml"), []byte(", serve: true"), nil, 1))
	p.Until(t, "not served any more", func() bool {
		status, _ := p.get(p.URL() + "/tuf/timestamp.json")
		return status == http.StatusNotFound
	})
}

// If the keys of root and targets are elsewhere, the CA asks for signatures, says so in /readyz, and publishes what
// comes back. Without a signature nothing is published.
func TestServeAsksForSignatures(t *testing.T) {
	t.Parallel()
	p := startPublishing(t, "")
	p.run("trust", "tuf", "init", "--dir", "tuf", "--offline", "offline")
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(p.Dir, name))
		return err == nil
	}
	signed := func(logs int) {
		t.Helper()
		p.Until(t, "asked",
			func() bool { return exists("tuf/request.json") && strings.Contains(p.ready(), "request.json") })
		if m, err := p.fetched(); err == nil && len(m.Logs) == logs {
			t.Error("published without a signature")
		}
		out := p.run("trust", "tuf", "sign", "--dir", "offline", "--out", "tuf/signed.json", "--yes",
			"tuf/request.json")
		if !strings.Contains(out, "+ verifiers trust the CT log") {
			t.Error(out)
		}
		p.Until(t, "published", func() bool {
			m, err := p.fetched()
			return err == nil && len(m.Logs) == logs && !exists("tuf/signed.json") && !exists("tuf/request.json")
		})
		p.Until(t, "waits no more", func() bool { return !strings.Contains(p.ready(), "request.json") })
	}
	signed(1)
	p.run("log", "rotate", "--config", "mayfly.yaml", "--at", nextShard(), "--yes")
	signed(2)
	if err := os.WriteFile(filepath.Join(p.Dir, "tuf", "signed.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.Until(t, "refused", func() bool { return strings.Contains(p.ready(), "not a response") })
	if err := os.Remove(filepath.Join(p.Dir, "tuf", "signed.json")); err != nil {
		t.Fatal(err)
	}
	p.Until(t, "as before", func() bool { return !strings.Contains(p.ready(), "not a response") })
}

// The holder of the offline keys is asked, and only "yes" signs.
func TestTUFSign(t *testing.T) {
	t.Parallel()
	p := startPublishing(t, "")
	p.run("trust", "tuf", "init", "--dir", "other", "--offline", "offline")
	p.run("trust", "export", "--config", "mayfly.yaml", "--out", ".")
	request := strings.TrimSpace(p.run("trust", "tuf", "request", "--dir", "other", "trusted_root.json"))
	sign := []string{"trust", "tuf", "sign", "--dir", "offline", "--out", "out.json", request}
	if out, err := process.Mayfly(p.Dir, sign...); err == nil || !strings.Contains(out, "+ verifiers trust") {
		t.Errorf("without an answer: %v %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(p.Dir, "out.json")); err == nil {
		t.Error("signed without an answer")
	}
	p.run(append(sign, "--yes")...)
	if out := p.run("trust", "tuf", "publish", "--dir", "other", "--signed", "out.json"); !strings.Contains(out,
		"trusted_root.json") {
		t.Error(out)
	}
	if out := p.run("trust", "tuf", "request", "--dir", "other", "trusted_root.json"); out != "" {
		t.Errorf("nothing to sign, and %q", out)
	}
}

// nextShard is a time that is later than the lead of new shards.
func nextShard() string { return time.Now().AddDate(0, 3, 0).UTC().Format(time.RFC3339) }
