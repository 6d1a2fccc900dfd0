package tsa_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/tsa"
)

// newChain returns a chain for timestamps, and its key.
func newChain(t testing.TB) *ca.Hierarchy {
	t.Helper()
	h, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "test", Now: time.Now(), Timestamping: true})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// open returns an authority with a new key.
func open(t testing.TB, c tsa.Config, o tsa.Options) *tsa.Authority {
	t.Helper()
	if o.Chain == nil {
		h := newChain(t)
		o.Chain, o.Signer = h.Chain, h.Key
	}
	a, err := tsa.New(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serve returns the URL of a server of an authority.
func serve(t *testing.T, a *tsa.Authority) string {
	t.Helper()
	s := httptest.NewServer(a.Handler(tsa.Calls{}))
	t.Cleanup(s.Close)
	return s.URL
}

func post(t *testing.T, url, kind string, body []byte) (int, []byte) {
	t.Helper()
	resp, err := http.Post(url+tsa.Path, kind, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, data
}

const queryType = "application/timestamp-query"

func query(t *testing.T, o timestamp.RequestOptions) []byte {
	t.Helper()
	q, err := timestamp.CreateRequest(strings.NewReader("hello"), &o)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// A timestamp covers the digest that was sent, has the current time, the policy and the accuracy of the configuration,
// and is signed with a certificate that is for timestamps only and chains to the root.
func TestStamp(t *testing.T) {
	t.Parallel()
	a := open(t, tsa.Config{Policy: "1.2.3.4", Accuracy: 1500 * time.Millisecond}, tsa.Options{})
	url := serve(t, a)
	began := time.Now()
	code, reply := post(t, url, queryType, query(t,
		timestamp.RequestOptions{Hash: crypto.SHA256, Certificates: true, Nonce: big.NewInt(-7)}))
	stamp, err := timestamp.ParseResponse(reply)
	if err != nil || code != http.StatusCreated {
		t.Fatal(code, err)
	}
	if sum := sha256.Sum256([]byte("hello")); !bytes.Equal(stamp.HashedMessage, sum[:]) ||
		stamp.Time.Before(began.Truncate(time.Second)) || stamp.Time.After(time.Now()) {
		t.Errorf("%x at %s", stamp.HashedMessage, stamp.Time)
	}
	if stamp.Policy.String() != "1.2.3.4" || stamp.Accuracy != 1500*time.Millisecond || stamp.Nonce.Int64() != -7 {
		t.Errorf("policy %s, accuracy %s, nonce %s", stamp.Policy, stamp.Accuracy, stamp.Nonce)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.Chain()[1])
	if _, err := stamp.Certificates[0].Verify(x509.VerifyOptions{
		Roots:     roots,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	}); err != nil {
		t.Error(err)
	}
	if _, chain := get(t, url+tsa.ChainPath); strings.Count(chain, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("chain %q", chain)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// An invalid query gets a response with a failure code and a text, and no timestamp.
func TestRefuses(t *testing.T) {
	t.Parallel()
	url := serve(t, open(t, tsa.Config{}, tsa.Options{}))
	good := query(t, timestamp.RequestOptions{Hash: crypto.SHA256})
	extended, err := (&timestamp.Request{
		HashAlgorithm: crypto.SHA256, HashedMessage: make([]byte, 32),
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 2, 3}, Value: []byte{5, 0}}},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		kind string
		body []byte
		code int
		want string
	}{
		"no type":        {"", good, http.StatusUnsupportedMediaType, "application/timestamp-query"},
		"text":           {"text/plain", good, http.StatusUnsupportedMediaType, "application/timestamp-query"},
		"huge":           {queryType, make([]byte, 5000), http.StatusRequestEntityTooLarge, "at most 4096 bytes"},
		"empty":          {queryType, nil, http.StatusBadRequest, "wrong format"},
		"garbage":        {queryType, []byte("garbage"), http.StatusBadRequest, "wrong format"},
		"more behind it": {queryType, append(bytes.Clone(good), 0), http.StatusBadRequest, "not a timestamp query"},
		"SHA-1": {
			queryType, query(t, timestamp.RequestOptions{Hash: crypto.SHA1}), http.StatusBadRequest,
			"is not sha256, sha384 or sha512",
		},
		"other policy": {
			queryType, query(t,
				timestamp.RequestOptions{Hash: crypto.SHA256, TSAPolicyOID: []int{1, 2, 3}}), http.StatusBadRequest,
			"the only policy is 1.3.6.1.4.1.57264.2",
		},
		"extension": {queryType, extended, http.StatusBadRequest, "no extension is supported"},
	} {
		code, reply := post(t, url, c.kind, c.body)
		if code != c.code {
			t.Errorf("%s: status %d, want %d", name, code, c.code)
		}
		text := string(reply)
		stamp, err := timestamp.ParseResponse(reply)
		if err == nil {
			t.Errorf("%s: stamped at %s", name, stamp.Time)
		} else if c.kind == queryType {
			text = err.Error()
		}
		if !strings.Contains(text, c.want) {
			t.Errorf("%s: %q", name, text)
		}
	}
}

// The JSON form of Sigstore's timestamp authority, which sigstore-js sends, gets the same response as the query in DER.
func TestJSON(t *testing.T) {
	t.Parallel()
	url := serve(t, open(t, tsa.Config{}, tsa.Options{}))
	digest := func(h crypto.Hash) string {
		d := h.New()
		d.Write([]byte("hello"))
		return base64.StdEncoding.EncodeToString(d.Sum(nil))
	}
	const large = "123456789012345678901234567890"
	for name, c := range map[string]struct {
		hash         crypto.Hash
		body         string
		nonce        string
		certificates int
	}{
		"sigstore-js": {crypto.SHA256, `{"artifactHash":"` + digest(crypto.SHA256) +
			`","hashAlgorithm":"sha256"}`, "", 0},
		"all members": {crypto.SHA384, `{"artifactHash":"` + digest(crypto.SHA384) +
			`","hashAlgorithm":"SHA384","certificates":true,"nonce":` + large +
			`,"tsaPolicyOID":"1.3.6.1.4.1.57264.2"}`, large, 1},
		"SHA-512": {crypto.SHA512, `{"artifactHash":"` + digest(crypto.SHA512) +
			`","hashAlgorithm":"sha512","other":1,"nonce":0}`, "0", 0},
	} {
		code, reply := post(t, url, "application/json; charset=utf-8", []byte(c.body))
		if code != http.StatusCreated {
			t.Errorf("%s: status %d: %s", name, code, reply)
			continue
		}
		stamp, err := timestamp.ParseResponse(reply)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := base64.StdEncoding.EncodeToString(stamp.HashedMessage); got != digest(c.hash) ||
			stamp.HashAlgorithm != c.hash || len(stamp.Certificates) != c.certificates {
			t.Errorf("%s: %s %s, %d certificates", name, stamp.HashAlgorithm, got, len(stamp.Certificates))
		}
		if got := stamp.Nonce; (got == nil) != (c.nonce == "") || got != nil && got.String() != c.nonce {
			t.Errorf("%s: nonce %s, want %q", name, got, c.nonce)
		}
	}
	for name, body := range map[string]string{
		"empty": "", "no object": `"x"`, "no members": "{}", "no digest": `{"hashAlgorithm":"sha256"}`,
		"no algorithm":   `{"artifactHash":"` + digest(crypto.SHA256) + `"}`,
		"SHA-1":          `{"artifactHash":"` + digest(crypto.SHA256) + `","hashAlgorithm":"sha1"}`,
		"another length": `{"artifactHash":"` + digest(crypto.SHA256) + `","hashAlgorithm":"sha512"}`,
		"another policy": `{"artifactHash":"` + digest(crypto.SHA256) +
			`","hashAlgorithm":"sha256","tsaPolicyOID":"1.2.3"}`,
		"no base64":      `{"artifactHash":"!","hashAlgorithm":"sha256"}`,
		"nonce":          `{"artifactHash":"` + digest(crypto.SHA256) + `","hashAlgorithm":"sha256","nonce":"x"}`,
		"more behind it": `{"artifactHash":"` + digest(crypto.SHA256) + `","hashAlgorithm":"sha256"} {}`,
	} {
		code, reply := post(t, url, "application/json", []byte(body))
		var out struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(reply, &out); code != http.StatusBadRequest || err != nil || out.Code != code ||
			out.Message == "" {
			t.Errorf("%s: %d %q", name, code, reply)
		}
	}
}

func FuzzStamp(f *testing.F) {
	a := open(f, tsa.Config{}, tsa.Options{})
	q, err := timestamp.CreateRequest(strings.NewReader("hello"), &timestamp.RequestOptions{Hash: crypto.SHA512})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(queryType, q)
	f.Add(queryType, []byte{})
	f.Add("application/json",
		[]byte(`{"artifactHash":"LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=","hashAlgorithm":"sha256","nonce":-1,"tsaPolicyOID":"1.3.6.1.4.1.57264.2"}`))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, tsa.Path, bytes.NewReader(body))
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		a.Handler(tsa.Calls{}).ServeHTTP(w, r)
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("%x: %s", body, w.Body)
		}
	})
}
