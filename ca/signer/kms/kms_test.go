package kms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// mode is what a fake service does.
type mode string

const (
	works        mode = ""
	hangs        mode = "hangs"
	throttles    mode = "throttles"
	down         mode = "is down"
	denies       mode = "denies"
	wrongNumber  mode = "signs with another version and says so"
	otherKey     mode = "signs with another key and denies it"
	oneBit       mode = "damages the signature"
	otherMessage mode = "signs something else"
)

// fake is what the fakes of all services have in common.
type fake struct {
	testing.TB

	key, other crypto.Signer
	mode       atomic.Value // mode
	signed     atomic.Int64
}

func newFake(t testing.TB, key crypto.Signer, kind pki.KeyType) *fake {
	f := &fake{TB: t, key: key, other: pki.NewKey(kind)}
	f.mode.Store(works)
	return f
}

func (f *fake) is(m mode) bool { return f.mode.Load() == m }

// sign signs, or returns a wrong signature.
func (f *fake) sign(digest []byte, opts crypto.SignerOpts) []byte {
	f.signed.Add(1)
	key := f.key
	switch f.mode.Load() {
	case otherKey, wrongNumber:
		key = f.other
	case otherMessage:
		digest = append([]byte(nil), digest...)
		digest[0] ^= 1
	}
	signature, err := key.Sign(rand.Reader, digest, opts)
	if err != nil {
		f.Error(err)
	}
	if f.is(oneBit) {
		signature[len(signature)-1] ^= 1
	}
	return signature
}

func (f *fake) spki(key crypto.Signer) []byte {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.Error(err)
	}
	return der
}

func (f *fake) pem(key crypto.Signer) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: f.spki(key)}))
}

// inMemory is an HTTP client whose server is a handler, without a socket.
type inMemory struct{ http.Handler }

// Do implements the clients of the SDKs.
func (m inMemory) Do(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	m.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	answer := w.Result()
	answer.Request = r
	return answer, nil
}

// RoundTrip implements [http.RoundTripper].
func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) { return m.Do(r) }

// lab is a service with a key, and settings that name it.
type lab struct {
	*fake
	settings Settings
	client   any
	// expected text of errors
	permission, uri string
	close           func()
}

// chainFile writes the chain of p.
func chainFile(t testing.TB, p *pki.PKI) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "chain.pem")
	if err := os.WriteFile(file, p.ChainPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (l *lab) open(t testing.TB) (*signer.Key, error) {
	t.Helper()
	if err := l.settings.Check(); err != nil {
		t.Fatal(err)
	}
	return l.settings.open(t.Context(), signer.Options{Warn: func(s *fault.Setting) { t.Errorf("warning: %v", s) }},
		l.client)
}

func request(t testing.TB) ca.Request {
	t.Helper()
	key := pki.NewKey(pki.P256)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	id := identity.Identity{
		Issuer: "https://issuer.example", Subject: "s1",
		SAN: identity.SAN{Kind: identity.Email, Value: "alice@example.com"},
	}
	id.Extensions.Set(identity.Issuer, id.Issuer)
	return ca.Request{Identity: &id, SPKI: spki, PublicKey: key.Public()}
}

// conform runs a CA with a key of a service that works, fails, or returns wrong answers. A certificate is released only
// if its signature is by the key of the chain, the probe names the cause, and the CA works again when the service does.
func conform(t *testing.T, kinds []pki.KeyType, build func(*testing.T, *fake) *lab) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{Key: kind})
			l := build(t, newFake(t, p.Key, kind))
			timeout := 3 * time.Second
			l.settings.Chain, l.settings.Limits.Timeout = chainFile(t, p), &timeout
			key, err := l.open(t)
			if err != nil {
				t.Fatal(err)
			}
			authority, err := ca.New(ca.Options{Chain: p.Chain, Signer: key.Signer})
			if err != nil {
				t.Fatal(err)
			}
			issue := func() error {
				t.Helper()
				issued, err := authority.Issue(t.Context(), request(t))
				if err != nil {
					return err
				}
				leaf, err := x509.ParseCertificate(issued.DER)
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Chain[0].CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate,
					leaf.Signature); err != nil {
					t.Errorf("a certificate with a wrong signature: %v", err)
				}
				return nil
			}
			for m, want := range map[mode]struct {
				kind remote.Kind
				text string
			}{
				hangs:        {remote.TimedOut, "timed out"},
				throttles:    {remote.Throttled, "the service throttles"},
				down:         {remote.Unavailable, "the service does not work or cannot be reached"},
				denies:       {remote.Denied, "permission missing: grant " + l.permission},
				wrongNumber:  {remote.WrongKey, `the service signed with "`},
				otherKey:     {remote.WrongKey, "the signature does not verify"},
				oneBit:       {remote.WrongKey, "the signature does not verify"},
				otherMessage: {remote.WrongKey, "the signature does not verify"},
			} {
				if m == hangs && kind != kinds[0] {
					continue // it takes as long as the limit
				}
				if err := issue(); err != nil {
					t.Fatalf("before: %v", err)
				}
				l.mode.Store(m)
				err := issue()
				var f *fault.Error
				if err == nil || !errors.As(err, &f) || f.Reason != fault.SignerUnavailable {
					t.Errorf("a service that %s: %v", m, err)
				}
				var e *remote.Error
				err = key.Probe(t.Context())
				if throttled := m == throttles; !throttled && (!errors.As(err, &e) || e.Kind != want.kind ||
					!strings.Contains(err.Error(), want.text) || !strings.Contains(err.Error(), l.uri)) {
					t.Errorf("a service that %s: the probe says %v", m, err)
				}
				l.mode.Store(works)
			}
			if err := issue(); err != nil {
				t.Errorf("after: %v", err)
			}
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(authority.Collectors()...)
			if _, err := registry.Gather(); err != nil {
				t.Error(err)
			}
			if err := key.Close(); err != nil {
				t.Error(err)
			}
			if l.close != nil {
				l.close()
			}
		})
	}
}

