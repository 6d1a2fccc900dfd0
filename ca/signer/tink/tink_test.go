package tink

import (
	"context"
	"encoding/base64"
	"encoding/json"
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

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
)

// In a build without the package, its settings are refused with the name of the tag.
func TestLeftOut(t *testing.T) {
	t.Parallel()
	if parse != nil {
		t.Skip("this build has Tink")
	}
	_, err := (&Settings{Chain: "c", Key: "k", KEK: "openbao://kek"}).Open(t.Context(), signer.Options{})
	if err == nil ||
		!strings.Contains(err.Error(), "this build does not include Tink; use a build without the tag notink") {
		t.Errorf("%v", err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	uses(t, "openbao://kek")
	long := time.Hour
	for name, c := range map[string]struct {
		settings Settings
		want     string // a part; "" is no error
	}{
		"whole":    {Settings{Chain: "c", Key: "k", KEK: "openbao://kek"}, ""},
		"no chain": {Settings{Key: "k", KEK: "openbao://kek"}, "chain: chain is missing"},
		"no key":   {Settings{Chain: "c", KEK: "openbao://kek"}, "key: key is missing"},
		"no kek":   {Settings{Chain: "c", Key: "k"}, "kek: kek is missing; write the URI"},
		"no URI":   {Settings{Chain: "c", Key: "k", KEK: "kek"}, "kek: is not the URI of a key"},
		"limits": {
			Settings{Chain: "c", Key: "k", KEK: "openbao://kek", Limits: remote.Limits{Timeout: &long}},
			"limits.timeout: ",
		},
		"vault": {
			Settings{Chain: "c", Key: "k", KEK: "openbao://kek", Vault: &kms.Vault{Version: -1}},
			"vault.version: ",
		},
	} {
		err := c.settings.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := &Settings{Chain: "c", KEK: "openbao://kek"}
	a, err := s.Attest(t.Context())
	if s.Temporary() || s.ChainFile() != "c" || err != nil || a.Exportable != signer.ExportYes ||
		!strings.Contains(a.Reason, "openbao://kek") {
		t.Errorf("%+v, %v", a, err)
	}
}

// transit is a server of OpenBao with the key-encryption key "kek", on loopback. Its ciphertext is "vault:v1:" and the
// plaintext in base64.
type transit struct {
	*testing.T
	settings Settings
	// answer replaces what the server does.
	answer atomic.Pointer[http.HandlerFunc]
	calls  atomic.Int64 // of decrypt
}

// uses skips a test of what is left out of this build.
func uses(t *testing.T, uri string) {
	t.Helper()
	err := (&Settings{Chain: "c", Key: "k", KEK: uri}).Check()
	if err != nil && strings.Contains(err.Error(), "this build does not include") {
		t.Skip(err)
	}
}

// newTransit returns a server, and settings that name it and a file with the keyset.
func newTransit(t *testing.T, keyset []byte) *transit {
	t.Helper()
	uses(t, "openbao://kek")
	s := &transit{T: t}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	for name, data := range map[string][]byte{"keyset": keyset, "token": []byte("canary-token")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	timeout := 500 * time.Millisecond
	s.settings = Settings{
		Chain: filepath.Join(dir, "chain"), Key: filepath.Join(dir, "keyset"), KEK: "openbao://kek",
		Limits: remote.Limits{Timeout: &timeout},
		Vault:  &kms.Vault{Address: server.URL, Token: &kms.Secret{File: filepath.Join(dir, "token")}},
	}
	return s
}

// ServeHTTP implements [http.Handler].
func (s *transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("X-Vault-Token") != "canary-token":
		s.Errorf("%v", r.Header)
	case r.URL.Path == "/v1/auth/token/lookup-self":
		w.WriteHeader(http.StatusForbidden)
		return
	case r.URL.Path != "/v1/transit/decrypt/kek":
		s.Errorf("%s", r.URL)
	}
	s.calls.Add(1)
	if answer := s.answer.Load(); answer != nil {
		(*answer)(w, r)
		return
	}
	var q struct {
		Ciphertext string `json:"ciphertext"`
	}
	text, ok := "", false
	if err := json.NewDecoder(r.Body).Decode(&q); err == nil {
		text, ok = strings.CutPrefix(q.Ciphertext, "vault:v1:")
	}
	if !ok {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"errors":["invalid ciphertext: no prefix"]}`))
		return
	}
	plaintext(text)(w, r)
}

// plaintext answers with a plaintext in base64.
func plaintext(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]string{"plaintext": text}})
	}
}

func status(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{text}})
	}
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A service that fails or returns wrong answers gives no key, and the error says what is wrong without a secret.
func TestService(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"hangs": {func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // the end of the connection is noticed after it
			<-r.Context().Done()
		}, "kek: decrypt with the key openbao://kek: timed out"},
		"throttles": {
			status(http.StatusTooManyRequests, "quota"),
			"kek: decrypt with the key openbao://kek: the service throttles: too many calls",
		},
		"is down": {
			status(http.StatusServiceUnavailable, "Vault is sealed"),
			"kek: decrypt with the key openbao://kek: the service does not work or cannot be reached: status 503: " +
				"Vault is sealed",
		},
		"denies": {
			status(http.StatusForbidden, "permission denied"),
			`permission missing: grant path "transit/decrypt/kek" { capabilities = ["update"] }`,
		},
		"refuses": {
			status(http.StatusBadRequest, "invalid ciphertext: unable to decrypt"),
			"kek: decrypt with the key openbao://kek: status 400: invalid ciphertext: unable to decrypt",
		},
		"has no plaintext": {plaintext(""), "the answer has no plaintext in base64"},
		"answers without an end": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"data":{"plaintext":"` + strings.Repeat("AAAA", 1<<20)))
		}, "kek: decrypt with the key openbao://kek: the service does not work"},
		"lies": {
			plaintext(base64.StdEncoding.EncodeToString([]byte("canary: no keyset"))),
			"keyset: the decrypted data is not a valid keyset with an enabled primary key; restore the file",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTransit(t, fixture(t, "ecdsa_p256"))
			s.answer.Store(&c.answer)
			s.settings.Limits.Attempts = 1
			if name != "hangs" {
				s.settings.Limits.Timeout = nil
			}
			key, err := s.settings.Open(t.Context(), signer.Options{})
			place, ok := errors.AsType[*fault.Setting](err)
			if key != nil || !ok || len(place.Path) != 1 || !strings.Contains(err.Error(), c.want) ||
				strings.Contains(err.Error(), "canary") {
				t.Errorf("%v", err)
			}
		})
	}
}

