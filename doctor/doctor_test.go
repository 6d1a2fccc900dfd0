package doctor_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/doctor"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/status"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/trust"
)

// lab is a CA that does not run, with everything that it depends on.
type lab struct {
	t        *testing.T
	dir      string
	pki      *pki.PKI
	log      *ct.Log
	provider *idp.Provider
	skew     atomic.Int64 // of the provider's Date header
	text     string       // of mayfly.yaml
	options  doctor.Options
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir(), pki: pki.New(pki.Options{})}
	l.log = ct.New(t, ct.Options{Roots: []*x509.Certificate{l.pki.Root}})
	l.provider = idp.New(t, idp.Options{Wrap: func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if d := time.Duration(l.skew.Load()); d != 0 {
				w.Header().Set("Date", time.Now().Add(d).UTC().Format(http.TimeFormat))
			}
			h.ServeHTTP(w, r)
		})
	}})
	l.write("chain.pem", l.pki.ChainPEM())
	l.write("key.pem", l.pki.KeyPEM())
	l.write("ct.pem", l.log.PublicKeyPEM())
	l.certificate("tls", time.Now().Add(300*24*time.Hour))
	l.write("identity.yaml", fmt.Appendf(nil, "oidc-issuers:\n  %q: {client-id: sigstore, type: email, "+
		"email-domains: [example.com]}\n", l.provider.URL()))
	for _, dir := range []string{"state", "audit", "log"} {
		l.must(os.Mkdir(filepath.Join(l.dir, dir), 0o700))
	}
	l.text = fmt.Sprintf("listen: {http: %q, grpc: %q, admin: %q, tls: {certificate: tls.pem, key: tls.key}}\n"+
		"identity: {file: identity.yaml}\nca:\n  file: {chain: chain.pem, key: key.pem}\nct:\n"+
		"  logs: [{name: lab, url: %q, public_key: ct.pem}]\n  policy: {attempt: 1s, budget: 3s}\n"+
		"  embedded: {dir: log, origin: mayfly.local/ct}\n"+
		"audit: {file: audit/journal.jsonl}\nstate_dir: state\n",
		process.FreeAddress(t), process.FreeAddress(t), process.FreeAddress(t), l.log.URL())
	l.options = doctor.Options{
		Path: filepath.Join(l.dir, "mayfly.yaml"), Timeout: 10 * time.Second,
		Client: func(url string) (status.Options, error) {
			return status.Options{URL: url, Client: &http.Client{Timeout: 5 * time.Second}}, nil
		},
	}
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) write(name string, data []byte) {
	l.t.Helper()
	l.must(os.WriteFile(filepath.Join(l.dir, name), data, 0o600))
}

func (l *lab) replace(old, with string) {
	l.t.Helper()
	if !strings.Contains(l.text, old) {
		l.t.Fatalf("no %q in %s", old, l.text)
	}
	l.text = strings.Replace(l.text, old, with, 1)
}

// certificate writes a TLS pair for 127.0.0.1.
func (l *lab) certificate(name string, end time.Time) {
	l.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	l.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: end,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	l.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	l.must(err)
	l.write(name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	l.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// trial makes the journal and the log, as a start does.
func (l *lab) trial() {
	l.t.Helper()
	l.write("mayfly.yaml", []byte(l.text))
	run, err := node.Trial(l.t.Context(), l.options.Path, nil)
	if err != nil || !run.OK {
		l.t.Fatalf("%v, %+v", err, run)
	}
}

// admin runs the admin listener of a CA that answers with these pages, and names it.
func (l *lab) admin(ready server.Report, run *canary.Run) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/readyz":
			if !ready.Ready {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_ = json.NewEncoder(w).Encode(ready)
		case r.URL.Path == "/canary" && run != nil:
			_ = json.NewEncoder(w).Encode(run)
		case r.URL.Path != "/metrics":
			http.NotFound(w, r)
		}
	}))
	l.t.Cleanup(s.Close)
	l.options.Admins = append(l.options.Admins, s.URL)
}

func (l *lab) run() *doctor.Report {
	l.t.Helper()
	l.write("mayfly.yaml", []byte(l.text))
	r, err := doctor.Run(l.t.Context(), l.options)
	l.must(err)
	return r
}

