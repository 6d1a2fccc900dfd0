package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/ca/signer/ephemeral"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/testkit/ondisk"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

const password = "a password that nobody prints"

// testPlan is a plan whose files are in dir.
func testPlan(dir string) *Plan {
	part := func(name, algorithm, key, chain string) Part {
		return Part{
			Subject:  Subject{CommonName: "Example " + name, Organization: "Example", Country: "DE"},
			Generate: algorithm,
			Key: backends.Table{File: &file.Settings{
				Key: filepath.Join(dir, key), Chain: filepath.Join(dir, chain),
				Password: secret.Typed([]byte(password)),
			}},
		}
	}
	return &Plan{
		Root:           part("root", "ecdsa-p384", "root-key.pem", "root.pem"),
		Issuing:        part("issuing", "ecdsa-p256", "ca-key.pem", "chain.pem"),
		SignTranscript: true,
	}
}

// unencrypted is testPlan without passwords, for tests that are not about passwords, because key derivation is slow.
func unencrypted(dir string) *Plan {
	p := testPlan(dir)
	for _, part := range []*Part{&p.Root, &p.Issuing} {
		part.Key.File.Password, part.Unencrypted = nil, true
	}
	return p
}

// checked is the plan if it passes its check. Typed passwords, which no file can have, pass the check of the backend
// only as names.
func checked(t *testing.T, p *Plan) *Plan {
	t.Helper()
	named := *p
	for _, part := range []*Part{&named.Root, &named.Issuing} {
		if f := part.Key.File; f != nil && f.Password != nil {
			other := *f
			other.Password = &secret.Source{Env: "MAYFLY_TEST"}
			part.Key.File = &other
		}
	}
	if err := named.Check(); err != nil {
		t.Fatal(err)
	}
	return p
}

func run(t *testing.T, p *Plan, o Options) *Result {
	t.Helper()
	o.Iterations = iterations
	r, err := checked(t, p).Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// C9: with every algorithm, the chain meets every requirement, and a CA can issue under the chain with the written key.
func TestRun(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		root, issuing string
		mixed         bool
	}{
		{"ecdsa-p384", "ecdsa-p256", false},
		{"ecdsa-p521", "ecdsa-p384", false},
		{"ecdsa-p256", "ecdsa-p521", false},
		{"ed25519", "ed25519", false},
		{"rsa-3072", "rsa-3072", false},
		{"ecdsa-p384", "ed25519", true},
	} {
		t.Run(c.root+" "+c.issuing, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "ca")
			p := unencrypted(dir)
			if c.issuing == "ecdsa-p256" {
				p = testPlan(dir)
			}
			p.Root.Generate, p.Issuing.Generate = c.root, c.issuing
			r := run(t, p, Options{Tool: "test"})
			if ondisk.Listing(t, dir) != "" {
				t.Error("something was written before Write")
			}
			if err := r.Write(); err != nil {
				t.Fatal(err)
			}
			if len(r.Warnings) > 0 != c.mixed {
				t.Errorf("warnings: %q", r.Warnings)
			}
			chain := readChain(t, filepath.Join(dir, "chain.pem"))
			for _, q := range ca.Examine(chain, time.Now(), x509.ExtKeyUsageCodeSigning) {
				if len(q.Findings) > 0 && !c.mixed {
					t.Errorf("%s: %+v", q.Name, q.Findings)
				}
			}
			if life := chain[0].NotAfter.Sub(chain[0].NotBefore); life != DefaultIssuingValidity {
				t.Errorf("valid for %s", life)
			}
			key, err := OpenKey(t.Context(), KeySource{Table: p.Issuing.Key}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ca.New(ca.Options{Chain: chain, Signer: key.Signer}); err != nil {
				t.Error(err)
			}
			if lines := Check(CheckOptions{
				Chain: chain, Now: time.Now(), Usage: x509.ExtKeyUsageCodeSigning,
				Key: key,
			}); Failed(lines) {
				t.Errorf("%+v", lines)
			}
			if lines := replayFile(t, filepath.Join(dir, "transcript.json")); Failed(lines) {
				t.Errorf("%+v", lines)
			}
			for name, mode := range map[string]fs.FileMode{
				"root-key.pem": 0o600, "ca-key.pem": 0o600,
				"chain.pem": 0o644,
			} {
				st, err := os.Stat(filepath.Join(dir, name))
				if err != nil || st.Mode().Perm() != mode {
					t.Errorf("%s: %v, %v", name, st, err)
				}
			}
		})
	}
}