func TestCheck(t *testing.T) { //nolint:paralleltest // it sets the environment
	t.Setenv("AZURE_ENVIRONMENT", "")
	const good = "awskms:///alias/ca"
	vault := func(v Vault) Settings { return Settings{Chain: "c", Key: "openbao://ca", Vault: &v} }
	long := time.Hour
	for name, c := range map[string]struct {
		settings Settings
		want     string // the beginning; "" is no error
	}{
		"none":      {Settings{}, "chain: chain is missing"},
		"no key":    {Settings{Chain: "c"}, "key: key is missing"},
		"no scheme": {Settings{Chain: "c", Key: "alias/ca"}, "key: is not the URI of a key"},
		"plugin":    {Settings{Chain: "c", Key: "acmekms://ca"}, "key: is not the URI of a key"},
		"limits":    {Settings{Chain: "c", Key: good, Limits: remote.Limits{Timeout: &long}}, "limits.timeout: "},
		"vault, elsewhere": {
			Settings{Chain: "c", Key: good, Vault: &Vault{}}, "vault: vault is set, but the key is in AWS KMS",
		},

		"AWS alias":    {Settings{Chain: "c", Key: good}, ""},
		"AWS id":       {Settings{Chain: "c", Key: "awskms:///1234abcd-12ab-34cd-56ef-1234567890ab"}, ""},
		"AWS multi":    {Settings{Chain: "c", Key: "awskms:///mrk-1234abcd12ab34cd56ef1234567890ab"}, ""},
		"AWS endpoint": {Settings{Chain: "c", Key: "awskms://localhost:4566/alias/ca"}, ""},
		"AWS ARN": {
			Settings{
				Chain: "c",
				Key:   "awskms:///arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
			}, "",
		},
		"AWS alias ARN":   {Settings{Chain: "c", Key: "awskms:///arn:aws-cn:kms:cn-north-1:111122223333:alias/ca"}, ""},
		"AWS two slashes": {Settings{Chain: "c", Key: "awskms://alias/ca"}, "key: is not awskms://[ENDPOINT]/KEY"},

		"Google": {Settings{Chain: "c", Key: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k"}, ""},
		"Google version": {
			Settings{Chain: "c", Key: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7"},
			"",
		},
		"Google short": {
			Settings{Chain: "c", Key: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/versions/7"}, "",
		},
		"Google, no ring": {Settings{Chain: "c", Key: "gcpkms://projects/p/cryptoKeys/k"}, "key: is not gcpkms://"},

		"Azure":         {Settings{Chain: "c", Key: "azurekms://acme.vault.azure.net/ca"}, ""},
		"Azure version": {Settings{Chain: "c", Key: "azurekms://acme.vault.azure.net/ca/0123456789abcdef"}, ""},
		"Azure, no key": {Settings{Chain: "c", Key: "azurekms://acme.vault.azure.net"}, "key: is not azurekms://"},

		"Vault":      {Settings{Chain: "c", Key: "hashivault://ca"}, ""},
		"OpenBao":    {vault(Vault{Address: "https://bao.example:8200", Namespace: "team"}), ""},
		"Vault path": {Settings{Chain: "c", Key: "hashivault://team/ca"}, "key: is not hashivault://KEY"},
		"no TLS": {
			vault(Vault{Address: "http://bao.example:8200"}),
			"vault.address: tokens would be sent without TLS",
		},
		"loopback": {vault(Vault{Address: "http://127.0.0.1:8200"}), ""},
		"no URL":   {vault(Vault{Address: "bao.example:8200"}), "vault.address: is not the URL of a server"},
		"version":  {vault(Vault{Version: -1}), "vault.version: version -1 is out of range"},
		"two logins": {
			vault(Vault{Token: &Secret{Env: "X"}, JWT: &Role{Role: "r", Token: &Secret{Env: "X"}}}),
			"vault: more than one login",
		},
		"no token":   {vault(Vault{Token: &Secret{}}), "vault.token: exactly one of env and file must be set"},
		"no role id": {vault(Vault{AppRole: &AppRole{}}), "vault.approle.role_id: the role id is missing"},
		"secret id":  {vault(Vault{AppRole: &AppRole{RoleID: "r", SecretID: &Secret{}}}), "vault.approle.secret_id: "},
		"no role":    {vault(Vault{Kubernetes: &Role{}}), "vault.kubernetes.role: the role is missing"},
		"no JWT":     {vault(Vault{JWT: &Role{Role: "r"}}), "vault.jwt.token: the token is missing"},
		"Kubernetes": {vault(Vault{Kubernetes: &Role{Role: "r"}}), ""},
		"AppRole":    {vault(Vault{AppRole: &AppRole{RoleID: "r"}}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			uses(t, c.settings.Key)
			err := c.settings.Check()
			if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Setenv("AZURE_ENVIRONMENT", "MARS")
	s := Settings{Chain: "c", Key: "azurekms://acme.vault.azure.net/ca"}
	uses(t, s.Key)
	if err := s.Check(); err == nil || !strings.Contains(err.Error(), "AZURE_ENVIRONMENT") {
		t.Errorf("%v", err)
	}
}

// uses skips a test of a service that is left out of this build, after it has checked that its URI is refused.
func uses(t *testing.T, uri string) {
	t.Helper()
	p, _, err := find(uri)
	if p.name == "" || p.open != nil {
		return
	}
	if err == nil || !strings.Contains(err.Error(),
		"this build does not include "+p.name+"; use a build without the tag "+p.tag) {
		t.Errorf("%v", err)
	}
	t.Skipf("built with %s", p.tag)
}

// A backend with keys outside this process has the chain in a file.
func TestBackend(t *testing.T) {
	t.Parallel()
	s := &Settings{Chain: "c"}
	if s.Temporary() || s.ChainFile() != "c" {
		t.Error("temporary, or without a chain")
	}
	_, err := signer.Open(t.Context(), &Settings{Chain: filepath.Join(t.TempDir(), "none"), Key: "openbao://ca"},
		signer.Options{})
	var place *fault.Setting
	if !errors.As(err, &place) || len(place.Path) != 1 || place.Path[0] != "chain" {
		t.Errorf("%v", err)
	}
}

// Endless responses are not read.
func TestLimited(t *testing.T) {
	t.Parallel()
	long := inMemory{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", maxAnswer+1))
	})}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
	answer, err := limited{long}.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	if _, err := io.Copy(io.Discard, answer.Body); err == nil {
		t.Error("read to the end")
	}
}

// FuzzURI: no URI makes the check panic, and one that passes has no white space.
func FuzzURI(f *testing.F) {
	f.Add("awskms:///alias/ca")
	f.Add("gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1")
	f.Add("azurekms://acme.vault.azure.net/ca/0123")
	f.Add("hashivault://ca")
	f.Fuzz(func(t *testing.T, uri string) {
		s := Settings{Chain: "c", Key: uri}
		if s.Check() == nil && strings.ContainsAny(uri, " \t\r\n") {
			t.Errorf("%q passes", uri)
		}
	})
}

// kindOf is the kind of an error of the guard, or of a raw signer.
func kindOf(err error) remote.Kind {
	var e *remote.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 99
}

// bits is the size of a key, which tells the kinds of the tests apart.
func bits(key crypto.Signer) int {
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		return k.Params().BitSize
	case *rsa.PublicKey:
		return k.N.BitLen()
	}
	return 32
}