// Where everything works, no row has a problem or a warning: before the first start, after it, and with the whole path.
func TestHealthy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	check := func(when string, skipped ...string) {
		t.Helper()
		r := l.run()
		for _, row := range r.Rows {
			want := doctor.OK
			for _, name := range skipped {
				if row.Check == name {
					want = doctor.Skipped
				}
			}
			if row.State != want && !(row.Check == "log embedded" && when == "before the first start") ||
				row.Cause == "" {
				t.Errorf("%s: %+v", when, row)
			}
		}
		if !r.OK || len(r.Rows) < 16 {
			t.Errorf("%s: %+v", when, r)
		}
		for _, dir := range []string{"state", "audit", "log"} {
			if left, _ := filepath.Glob(filepath.Join(l.dir, dir, ".mayfly-doctor-*")); len(left) > 0 {
				t.Errorf("%s: doctor left %v behind", when, left)
			}
		}
	}
	check("before the first start", "running CA", "whole path", "shared store", "signature")
	l.text += fmt.Sprintf("shared: {valkey: {addresses: [%q]}}\n", miniredis.RunT(t).Addr())
	l.options.Trial = true
	check("before the first start", "running CA", "signature")
	check("after a trial", "running CA", "signature")
	if l.log.Calls() < 2 {
		t.Errorf("%d submissions", l.log.Calls())
	}
	var digest string
	cfg, _, err := config.Load(l.options.Path)
	l.must(err)
	digest = cfg.Digest
	l.admin(server.Report{
		Ready: true, Dependencies: map[string]server.Dependency{"ca": {OK: true}},
		Config: &server.InForce{Generation: 1, Digest: digest},
	}, &canary.Run{OK: true, SCTs: 1})
	check("beside a CA", "signature")
}

