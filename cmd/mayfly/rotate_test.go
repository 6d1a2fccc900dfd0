package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	signerwire "github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/rotation"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/testkit/records"
)

// rotating is a CA whose chains have a state file.
type rotating struct {
	*process.Server
	t        *testing.T
	provider *idp.Provider
}

// hourly is a propagation delay that no test reaches.
const hourly = "  rotation: {propagation: 1h}\n"

// startPrepared starts a CA with the chain "old" and prepares the chain "new", which cannot become active in time.
func startPrepared(t *testing.T) (r *rotating, old, fresh *pki.PKI) {
	t.Helper()
	old, fresh = pki.New(pki.Options{}), pki.New(pki.Options{})
	r = startRotating(t, old, hourly)
	r.add(hourly, fresh)
	r.rotate(0, "prepare")
	return r, old, fresh
}

// startRotating starts a CA with one key backend, and turns it into one with the chain "old" while it runs. more are
// further lines below ca.
func startRotating(t *testing.T, old *pki.PKI, more string) *rotating {
	t.Helper()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: old, Issuer: provider.URL(), Embedded: true, Admin: true,
		More: "publish: {trusted_root: trusted_root.json, tuf: {dir: tuf}}\naudit: {file: journal.jsonl}\n",
	})
	r := &rotating{s, t, provider}
	for _, args := range [][]string{
		{"trust", "export", "--config", "mayfly.yaml", "--out", "."},
		{"trust", "tuf", "init", "--dir", "tuf"},
		{"trust", "tuf", "publish", "--dir", "tuf", "trusted_root.json", "signing_config.json"},
	} {
		r.run(0, args...)
	}
	r.configure(more, "old", "")
	s.Until(t, "with a state file", func() bool {
		_, err := os.Stat(filepath.Join(s.Dir, "state.json"))
		return err == nil
	})
	return r
}

// configure lists chains in mayfly.yaml: that of the start, and the one in new.pem if its name is not empty.
func (r *rotating) configure(more, first, second string) {
	r.t.Helper()
	text := string(r.Read(r.t, "mayfly.yaml"))
	from := strings.Index(text, "ca:\n")
	to := strings.Index(text, "ct:\n")
	list := fmt.Sprintf("    - {name: %s, file: {chain: chain.pem, key: key.pem}}\n", first)
	if second != "" {
		list += fmt.Sprintf("    - {name: %s, file: {chain: new.pem, key: new-key.pem}}\n", second)
	}
	r.Replace(r.t, "mayfly.yaml", []byte(text[:from]+"ca:\n  state: state.json\n"+more+"  chains:\n"+list+text[to:]))
}

// add writes the files of another chain and lists it.
func (r *rotating) add(more string, p *pki.PKI) {
	r.t.Helper()
	r.Replace(r.t, "new.pem", p.ChainPEM())
	r.Replace(r.t, "new-key.pem", p.KeyPEM())
	r.configure(more, "old", "new")
}

// run runs a command in the directory of the CA, and expects an exit status.
func (r *rotating) run(want int, args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "mayfly", args...)
	cmd.Dir = r.Dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		r.t.Fatal(err)
	}
	if got != want {
		r.t.Fatalf("mayfly %s: exit status %d, want %d\n%s%s\nlog:\n%s", strings.Join(args, " "), got, want, out,
			errs.String(), r.Logs)
	}
	return string(out) + errs.String()
}

func (r *rotating) rotate(want int, verb string, args ...string) string {
	r.t.Helper()
	return r.run(want, append([]string{"ca", "rotate", verb, "--config", "mayfly.yaml"}, args...)...)
}

func (r *rotating) state() rotation.State {
	r.t.Helper()
	s, err := rotation.File{Path: filepath.Join(r.Dir, "state.json")}.Read()
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// within waits for a transition that takes the propagation delay, and longer on a busy machine.
func (r *rotating) within(limit time.Duration, what string, holds func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not %s: %s\nlog:\n%s", what, r.rotate(0, "plan"), r.Logs)
		}
	}
}

func (r *rotating) status(name string) rotation.Status {
	c, _ := r.state().Find(name)
	return c.Status
}

// signature is what a client keeps: a certificate, when it signed, and the signature.
type signature struct {
	at   time.Time
	leaf *x509.Certificate
	sig  []byte
	hash [32]byte
}

