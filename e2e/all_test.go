//go:build all

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
	"github.com/mayfly-ca/mayfly/e2e/internal/matrix"
)

// TestAll runs every client of the table. "make e2e-all" runs them one by one and saves the results.
func TestAll(t *testing.T) {
	tests := map[string]func(*environment){
		"cosign": devCosign, "sigstore-go": devSigstoreGo, "sigstore-js": devSigstoreJS, "npm": devNPM,
		"sigstore-python": devSigstorePython, "pep740": devPEP740, "model-signing": devModelSigning,
		"sigstore-java": devSigstoreJava, "sigstore-rs": devSigstoreRust, "gitsign": devGitsign, "ruby": devRuby,
		"conformance":        devConformance,
		"kubernetes-release": kubernetesRelease, "admission": admission, "slsa": slsaProvenance,
		"kubernetes-account": kubernetesAccount, "spiffe": spiffeWorkload,
	}
	for _, c := range matrix.Table() {
		t.Run(c.Name, func(t *testing.T) {
			l := lab.New(t)
			tests[c.Name](&environment{Lab: l})
		})
	}
	if len(tests) != len(matrix.Table()) {
		t.Errorf("%d tests for %d clients", len(tests), len(matrix.Table()))
	}
}

// environment is a whole Sigstore with mayfly as its CA: TesseraCT, Rekor v2, a timestamp authority, and an issuer of
// tokens.
type environment struct {
	*lab.Lab
	serveCase
	dev    *lab.Mayfly // the development CA, for startDev
	banner string      // what it printed
	tlsCA  []string    // an environment variable for Go's TLS
}

// environmentOptions are the differences from a CA for e-mail addresses.
type environmentOptions struct {
	identity string         // identity.yaml; "" trusts the issuer for addresses
	onePort  bool           // gRPC on the address of REST
	runner   map[string]any // claims of the issuer's GitHub Actions tokens
}

// start starts everything.
func (w *environment) start(o environmentOptions) {
	w.Helper()
	pki, services := w.PKI(), w.Services()
	if w.oidc == nil {
		w.oidc = w.Issuer(o.runner)
	}
	if o.identity == "" {
		o.identity = lab.EmailIssuer(w.oidc.URL)
	}
	log := w.TesseraCT(pki.RootFile)
	ca := w.Serve(lab.ServeOptions{
		Name: "ca", PKI: pki, CT: lab.RemoteLog(log), Identity: o.identity,
		OnePort: o.onePort,
	})
	w.serveCase = serveCase{
		ca: ca, log: log, pki: pki, services: services, oidc: w.oidc,
		signer: signer{lab: w.Lab, issuer: w.oidc.URL, trust: w.Trust(lab.TrustOptions{
			Name: "trust", CA: ca.URL, ChainFile: pki.ChainFile, OIDC: w.oidc.URL, Log: log, Services: services,
		})},
	}
}

// proven records a feature that has just passed, for the matrix.
func (w *environment) proven(format string, args ...any) {
	w.Helper()
	text := fmt.Sprintf(format, args...)
	w.Log(text)
	path := os.Getenv(matrix.RecordEnv)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		w.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, text); err != nil {
		w.Fatal(err)
	}
}

// client returns the path of a file under clients/.
func (w *environment) client(name ...string) string {
	w.Helper()
	path, err := filepath.Abs(filepath.Join(append([]string{"clients"}, name...)...))
	if err != nil {
		w.Fatal(err)
	}
	return path
}