func readChain(t *testing.T, path string) []*x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.ParseChain(data)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func replayFile(t *testing.T, path string) []Line {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := ParseTranscript(data)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := os.ReadFile(path + SignatureSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return tr.Replay(ReplayOptions{Data: data, Signature: signature, Dir: filepath.Dir(path)})
}

// A dry run returns what would be written, and neither signs nor writes anything.
func TestDryRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := run(t, unencrypted(dir), Options{DryRun: true})
	if len(r.Certificates) != 2 || len(r.Outputs) != 6 || r.Transcript != nil {
		t.Errorf("%+v", r)
	}
	for _, c := range r.Certificates {
		if c.CheckSignatureFrom(r.Certificates[0]) == nil {
			t.Errorf("%s has a real signature", c.Subject)
		}
	}
	if err := r.Write(); err == nil {
		t.Error("a dry run wrote")
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// A timestamp authority gets a certificate that verifies for timestamping alone.
func TestTimestamping(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := testPlan(dir)
	p.Purpose = Timestamping
	r := run(t, p, Options{})
	lines := Check(CheckOptions{Chain: r.Chain, Now: time.Now(), Usage: x509.ExtKeyUsageTimeStamping})
	if len(lines) < 10 || slices.ContainsFunc(lines, func(l Line) bool { return l.Result != OK }) {
		t.Errorf("%+v", lines)
	}
	if lines := Check(CheckOptions{
		Chain: r.Chain, Now: time.Now(),
		Usage: x509.ExtKeyUsageCodeSigning,
	}); !Failed(lines) {
		t.Error("the chain issues for code signing")
	}
	good := pki.New(pki.Options{})
	for name, chain := range map[string][]*x509.Certificate{
		"no root": r.Chain[:1], "code signing": good.Chain, "another root": {r.Chain[0], good.Root},
	} {
		if !Failed(Check(CheckOptions{Chain: chain, Now: time.Now(), Usage: x509.ExtKeyUsageTimeStamping})) {
			t.Errorf("%s passes", name)
		}
	}
	if Failed(r.Transcript.Replay(ReplayOptions{Dir: dir})) {
		t.Errorf("%+v", r.Transcript.Replay(ReplayOptions{Dir: dir}))
	}
}

func TestPlanCheck(t *testing.T) {
	t.Parallel()
	negative, zero := -1, 0
	for want, change := range map[string]func(p *Plan){
		"purpose: unknown purpose":                    func(p *Plan) { p.Purpose = "servers" },
		"root.subject: common_name is missing":        func(p *Plan) { p.Root.Subject.CommonName = "" },
		"issuing.subject: organization is missing":    func(p *Plan) { p.Issuing.Subject.Organization = "" },
		"issuing.subject: country is \"Germany\"":     func(p *Plan) { p.Issuing.Subject.Country = "Germany" },
		"root.subject: common_name has the character": func(p *Plan) { p.Root.Subject.CommonName = "a\u202eb" },
		"root.subject: common_name has more than 64":  func(p *Plan) { p.Root.Subject.CommonName = strings.Repeat("x", 65) },
		"root.not_before: \"tomorrow\" is not a time": func(p *Plan) { p.Root.NotBefore = "tomorrow" },
		"issuing.valid_for: a validity of 1m0s":       func(p *Plan) { p.Issuing.ValidFor = time.Minute },
		"root.valid_for: a validity of -1h0m0s":       func(p *Plan) { p.Root.ValidFor = -time.Hour },
		"root.generate: unknown algorithm":            func(p *Plan) { p.Root.Generate = "rsa-1024" },
		"root.path_length: path length -1":            func(p *Plan) { p.Root.PathLength = &negative },
		"root.path_length: a root with path length 0": func(p *Plan) { p.Root.PathLength = &zero },
		"issuing.path_length: the path length":        func(p *Plan) { p.Issuing.PathLength = &zero },
		"root.key: the key backend is missing":        func(p *Plan) { p.Root.Key = backends.Table{} },
		"root.key: the key would be lost":             func(p *Plan) { p.Root.Key = backends.Table{Ephemeral: &ephemeral.Settings{}} },
		"issuing.key.file.chain: chain is missing":    func(p *Plan) { p.Issuing.Key.File.Chain = "" },
		"root.key.file: the key has neither":          func(p *Plan) { p.Root.Key.File.Password = nil },
		"issuing.key.file: the key has neither":       func(p *Plan) { p.Issuing.Unencrypted = true },
		"root.unencrypted: the setting applies only":  func(p *Plan) { p.Root.Generate, p.Root.Unencrypted = "", true },
		"ca-key.pem is written twice":                 func(p *Plan) { p.Root.Key.File.Key = p.Issuing.Key.File.Key },
		"chain.pem is written twice":                  func(p *Plan) { p.Transcript = p.Issuing.Key.File.Chain },
	} {
		p := testPlan("dir")
		for _, part := range []*Part{&p.Root, &p.Issuing} {
			part.Key.File.Password = &secret.Source{Env: "MAYFLY_TEST"}
		}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		change(p)
		err := p.Check()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
			continue
		}
		if s, ok := errors.AsType[*fault.Setting](err); !ok || s.Fix == "" {
			t.Errorf("%q: no cure: %v", want, err)
		}
	}
}

// counting is a signer that counts its signatures and can be told to misbehave.
type counting struct {
	crypto.Signer
	n    int
	fail func(digest []byte) ([]byte, error)
}

func (c *counting) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	c.n++
	if c.fail != nil {
		return c.fail(digest)
	}
	return c.Signer.Sign(r, digest, o)
}