// brokenSetups are set-ups with one thing wrong, and the rows that must say so. No other row may have a problem or a
// warning.
var brokenSetups = []struct {
	name  string
	do    func(l *lab)
	row   string
	state doctor.State
	cause string
	fix   string
	also  []string // rows with the same cause
}{
	{name: "the chain has expired", do: func(l *lab) {
		old := pki.New(pki.Options{Now: time.Now().Add(-6 * 365 * 24 * time.Hour)})
		l.write("chain.pem", old.ChainPEM())
		l.write("key.pem", old.KeyPEM())
	}, row: "key and chain", cause: "expired", fix: "chain", also: []string{"log lab"}}, // another root
	{name: "the chain ends soon", do: func(l *lab) {
		l.renew(pki.Options{
			Now:          time.Now().Add(-300 * 24 * time.Hour),
			Intermediate: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(20 * 24 * time.Hour) },
		})
	}, row: "key and chain", state: doctor.Warning, cause: "the chain expires in", fix: "obtain"},
	{name: "the chain may not sign code", do: func(l *lab) {
		l.renew(pki.Options{Intermediate: func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}})
	}, row: "key and chain", cause: "code signing", fix: "chain"},
	{name: "the key is another one", do: func(l *lab) {
		l.write("key.pem", pki.New(pki.Options{}).KeyPEM())
	}, row: "key and chain", cause: "not the key", fix: "key"},
	{name: "the key is missing", do: func(l *lab) {
		l.replace("key: key.pem}\nct", "key: key.pem, password: {env: MAYFLY_DOCTOR_TEST_UNSET}}\nct")
	}, row: "key and chain", cause: "MAYFLY_DOCTOR_TEST_UNSET"},
	{name: "the password is wrong", do: func(l *lab) {
		l.write("password", []byte("wrong\n"))
		l.write("key.pem", read(l.t, "../ca/signer/file/testdata/openssl/p256.pkcs12.p12"))
		l.replace("key: key.pem}\nct", "key: key.pem, password: {file: password}}\nct")
	}, row: "key and chain", cause: "password"},
	{name: "every user can read the key", do: func(l *lab) {
		l.must(os.Chmod(filepath.Join(l.dir, "key.pem"), 0o604))
	}, row: "key and chain", state: doctor.Warning, cause: "can be read by every user", fix: "chmod 600"},
	{name: "every user can write the issuer file", do: func(l *lab) {
		l.must(os.Chmod(filepath.Join(l.dir, "identity.yaml"), 0o602))
	}, row: "permissions", cause: "every user of this machine can write to", fix: "chmod o-w"},
	{name: "every user can write to the directory of the journal", do: func(l *lab) {
		l.must(os.Chmod(filepath.Join(l.dir, "audit"), 0o703))
	}, row: "permissions", cause: "audit (mode 0703)", fix: "chmod o-w"},
	{
		name: "every user can write to the directory of the log of signatures", do: func(l *lab) {
			l.must(os.Mkdir(filepath.Join(l.dir, "rekor"), 0o700))
			l.must(os.Chmod(filepath.Join(l.dir, "rekor"), 0o703))
			l.text += "rekor: {dir: rekor, origin: 127.0.0.1}\n"
		}, row: "permissions", cause: "rekor (mode 0703)", fix: "chmod o-w",
		also: []string{"log of signatures", "log rekor"},
	}, // it has no entries yet
	{name: "every user can write to the directory of the index", do: func(l *lab) {
		l.must(os.Mkdir(filepath.Join(l.dir, "index"), 0o700))
		l.must(os.Chmod(filepath.Join(l.dir, "index"), 0o703))
		l.text += "find: {dir: index}\n"
	}, row: "permissions", cause: "index (mode 0703)", fix: "chmod o-w"},
	{name: "every user can write to the directory of the TUF repository", do: func(l *lab) {
		l.tuf()
		l.must(os.Chmod(filepath.Join(l.dir, "tuf"), 0o703))
		l.text += "publish: {tuf: {dir: tuf}}\n"
	}, row: "permissions", cause: "tuf (mode 0703)", fix: "chmod o-w"},
	{
		name: "the log hangs", do: func(l *lab) { l.log.SetFault(ct.Hang) }, row: "log lab",
		cause: "roots cannot be read",
	},
	{name: "the log does not know the root", do: func(l *lab) {
		other := ct.New(l.t, ct.Options{Roots: []*x509.Certificate{pki.New(pki.Options{}).Root}})
		l.write("ct.pem", other.PublicKeyPEM())
		l.replace(l.log.URL(), other.URL())
	}, row: "log lab", cause: "root"},
	{name: "the log has another key", do: func(l *lab) {
		l.write("ct.pem", ct.New(l.t, ct.Options{}).PublicKeyPEM())
	}, row: "log lab", cause: "not signed with the pinned key"},
	{name: "the key of the log is no key", do: func(l *lab) {
		l.write("ct.pem", []byte("no key\n"))
	}, row: "logs", cause: "ct.pem", also: []string{"log lab"}},
	{
		name: "the clock of the log is wrong", do: func(l *lab) { l.log.SetSkew(5 * time.Minute) }, row: "log lab",
		cause: "ahead of this machine's", also: []string{"clock"},
	},
	{
		name: "the clock of the provider is wrong", do: func(l *lab) { l.skew.Store(int64(-10 * time.Minute)) },
		row: "clock", cause: "behind this machine's", fix: "compare both with a time server",
	},
	{name: "the log cannot be resolved", do: func(l *lab) {
		l.replace(l.log.URL(), "https://log..example.com")
	}, row: "log lab", cause: "no such host", also: []string{"logs"}}, // it may be a static-ct log
	{name: "the shard of the log has ended", do: func(l *lab) {
		l.replace("public_key: ct.pem}", "public_key: ct.pem, not_before: 2024-01-01T00:00:00Z, not_after: "+
			"2025-01-01T00:00:00Z}")
	}, row: "log lab", state: doctor.Warning, cause: "accepts no certificates that end after 2025-01-01"},
	{name: "the provider answers 404", do: func(l *lab) {
		l.issuer(httptestServer(l.t, http.NotFoundHandler()))
	}, row: "issuer ", cause: "404"},
	{
		name: "the provider answers 500", do: func(l *lab) { l.provider.SetFault(idp.Error500) },
		row: "issuer ", cause: "500",
	},
	{
		name: "the provider is another one", do: func(l *lab) { l.provider.SetFault(idp.WrongIssuer) }, row: "issuer ",
		cause: "https://other.example.com",
	},
	{
		name: "the provider has no keys", do: func(l *lab) { l.provider.SetFault(idp.NoKeys) },
		row: "issuer ", cause: "key",
	},
	{name: "the provider hangs", do: func(l *lab) {
		l.provider.SetFault(idp.Hang)
		l.options.Timeout = 2 * time.Second
	}, row: "issuer ", cause: ""},
	{name: "the TLS of the provider does not verify", do: func(l *lab) {
		l.issuer(idp.New(l.t, idp.Options{TLS: true}).URL())
	}, row: "issuer ", cause: "certificate"},
	{name: "a port is taken", do: func(l *lab) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		l.must(err)
		l.t.Cleanup(func() { taken.Close() })
		_, rest, _ := strings.Cut(l.text, "listen: {http: ")
		address, _, _ := strings.Cut(rest, ",")
		l.replace(address, strconv.Quote(taken.Addr().String())) // not the others, which have fixed ports by default
	}, row: "ports", cause: "used by another program", fix: "stop that program"},
	{name: "the journal is damaged", do: func(l *lab) {
		l.trial()
		path := filepath.Join(l.dir, "audit", "journal.jsonl")
		data := bytes.TrimSuffix(read(l.t, path), []byte("\n"))
		data[len(data)-10] ^= 1
		l.must(os.WriteFile(path, append(data, '\n'), 0o600))
	}, row: "journal", cause: "journal.jsonl"},
	{name: "the journal has lost records", do: func(l *lab) {
		l.trial()
		path := filepath.Join(l.dir, "audit", "journal.jsonl")
		lines := bytes.SplitAfter(read(l.t, path), []byte("\n"))
		l.must(os.WriteFile(path, bytes.Join(lines[:2], nil), 0o600))
	}, row: "journal", cause: "records are missing"},
	{
		name: "another process has the journal",
		do:   func(l *lab) { l.lock("audit/journal.jsonl.lock") }, row: "journal",
		cause: "locked by another process", fix: "stop the process",
	},
	{name: "another process has the embedded log", do: func(l *lab) {
		l.trial()
		l.lock("log/lock")
	}, row: "embedded log", cause: "locked by another process", fix: "stop the process"},
	{name: "the embedded log has another origin", do: func(l *lab) {
		l.trial()
		l.replace("origin: mayfly.local/ct", "origin: other.local/ct")
	}, row: "embedded log", cause: "mayfly.local/ct"},
	{name: "the TLS key is another one", do: func(l *lab) {
		l.certificate("other", time.Now().Add(time.Hour))
		l.replace("key: tls.key", "key: other.key")
	}, row: "TLS", cause: "private key"},
	{
		name: "the TLS certificate has ended", do: func(l *lab) { l.certificate("tls", time.Now().Add(-time.Minute)) },
		row: "TLS", cause: "ended at", fix: "renew",
	},
	{
		name: "the TLS certificate ends soon", do: func(l *lab) { l.certificate("tls", time.Now().Add(time.Minute)) },
		row: "TLS", state: doctor.Warning, cause: "ends at", fix: "renew",
	},
	{name: "the TLS certificate has another name", do: func(l *lab) {
		l.text += "publish: {url: \"https://ca.example.com\"}\n"
	}, row: "TLS", state: doctor.Warning, cause: "not for ca.example.com"},
	{
		name: "another process has the log of signatures", do: func(l *lab) {
			l.must(os.Mkdir(filepath.Join(l.dir, "rekor"), 0o700))
			l.text += "rekor: {dir: rekor, origin: 127.0.0.1}\n"
			l.lock("rekor/lock")
		}, row: "log of signatures", cause: "locked by another process", fix: "stop the process",
		also: []string{"log rekor"},
	}, // it has no entries yet
	{name: "the timestamp authority has another key", do: func(l *lab) {
		l.timestamps("{file: {chain: tsa.pem, key: key.pem}}")
	}, row: "timestamps", cause: "the key is not that of the first certificate", fix: "belong together"},
	{name: "the timestamp authority has the chain of the CA", do: func(l *lab) {
		l.timestamps("{file: {chain: chain.pem, key: key.pem}}")
	}, row: "timestamps", cause: "its extended key usage is not timeStamping alone", fix: "--timestamping"},
	{name: "nothing confirms the clock of the timestamp authority", do: func(l *lab) {
		l.timestamps("{file: {chain: tsa.pem, key: tsa.key}}")
	}, row: "timestamps", state: doctor.Warning, cause: "not compared with time servers", fix: "tsa.clock.servers"},
	{
		name: "the time servers do not answer", do: func(l *lab) {
			l.timestamps("{file: {chain: tsa.pem, key: tsa.key}, clock: {servers: [\"ntp://127.0.0.1:1\"]}}")
		}, row: "timestamps", cause: "0 of 1 time servers agree", fix: "see the rows of the time servers",
		also: []string{"time server ntp://127.0.0.1:1"},
	},
	{name: "the shared store does not answer", do: func(l *lab) {
		l.text += fmt.Sprintf("shared: {valkey: {addresses: [%q]}}\n", process.FreeAddress(l.t))
	}, row: "shared store", cause: "refused", fix: "check shared.valkey"},
	{name: "the shared store wants a password", do: func(l *lab) {
		store := miniredis.RunT(l.t)
		store.RequireAuth("secret")
		l.text += fmt.Sprintf("shared: {valkey: {addresses: [%q]}}\n", store.Addr())
	}, row: "shared store", cause: "NOAUTH"},
	{name: "the password of the shared store is missing", do: func(l *lab) {
		l.text += "shared: {valkey: {addresses: [\"127.0.0.1:1\"], password: {env: MAYFLY_DOCTOR_TEST_UNSET}}}\n"
	}, row: "shared store", cause: "MAYFLY_DOCTOR_TEST_UNSET"},
	{name: "the CA that runs is not ready", do: func(l *lab) {
		l.admin(server.Report{Dependencies: map[string]server.Dependency{"ct": {Cause: "too few logs"}}}, nil)
	}, row: "running CA", cause: "ct: too few logs"},
	{name: "the CA that runs has another configuration", do: func(l *lab) {
		l.admin(server.Report{
			Ready: true, Dependencies: map[string]server.Dependency{"ca": {OK: true}},
			Config: &server.InForce{Generation: 3, Digest: "abc"},
		}, nil)
	}, row: "running CA", state: doctor.Warning, cause: "another configuration (digest abc)", fix: "reload"},
	{name: "no CA runs where one should", do: func(l *lab) {
		l.options.Admins = []string{"http://" + process.FreeAddress(l.t)}
	}, row: "running CA", cause: "cannot be reached", fix: "start the CA"},
	{name: "the canary of the CA that runs fails", do: func(l *lab) {
		l.admin(server.Report{Ready: true, Dependencies: map[string]server.Dependency{"ca": {OK: true}}},
			&canary.Run{Stage: "sign", Cause: "no slot"})
	}, row: "whole path", cause: "the stage sign failed: no slot", fix: "see the row of the key"},
	{name: "the log refuses entries", do: func(l *lab) {
		l.options.Trial = true
		l.replace("policy: {attempt", "policy: {min_scts: 2, attempt")
		l.log.SetFault(ct.BadSignature)
	}, row: "whole path", cause: "the stage log failed"},
}

