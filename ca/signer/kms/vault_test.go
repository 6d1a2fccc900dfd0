//go:build !nokms_vault

package kms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// fakeVault is a server of Vault or OpenBao with the key "ca": version 2 is that of the chain, 1 and 3 are others.
type fakeVault struct {
	*fake
	kind       string // of the key
	exportable bool
	backup     bool
	imported   bool
	namespace  string
	missing    bool // the key

	mu     sync.Mutex
	tokens map[string]time.Time // until when each is accepted; zero: forever
	lease  time.Duration        // of a login
	most   time.Time            // after which a login is not renewed
	made   int                  // logins
	renews int
	login  func(path string, body map[string]string) error
}

// transitType is the type of a key in the transit engine.
func transitType(key crypto.Signer) string {
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ecdsa-p%d", k.Params().BitSize)
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", k.N.BitLen())
	case *mldsa.PublicKey:
		return strings.ToLower(strings.Replace(k.Parameters().String(), "ML-DSA", "mldsa", 1))
	}
	return "ed25519"
}

func newVault(f *fake) *fakeVault {
	return &fakeVault{fake: f, kind: transitType(f.key), tokens: map[string]time.Time{"root": {}}}
}

func (f *fakeVault) lab(v Vault) *lab {
	v.Address = "https://bao.example:8200"
	return &lab{
		fake: f.fake, settings: Settings{Key: "openbao://ca", Vault: &v}, client: inMemory{f}, uri: "openbao://ca",
		permission: `path "transit/sign/ca`,
	}
}

// text is a public key as the transit engine writes it.
func (f *fakeVault) text(key crypto.Signer) string {
	switch k := key.Public().(type) {
	case ed25519.PublicKey:
		return base64.StdEncoding.EncodeToString(k)
	case *mldsa.PublicKey:
		return base64.StdEncoding.EncodeToString(k.Bytes())
	}
	return f.pem(key)
}

// ServeHTTP implements [http.Handler].
func (f *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(v map[string]any) { _ = json.NewEncoder(w).Encode(v) }
	fail := func(status int, text string) {
		w.WriteHeader(status)
		answer(map[string]any{"errors": []string{text}})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	token := r.Header.Get("X-Vault-Token")
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	if r.URL.Host != "bao.example:8200" || r.Header.Get("X-Vault-Request") != "true" ||
		r.Header.Get("X-Vault-Namespace") != f.namespace {
		f.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}
	switch {
	case f.is(hangs):
		f.mu.Unlock()
		<-r.Context().Done()
		f.mu.Lock()
		return
	case f.is(throttles):
		fail(http.StatusTooManyRequests, "request path \"transit\": rate limit quota exceeded")
		return
	case f.is(down):
		fail(http.StatusServiceUnavailable, "Vault is sealed")
		return
	}
	if strings.HasPrefix(path, "auth/") && strings.HasSuffix(path, "/login") {
		body := map[string]string{}
		err := json.NewDecoder(r.Body).Decode(&body)
		if err = errors.Join(err, f.login(path, body)); err != nil || token != "" {
			fail(http.StatusBadRequest, fmt.Sprintf("invalid: %v", err))
			return
		}
		f.made++
		name := fmt.Sprintf("login-%d", f.made)
		f.tokens[name] = time.Now().Add(f.lease)
		answer(map[string]any{"auth": map[string]any{
			"client_token": name, "lease_duration": f.lease.Seconds(), "renewable": true,
		}})
		return
	}
	until, known := f.tokens[token]
	if !known || !until.IsZero() && time.Now().After(until) {
		fail(http.StatusForbidden, "permission denied")
		return
	}
	switch path {
	case "auth/token/lookup-self":
		left := time.Duration(0)
		if !until.IsZero() {
			left = time.Until(until)
		}
		answer(map[string]any{"data": map[string]any{
			"ttl": int(left.Seconds()), "renewable": !until.IsZero(), "creation_ttl": int(f.lease.Seconds()),
		}})
	case "auth/token/renew-self":
		f.renews++
		until = time.Now().Add(f.lease)
		if !f.most.IsZero() && until.After(f.most) {
			until = f.most
		}
		f.tokens[token] = until
		answer(map[string]any{"auth": map[string]any{
			"client_token": token, "lease_duration": int(time.Until(until).Seconds()), "renewable": true,
		}})
	case "transit/keys/ca":
		if f.missing || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusNotFound)
			answer(map[string]any{"errors": []string{}})
			return
		}
		keys := map[string]any{}
		for n, key := range map[string]crypto.Signer{"1": f.other, "2": f.key, "3": f.other} {
			keys[n] = map[string]any{"public_key": f.text(key), "name": f.kind, "creation_time": "2026-01-01T00:00:00Z"}
		}
		answer(map[string]any{"data": map[string]any{
			"type": f.kind, "latest_version": 3, "keys": keys, "exportable": f.exportable, "name": "ca",
			"allow_plaintext_backup": f.backup, "imported_key": f.imported,
		}})
	case "transit/decrypt/kek":
		var q map[string]string
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q) != 1 || r.Method == http.MethodGet {
			f.Errorf("%v, %v", q, err)
		}
		text, ok := unseal([]byte(q["ciphertext"]))
		switch {
		case f.is(denies):
			fail(http.StatusForbidden, "permission denied")
		case !ok:
			fail(http.StatusBadRequest, "invalid ciphertext: could not decode base64")
		case f.is(oneBit):
			answer(map[string]any{"data": map[string]any{"plaintext": "!"}})
		case f.is(otherMessage):
			answer(map[string]any{"data": map[string]any{}})
		default:
			answer(map[string]any{"data": map[string]any{"plaintext": text}})
		}
	default:
		if !strings.HasPrefix(path, "transit/sign/") {
			fail(http.StatusNotFound, "no handler for route "+path)
			return
		}
		f.signRequest(w, r, path)
	}
}

