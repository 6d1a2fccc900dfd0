//go:build !nokms_azure

package kms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

const azureURL = "https://acme.vault.azure.net/keys/ca/"

// The versions of the key: v1 has the key of the chain, v2 is newer and has another one.
const azureOld, azureNew = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"

// fakeAzure is a Key Vault.
type fakeAzure struct {
	*fake
	newest      string
	asked       int // logins
	refuse      error
	disabled    bool
	denyList    bool
	shortAnswer bool
	uri         string
	exportable  any // the attribute: true, false or nil
}

// GetToken implements azcore.TokenCredential.
func (f *fakeAzure) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if len(o.Scopes) != 1 || o.Scopes[0] != "https://vault.azure.net/.default" {
		f.Errorf("scopes %v", o.Scopes)
	}
	f.asked++
	return azcore.AccessToken{Token: "canary", ExpiresOn: time.Now().Add(time.Hour)}, f.refuse
}

func (f *fakeAzure) lab() *lab {
	if f.uri == "" {
		f.uri = "azurekms://acme.vault.azure.net/ca"
	}
	return &lab{
		fake: f.fake, settings: Settings{Key: f.uri}, uri: f.uri,
		permission: "keys/sign on the key (with Azure RBAC: the role Key Vault Crypto User)",
		client:     azureClient{transport: inMemory{f}, credential: f},
	}
}

// webKey is the JSON Web Key of a public key.
func webKey(public crypto.PublicKey, kid string) map[string]any {
	enc := base64.RawURLEncoding.EncodeToString
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		size := (k.Params().BitSize + 7) / 8
		point, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		return map[string]any{
			"kid": kid, "kty": "EC-HSM", "crv": k.Params().Name, "x": enc(point[1 : 1+size]), "y": enc(point[1+size:]),
		}
	case *rsa.PublicKey:
		return map[string]any{
			"kid": kid, "kty": "RSA-HSM", "n": enc(k.N.Bytes()), "e": enc(big.NewInt(int64(k.E)).Bytes()),
		}
	}
	return map[string]any{"kid": kid, "kty": "oct"}
}

// ServeHTTP implements [http.Handler].
func (f *fakeAzure) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	fail := func(status int, code string) {
		answer(status, map[string]any{"error": map[string]string{"code": code, "message": "the message"}})
	}
	if r.URL.Host != "acme.vault.azure.net" || r.URL.Scheme != "https" || r.URL.Query().Get("api-version") == "" {
		f.Errorf("%s", r.URL)
	}
	if r.Header.Get("Authorization") == "" {
		w.Header().Set("WWW-Authenticate",
			`Bearer authorization="https://login.microsoftonline.com/tenant", resource="https://vault.azure.net"`)
		fail(http.StatusUnauthorized, "Unauthorized")
		return
	}
	switch {
	case f.is(hangs):
		<-r.Context().Done()
		return
	case f.is(throttles):
		w.Header().Set("Retry-After", "1")
		fail(http.StatusTooManyRequests, "Throttled")
		return
	case f.is(down):
		fail(http.StatusServiceUnavailable, "ServiceUnavailable")
		return
	case f.is(denies):
		fail(http.StatusForbidden, "ForbiddenByRbac")
		return
	}
	rest := strings.TrimPrefix(r.URL.Path, "/keys/ca")
	if rest == "/versions" {
		if f.denyList {
			fail(http.StatusForbidden, "Forbidden")
			return
		}
		answer(http.StatusOK, map[string]any{
			"value": []map[string]any{{"kid": azureURL + azureNew}, {"kid": azureURL + azureOld}},
		})
		return
	}
	version, verb, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	if version == "" {
		version = f.newest
	}
	key := map[string]crypto.Signer{azureOld: f.key, azureNew: f.other}[version]
	switch {
	case key == nil:
		fail(http.StatusNotFound, "KeyNotFound")
	case r.Method == http.MethodGet && verb == "":
		attributes := map[string]any{"enabled": !f.disabled}
		if f.exportable != nil {
			attributes["exportable"] = f.exportable
		}
		answer(http.StatusOK, map[string]any{"key": webKey(key.Public(), azureURL+version), "attributes": attributes})
	case r.Method == http.MethodPost && verb == "sign":
		f.signRequest(w, r, version)
	default:
		f.Errorf("%s %s", r.Method, r.URL)
	}
}

func (f *fakeAzure) signRequest(w http.ResponseWriter, r *http.Request, version string) {
	var q struct{ Alg, Value string }
	err := json.NewDecoder(r.Body).Decode(&q)
	digest, err2 := base64.RawURLEncoding.DecodeString(q.Value)
	hash := map[string]crypto.Hash{
		"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512, "RS256": crypto.SHA256,
	}[q.Alg]
	_, isRSA := f.key.(*rsa.PrivateKey)
	if err := errors.Join(err, err2); err != nil || hash == 0 || len(digest) != hash.Size() || version != azureOld ||
		isRSA != strings.HasPrefix(q.Alg, "RS") {
		f.Errorf("%+v, %v", q, err)
	}
	signature := f.sign(digest, hash)
	if key, ok := f.key.(*ecdsa.PrivateKey); ok {
		signature = rawSignature(f, key.Curve, signature)
	}
	if f.shortAnswer {
		signature = signature[1:]
	}
	kid := azureURL + version
	if f.is(wrongNumber) {
		kid = azureURL + azureNew
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"kid": kid, "value": base64.RawURLEncoding.EncodeToString(signature)})
}