// renew replaces the issuing certificate.
func (l *lab) renew(o pki.Options) {
	l.t.Helper()
	next := pki.New(o)
	l.write("chain.pem", next.ChainPEM())
	l.write("key.pem", next.KeyPEM())
	other := ct.New(l.t, ct.Options{Roots: []*x509.Certificate{next.Root}})
	l.write("ct.pem", other.PublicKeyPEM())
	l.replace(l.log.URL(), other.URL())
}

// issuer replaces the issuer.
func (l *lab) issuer(url string) {
	l.t.Helper()
	l.write("identity.yaml", fmt.Appendf(nil, "oidc-issuers:\n  %q: {client-id: sigstore, type: email, "+
		"email-domains: [example.com]}\n", url))
}

// timestamps adds a timestamp authority with these settings; tsa.pem and tsa.key are its chain and key.
func (l *lab) timestamps(settings string) {
	l.t.Helper()
	h, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "test", Now: time.Now(), Timestamping: true})
	l.must(err)
	key, err := x509.MarshalPKCS8PrivateKey(h.Key)
	l.must(err)
	l.write("tsa.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	var chain []byte
	for _, c := range h.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	l.write("tsa.pem", chain)
	l.text += "tsa: " + settings + "\n"
}

// tuf makes a TUF repository, and publishes what is given.
func (l *lab) tuf(contents ...[]byte) {
	l.t.Helper()
	r, err := trust.InitTUF(trust.TUFOptions{Dir: filepath.Join(l.dir, "tuf")})
	l.must(err)
	if len(contents) > 0 {
		_, err = r.Publish(contents...)
		l.must(err)
	}
}

