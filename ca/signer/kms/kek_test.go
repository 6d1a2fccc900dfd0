package kms

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// seal encrypts a text with the key-encryption key of a fake, in the format of the transit engine.
func seal(text []byte) []byte { return []byte("vault:v1:" + base64.StdEncoding.EncodeToString(text)) }

func unseal(sealed []byte) ([]byte, bool) {
	text, ok := bytes.CutPrefix(sealed, []byte("vault:v1:"))
	out, err := base64.StdEncoding.DecodeString(string(text))
	return out, ok && err == nil
}

// decrypts decrypts with a service that works, fails, or returns wrong answers.
func decrypts(t *testing.T, f *fake, kek KEK, client any, permission string, lies map[mode]remote.Kind) {
	t.Helper()
	timeout := 10 * time.Second // a busy machine is slow; only a service that hangs has to run into it
	kek.Limits.Timeout = &timeout
	if err := kek.Check(); err != nil {
		t.Fatal(err)
	}
	text := []byte("canary: the CA key")
	got, guard, err := kek.decrypt(t.Context(), seal(text), client)
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("%q, %v", got, err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(guard.Collectors()...)
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP mayfly_signer_calls_total Calls of the service that has the CA key, by operation and result.
# TYPE mayfly_signer_calls_total counter
mayfly_signer_calls_total{operation="decrypt",result="success"} 1
`), "mayfly_signer_calls_total"); err != nil && !strings.HasPrefix(kek.URI, "openbao") { // which logs in too
		t.Error(err)
	}
	fails := func(what string, sealed []byte, want string) {
		t.Helper()
		got, _, err := kek.decrypt(t.Context(), sealed, client)
		s, ok := errors.AsType[*fault.Setting](err)
		if got != nil || !ok || len(s.Path) == 0 || s.Path[0] != kekPath || !strings.Contains(s.Problem, want) ||
			!strings.Contains(s.Problem, "decrypt with the key "+kek.URI) &&
				!strings.Contains(s.Problem, "login with") ||
			strings.Contains(s.Problem, "canary") {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	for m, want := range map[mode]string{
		hangs: "timed out", throttles: "the service throttles", down: "the service does not work or cannot be reached",
		denies: "permission missing: grant " + permission,
	} {
		f.mode.Store(m)
		if timeout = 10 * time.Second; m == hangs {
			timeout = 300 * time.Millisecond
		}
		fails("a service that "+string(m), seal(text), want)
	}
	timeout = 10 * time.Second
	for m, kind := range lies {
		f.mode.Store(m)
		fails("a service that "+string(m), seal(text), (&remote.Error{Kind: kind}).Error())
	}
	f.mode.Store(works)
	fails("another ciphertext", []byte("vault:v1:!"), "decrypt with the key")
}

func TestKEKCheck(t *testing.T) {
	t.Parallel()
	const google = "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k"
	bao := func(v Vault) KEK { return KEK{URI: "openbao://kek", Vault: &v} }
	long := time.Hour
	for name, c := range map[string]struct {
		kek  KEK
		want string // the beginning; "" is no error
	}{
		"none": {
			KEK{},
			"kek: is not the URI of a key in a key management service; begin the URI with one of aws",
		},
		"a signing key":  {KEK{URI: "awskms:///alias/ca"}, "kek: is not the URI of a key"},
		"AWS":            {KEK{URI: "aws-kms://" + awsKEKForTests}, ""},
		"AWS alias":      {KEK{URI: "aws-kms://arn:aws-cn:kms:cn-north-1:111122223333:alias/kek"}, ""},
		"AWS, no ARN":    {KEK{URI: "aws-kms:///alias/kek"}, "kek: is not aws-kms://ARN"},
		"Google":         {KEK{URI: google}, ""},
		"Google version": {KEK{URI: google + "/cryptoKeyVersions/1"}, "kek: is not gcp-kms://projects"},
		"Google, short":  {KEK{URI: "gcp-kms://k"}, "kek: is not gcp-kms://projects"},
		"Azure":          {KEK{URI: "azurekms://acme.vault.azure.net/kek"}, "kek: is not the URI of a key"},
		"OpenBao":        {bao(Vault{Address: "https://bao.example:8200"}), ""},
		"Vault":          {KEK{URI: "hashivault://kek"}, ""},
		"Vault path":     {KEK{URI: "hashivault://transit/kek"}, "kek: is not hashivault://KEY"},
		"version":        {bao(Vault{Version: 2}), "vault.version: a version is set"},
		"no TLS": {
			bao(Vault{Address: "http://bao.example:8200"}),
			"vault.address: tokens would be sent without TLS",
		},
		"elsewhere": {
			KEK{URI: google, Vault: &Vault{}},
			"vault: vault is set, but the key is in Google Cloud KMS",
		},
		"limits": {KEK{URI: google, Limits: remote.Limits{Timeout: &long}}, "limits.timeout: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _, err := findKEK(c.kek.URI)
			if p.name != "" && p.open == nil {
				if err == nil || !strings.Contains(err.Error(), "kek: this build does not include "+p.name) {
					t.Errorf("%v", err)
				}
				t.Skipf("built with %s", p.tag)
			}
			err = c.kek.Check()
			if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

const awsKEKForTests = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// FuzzKEK: no URI makes the check panic, and one that passes has no white space.
func FuzzKEK(f *testing.F) {
	f.Add("aws-kms://" + awsKEKForTests)
	f.Add("gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k")
	f.Add("openbao://kek")
	f.Fuzz(func(t *testing.T, uri string) {
		if (KEK{URI: uri}).Check() == nil && strings.ContainsAny(uri, " \t\r\n") {
			t.Errorf("%q passes", uri)
		}
	})
}

// attests opens a key and compares its attestation. A key without an attestation works.
func attests(t *testing.T, l *lab, p *pki.PKI, exportable, reason string, evidence ...string) {
	t.Helper()
	l.settings.Chain = chainFile(t, p)
	a, err := l.settings.attest(t.Context(), l.client)
	if err != nil {
		t.Fatal(err)
	}
	if a.Exportable != exportable || !strings.HasPrefix(a.Reason, reason) {
		t.Errorf("%s: %s, want %s: %s", a.Exportable, a.Reason, exportable, reason)
	}
	for i := 0; i+1 < len(evidence); i += 2 {
		if a.Evidence[evidence[i]] != evidence[i+1] {
			t.Errorf("evidence %v, want %s", a.Evidence, evidence[i:i+2])
		}
	}
	if exportable == signer.ExportUnknown && strings.Contains(reason, "does not say") && len(a.Evidence) > 0 {
		t.Errorf("evidence %v", a.Evidence)
	}
	if l.signed.Load() != 0 {
		t.Error("the key signed")
	}
}

// A key that cannot be opened has no attestation.
func TestAttestWithoutKey(t *testing.T) {
	t.Parallel()
	s := Settings{Chain: "none.pem", Key: "nokms://ca"}
	if a, err := s.Attest(t.Context()); err == nil || a.Exportable != "" {
		t.Errorf("%+v, %v", a, err)
	}
}