// sign requests a certificate and signs with its key.
func (r *rotating) sign(ctx context.Context, n int) (signature, error) {
	c, err := client.New(client.Options{URL: "http://" + r.HTTP, SkipVerify: true})
	if err != nil {
		return signature{}, err
	}
	defer c.Close()
	key := pki.NewKey(pki.P256)
	issued, err := c.Request(ctx, client.Request{Token: r.provider.Token(nil), Signer: key})
	if err != nil {
		return signature{}, errors.New(client.Explain(err))
	}
	out := signature{at: time.Now(), leaf: issued.Leaf, hash: sha256.Sum256(fmt.Appendf(nil, "artifact %d", n))}
	out.sig, err = key.Sign(rand.Reader, out.hash[:], crypto.SHA256)
	return out, err
}

// check verifies with sigstore-go and a trusted root, at the time of the signature.
func (s signature) check(trusted []byte) error {
	material, err := root.NewTrustedRootFromJSON(trusted)
	if err != nil {
		return err
	}
	chains, err := verify.VerifyLeafCertificate(s.at, s.leaf, material)
	if err != nil {
		return err
	}
	if err := verify.VerifySignedCertificateTimestamp(chains, 1, material); err != nil {
		return err
	}
	key, ok := s.leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, s.hash[:], s.sig) {
		return errors.New("the signature does not verify")
	}
	return nil
}

// C3: a rotation under load, only with commands. A client signs every 100 ms, and verifies with sigstore-go and a
// trusted root that is up to a second old, like a client that fetches it regularly. No signature fails, and the old
// ones verify at the end.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	const more = "  rotation: {propagation: 3s}\n"
	r := startRotating(t, old, more)
	var mu sync.Mutex
	var made []signature
	var failed []error
	stop := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		trusted, fetched := r.Read(t, "trusted_root.json"), time.Now()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if time.Since(fetched) > time.Second {
				if data, err := os.ReadFile(filepath.Join(r.Dir, "trusted_root.json")); err == nil {
					trusted, fetched = data, time.Now()
				}
			}
			s, err := r.sign(t.Context(), n)
			if err == nil {
				err = s.check(trusted)
			}
			mu.Lock()
			made = append(made, s)
			if err != nil {
				failed = append(failed, fmt.Errorf("signature %d: %w", n, err))
			}
			mu.Unlock()
		}
	})
	r.add(more, fresh)
	r.Until(t, "listed", func() bool { return strings.Contains(r.rotate(0, "plan"), "not prepared") })
	r.rotate(0, "prepare", "--reason", "yearly rotation")
	if out := r.rotate(3, "activate"); !strings.Contains(out, "propagation") {
		t.Errorf("refused without the gate: %s", out)
	}
	r.within(time.Minute, "accepted", func() bool { return r.status("new") == rotation.Accepted })
	r.rotate(0, "activate")
	r.Until(t, "signing with the new chain", func() bool {
		s, err := r.sign(t.Context(), 0)
		return err == nil && bytes.Equal(s.leaf.RawIssuer, fresh.Intermediate.RawSubject) &&
			s.leaf.CheckSignatureFrom(fresh.Intermediate) == nil
	})
	time.Sleep(2 * time.Second) // more of the load
	close(stop)
	load.Wait()
	for _, err := range failed {
		t.Error(err)
	}
	final := r.Read(t, "trusted_root.json")
	by := map[bool]int{}
	for _, s := range made {
		if s.leaf == nil {
			continue
		}
		by[s.leaf.CheckSignatureFrom(fresh.Intermediate) == nil]++
		if err := s.check(final); err != nil {
			t.Errorf("an old signature: %v", err)
		}
	}
	t.Logf("%d signatures under the old chain, %d under the new one, %d failed", by[false], by[true], len(failed))
	if by[false] < 10 || by[true] < 10 {
		t.Errorf("%v signatures", by)
	}
	if status, body := process.Get(t, "http://"+r.Admin+"/metrics"); status != http.StatusOK ||
		!strings.Contains(string(body), `mayfly_expiry_timestamp_seconds{kind="chain",name="new"}`) {
		t.Errorf("no countdown of the chain: status %d", status)
	}
	// The retired chain waits for its last certificate.
	if out := r.rotate(3, "retire"); !strings.Contains(out, rotation.GateHistory) {
		t.Error(out)
	}
	r.rotate(0, "retire", "--force", "--reason", "the test does not wait a day")
	r.Until(t, "out of the bundle", func() bool {
		_, bundle := process.Get(t, "http://"+r.HTTP+"/api/v2/trustBundle")
		var b struct{ Chains []any }
		return json.Unmarshal(bundle, &b) == nil && len(b.Chains) == 1
	})
	if err := made[0].check(r.Read(t, "trusted_root.json")); err != nil {
		t.Errorf("after the retirement: %v", err)
	}
}

