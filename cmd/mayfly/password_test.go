package main

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/youmark/pkcs8"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// C6: a key that is encrypted with another password, and then another key, are in use without a restart. While the key
// and its password do not fit together, the CA continues with what it has.
func TestReloadPassword(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	old, fresh := pki.New(pki.Options{}), pki.New(pki.Options{})
	s := process.Serve(t, process.Setup{PKI: old, Issuer: provider.URL()})
	sealed := func(key crypto.Signer, password string) []byte {
		t.Helper()
		der, err := pkcs8.MarshalPrivateKey(key, []byte(password), nil)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})
	}
	requests := process.Requests(t, provider)
	call, release := s.Caller(t, true)
	defer release()
	n := 0
	issues := func() {
		t.Helper()
		if err := call(requests[n]); err != nil {
			t.Errorf("%v; log:\n%s", err, s.Logs)
		}
		n++
	}
	refusals := func() int { return strings.Count(s.Logs.String(), "not reloaded") }
	// reload writes files, and waits until the CA uses them, or refuses to.
	reload := func(files map[string][]byte, refused bool) {
		t.Helper()
		before, _ := s.Generation(t)
		times := refusals()
		for name, data := range files {
			s.Replace(t, name, data)
		}
		s.Until(t, "reloaded", func() bool {
			now, _ := s.Generation(t)
			return refused && refusals() > times || !refused && now != before
		})
		issues()
	}
	s.Replace(t, "password", []byte("one\n"))
	s.Replace(t, "key.pem", sealed(old.Key, "one"))
	configuration := bytes.Replace(s.Read(t, "mayfly.yaml"), []byte("key: key.pem"),
		[]byte("key: key.pem, password: {file: password}"), 1)
	reload(map[string][]byte{"mayfly.yaml": configuration}, false)

	reload(map[string][]byte{"password": []byte("two\n")}, true)
	if text := s.Logs.String(); !strings.Contains(text,
		"key.pem: line 1: the private key cannot be decrypted: wrong password") {
		t.Errorf("the log does not say why: %s", text)
	}
	reload(map[string][]byte{"key.pem": sealed(old.Key, "two")}, false)

	// and another format, with another key and chain
	p12, err := os.ReadFile(filepath.Join("../../ca/signer/file/testdata/openssl", "p256.pkcs12.p12"))
	if err != nil {
		t.Fatal(err)
	}
	reload(map[string][]byte{"key.pem": p12}, true) // its password is "secure", and it has the key of another chain
	reload(map[string][]byte{"password": []byte("secure\n")}, true)
	if text := s.Logs.String(); !strings.Contains(text, "the key is not the key of certificate 1") {
		t.Errorf("the log does not say that the key is another one: %s", text)
	}
	s.Replace(t, "password", []byte("three\n"))
	s.Replace(t, "key.pem", sealed(fresh.Key, "three"))
	reload(map[string][]byte{"chain.pem": fresh.ChainPEM()}, false)
	_, bundle := process.Get(t, "http://"+s.HTTP+"/api/v2/trustBundle")
	if issuing := base64.StdEncoding.EncodeToString(fresh.Intermediate.Raw); !strings.Contains(
		strings.ReplaceAll(string(bundle), `\n`, ""), issuing) {
		t.Error("the trust bundle does not have the new chain")
	}
	for _, secret := range []string{"three", "secure"} {
		if strings.Contains(s.Logs.String(), secret) {
			t.Errorf("a password is in the log: %s", s.Logs)
		}
	}
}