// The service is called once, and its metrics are those of the key. A call that fails temporarily is retried.
func TestOpen(t *testing.T) {
	t.Parallel()
	s := newTransit(t, fixture(t, "ecdsa_p384"))
	throttle := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.answer.Store(nil)
		status(http.StatusTooManyRequests, "quota")(w, r)
	})
	s.answer.Store(&throttle)
	key, err := s.settings.Open(t.Context(), signer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := s.calls.Load(); n != 2 || key.Remote() {
		t.Errorf("%d calls, remote: %t", n, key.Remote())
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(key.Collectors...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "mayfly_signer_calls_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			seen[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetCounter().GetValue()
		}
	}
	if seen["decrypt success"] != 1 || seen["decrypt throttled"] != 1 {
		t.Errorf("%v", seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.settings.Open(ctx, signer.Options{}); err == nil {
		t.Error("opened after the end of the caller")
	}
	for name, settings := range map[string]Settings{"no file": {Key: "none"}, "a file too large": {Key: "large"}} {
		settings.Chain, settings.KEK, settings.Vault = "c", s.settings.KEK, s.settings.Vault
		settings.Key = filepath.Join(t.TempDir(), settings.Key)
		if name != "no file" {
			if err := os.WriteFile(settings.Key, make([]byte, maxKeyset+1), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := s.calls.Load()
		_, err := settings.Open(t.Context(), signer.Options{})
		if place, ok := errors.AsType[*fault.Setting](err); !ok || place.Path[0] != "key" || s.calls.Load() != before {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A keyset of AWS is decrypted as tinkey encrypted it.
func TestAWS(t *testing.T) {
	const arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	uses(t, "aws-kms://"+arn)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q map[string]string
		err := json.NewDecoder(r.Body).Decode(&q)
		blob, err2 := base64.StdEncoding.DecodeString(q["CiphertextBlob"])
		text, ok := strings.CutPrefix(string(blob), "vault:v1:")
		if err := errors.Join(err, err2); err != nil || !ok || q["KeyId"] != arn || len(q) != 2 ||
			r.Header.Get("X-Amz-Target") != "TrentService.Decrypt" {
			t.Errorf("%v %v, %v", r.Header, q, err)
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"KeyId": arn, "Plaintext": text})
	}))
	t.Cleanup(server.Close)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_KMS": server.URL, "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "canary",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_REGION": "",
	} {
		t.Setenv(name, value)
	}
	s := Settings{Chain: "c", Key: "testdata/ecdsa_p256.json", KEK: "aws-kms://" + arn}
	key, err := s.Open(t.Context(), signer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if key.Signer == nil || key.Close() != nil {
		t.Error("no key")
	}
}