// csr is a request for a key and a name.
func csr(t *testing.T, key crypto.Signer, name pkix.Name) *x509.CertificateRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: name}, key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRequest(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var exampleName = pkix.Name{CommonName: "Example issuing", Organization: []string{"Example"}}

// C9: a request or parent from which an invalid chain would follow is refused before the parent's key signs anything.
func TestNothingWrongIsSigned(t *testing.T) {
	t.Parallel()
	good := func() *pki.PKI {
		return pki.New(pki.Options{Key: pki.P384, Root: func(c *x509.Certificate) {
			c.MaxPathLen = 1
		}})
	}
	root := func(f func(c *x509.Certificate)) *pki.PKI { return pki.New(pki.Options{Root: f}) }
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, c := range map[string]struct {
		pki     *pki.PKI
		parents []*x509.Certificate // nil: the root
		key     crypto.Signer       // of the parent; nil: that of the root
		subject pkix.Name           // empty: exampleName
		request crypto.Signer       // whose key is certified
		change  func(o *SignOptions)
		want    string
	}{
		"the parent is missing": {pki: good(), parents: []*x509.Certificate{}, want: "the parent is missing"},
		"parent without root":   {pki: good(), parents: good().Chain[:1], want: "not a root"},
		"key of another":        {pki: good(), key: pki.NewKey(pki.P384), want: "not the key of the parent"},
		"no organization": {
			pki: good(), subject: pkix.Name{CommonName: "x"},
			want: "without common name or organization",
		},
		"no common name": {
			pki: good(), subject: pkix.Name{Organization: []string{"x"}},
			want: "without common name or organization",
		},
		"the name of the parent": {
			pki:     good(),
			subject: pkix.Name{CommonName: "test root", Organization: []string{"test"}},
			want:    "the name of its parent",
		},
		"weak curve": {pki: good(), request: weak, want: "P-224"},
		"short RSA":  {pki: good(), request: pki.NewKey(pki.RSA2048), want: "RSA key of 2048 bits"},
		"longer than the parent": {
			pki: good(), change: func(o *SignOptions) { o.For = 200000 * time.Hour },
			want: "longer than its issuer",
		},
		"earlier than the parent": {
			pki: good(), change: func(o *SignOptions) { o.NotBefore = now.AddDate(-1, 0, 0).Truncate(time.Second) },
			want: "earlier than its issuer",
		},
		"in the past": {
			pki: root(func(c *x509.Certificate) { c.NotBefore = now.AddDate(-3, 0, 0) }),
			change: func(o *SignOptions) {
				o.NotBefore, o.For = now.AddDate(-2, 0, 0).Truncate(time.Second), time.Hour
			},
			want: "expired at",
		},
		"fraction of a second": {
			pki: good(), change: func(o *SignOptions) { o.For = time.Hour + time.Millisecond },
			want: "whole seconds",
		},
		"parent expired": {
			pki:    root(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }),
			change: func(o *SignOptions) { o.For = time.Hour }, want: "longer than its issuer",
		},
		"parent not yet valid": {
			pki:  root(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }),
			want: "not valid before",
		},
		"path length of parent 0": {
			pki:  root(func(c *x509.Certificate) { c.MaxPathLenZero = true }),
			want: "allows 0 intermediates",
		},
		"below a path length of 0": {
			pki: good(), parents: good().Chain, key: nil, want: "not the key of the parent",
		},
		"path length beyond the parent's": {
			pki: good(), change: func(o *SignOptions) { o.PathLength = 9 },
			want: "out of range",
		},
		"parent without keyCertSign": {
			pki:  root(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }),
			want: "sign",
		},
		"parent for servers": {
			pki: root(func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			}), want: "allows nothing below it",
		},
		"parent with a weak key": {pki: weakRoot(t), want: "curve P-224"},
		"critical extension of the parent": {pki: root(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), want: "1.2.3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			signer := &counting{Signer: c.pki.RootKey}
			if c.key != nil {
				signer.Signer = c.key
			}
			request, subject := c.request, c.subject
			if request == nil {
				request = pki.NewKey(pki.P256)
			}
			if subject.String() == "" {
				subject = exampleName
			}
			o := SignOptions{
				Request: csr(t, request, subject), Parents: []*x509.Certificate{c.pki.Root},
				Out: filepath.Join(dir, "chain.pem"), Transcript: filepath.Join(dir, "t.json"), SignTranscript: true,
			}
			if c.parents != nil {
				o.Parents = c.parents
			}
			if c.change != nil {
				c.change(&o)
			}
			r, err := Sign(t.Context(), &Key{Signer: signer}, o, Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) || r != nil {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if signer.n != 0 {
				t.Errorf("the key made %d signatures", signer.n)
			}
		})
	}
}

