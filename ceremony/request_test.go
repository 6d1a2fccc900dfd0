package ceremony

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// made has a root and a request for a new key, on disk.
func made(t *testing.T, dir string) (root *Key, parents []*x509.Certificate,
	request *x509.CertificateRequest, in Input,
) {
	t.Helper()
	p, two := testPlan(dir), 2
	p.Root.PathLength = &two
	if err := run(t, p, Options{}).Write(); err != nil {
		t.Fatal(err)
	}
	source := FileKey(filepath.Join(dir, "next-key.pem"), "", secret.Typed([]byte(password)))
	source.Generate = "ecdsa-p256"
	next, err := OpenKey(t.Context(), source, Options{Iterations: iterations})
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRequest(next, RequestOptions{
		Subject: Subject{CommonName: "Example next", Organization: "Example"},
		Out:     filepath.Join(dir, "next.csr"),
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "next.csr"))
	if err != nil {
		t.Fatal(err)
	}
	if request, err = ParseRequest(data); err != nil {
		t.Fatal(err)
	}
	if root, err = OpenKey(t.Context(), KeySource{Table: p.Root.Key}, Options{}); err != nil {
		t.Fatal(err)
	}
	return root, readChain(t, filepath.Join(dir, "root.pem")), request, FileInput("next.csr", data)
}

// The next issuing certificate below an existing root: key and request on one machine, signature on another.
func TestRequestAndSign(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, parents, request, in := made(t, dir)
	o := SignOptions{
		Request: request, Parents: parents, Inputs: []Input{in}, Out: filepath.Join(dir, "next.pem"),
		Transcript: filepath.Join(dir, "next.json"), SignTranscript: true,
	}
	r, err := Sign(t.Context(), root, o, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	chain := readChain(t, o.Out)
	for _, q := range ca.Examine(chain, time.Now(), x509.ExtKeyUsageCodeSigning) {
		if len(q.Findings) > 0 {
			t.Errorf("%s: %+v", q.Name, q.Findings)
		}
	}
	key, err := OpenKey(t.Context(), FileKey(filepath.Join(dir, "next-key.pem"), "", secret.Typed([]byte(password))),
		Options{})
	if err != nil {
		t.Fatal(err)
	}
	if lines := Check(CheckOptions{
		Chain: chain, Now: time.Now(), Usage: x509.ExtKeyUsageCodeSigning,
		Key: key,
	}); Failed(lines) {
		t.Errorf("%+v", lines)
	}
	if lines := Check(CheckOptions{
		Chain: chain, Now: time.Now(), Usage: x509.ExtKeyUsageCodeSigning,
		Key: root,
	}); !Failed(lines) {
		t.Error("the root's key passes as the issuing key")
	}
	if lines := replayFile(t, o.Transcript); Failed(lines) || lines[len(lines)-1].Result != OK {
		t.Errorf("%+v", lines)
	}
	if _, err := Sign(t.Context(), root, o, Options{}); err == nil ||
		!strings.Contains(err.Error(), "existing files are never overwritten") {
		t.Errorf("again: %v", err)
	}
	// A CA below a CA, with a path length that the root allows, and no more.
	wide := o
	wide.Out, wide.Transcript, wide.PathLength = filepath.Join(dir, "wide.pem"), filepath.Join(dir, "wide.json"), 1
	if r, err := Sign(t.Context(), root, wide, Options{}); err != nil || r.Certificates[0].MaxPathLen != 1 {
		t.Errorf("%v", err)
	}
}

// A certificate that another CA signed is imported if its chain can issue.
func TestImport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := pki.NewKey(pki.P256)
	request := csr(t, key, exampleName)
	issue := func(change func(c *x509.Certificate)) []*x509.Certificate {
		p := pki.New(pki.Options{})
		c := &x509.Certificate{
			SerialNumber: bigEndian([]byte("a serial number")), Subject: exampleName, NotBefore: p.Root.NotBefore,
			NotAfter: p.Root.NotAfter, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			BasicConstraintsValid: true, IsCA: true,
			MaxPathLenZero: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		}
		change(c)
		der, err := x509.CreateCertificate(rand.Reader, c, p.Root, key.Public(), p.RootKey)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{c, p.Root}
	}
	good := issue(func(*x509.Certificate) {})
	for name, c := range map[string]struct {
		chain     []*x509.Certificate
		want      string
		warned    string
		forAnyKey bool
	}{
		"good":        {chain: good},
		"nothing":     {want: "the certificate is missing"},
		"another key": {chain: pki.New(pki.Options{}).Chain, want: "not for the key of the request"},
		"no root":     {chain: good[:1], want: "not a root"},
		"for servers": {
			chain: issue(func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			}), want: "codeSigning",
		},
		"no path length": {
			chain: issue(func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = false, -1 }),
			want:  "path length of 0",
		},
		"no CA": {
			chain: issue(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }),
			want:  "not a CA",
		},
		"expired": {
			chain: issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
			want:  "expired",
		},
		"another subject": {
			chain:  issue(func(c *x509.Certificate) { c.Subject.CommonName = "other" }),
			warned: "changed the subject",
		},
		"two usages": {
			chain: issue(func(c *x509.Certificate) {
				c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
			}),
			warned: "more than code signing",
		},
	} {
		out := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".pem")
		r, err := Import(ImportOptions{request, c.chain, out}, Options{})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", name, err, c.want)
			}
			continue
		}
		if err != nil || r.Write() != nil || len(readChain(t, out)) != 2 {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if warned := strings.Join(r.Warnings, "\n"); !strings.Contains(warned, c.warned) ||
			(warned == "") != (c.warned == "") {
			t.Errorf("%s: warnings %q", name, warned)
		}
		if _, err := Import(ImportOptions{request, c.chain, out}, Options{}); err == nil {
			t.Errorf("%s: replaced", name)
		}
	}
}

