package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-ca/mayfly/doctor"
	"github.com/mayfly-ca/mayfly/find"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// saveState names the archive that TestStateOfReleases makes; a release saves its state with it (docs/releasing.md).
var saveState = flag.String("save-state", "", "version whose state is saved in testdata/state")

// The listeners and the provider of the instances in testdata/state.
const (
	savedHTTP   = "127.0.0.1:18123"
	savedAdmin  = "127.0.0.1:18124"
	savedIssuer = "http://127.0.0.1:18125"
)

// Every archive in testdata/state has a complete instance as a released version left it: chains, journal, the state of
// the auditor, both logs and the TUF repository. This version continues each of them: the server starts without a
// question, what was written before is found and verified, and the auditor sees one history.
func TestStateOfReleases(t *testing.T) {
	t.Parallel()
	if *saveState != "" {
		saveInstance(t, filepath.Join("testdata", "state", *saveState+".tar.gz"))
	}
	archives, err := filepath.Glob(filepath.Join("testdata", "state", "*.tar.gz"))
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives", err)
	}
	for _, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) {
			t.Parallel()
			continueInstance(t, archive)
		})
	}
}

// stored is an instance of testdata/state on this machine.
type stored struct {
	*auditLab
	http, admin, issuer string
	config              string
}

// serve writes the addresses of this machine to the configuration, and starts the server.
func (s *stored) serve() {
	s.t.Helper()
	for _, name := range []string{"mayfly.yaml", "identity.yaml"} {
		here := strings.NewReplacer(savedHTTP, s.http, savedAdmin, s.admin, savedIssuer, s.issuer)
		s.write(name, []byte(here.Replace(string(s.read(name)))))
	}
	s.process = process.Start(s.t, process.Existing{Dir: s.dir, HTTP: s.http, Admin: s.admin})
}

func (s *stored) read(name string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

// sign signs once with every service, and verifies the signature.
func (s *stored) sign(provider *idp.Provider) {
	s.t.Helper()
	token := filepath.Join(s.t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(provider.Token(nil)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	report, code := s.doctor(":", nil, "--token-file", token)
	signed := false
	for _, row := range report.Rows {
		signed = signed || row.Check == "signature" && row.State == doctor.OK
	}
	if !signed {
		s.t.Fatalf("status %d: %+v", code, report)
	}
}

// ok runs a command that must succeed.
func (s *stored) ok(args ...string) string {
	s.t.Helper()
	out, stderr, code := s.mayfly(args...)
	if code != 0 {
		s.t.Fatalf("%v: status %d\n%s%s", args, code, out, stderr)
	}
	return out
}

// serials returns the serial numbers in the journal that have a certificate.
func (s *stored) serials() (out []string) {
	s.t.Helper()
	var r struct{ Serial string }
	for line := range strings.Lines(s.ok("audit", "query", "--config", s.config, "--result", "issued", "--json")) {
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, r.Serial)
	}
	return out
}

func newStored(t *testing.T) (*stored, *idp.Provider) {
	t.Helper()
	provider, dir := idp.New(t, idp.Options{}), filepath.Join(t.TempDir(), "instance")
	return &stored{
		auditLab: &auditLab{t: t, dir: dir, provider: provider}, config: filepath.Join(dir, "mayfly.yaml"),
		http: process.FreeAddress(t), admin: process.FreeAddress(t), issuer: provider.URL(),
	}, provider
}

// saveInstance makes an instance with this version, uses it, and writes the archive.
func saveInstance(t *testing.T, archive string) {
	t.Helper()
	s, provider := newStored(t)
	s.ok("init", s.dir, "--private-sigstore", "--url", "http://"+savedHTTP, "--admin", savedAdmin, "--organization",
		"Example", "--issuer", savedIssuer, "--no-password")
	before := [][]byte{s.read("mayfly.yaml"), s.read("identity.yaml")}
	s.serve()
	s.sign(provider)
	s.end(syscall.SIGTERM)
	s.write("mayfly.yaml", before[0])
	s.write("identity.yaml", before[1])
	plain := filepath.Join(t.TempDir(), "instance.tar")
	s.ok("backup", "--config", s.config, "--out", plain, "--final")
	data, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(data)
	if err := errors.Join(err, z.Close(), os.MkdirAll(filepath.Dir(archive), 0o755), //nolint:gosec // for every reader
		os.WriteFile(archive, packed.Bytes(), 0o644)); err != nil { //nolint:gosec // its keys are for this test only
		t.Fatal(err)
	}
}

// continueInstance restores an archive and continues the instance.
func continueInstance(t *testing.T, archive string) {
	t.Helper()
	packed, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close() //nolint:errcheck // it was only read
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "instance.tar")
	if err := os.WriteFile(plain, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, provider := newStored(t)
	s.ok("restore", "--from", plain, "--to", s.dir)
	s.serve()
	before := s.serials()
	if len(before) == 0 {
		t.Error("the journal has no certificate")
	}
	s.sign(provider)
	after := s.serials()
	if len(after) != len(before)+1 || after[0] != before[0] {
		t.Errorf("%v, then %v", before, after)
	}
	for _, serial := range after {
		s.process.Until(t, "in the index", func() bool {
			var a find.Answer
			out, _, _ := s.mayfly("find", "--config", s.config, "--serial", serial, "--json")
			return json.Unmarshal([]byte(out), &a) == nil && len(a.Entries) == 2 // the certificate and the signature
		})
	}
	s.end(syscall.SIGTERM)
	s.ok("audit", "verify", "--config", s.config)
	s.ok("audit", "reconcile", "--config", s.config)
	s.ok("log", "fsck", "--config", s.config)
	s.ok("log", "fsck", "--config", s.config, "--log", "rekor")
}