// A root that was made seconds ago can sign: the validity of the certificate starts with that of its parent, not 40
// seconds before now.
func TestYoungParent(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Second)
	for name, c := range map[string]struct {
		age  time.Duration
		want time.Time
	}{
		"now":             {0, now},
		"seconds":         {7 * time.Second, now.Add(-7 * time.Second)},
		"as the backdate": {backdate, now.Add(-backdate)},
		"older":           {time.Hour, now.Add(-backdate)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{Key: pki.P384, Root: func(root *x509.Certificate) {
				root.MaxPathLen, root.NotBefore = 1, now.Add(-c.age)
			}})
			dir := t.TempDir()
			o := SignOptions{
				Request: csr(t, pki.NewKey(pki.P256), exampleName), Parents: []*x509.Certificate{p.Root},
				Out: filepath.Join(dir, "chain.pem"), Transcript: filepath.Join(dir, "t.json"),
			}
			o.For = 1000 * time.Hour
			r, err := Sign(t.Context(), &Key{Signer: p.RootKey}, o, Options{Now: now})
			if err != nil {
				t.Fatal(err)
			}
			got := r.Certificates[0]
			if !got.NotBefore.Equal(c.want) || got.NotAfter.Sub(got.NotBefore) != 1000*time.Hour {
				t.Errorf("from %s to %s, want from %s", got.NotBefore, got.NotAfter, c.want)
			}
		})
	}
	// A requested time is not changed.
	p := pki.New(pki.Options{Key: pki.P384, Root: func(root *x509.Certificate) {
		root.MaxPathLen, root.NotBefore = 1, now
	}})
	o := SignOptions{
		Request: csr(t, pki.NewKey(pki.P256), exampleName), Parents: []*x509.Certificate{p.Root},
		Out: filepath.Join(t.TempDir(), "chain.pem"), Transcript: filepath.Join(t.TempDir(), "t.json"),
	}
	o.NotBefore = now.Add(-time.Second)
	if _, err := Sign(t.Context(), &Key{Signer: p.RootKey}, o, Options{Now: now}); err == nil ||
		!strings.Contains(err.Error(), "earlier than its issuer") {
		t.Errorf("%v", err)
	}
}