// Each source, the log and the trial can close a gate of a running CA, and the plan names the gate.
func TestRotationPlan(t *testing.T) {
	t.Parallel()
	r, _, _ := startPrepared(t)
	r.Until(t, "published", func() bool { return r.status("new") == rotation.Published })
	closed := func() (out []string) {
		t.Helper()
		var p node.Plan
		if err := json.Unmarshal([]byte(r.rotate(0, "plan", "--json")), &p); err != nil {
			t.Fatal(err)
		}
		for _, c := range p.Chains {
			if c.Name == "new" {
				for _, g := range rotation.Closed(c.Gates) {
					out = append(out, g.Name)
				}
			}
		}
		return out
	}
	if got := closed(); !slices.Equal(got, []string{rotation.GatePropagation}) {
		t.Errorf("closed: %v", got)
	}
	before := r.Read(t, "new-key.pem")
	r.Replace(t, "new-key.pem", []byte("junk"))
	if got := closed(); !slices.Contains(got, rotation.GateChain) {
		t.Errorf("a damaged key: %v", got)
	}
	r.Replace(t, "new-key.pem", before)
	r.rotate(0, "abort", "--reason", "not now")
	r.Until(t, "out of the bundle", func() bool {
		_, bundle := process.Get(t, "http://"+r.HTTP+"/api/v2/trustBundle")
		var b struct{ Chains []any }
		return json.Unmarshal(bundle, &b) == nil && len(b.Chains) == 1
	})
	if strings.Count(string(r.Read(t, "trusted_root.json")), "certChain") != 1 {
		t.Error("the trusted root has the chain that was given up")
	}
	r.rotate(0, "prepare")
	if out := r.rotate(2, "activate", "--force"); !strings.Contains(out, "reason") {
		t.Error(out)
	}
}

// C5: a command that is killed at any moment leaves one active chain, and the next command works.
func TestRotationKilled(t *testing.T) {
	t.Parallel()
	r, _, _ := startPrepared(t)
	names := []string{"old", "new"}
	kills := 0
	for i := range 30 {
		active, ok := r.state().Active()
		if !ok {
			t.Fatal("no chain is active")
		}
		next := names[(slices.Index(names, active.Name)+1)%2]
		cmd := exec.CommandContext(t.Context(), "mayfly", "ca", "rotate", "activate", "--config",
			"mayfly.yaml", "--chain",
			next, "--force", "--reason", "a test")
		cmd.Dir = r.Dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 15 * time.Millisecond)
		_ = cmd.Process.Kill()
		if cmd.Wait() != nil {
			kills++
		}
		n := 0
		for _, c := range r.state().Chains { // reads and checks the file
			if c.Status == rotation.Active {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("%d chains are active after kill %d", n, i)
		}
	}
	if kills < 10 {
		t.Errorf("%d kills", kills)
	}
	active, _ := r.state().Active()
	next := names[(slices.Index(names, active.Name)+1)%2]
	r.rotate(0, "activate", "--chain", next, "--force", "--reason", "the last one")
	var last error
	r.within(20*time.Second, "signing after the kills", func() bool {
		if _, last = r.sign(t.Context(), 0); last != nil {
			t.Log(last)
		}
		return last == nil
	})
}