// A verifier that trusts only the old root verifies certificates under the new chain through the cross-signed
// certificate.
func TestCrossSign(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, parents, _, _ := made(t, dir)
	fresh := pki.New(pki.Options{Key: pki.P384})
	o := SignOptions{
		Certificate: fresh.Intermediate, Parents: parents, Out: filepath.Join(dir, "cross.pem"),
		Transcript: filepath.Join(dir, "cross.json"), Inputs: []Input{FileInput("new.pem", fresh.ChainPEM())},
	}
	r, err := Sign(t.Context(), root, o, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	cross := r.Certificates[0]
	if !bytes.Equal(cross.RawSubject, fresh.Intermediate.RawSubject) ||
		!bytes.Equal(cross.SubjectKeyId, fresh.Intermediate.SubjectKeyId) ||
		!equalKeys(cross.PublicKey, fresh.Intermediate.PublicKey) || cross.MaxPathLen != 0 || !cross.MaxPathLenZero ||
		cross.NotAfter.After(fresh.Intermediate.NotAfter) {
		t.Errorf("%+v", cross)
	}
	if _, err := ca.New(ca.Options{Chain: r.Chain, Signer: fresh.Key}); err != nil {
		t.Error(err)
	}
	if lines := replayFile(t, o.Transcript); Failed(lines) {
		t.Errorf("%+v", lines)
	}
	for want, c := range map[string]*x509.Certificate{
		// its own intermediates would be one CA too many below the parent
		"the path length of the parent": pki.New(pki.Options{Root: func(c *x509.Certificate) { c.MaxPathLen = 2 }}).Root,
		"not a CA certificate": pki.New(pki.Options{
			Intermediate: func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false },
		}).Intermediate,
	} {
		bad := o
		bad.Certificate, bad.Out, bad.Transcript = c, filepath.Join(dir, "bad.pem"), filepath.Join(dir, "bad.json")
		if _, err := Sign(t.Context(), root, bad, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	t.Parallel()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: exampleName},
		pki.NewKey(pki.P256))
	if err != nil {
		t.Fatal(err)
	}
	der[len(der)-1] ^= 1
	text := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for want, data := range map[string][]byte{
		"not signed by its key":     text("CERTIFICATE REQUEST", der),
		"cannot be parsed":          text("CERTIFICATE REQUEST", []byte{1, 2, 3}),
		"not a CERTIFICATE REQUEST": text("PRIVATE KEY", private),
		"no PEM block":              []byte("hello"),
	} {
		if _, err := ParseRequest(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: exampleName},
		pki.NewKey(pki.P256))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRequest(data)
		if err == nil && r.CheckSignature() != nil {
			t.Error("a request without a valid signature")
		}
	})
}
