package idp_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/mayfly-ca/mayfly/dev/idp"
)

type lab struct {
	t     *testing.T
	url   string
	mu    sync.Mutex
	now   time.Time
	p     *idp.Provider
	visit *http.Client
}

func start(t *testing.T, dir string) *lab {
	t.Helper()
	l := &lab{t: t, now: time.Now(), visit: &http.Client{CheckRedirect: func(*http.Request,
		[]*http.Request,
	) error {
		return http.ErrUseLastResponse
	}}}
	var handler http.Handler
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(s.Close)
	l.url = s.URL
	var err error
	if l.p, err = idp.New(idp.Options{Dir: dir, Issuer: s.URL, Now: l.clock}); err != nil {
		t.Fatal(err)
	}
	handler = l.p.Handler()
	return l
}

func (l *lab) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *lab) pass(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(d)
}

// do sends a form, or a GET request if form is nil, and returns status, headers and body.
func (l *lab) do(path string, form url.Values, header ...string) (int, http.Header, string) {
	l.t.Helper()
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(l.t.Context(), method, l.url+path, body)
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	res, err := l.visit.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to the end
	data, err := io.ReadAll(res.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(data)
}

const secret = "a-code-verifier-that-is-long-enough-for-rfc-7636-0123"

func query(change ...string) url.Values {
	sum := sha256.Sum256([]byte(secret))
	q := url.Values{
		"client_id": {"sigstore"}, "response_type": {"code"}, "redirect_uri": {"http://localhost:4321/auth/callback"},
		"state": {"st"}, "nonce": {"no"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
		"scope": {"openid email"},
	}
	for i := 0; i+1 < len(change); i += 2 {
		q.Set(change[i], change[i+1])
	}
	return q
}

// signIn submits the sign-in page and returns the code.
func (l *lab) signIn() string {
	l.t.Helper()
	path := "/authorize?" + query().Encode()
	if code, h, page := l.do(path, nil); code != 200 || !strings.Contains(page, "<form") ||
		!strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		l.t.Fatalf("sign-in page: %d %v", code, h)
	}
	code, h, _ := l.do(path, url.Values{"email": {"alice@example.com"}})
	to, err := url.Parse(h.Get("Location"))
	if err != nil || code != 303 || to.Host != "localhost:4321" || to.Query().Get("state") != "st" {
		l.t.Fatalf("redirect: %d %v", code, h)
	}
	return to.Query().Get("code")
}

func (l *lab) exchange(code string, change ...string) (int, map[string]any) {
	l.t.Helper()
	form := url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"sigstore"}, "code": {code},
		"redirect_uri": {"http://localhost:4321/auth/callback"}, "code_verifier": {secret},
	}
	for i := 0; i+1 < len(change); i += 2 {
		form.Set(change[i], change[i+1])
	}
	status, _, body := l.do("/token", form)
	var out map[string]any
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		l.t.Fatalf("%s: %v", body, err)
	}
	return status, out
}

// claims verifies a token with the published keys and returns its claims.
func (l *lab) claims(token string) map[string]any {
	l.t.Helper()
	_, _, body := l.do("/keys", nil)
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(body), &set); err != nil {
		l.t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		l.t.Fatal(err)
	}
	var c map[string]any
	if err := parsed.Claims(set.Keys[0].Key, &c); err != nil {
		l.t.Fatal(err)
	}
	return c
}

func TestCodeFlow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := start(t, dir)
	code := l.signIn()
	status, out := l.exchange(code)
	token, _ := out["id_token"].(string)
	if status != 200 {
		t.Fatalf("%d %v", status, out)
	}
	if c := l.claims(token); c["email"] != "alice@example.com" || c["email_verified"] != true || c["nonce"] != "no" ||
		c["iss"] != l.url || c["aud"] != "sigstore" {
		t.Errorf("claims %v", c)
	}
	if status, out := l.exchange(code); status != 400 || out["error"] != "invalid_grant" {
		t.Errorf("a code worked twice: %v", out)
	}
	for name, change := range map[string][]string{
		"verifier": {"code_verifier", "wrong"}, "redirect": {"redirect_uri", "http://localhost:1/"},
		"client": {"client_id", "x"}, "grant": {"grant_type", "password"},
	} {
		if status, _ := l.exchange(l.signIn(), change...); status != 400 {
			t.Errorf("wrong %s: %d", name, status)
		}
	}
	late := l.signIn()
	l.pass(2 * time.Minute)
	if status, _ := l.exchange(late); status != 400 {
		t.Errorf("an expired code: %d", status)
	}
	again := start(t, dir)
	extra, err := again.p.Token("bob@example.com", map[string]any{"groups": []string{"a"}, "email_verified": nil})
	if err != nil {
		t.Fatal(err)
	}
	// the key outlives the process
	if c := l.claims(extra); c["sub"] != "bob@example.com" || c["email_verified"] != nil || c["groups"] == nil {
		t.Errorf("claims %v", c)
	}
	if st, err := os.Stat(dir + "/key.json"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v", err)
	}
}

