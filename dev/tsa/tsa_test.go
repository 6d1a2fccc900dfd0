package tsa_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"

	"github.com/mayfly-ca/mayfly/dev/tsa"
)

func open(t *testing.T, dir string) *tsa.Authority {
	t.Helper()
	a, err := tsa.New(tsa.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return a
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

// A timestamp covers the digest that was sent, has the current time, and is signed with a certificate that is for
// timestamps only and chains to the root; the next start uses the same key.
func TestStamp(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tsa")
	a := open(t, dir)
	if again := open(t, dir); !again.Chain()[0].Equal(a.Chain()[0]) {
		t.Error("the second start has another key")
	}
	if info, err := os.Stat(filepath.Join(dir, "key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v", info.Mode(), err)
	}
	s := httptest.NewServer(a.Handler())
	defer s.Close()
	code, reply := post(t, s.URL, queryType, query(t,
		timestamp.RequestOptions{Hash: crypto.SHA256, Certificates: true}))
	stamp, err := timestamp.ParseResponse(reply)
	if err != nil || code != http.StatusCreated {
		t.Fatal(code, err)
	}
	if sum := sha256.Sum256([]byte("hello")); !bytes.Equal(stamp.HashedMessage, sum[:]) ||
		time.Since(stamp.Time).Abs() > time.Minute {
		t.Errorf("%x at %s", stamp.HashedMessage, stamp.Time)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.Chain()[1])
	if _, err := stamp.Certificates[0].Verify(x509.VerifyOptions{
		Roots:     roots,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	}); err != nil {
		t.Error(err)
	}
	for _, x := range a.Chain()[0].Extensions {
		if x.Id.String() == "2.5.29.37" && !x.Critical {
			t.Error("the extended key usage is not critical")
		}
	}
	if _, chain := get(t, s.URL+tsa.ChainPath); strings.Count(chain, "BEGIN CERTIFICATE") != 2 {
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

// An invalid query gets an error and no timestamp.
func TestRefuses(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(open(t, t.TempDir()).Handler())
	defer s.Close()
	good := query(t, timestamp.RequestOptions{Hash: crypto.SHA256})
	for name, c := range map[string]struct {
		kind string
		body []byte
		code int
	}{
		"no type":        {"", good, http.StatusUnsupportedMediaType},
		"text":           {"text/plain", good, http.StatusUnsupportedMediaType},
		"huge":           {queryType, make([]byte, 5000), http.StatusRequestEntityTooLarge},
		"empty":          {queryType, nil, http.StatusCreated},
		"garbage":        {queryType, []byte("garbage"), http.StatusCreated},
		"more behind it": {queryType, append(bytes.Clone(good), 0), http.StatusCreated},
		"SHA-1":          {queryType, query(t, timestamp.RequestOptions{Hash: crypto.SHA1}), http.StatusCreated},
		"other policy": {queryType, query(t,
			timestamp.RequestOptions{Hash: crypto.SHA256, TSAPolicyOID: []int{1, 2, 3}}), http.StatusCreated},
	} {
		code, reply := post(t, s.URL, c.kind, c.body)
		if code != c.code {
			t.Errorf("%s: status %d, want %d", name, code, c.code)
		}
		if stamp, err := timestamp.ParseResponse(reply); err == nil {
			t.Errorf("%s: stamped at %s", name, stamp.Time)
		}
	}
}

// The JSON form of Sigstore's timestamp authority, which sigstore-js sends, gets the same response as the query in DER.
func TestJSON(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(open(t, t.TempDir()).Handler())
	defer s.Close()
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
		code, reply := post(t, s.URL, "application/json; charset=utf-8", []byte(c.body))
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
		code, reply := post(t, s.URL, "application/json", []byte(body))
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

// A damaged directory is an error that says what to do; it never leads to a new key that clients do not trust.
func TestDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(dir string) error{
		"no key":      func(dir string) error { return os.Remove(filepath.Join(dir, "key.pem")) },
		"another key": func(dir string) error { return os.WriteFile(filepath.Join(dir, "key.pem"), otherKey(t), 0o600) },
		"cut chain":   func(dir string) error { return os.Truncate(filepath.Join(dir, "chain.pem"), 100) },
	} {
		dir := t.TempDir()
		open(t, dir)
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := tsa.New(tsa.Options{Dir: dir}); err == nil ||
			!strings.Contains(err.Error(), "to create a new authority") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func otherKey(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	open(t, dir)
	data, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func FuzzStamp(f *testing.F) {
	a, err := tsa.New(tsa.Options{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
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
		a.Handler().ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%x: %s", body, w.Body)
		}
	})
}