// lock locks a file, as another process does.
func (l *lab) lock(name string) {
	l.t.Helper()
	held, err := durable.TryLock(filepath.Join(l.dir, name))
	l.must(err)
	l.t.Cleanup(func() { _ = held.Unlock() })
}

func httptestServer(t *testing.T, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestBrokenSetups(t *testing.T) {
	t.Parallel()
	for _, c := range brokenSetups {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.trial()
			c.do(l)
			r := l.run()
			if c.state == "" {
				c.state = doctor.Problem
			}
			found := false
			for _, row := range r.Rows {
				mine := row.Check == c.row || strings.HasSuffix(c.row, " ") && strings.HasPrefix(row.Check, c.row)
				switch {
				case mine && row.State == c.state && strings.Contains(row.Cause, c.cause) &&
					strings.Contains(row.Fix, c.fix):
					found = true
				case row.State == doctor.OK, row.State == doctor.Skipped:
				case strings.Contains(" "+strings.Join(c.also, "\n")+"\n", row.Check+"\n"):
				default:
					t.Errorf("another row: %+v", row)
				}
			}
			if !found || r.OK != (c.state == doctor.Warning) {
				t.Errorf("ok %t; no row %q with %q in", r.OK, c.row, c.cause)
				for _, row := range r.Rows {
					t.Logf("%+v", row)
				}
			}
		})
	}
}