func weakRoot(t *testing.T) *pki.PKI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := pki.New(pki.Options{})
	c := *p.Root
	c.PublicKey, c.SignatureAlgorithm = nil, x509.ECDSAWithSHA256
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if p.Root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.RootKey = key
	return p
}

// If a signer signs something else, signs with another key, or fails, no certificate is made.
func TestWrongSignature(t *testing.T) {
	t.Parallel()
	p, other := pki.New(pki.Options{Key: pki.P384}), pki.NewKey(pki.P384)
	for name, fail := range map[string]func(digest []byte) ([]byte, error){
		"another key": func(d []byte) ([]byte, error) { return other.Sign(rand.Reader, d, crypto.SHA384) },
		"another digest": func([]byte) ([]byte,
			error,
		) {
			return p.RootKey.Sign(rand.Reader, make([]byte, 48), crypto.SHA384)
		},
		"nothing":  func([]byte) ([]byte, error) { return nil, nil },
		"an error": func([]byte) ([]byte, error) { return nil, errors.New("access denied: kms:Sign is missing") },
	} {
		dir := t.TempDir()
		_, err := Sign(t.Context(), &Key{Signer: &counting{Signer: p.RootKey, fail: fail}}, SignOptions{
			Request: csr(t, pki.NewKey(pki.P256), exampleName), Parents: []*x509.Certificate{p.Root},
			Out: filepath.Join(dir, "chain.pem"), Transcript: filepath.Join(dir, "t.json"),
		}, Options{})
		if err == nil || !strings.Contains(err.Error(), "sign") {
			t.Errorf("%s: %v", name, err)
		}
		if all, readErr := os.ReadDir(dir); readErr != nil || len(all) > 0 {
			t.Errorf("%s: %v, %v", name, all, readErr)
		}
		if (&Key{Signer: &counting{Signer: p.RootKey, fail: fail}}).Test() == nil {
			t.Errorf("%s: the key passes its test", name)
		}
	}
}