// Two instances follow one state file. An instance that reads a newer version of the file refuses the file and
// continues to sign.
func TestRotationReplicas(t *testing.T) {
	t.Parallel()
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	a := startRotating(t, old, hourly)
	a.add(hourly, fresh)
	s := process.Serve(t, process.Setup{PKI: old, Issuer: a.provider.URL(), Embedded: true})
	b := &rotating{s, t, a.provider}
	b.Replace(t, "new.pem", fresh.ChainPEM())
	b.Replace(t, "new-key.pem", fresh.KeyPEM())
	b.configure(hourly, "old", "new")
	b.Replace(t, "mayfly.yaml", bytes.Replace(b.Read(t, "mayfly.yaml"), []byte("state: state.json"),
		fmt.Appendf(nil, "state: %q", filepath.Join(a.Dir, "state.json")), 1))
	a.rotate(0, "prepare")
	a.rotate(0, "activate", "--force", "--reason", "a test")
	for name, r := range map[string]*rotating{"a": a, "b": b} {
		r.Until(t, name+" with the new chain", func() bool {
			s, err := r.sign(t.Context(), 0)
			return err == nil && s.leaf.CheckSignatureFrom(fresh.Intermediate) == nil
		})
	}
	file := filepath.Join(a.Dir, "state.json")
	good := a.Read(t, "state.json")
	if err := durable.WriteFile(file, []byte(`{"version": 7}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*rotating{a, b} {
		r.Until(t, "refused", func() bool { return strings.Contains(r.Logs.String(), "state.json has version 7") })
		if _, err := r.sign(t.Context(), 0); err != nil {
			t.Errorf("with a file of a newer version: %v", err)
		}
	}
	// An older copy of the file, in which the old chain is active, is refused as well.
	if err := durable.WriteFile(file, good, 0o644); err != nil {
		t.Fatal(err)
	}
	a.rotate(0, "compromise", "--chain", "old", "--reason", "stolen", "--since", "1s")
	a.Until(t, "compromised",
		func() bool { return strings.Contains(string(a.Read(t, "journal.jsonl")), "compromised") })
	if err := durable.WriteFile(file, good, 0o644); err != nil {
		t.Fatal(err)
	}
	a.Until(t, "refused", func() bool { return strings.Contains(a.Logs.String(), "is older than revision") })
}

// An instance that cannot open the key of the new active chain issues nothing under the compromised chain, and uses the
// new chain as soon as the key exists. C5
func TestRotationCannotFollow(t *testing.T) {
	t.Parallel()
	a, old, fresh := startPrepared(t)
	s := process.Serve(t, process.Setup{PKI: old, Issuer: a.provider.URL(), Embedded: true, Admin: true})
	b := &rotating{s, t, a.provider}
	b.add(hourly, fresh)
	b.Replace(t, "new-key.pem", []byte("not copied to this machine"))
	b.Replace(t, "mayfly.yaml", bytes.Replace(b.Read(t, "mayfly.yaml"), []byte("state: state.json"),
		fmt.Appendf(nil, "state: %q", filepath.Join(a.Dir, "state.json")), 1))
	b.Until(t, "following", func() bool {
		_, bundle := process.Get(t, "http://"+b.HTTP+"/api/v2/trustBundle")
		var got struct{ Chains []any }
		return json.Unmarshal(bundle, &got) == nil && len(got.Chains) == 2
	})
	a.rotate(0, "activate", "--force", "--reason", "a test")
	b.Until(t, "warned", func() bool { return strings.Contains(b.Logs.String(), "not applied either") })
	if s, err := b.sign(t.Context(), 0); err != nil || s.leaf.CheckSignatureFrom(old.Intermediate) != nil {
		t.Errorf("while the old chain is retiring: %v", err)
	}
	a.rotate(0, "compromise", "--chain", "old", "--reason", "stolen")
	b.within(time.Minute, "stopped", func() bool {
		_, err := b.sign(t.Context(), 1)
		status, body := process.Get(t, "http://"+b.Admin+"/readyz")
		return err != nil && status == http.StatusServiceUnavailable && strings.Contains(string(body),
			"compromised, and the active chain cannot be used")
	})
	b.Replace(t, "new-key.pem", fresh.KeyPEM())
	b.within(time.Minute, "signing again", func() bool {
		s, err := b.sign(t.Context(), 2)
		return err == nil && s.leaf.CheckSignatureFrom(fresh.Intermediate) == nil
	})
}

// socketKey is a key in another process.
type socketKey struct{ crypto.Signer }

func (k socketKey) Public() (crypto.PublicKey, error) { return k.Signer.Public(), nil }
func (socketKey) Health(context.Context) error        { return nil }

func (socketKey) Attest(context.Context) (signerwire.Answer, error) {
	return signerwire.Answer{Exportable: "no", Reason: "a test", Evidence: map[string]string{"test": "yes"}}, nil
}

func (k socketKey) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.Signer.Sign(rand.Reader, digest, opts)
}

// The signer process of the new active chain does not run when the state changes. The CA uses the new chain when the
// process is back, although no file changes.
func TestRotationFollowsLate(t *testing.T) {
	t.Parallel()
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	r := startRotating(t, old, hourly)
	socket := filepath.Join(r.Dir, "hsm.sock")
	serve := func() (stop func()) {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- (&signerwire.Server{
				Names: []string{"ca"}, Allowed: signerwire.Own(), Connections: 100, Log: slog.New(slog.DiscardHandler),
				Find: func(string) (signerwire.Key, bool) { return socketKey{fresh.Key}, true },
			}).Serve(ctx, l)
		}()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	stop := serve()
	r.add(hourly, fresh)
	r.Replace(t, "mayfly.yaml", bytes.Replace(r.Read(t, "mayfly.yaml"),
		[]byte("file: {chain: new.pem, key: new-key.pem}"),
		fmt.Appendf(nil, "pkcs11: {chain: new.pem, socket: %q}", socket), 1))
	r.rotate(0, "prepare")
	stop()
	// The command needs the key as well, so that another machine, or an operator with a copy of the file, activates.
	file := rotation.File{Path: filepath.Join(r.Dir, "state.json")}
	_, err := file.Update(t.Context(), func(s rotation.State) (rotation.State, error) {
		return s.Activate("new", rotation.Passage{Keep: time.Hour}, rotation.Entry{
			Time: time.Now(), By: "test", Reason: "on another machine",
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	r.within(time.Minute, "failed", func() bool { return strings.Contains(r.Logs.String(), "not applied either") })
	if s, err := r.sign(t.Context(), 0); err != nil || s.leaf.CheckSignatureFrom(old.Intermediate) != nil {
		t.Errorf("while the key is away: %v", err)
	}
	defer serve()()
	r.within(90*time.Second, "signing with the new chain", func() bool {
		s, err := r.sign(t.Context(), 1)
		return err == nil && s.leaf.CheckSignatureFrom(fresh.Intermediate) == nil
	})
}

// The compromise of the active chain with 10,000 certificates in the journal: all since the time are listed, the trust
// ends in every place, and the CA stops until another chain is active, also with a broken configuration.
func TestRotationCompromise(t *testing.T) {
	t.Parallel()
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	r := startRotating(t, old, hourly)
	if _, err := r.sign(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	// The journal of a CA that has issued much, in the place of the one of this CA, which goes on writing its own.
	const n = 2000
	big := filepath.Join(t.TempDir(), "journal.jsonl")
	j := records.Open(t, journal.Config{File: big}, journal.Options{})
	key := sha256.Sum256(old.Intermediate.RawSubjectPublicKeyInfo)
	var writers sync.WaitGroup
	for w := range 20 {
		writers.Go(func() {
			for i := w; i < n; i += 20 {
				intent, outcome := records.Intent(i), records.Outcome(i)
				for _, rec := range []*journal.Record{intent, outcome} {
					rec.IssuerKey = hex.EncodeToString(key[:])
					rec.Serial = fmt.Sprintf("%040x", i+1)
					if err := j.Append(context.Background(), rec); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	writers.Wait()
	records.Close(t, j, n)
	text := strings.Replace(string(r.Read(t, "mayfly.yaml")), "journal.jsonl", big, 1)
	r.Replace(t, "other.yaml", []byte(text))
	r.add(hourly, fresh)

	if out := r.rotate(2, "compromise", "--chain", "old", "--reason", "stolen"); !strings.Contains(out, "--stop") {
		t.Error(out)
	}
	began := time.Now()
	out := r.run(0, "ca", "rotate", "compromise", "--config", "other.yaml", "--chain", "old", "--since", "1h", "--stop",
		"--reason", "stolen disk", "--json")
	took := time.Since(began)
	var c node.Change
	if err := json.Unmarshal([]byte(out[:strings.LastIndex(out, "}")+1]), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Signed) != n || len(c.Verifiers) < 3 || c.Status != rotation.Compromised {
		t.Errorf("%d certificates, %d texts, %s", len(c.Signed), len(c.Verifiers), c.Status)
	}
	t.Logf("%d certificates listed in %s", len(c.Signed), took)
	r.Until(t, "stopped", func() bool {
		status, _ := process.Get(t, "http://"+r.HTTP+"/api/v2/trustBundle")
		return status == http.StatusServiceUnavailable
	})
	if _, err := r.sign(t.Context(), 1); err == nil {
		t.Error("the compromised chain signs")
	}
	if status, body := process.Get(t, "http://"+r.Admin+"/readyz"); status == http.StatusOK ||
		!strings.Contains(string(body), "compromised") {
		t.Errorf("readiness: %d %s", status, body)
	}
	// An operator prepares another chain, and makes a mistake in the file at the same time.
	r.rotate(0, "prepare")
	r.rotate(0, "activate", "--force", "--reason", "the CA stands still")
	r.Until(t, "signing again", func() bool {
		s, err := r.sign(t.Context(), 2)
		return err == nil && s.leaf.CheckSignatureFrom(fresh.Intermediate) == nil
	})
}

// A typing error in the configuration does not keep a running CA from following the state file.
func TestRotationWithBrokenConfiguration(t *testing.T) {
	t.Parallel()
	r, _, fresh := startPrepared(t)
	r.Until(t, "prepared", func() bool {
		_, bundle := process.Get(t, "http://"+r.HTTP+"/api/v2/trustBundle")
		var b struct{ Chains []any }
		return json.Unmarshal(bundle, &b) == nil && len(b.Chains) == 2
	})
	good := r.Read(t, "mayfly.yaml")
	r.Replace(t, "good.yaml", good)
	r.Replace(t, "mayfly.yaml", append(slices.Clone(good), []byte("unknown: key\n")...))
	r.Until(t, "refused", func() bool { return strings.Contains(r.Logs.String(), "not reloaded") })
	r.run(0, "ca", "rotate", "activate", "--config", "good.yaml", "--force", "--reason", "a test")
	r.Until(t, "signing with the new chain", func() bool {
		s, err := r.sign(t.Context(), 0)
		return err == nil && s.leaf.CheckSignatureFrom(fresh.Intermediate) == nil
	})
}

// With a parent, the CA makes, publishes and activates its next issuing certificate without an operator.
func TestRotationRenews(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	old := pki.New(pki.Options{
		Root: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(-400 * day) },
		Intermediate: func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-300*day), time.Now().Add(60*day)
		},
	})
	parent := pki.PKI{Key: old.RootKey, Chain: []*x509.Certificate{old.Root}}
	r := startRotating(t, old, "  rotation: {propagation: 2s}\n")
	r.Replace(t, "parent.pem", parent.ChainPEM())
	r.Replace(t, "parent-key.pem", parent.KeyPEM())
	r.Replace(t, "password", []byte("a password of the test"))
	r.configure("  rotation:\n    propagation: 2s\n    renew:\n"+
		"      parent: {file: {chain: parent.pem, key: parent-key.pem}}\n"+
		"      dir: chains\n      password: {file: password}\n", "old", "")
	var managed rotation.Chain
	// each start and reload derives a key, for some seconds with the race detector
	r.within(3*time.Minute, "renewed", func() bool {
		active, ok := r.state().Active()
		managed = active
		return ok && active.Managed
	})
	r.within(time.Minute, "signing with it", func() bool {
		s, err := r.sign(t.Context(), 0)
		return err == nil && s.leaf.CheckSignatureFrom(managed.Certificates()[0]) == nil &&
			s.check(r.Read(t, "trusted_root.json")) == nil
	})
	key, err := os.ReadFile(filepath.Join(r.Dir, "chains", managed.Name, "ca-key.pem"))
	if err != nil || !bytes.Contains(key, []byte("ENCRYPTED PRIVATE KEY")) {
		t.Errorf("the key: %v", err)
	}
	if r.status("old") != rotation.Retiring {
		t.Error(r.status("old"))
	}
	if len(r.state().Chains) != 2 {
		t.Errorf("%d chains", len(r.state().Chains))
	}
	r.run(0, "config", "check", "--config", "mayfly.yaml")
	if out := r.rotate(0, "plan"); !strings.Contains(out, managed.Name) {
		t.Error(out)
	}
}

// A server with the keys of timestamp and snapshot renews the metadata of the TUF repository, soon after a command has
// published metadata that ends within a day. The test never waits for that metadata itself: the server may have renewed
// it before anybody reads it.
func TestServeRenewsTUF(t *testing.T) {
	t.Parallel()
	r := startRotating(t, pki.New(pki.Options{}), "  rotation: {propagation: 1h}\n")
	timestamp := func() (version int, life time.Duration) {
		var out struct {
			Roles []struct {
				Role    string
				Version int
				Expires time.Time
			}
		}
		text, err := process.Mayfly(r.Dir, "trust", "tuf", "show", "--dir", "tuf", "--json")
		if err != nil {
			return 0, 0 // a change is being written
		}
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatal(err)
		}
		for _, one := range out.Roles {
			if one.Role == "timestamp" {
				return one.Version, time.Until(one.Expires)
			}
		}
		return 0, 0
	}
	var before int
	r.Until(t, "published", func() bool { before, _ = timestamp(); return before > 0 })
	r.run(0, "trust", "tuf", "publish", "--dir", "tuf", "--timestamp-days", "1")
	r.Until(t, "renewed", func() bool {
		now, life := timestamp()
		return now >= before+2 && life > 48*time.Hour
	})
}