// rawSignature converts an ASN.1 signature to r||s.
func rawSignature(t testing.TB, curve elliptic.Curve, der []byte) []byte {
	t.Helper()
	in, inner := cryptobyte.String(der), cryptobyte.String(nil)
	r, s := new(big.Int), new(big.Int)
	if !in.ReadASN1(&inner, asn1.SEQUENCE) || !inner.ReadASN1Integer(r) || !inner.ReadASN1Integer(s) {
		return der // damaged
	}
	size := (curve.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

func TestAzure(t *testing.T) {
	t.Parallel()
	conform(t, []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.RSA2048}, func(t *testing.T, f *fake) *lab {
		t.Helper()
		return (&fakeAzure{fake: f, newest: azureOld}).lab()
	})
}

func TestAzureOpen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change     func(*fakeAzure)
		open, sign string // errors
	}{
		"the newest version": {change: func(*fakeAzure) {}},
		"an older version":   {change: func(f *fakeAzure) { f.newest = azureNew }},
		"a named version": {change: func(f *fakeAzure) {
			f.newest, f.denyList, f.uri = azureNew, true, "azurekms://acme.vault.azure.net/ca/"+azureOld
		}},
		"no such version": {
			change: func(f *fakeAzure) { f.uri = "azurekms://acme.vault.azure.net/ca/00" },
			open:   "status 404, KeyNotFound",
		},
		"an older version, not listed": {
			change: func(f *fakeAzure) { f.newest, f.denyList = azureNew, true },
			open:   "permission missing: grant keys/list (or write the version of the key in the URI)",
		},
		"no permission": {
			change: func(f *fakeAzure) { f.mode.Store(denies) }, open: "permission missing: grant keys/get on the key",
		},
		"disabled": {change: func(f *fakeAzure) { f.disabled = true }, open: "the version of the key is disabled"},
		"no login": {
			change: func(f *fakeAzure) { f.refuse = errors.New("no credential\ncanary") }, open: "no credential",
		},
		"a short signature": {
			change: func(f *fakeAzure) { f.shortAnswer = true },
			sign:   "the signature has 63 bytes, not 64",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{})
			f := &fakeAzure{fake: newFake(t, p.Key, pki.P256), newest: azureOld}
			c.change(f)
			l := f.lab()
			l.settings.Chain = chainFile(t, p)
			key, err := l.open(t)
			if c.open != "" {
				if err == nil || !strings.Contains(err.Error(), c.open) || strings.Contains(err.Error(), "canary") {
					t.Errorf("open: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !equal(key.Signer.Public(), p.Chain[0].PublicKey) {
				t.Error("the version is not that of the chain")
			}
			if err := key.Probe(t.Context()); (err == nil) != (c.sign == "") || err != nil &&
				(!strings.Contains(err.Error(), c.sign) || kindOf(err) != remote.WrongKey) {
				t.Errorf("sign: %v", err)
			}
		})
	}
}

func TestAzureAttest(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	for name, c := range map[string]struct {
		exportable any
		want       string
		reason     string
	}{
		"not said": {
			nil, signer.ExportNo,
			"reported by the KMS: exportable=false, kty=EC-HSM; whether the key was imported",
		},
		"no":  {false, signer.ExportNo, "reported by the KMS: exportable=false, kty=EC-HSM"},
		"yes": {true, signer.ExportYes, "reported by the KMS: exportable=true, kty=EC-HSM; the release policy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeAzure{fake: newFake(t, p.Key, pki.P256), newest: azureOld, exportable: c.exportable}
			attests(t, f.lab(), p, c.want, c.reason, "exportable",
				strconv.FormatBool(c.exportable == true), "kty", "EC-HSM",
				"kid", azureURL+azureOld)
		})
	}
}

// FuzzAzureKey: no key makes the parser panic, and an accepted key does not verify an invalid signature.
func FuzzAzureKey(f *testing.F) {
	for _, kind := range []pki.KeyType{pki.P256, pki.P521, pki.RSA2048} {
		data, err := json.Marshal(webKey(pki.NewKey(kind).Public(), azureURL+azureOld))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var k azkeys.JSONWebKey
		if k.UnmarshalJSON(data) != nil {
			return
		}
		public, err := azurePublicKey(&k)
		if (public == nil) == (err == nil) {
			t.Errorf("%v, %v", public, err)
		}
	})
}

// FuzzDERSignature: the converted signature is the same signature.
func FuzzDERSignature(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, raw []byte) {
		der, err := derSignature(elliptic.P256(), raw)
		if (err == nil) != (len(raw) == 64) {
			t.Fatalf("%d bytes: %v", len(raw), err)
		}
		if err == nil && string(rawSignature(t, elliptic.P256(), der)) != string(raw) {
			t.Errorf("%x is %x", raw, der)
		}
	})
}