// If any of the output files exists, it is not replaced, and no key signs.
func TestNothingIsReplaced(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"root-key.pem", "ca-key.pem", "root.pem", "transcript.json",
		"transcript.json.sig", "chain.pem",
	} {
		for _, link := range []bool{false, true} {
			dir := t.TempDir()
			p := checked(t, unencrypted(dir))
			path := filepath.Join(dir, name)
			var err error
			if link { // also one that leads nowhere
				err = os.Symlink("nowhere", path)
			} else {
				err = os.WriteFile(path, []byte("precious"), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Run(t.Context(), Options{}); err == nil ||
				!strings.Contains(err.Error(), "existing files are never overwritten") {
				t.Errorf("%s: %v", name, err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			r := run(t, p, Options{})
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil { // after the keys were made
				t.Fatal(err)
			}
			before := ondisk.Contents(t, dir)
			if err := r.Write(); err == nil {
				t.Errorf("%s was replaced", name)
			}
			if !maps.Equal(before, ondisk.Contents(t, dir)) {
				t.Errorf("%s: files changed", name)
			}
		}
	}
}

// After a crash at any write, each existing file is complete, and a chain exists only with its keys and transcript.
// After an error, no file exists.
func TestInterruptedWrites(t *testing.T) {
	t.Parallel()
	for stop := range 6 {
		dir := t.TempDir()
		r := run(t, testPlan(dir), Options{})
		n := 0
		fails := errors.New("no space left on device")
		r.put = func(name string, data []byte, mode fs.FileMode) error {
			if n++; n > stop {
				return fails
			}
			return durable.CreateFile(name, data, mode)
		}
		if err := r.Write(); !errors.Is(err, fails) {
			t.Fatalf("%d: %v", stop, err)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) > 0 {
			t.Errorf("an error after %d files left %v, %v", stop, all, err)
		}
		n = 0
		func() { // a crash: nothing after it runs
			r.put = func(name string, data []byte, mode fs.FileMode) error {
				if n++; n > stop {
					panic("crash")
				}
				return durable.CreateFile(name, data, mode)
			}
			defer func() { _ = recover() }()
			_ = r.Write()
		}()
		left := ondisk.Contents(t, dir)
		if len(left) != stop {
			t.Errorf("%d files after a crash at %d", len(left), stop)
		}
		for _, out := range r.Outputs {
			if got, ok := left[out.Path]; ok && got != string(out.data) {
				t.Errorf("%s is not whole", out.Path)
			}
		}
		if _, chain := left[filepath.Join(dir, "chain.pem")]; chain {
			t.Error("there is a chain after a crash")
		}
		for _, secret := range []string{"root-key.pem", "ca-key.pem"} {
			if text := left[filepath.Join(dir, secret)]; text != "" && !strings.Contains(text, "ENCRYPTED") {
				t.Errorf("%s is not encrypted", secret)
			}
		}
	}
}

// No output except the key files contains a password or a private key.
func TestSecretsStayInKeyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := run(t, testPlan(dir), Options{})
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	keys := map[string][]byte{}
	for _, name := range []string{"root-key.pem", "ca-key.pem"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		key, err := file.ParseKey(file.KeyOptions{Key: data, Password: []byte(password)})
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = key.(*ecdsa.PrivateKey).D.Bytes() //nolint:forcetypeassert,staticcheck // the plan's algorithm
	}
	for path, text := range ondisk.Contents(t, dir) {
		for name, d := range keys {
			if strings.Contains(text, password) || bytes.Contains([]byte(text), d) {
				t.Errorf("%s has the secret of %s", path, name)
			}
		}
	}
	for _, out := range r.Transcript.Outputs {
		if strings.Contains(out.What, "private key") != (out.SHA256 == "") {
			t.Errorf("%s has the digest %q", out.Path, out.SHA256)
		}
	}
	if text := fmt.Sprintf("%+v %+v", r.Outputs[2:], r.Keys); strings.Contains(text, password) {
		t.Error("a result has the password")
	}
	wrong := FileKey(filepath.Join(dir, "ca-key.pem"), "", secret.Typed([]byte("another "+password)))
	if _, err := OpenKey(t.Context(), wrong, Options{}); err == nil || strings.Contains(err.Error(), password) {
		t.Errorf("%v", err)
	}
}