// A configuration that cannot be loaded is an error with the words of "config check".
func TestConfigurationError(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.write("mayfly.yaml", []byte(l.text+"cannary: {}\n"))
	_, err := doctor.Run(t.Context(), l.options)
	if err == nil || !strings.Contains(err.Error(), `cannary`) || !strings.Contains(err.Error(), "canary") {
		t.Errorf("%v", err)
	}
}

// With a token, doctor signs with the trusted root that clients get, and says where it is from. No service answers
// here.
func TestFilesOfClients(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.trial() // makes the key of the embedded log
	l.options.Token = l.provider.Token(nil)
	l.admin(server.Report{Ready: true, Dependencies: map[string]server.Dependency{"ca": {OK: true}}}, nil)
	cfg, _, err := config.Load(l.options.Path)
	l.must(err)
	root, _, err := node.Documents(cfg)
	l.must(err)
	plain := l.text
	for _, c := range []struct {
		name, publish, cause, fix string
		contents                  [][]byte
		state                     doctor.State
		signs                     bool
	}{
		{
			name: "none", cause: "there is no TUF repository", state: doctor.Skipped, signs: true,
		},
		{
			name: "on a web server", publish: "publish: {tuf: {dir: tuf, update: true}}\n", contents: [][]byte{root},
			cause: "the URL of the TUF repository is not in the configuration", fix: "write publish.tuf.url",
			state: doctor.Skipped, signs: true,
		},
		{
			name: "empty", publish: "publish: {tuf: {dir: tuf, update: true}}\n",
			cause: "no trusted root is published yet",
			fix:   "mayfly trust tuf publish", state: doctor.Problem,
		},
		{
			name: "missing", publish: "publish: {tuf: {dir: none, update: true}}\n", cause: "does not exist",
			fix: "mayfly trust tuf show", state: doctor.Problem,
		},
		{
			name: "served", publish: "publish: {tuf: {dir: tuf, serve: true}}\n", contents: [][]byte{root},
			cause: "/tuf", fix: "publish.url", state: doctor.Problem,
		},
	} {
		l.must(os.RemoveAll(filepath.Join(l.dir, "tuf")))
		l.tuf(c.contents...)
		l.text = plain + c.publish
		rows := map[string]doctor.Row{}
		for _, row := range l.run().Rows {
			rows[row.Check] = row
		}
		files, signature := rows["files of clients"], rows["signature"]
		if files.State != c.state || !strings.Contains(files.Cause, c.cause) || !strings.Contains(files.Fix, c.fix) {
			t.Errorf("%s: %+v", c.name, files)
		}
		if c.signs && (signature.State != doctor.Problem || !strings.HasPrefix(signature.Cause, "certificate (http:") ||
			!strings.Contains(signature.Fix, "publish.url")) || !c.signs && signature.State != doctor.Skipped {
			t.Errorf("%s: %+v", c.name, signature)
		}
	}
}
