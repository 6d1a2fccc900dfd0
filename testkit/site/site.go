// Package site is a directory with a configuration and a CA, together with running logs.
package site

import (
	_ "crypto/sha512" // SHA-384, which keys of P-384 sign with
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// Site is a directory with a CA, and running logs.
type Site struct {
	Dir  string
	PKI  *pki.PKI
	Logs []*ct.Log
}

// New creates the files of a CA.
func New(t *testing.T, logs int) *Site {
	t.Helper()
	l := &Site{Dir: t.TempDir(), PKI: pki.New(pki.Options{})}
	l.Write(t, "chain.pem", l.PKI.ChainPEM())
	l.Write(t, "key.pem", l.PKI.KeyPEM())
	l.Write(t, "identity.yaml", []byte("oidc-issuers:\n  https://a.example.com: {client-id: sigstore, type: email}\n"))
	for i := range logs {
		log := NewTestLog(t, l.PKI)
		l.Write(t, fmt.Sprintf("ct%d.pem", i), log.PublicKeyPEM())
		l.Logs = append(l.Logs, log)
	}
	return l
}

func (l *Site) Write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(l.Dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Config writes mayfly.yaml with this text under ct, in which %0 is the address of the first log, and loads it.
func (l *Site) Config(t *testing.T, ct string) *config.Config {
	t.Helper()
	for i, log := range l.Logs {
		ct = strings.ReplaceAll(ct, fmt.Sprintf("%%%d", i),
			fmt.Sprintf("name: log%d, url: %q, public_key: ct%d.pem", i, log.URL(), i))
	}
	l.Write(t, "mayfly.yaml",
		[]byte("identity: {file: identity.yaml}\nca:\n  file: {chain: chain.pem, key: key.pem}\nct:\n"+ct))
	cfg, _, err := config.Load(filepath.Join(l.Dir, "mayfly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// NewTestLog starts a log for tests.
func NewTestLog(t *testing.T, p *pki.PKI) *ct.Log {
	t.Helper()
	return ct.New(t, ct.Options{Roots: []*x509.Certificate{p.Root}})
}