// The token contains the caller's claims unchanged: a number keeps all of its digits, at any depth.
func TestClaims(t *testing.T) {
	t.Parallel()
	l := start(t, t.TempDir())
	payload := func(claims string) map[string]json.RawMessage {
		t.Helper()
		d := json.NewDecoder(strings.NewReader(claims))
		d.UseNumber()
		var given map[string]any
		if err := d.Decode(&given); err != nil {
			t.Fatal(err)
		}
		token, err := l.p.Token("alice@example.com", given)
		if err != nil {
			t.Fatal(err)
		}
		data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var out map[string]json.RawMessage
		if err := json.Unmarshal(data, &out); err != nil {
			t.Fatal(err)
		}
		l.claims(token) // the signature verifies
		return out
	}
	for name, want := range map[string]string{
		"exp": "4102444800", "nbf": "1", "iat": "1.5", "n": "-0", "large": "123456789012345678901234567890",
		"exponent": "1e+30", "text": `"1"`,
		"object": `{"x":3,"y":[1,"1",2.50]}`, "list": "[1,2]", "yes": "true",
	} {
		if got := payload(`{"` + name + `": ` + want + `}`)[name]; string(got) != want {
			t.Errorf("claim %s: %s became %s", name, want, got)
		}
	}
	usual := payload(`{"email": null}`)
	if _, there := usual["email"]; there {
		t.Error("a null does not remove the claim")
	}
	if idp.DefaultTokenLife < 30*time.Minute {
		t.Errorf("a token is valid for %s, less than it takes to install a client", idp.DefaultTokenLife)
	}
	now := strconv.FormatInt(l.clock().Unix(), 10)
	end := strconv.FormatInt(l.clock().Add(idp.DefaultTokenLife).Unix(), 10)
	if string(usual["nbf"]) != now || string(usual["iat"]) != now || string(usual["exp"]) != end {
		t.Errorf("times: nbf %s, iat %s, exp %s; it is %s", usual["nbf"], usual["iat"], usual["exp"], now)
	}
}

func TestDeviceFlow(t *testing.T) {
	t.Parallel()
	l := start(t, t.TempDir())
	_, _, body := l.do("/device/code", url.Values{"client_id": {"sigstore"}, "scope": {"openid email"}})
	var d struct {
		Device string `json:"device_code"`
		User   string `json:"user_code"`
	}
	if err := json.Unmarshal([]byte(body), &d); err != nil || d.User == "" {
		t.Fatalf("%s", body)
	}
	grant := []string{"grant_type", "urn:ietf:params:oauth:grant-type:device_code", "device_code", d.Device}
	if status, out := l.exchange("", grant...); status != 400 || out["error"] != "authorization_pending" {
		t.Errorf("too early: %v", out)
	}
	if code, _, _ := l.do("/device", url.Values{
		"user_code": {"XXXX-XXXX"},
		"email":     {"alice@example.com"},
	}); code != 400 {
		t.Errorf("wrong user code: %d", code)
	}
	if code, _, _ := l.do("/device", url.Values{
		"user_code": {strings.ToLower(d.User)},
		"email":     {"alice@example.com"},
	}); code != 200 {
		t.Errorf("user code: %d", code)
	}
	status, out := l.exchange("", grant...)
	token, _ := out["id_token"].(string)
	if status != 200 || l.claims(token)["email"] != "alice@example.com" {
		t.Errorf("%d %v", status, out)
	}
	if status, _ := l.exchange("", grant...); status != 400 {
		t.Error("a device code worked twice")
	}
}

// No response redirects to another machine, and requests from other sites or under other host names are refused.
func TestRefusals(t *testing.T) {
	t.Parallel()
	l := start(t, t.TempDir())
	for name, change := range map[string][]string{
		"other host": {"redirect_uri", "http://evil.example.com/"}, "https": {"redirect_uri", "https://localhost/"},
		"user":                {"redirect_uri", "http://localhost@evil.example.com/"},
		"loopback as a label": {"redirect_uri", "http://localhost.evil.example.com/"},
		"script":              {"redirect_uri", "javascript:alert(1)"}, "none": {"redirect_uri", ""},
		"client": {"client_id", "x"}, "no PKCE": {"code_challenge", ""},
		"plain PKCE": {"code_challenge_method", "plain"}, "implicit": {"response_type", "id_token"},
	} {
		path := "/authorize?" + query(change...).Encode()
		if code, _, _ := l.do(path, nil); code != 400 {
			t.Errorf("%s: GET %d", name, code)
		}
		if code, h, _ := l.do(path, url.Values{"email": {"alice@example.com"}}); code != 400 ||
			h.Get("Location") != "" {
			t.Errorf("%s: POST %d %v", name, code, h)
		}
	}
	path := "/authorize?" + query().Encode()
	form := url.Values{"email": {"alice@example.com"}}
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "http://evil.example.com"}} {
		if code, _, _ := l.do(path, form, header...); code != 400 {
			t.Errorf("%v: %d", header, code)
		}
	}
	if code, _, _ := l.do(path, nil, "Host", "rebound.example.com"); code != 403 {
		t.Errorf("another name: %d", code)
	}
	for _, email := range []string{"", "alice", "Alice <alice@example.com>", "a@b\r\nX: y"} {
		if code, _, _ := l.do(path, url.Values{"email": {email}}); code != 400 {
			t.Errorf("e-mail %q: %d", email, code)
		}
	}
}

func FuzzAuthorize(f *testing.F) {
	p, err := idp.New(idp.Options{Dir: f.TempDir(), Issuer: "http://127.0.0.1:1"})
	if err != nil {
		f.Fatal(err)
	}
	h := p.Handler()
	f.Add("http://localhost/cb")
	f.Add("http://[::1]:99/x?y=z")
	f.Add("//evil.example.com")
	f.Fuzz(func(t *testing.T, to string) {
		r := httptest.NewRequest(http.MethodPost, "/authorize?"+query("redirect_uri", to).Encode(),
			strings.NewReader("email=a@example.com"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Host = "localhost"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if loc := w.Header().Get("Location"); loc != "" {
			u, err := url.Parse(loc)
			if err != nil || u.Scheme != "http" || u.Hostname() != "localhost" &&
				!strings.HasPrefix(u.Hostname(), "127.") && !strings.Contains(u.Hostname(), ":") {
				t.Errorf("%q leads to %q", to, loc)
			}
		}
	})
}