func (f *fakeVault) signRequest(w http.ResponseWriter, r *http.Request, path string) {
	hashes := map[string]crypto.Hash{
		"": 0, "/sha2-256": crypto.SHA256, "/sha2-384": crypto.SHA384, "/sha2-512": crypto.SHA512,
	}
	hash, ok := hashes[strings.TrimPrefix(path, "transit/sign/ca")]
	var q struct {
		Input              string `json:"input"`
		Prehashed          bool   `json:"prehashed"`
		KeyVersion         int    `json:"key_version"`
		SignatureAlgorithm string `json:"signature_algorithm"`
	}
	err := json.NewDecoder(r.Body).Decode(&q)
	digest, err2 := base64.StdEncoding.DecodeString(q.Input)
	if err = errors.Join(err, err2); f.is(denies) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`))
		return
	}
	if _, isRSA := f.key.(*rsa.PrivateKey); err != nil || !ok || q.Prehashed != (hash != 0) || q.KeyVersion != 2 ||
		isRSA != (q.SignatureAlgorithm == "pkcs1v15") || hash != 0 && len(digest) != hash.Size() ||
		r.Method != http.MethodPut && r.Method != http.MethodPost {
		f.Errorf("%s %s %+v, %v", r.Method, path, q, err)
	}
	version := 2
	if f.is(wrongNumber) {
		version = 3
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{
		"signature": fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(f.sign(digest, hash))),
	}})
}

func inEnvironment(t *testing.T, secret string) *Secret {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Secret{File: file}
}

func TestVault(t *testing.T) {
	t.Parallel()
	conform(t, []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.RSA2048, pki.Ed25519}, func(t *testing.T, f *fake) *lab {
		t.Helper()
		return newVault(f).lab(Vault{Token: inEnvironment(t, "root")})
	})
}

// An ML-DSA key signs messages.
func TestVaultMLDSA(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	for _, set := range []mldsa.Parameters{mldsa.MLDSA44(), mldsa.MLDSA65(), mldsa.MLDSA87()} {
		key, err := mldsa.GenerateKey(set)
		other, err2 := mldsa.GenerateKey(set)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		f := newFake(t, key, pki.P256)
		f.other = other
		v := newVault(f)
		l := v.lab(Vault{Token: inEnvironment(t, "root"), Version: 2})
		l.settings.Chain = chainFile(t, p)
		opened, err := l.open(t)
		if err != nil {
			t.Fatal(err)
		}
		if err := opened.Probe(t.Context()); err != nil {
			t.Errorf("%s: %v", set, err)
		}
		f.mode.Store(otherKey)
		if _, err := opened.Signer.Sign(rand.Reader, []byte("message"), crypto.Hash(0)); err == nil {
			t.Errorf("%s: a signature by another key", set)
		}
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Problems of a key or of the access are reported when the key is opened, without a secret.
func TestVaultOpen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		vault  Vault
		change func(*fakeVault)
		want   string
	}{
		"no token": {Vault{Token: &Secret{Env: "MAYFLY_TEST_UNSET"}}, nil, "MAYFLY_TEST_UNSET is not set"},
		"a wrong token": {
			Vault{Token: inEnvironment(t, "canary")},
			nil,
			`permission missing: grant path "transit/keys/ca" { capabilities = ["read"] }: status 403: permission denied`,
		},
		"no key": {
			Vault{},
			func(f *fakeVault) { f.missing = true },
			`the key "ca" does not exist in the transit engine "transit"`,
		},
		"no version": {
			Vault{Version: 9},
			nil,
			"the key transit/keys/ca has no version 9; write an existing version; the newest is 3",
		},
		"encryption key": {
			Vault{},
			func(f *fakeVault) { f.kind = "mldsa-99"; f.key = pki.NewKey(pki.Ed25519) },
			"has no public key in PEM",
		},
		"sealed": {Vault{}, func(f *fakeVault) { f.mode.Store(down) }, "status 503: Vault is sealed"},
		"a refused login": {
			Vault{AppRole: &AppRole{RoleID: "r", SecretID: inEnvironment(t, "canary")}},
			func(f *fakeVault) {
				f.login = func(string, map[string]string) error { return errors.New("invalid role") }
			},
			"login with the key openbao://ca: permission missing: the login at auth/approle/login is " +
				"refused: status 400: invalid: invalid role",
		},
		"no service account": {
			Vault{Kubernetes: &Role{Role: "r"}}, nil, serviceFile,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{})
			f := newVault(newFake(t, p.Key, pki.P256))
			if c.change != nil {
				c.change(f)
			}
			if c.vault.Token == nil && c.vault.AppRole == nil && c.vault.Kubernetes == nil {
				c.vault.Token = inEnvironment(t, "root")
			}
			l := f.lab(c.vault)
			l.settings.Chain = chainFile(t, p)
			_, err := l.open(t)
			var s *fault.Setting
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary") ||
				!errors.As(err, &s) || len(s.Path) == 0 {
				t.Errorf("%v", err)
			}
		})
	}
}

// A key that can be exported from the server causes a warning.
func TestVaultWarns(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	f := newVault(newFake(t, p.Key, pki.P256))
	f.exportable = true
	l := f.lab(Vault{Token: inEnvironment(t, "root")})
	l.settings.Chain = chainFile(t, p)
	var warnings []string
	key, err := l.settings.open(t.Context(), signer.Options{Warn: func(s *fault.Setting) {
		warnings = append(warnings, s.Error())
	}}, l.client)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close() //nolint:errcheck // the end of the test
	if len(warnings) != 1 || !strings.Contains(warnings[0], "can be exported") {
		t.Errorf("%q", warnings)
	}
}

func TestVaultAttest(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	const begin = "reported by the KMS: exportable="
	for name, c := range map[string]struct {
		change     func(*fakeVault)
		exportable string
		reason     string
	}{
		"no": {func(*fakeVault) {}, signer.ExportNo, begin + "false, allow_plaintext_backup=false"},
		"export": {
			func(f *fakeVault) { f.exportable = true }, signer.ExportYes,
			begin + "true, allow_plaintext_backup=false",
		},
		"backup": {
			func(f *fakeVault) { f.backup, f.imported = true, true }, signer.ExportYes,
			begin + "false, allow_plaintext_backup=true",
		},
		"imported": {
			func(f *fakeVault) { f.imported = true }, signer.ExportUnknown,
			begin + "false, allow_plaintext_backup=false, imported_key=true",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newVault(newFake(t, p.Key, pki.P256))
			c.change(f)
			attests(t, f.lab(Vault{Token: inEnvironment(t, "root")}), p, c.exportable, c.reason,
				"exportable", strconv.FormatBool(f.exportable), "allow_plaintext_backup", strconv.FormatBool(f.backup),
				"imported_key", strconv.FormatBool(f.imported), "type", "ecdsa-p256")
		})
	}
}

func TestVaultDecrypt(t *testing.T) {
	t.Parallel()
	f := newVault(newFake(t, pki.NewKey(pki.P256), pki.P256))
	l := f.lab(Vault{Token: inEnvironment(t, "root")})
	decrypts(t, f.fake, KEK{URI: "openbao://kek", Vault: l.settings.Vault}, l.client,
		`path "transit/decrypt/kek" { capabilities = ["update"] }`,
		map[mode]remote.Kind{oneBit: remote.Unavailable, otherMessage: remote.Unavailable})
}

// A token is renewed before its lease ends, and replaced before its maximum lifetime ends. No signature waits for this.
func TestVaultLogins(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		vault Vault
		path  string
		body  map[string]string
	}{
		"AppRole": {
			Vault{AppRole: &AppRole{RoleID: "role", SecretID: inEnvironment(t, "secret")}},
			"auth/approle/login",
			map[string]string{"role_id": "role", "secret_id": "secret"},
		},
		"AppRole without a secret": {
			Vault{AppRole: &AppRole{RoleID: "role", Mount: "machines"}},
			"auth/machines/login",
			map[string]string{"role_id": "role"},
		},
		"Kubernetes": {
			Vault{Kubernetes: &Role{Role: "role", Token: inEnvironment(t, "jwt"), Mount: "prod/"}, Namespace: "team"},
			"auth/prod/login",
			map[string]string{"role": "role", "jwt": "jwt"},
		},
		"JWT": {
			Vault{JWT: &Role{Role: "role", Token: inEnvironment(t, "jwt")}},
			"auth/jwt/login",
			map[string]string{"role": "role", "jwt": "jwt"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := pki.New(pki.Options{})
				f := newVault(newFake(t, p.Key, pki.P256))
				f.namespace, f.lease, f.most = c.vault.Namespace, time.Hour, time.Now().Add(4*time.Hour)
				f.login = func(path string, body map[string]string) error {
					if path != c.path || fmt.Sprint(body) != fmt.Sprint(c.body) {
						return fmt.Errorf("%s %v", path, body)
					}
					return nil
				}
				l := f.lab(c.vault)
				l.settings.Chain = chainFile(t, p)
				key, err := l.open(t)
				if err != nil {
					t.Fatal(err)
				}
				for range 24 * 6 { // a day
					time.Sleep(10 * time.Minute)
					if err := key.Probe(t.Context()); err != nil {
						t.Fatalf("after %d logins and %d renewals: %v", f.made, f.renews, err)
					}
					f.mu.Lock()
					if time.Now().After(f.most) { // the next login has a life of its own
						f.most = time.Now().Add(4 * time.Hour)
					}
					f.mu.Unlock()
				}
				if f.made < 2 || f.made > 10 || f.renews < 20 {
					t.Errorf("%d logins, %d renewals", f.made, f.renews)
				}
				// A revoked token is replaced during the first refused call.
				f.mu.Lock()
				clear(f.tokens)
				f.mu.Unlock()
				if _, err := key.Signer.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
					t.Errorf("after a revocation: %v", err)
				}
				if err := key.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A token in a file is renewed, and the file is read again when it has another token.
func TestVaultTokenFile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pki.New(pki.Options{})
		f := newVault(newFake(t, p.Key, pki.P256))
		f.lease = 10 * time.Minute
		f.tokens["first"] = time.Now().Add(f.lease)
		source := inEnvironment(t, "first")
		l := f.lab(Vault{Token: source})
		l.settings.Chain = chainFile(t, p)
		key, err := l.open(t)
		if err != nil {
			t.Fatal(err)
		}
		for range 24 {
			time.Sleep(time.Hour)
			if err := key.Probe(t.Context()); err != nil {
				t.Fatalf("after %d renewals: %v", f.renews, err)
			}
		}
		if f.renews < 24*6 || f.renews > 24*20 {
			t.Errorf("%d renewals a day of a token of 10 minutes", f.renews)
		}
		f.mu.Lock()
		delete(f.tokens, "first")
		f.tokens["second"] = time.Now().Add(f.lease)
		f.mu.Unlock()
		if _, err := key.Signer.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil ||
			!strings.Contains(err.Error(), `grant path "transit/sign/ca/sha2-256" { capabilities = ["update"] }`) {
			t.Errorf("with a token that was revoked: %v", err)
		}
		if err := os.WriteFile(source.File, []byte("second"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(againEvery)
		if _, err := key.Signer.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
			t.Errorf("with the next token: %v", err)
		}
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The environment of Fulcio, Vault and OpenBao says where the server is.
func TestVaultEnvironment(t *testing.T) {
	for _, name := range []string{
		"BAO_ADDR", "VAULT_ADDR", "BAO_TOKEN", "VAULT_TOKEN", "BAO_NAMESPACE",
		"VAULT_NAMESPACE",
	} {
		t.Setenv(name, "") // and is restored
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", t.TempDir())
	p := pki.New(pki.Options{})
	f := newVault(newFake(t, p.Key, pki.P256))
	s := Settings{Key: "hashivault://ca", Chain: chainFile(t, p)}
	opens := func(want string) {
		t.Helper()
		key, err := s.open(t.Context(), signer.Options{}, inMemory{f})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err == nil && key.Close() != nil {
			t.Error("close")
		}
	}
	opens("vault.address: the address of the server is missing")
	t.Setenv("VAULT_ADDR", "http://bao.example:8200")
	opens("without TLS")
	t.Setenv("VAULT_ADDR", "https://bao.example:8200")
	opens("vault: the token or the login is missing")
	t.Setenv("VAULT_TOKEN", "root")
	opens("")
	t.Setenv("BAO_TOKEN", "other") // has priority
	opens("permission missing")
	if err := os.Unsetenv("BAO_TOKEN"); err != nil {
		t.Fatal(err)
	}
	f.namespace = "team"
	t.Setenv("BAO_NAMESPACE", "team")
	opens("")
	t.Setenv("TRANSIT_SECRET_ENGINE_PATH", "elsewhere")
	opens("elsewhere")
}

// FuzzTransitKey: no answer makes the parser panic, and each key that it returns is one of a CA.
func FuzzTransitKey(f *testing.F) {
	for _, text := range []string{
		`{"type":"ed25519","latest_version":1,"keys":{"1":{"public_key":"` +
			base64.StdEncoding.EncodeToString(make([]byte, 32)) + `"}}}`,
		`{"type":"ecdsa-p256","latest_version":1,"keys":{"1":{"public_key":"-----BEGIN PUBLIC KEY-----\n"}}}`,
		`{"type":"ml-dsa","parameter_set":"44","keys":{"2":{"public_key":"AAAA"}}}`,
		`{"type":"aes256-gcm96","keys":{"1":1700000000}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, versions, err := parseTransitKey(data)
		for n, public := range versions {
			if err == nil && (n < 1 || public == nil) {
				t.Errorf("version %d is %v", n, public)
			}
		}
	})
}

// FuzzTransitSignature: only a signature of the requested version is returned.
func FuzzTransitSignature(f *testing.F) {
	f.Add("vault:v2:AAAA", 2)
	f.Add("vault:v12:", 1)
	f.Fuzz(func(t *testing.T, text string, version int) {
		signature, err := parseTransitSignature(text, version)
		if err == nil && !strings.HasPrefix(text, fmt.Sprintf("vault:v%d:", version)) {
			t.Errorf("%q is %x", text, signature)
		}
		if err != nil && !slices.Equal(signature, nil) {
			t.Errorf("%x with %v", signature, err)
		}
	})
}
