package idp

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/hostname"
)

const (
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	outOfBand   = "urn:ietf:wg:oauth:2.0:oob"
	codeLife    = time.Minute
	deviceLife  = 10 * time.Minute
	maxGrants   = 1024 // per map
)

// grant is a sign-in in progress.
type grant struct {
	email     string // "" until the person has signed in
	nonce     string
	challenge string // PKCE, S256
	redirect  string
	userCode  string // device flow
	expires   time.Time
}

// authorization is a checked authorization request (RFC 6749 §4.1.1, RFC 7636 §4.3).
type authorization struct {
	redirect, state, nonce, challenge string
}

// parseAuthorization parses an authorization request. problem is shown in the browser: the response never redirects to
// an address that was not checked.
func (p *Provider) parseAuthorization(q url.Values) (a authorization, problem string) {
	a = authorization{
		redirect: q.Get("redirect_uri"), state: q.Get("state"), nonce: q.Get("nonce"),
		challenge: q.Get("code_challenge"),
	}
	switch {
	case q.Get("client_id") != p.o.ClientID:
		return a, "The client_id is not " + p.o.ClientID + "."
	case !redirectAllowed(a.redirect):
		return a, "The redirect_uri is not http on this machine."
	case q.Get("response_type") != "code":
		return a, "The response_type is not code."
	case q.Get("code_challenge_method") != "S256" || len(a.challenge) != 43:
		return a, "PKCE with the method S256 is required."
	case len(a.state) > 2048 || len(a.nonce) > 2048:
		return a, "The state or the nonce is too long."
	}
	return a, ""
}

// redirectAllowed reports whether the redirect URI is that of a native application on this machine, on any port (RFC
// 8252 §7.3), or that of an application that displays the code.
func redirectAllowed(s string) bool {
	if s == outOfBand {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "http" && u.User == nil && u.Fragment == "" &&
		hostname.IsLoopback(u.Hostname()) && len(s) < 2048
}

func (p *Provider) askSignIn(w http.ResponseWriter, r *http.Request) {
	if _, problem := p.parseAuthorization(r.URL.Query()); problem != "" {
		showError(w, problem)
		return
	}
	showForm(w, formPage{Title: "Sign in", Action: "/authorize?" + r.URL.RawQuery})
}

func (p *Provider) signIn(w http.ResponseWriter, r *http.Request) {
	a, problem := p.parseAuthorization(r.URL.Query())
	if problem != "" {
		showError(w, problem)
		return
	}
	email, ok := p.formEmail(w, r)
	if !ok {
		return
	}
	code := rand.Text() + rand.Text()
	if !p.store(p.grants, code, &grant{
		email: email, nonce: a.nonce, challenge: a.challenge, redirect: a.redirect, expires: p.o.Now().Add(codeLife),
	}) {
		showError(w, "Too many sign-ins are in progress.")
		return
	}
	if a.redirect == outOfBand {
		showCode(w, code)
		return
	}
	to, _ := url.Parse(a.redirect) // parseAuthorization has parsed it without an error
	q := to.Query()
	q.Set("code", code)
	q.Set("state", a.state)
	to.RawQuery = q.Encode()
	http.Redirect(w, r, to.String(), http.StatusSeeOther)
}

// formEmail returns the e-mail address in the form. It refuses a form that another site sent.
func (p *Provider) formEmail(w http.ResponseWriter, r *http.Request) (string, bool) {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		showError(w, "The form was sent from another site. Open the sign-in page again.")
		return "", false
	}
	if o := r.Header.Get("Origin"); o != "" && o != "null" && o != "http://"+r.Host {
		showError(w, "The form was sent from another site. Open the sign-in page again.")
		return "", false
	}
	email := strings.TrimSpace(r.PostFormValue("email"))
	if a, err := mail.ParseAddress(email); err != nil || a.Address != email {
		showError(w, "This is not an e-mail address. Go back and try again.")
		return "", false
	}
	return email, true
}

// store adds g to a map of grants. It deletes expired grants first, and returns false if the map is full.
func (p *Provider) store(in map[string]*grant, code string, g *grant) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	for k, old := range in {
		if now.After(old.expires) {
			delete(in, k)
		}
	}
	if len(in) >= maxGrants {
		return false
	}
	in[code] = g
	return true
}

// exchange handles the token endpoint (RFC 6749 §4.1.3, RFC 8628 §3.4).
func (p *Provider) exchange(w http.ResponseWriter, r *http.Request) {
	client := r.PostFormValue("client_id")
	if user, _, ok := r.BasicAuth(); ok {
		client, _ = url.QueryUnescape(user)
	}
	if client != p.o.ClientID {
		refuse(w, "invalid_client", "the client_id is not "+p.o.ClientID)
		return
	}
	switch r.PostFormValue("grant_type") {
	case "authorization_code":
		p.exchangeCode(w, r)
	case deviceGrant:
		p.exchangeDevice(w, r)
	default:
		refuse(w, "unsupported_grant_type", "use authorization_code or the device flow")
	}
}

func (p *Provider) exchangeCode(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	g := p.grants[r.PostFormValue("code")]
	delete(p.grants, r.PostFormValue("code")) // a code can be used once, even with a wrong verifier
	p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	switch {
	case g == nil || p.o.Now().After(g.expires):
		refuse(w, "invalid_grant", "the code is unknown, used or expired")
	case g.redirect != r.PostFormValue("redirect_uri"):
		refuse(w, "invalid_grant", "the redirect_uri is not the one of the authorization request")
	case subtle.ConstantTimeCompare([]byte(challenge), []byte(g.challenge)) != 1:
		refuse(w, "invalid_grant", "the code_verifier does not match")
	default:
		p.answer(w, g)
	}
}

func (p *Provider) answer(w http.ResponseWriter, g *grant) {
	token, err := p.token(g.email, g.nonce, nil)
	if err != nil {
		p.o.Logger.Error("make a token", "cause", err.Error())
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": rand.Text(), "token_type": "Bearer", "expires_in": int(p.o.TokenLife / time.Second),
		"id_token": token,
	})
}

// refuse sends an error response (RFC 6749 §5.2).
func refuse(w http.ResponseWriter, code, text string) {
	writeJSON(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": text})
}

// startDevice starts a device flow (RFC 8628 §3.1).
func (p *Provider) startDevice(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("client_id") != p.o.ClientID {
		refuse(w, "invalid_client", "the client_id is not "+p.o.ClientID)
		return
	}
	if m := r.PostFormValue("code_challenge_method"); m != "" && m != "S256" {
		refuse(w, "invalid_request", "the code_challenge_method is not S256")
		return
	}
	code, user := rand.Text()+rand.Text(), rand.Text()
	user = user[:4] + "-" + user[4:8]
	if !p.store(p.device, code, &grant{
		userCode: user, nonce: r.PostFormValue("nonce"), challenge: r.PostFormValue("code_challenge"),
		expires: p.o.Now().Add(deviceLife),
	}) {
		refuse(w, "slow_down", "too many sign-ins are in progress")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"device_code": code, "user_code": user, "verification_uri": p.o.Issuer + "/device",
		"verification_uri_complete": p.o.Issuer + "/device?user_code=" + user,
		"expires_in":                int(deviceLife / time.Second), "interval": 1,
	})
}

func (p *Provider) askDevice(w http.ResponseWriter, r *http.Request) {
	showForm(w, formPage{
		Title: "Sign in a device", Action: "/device", Device: true,
		Code: r.URL.Query().Get("user_code"),
	})
}

func (p *Provider) signInDevice(w http.ResponseWriter, r *http.Request) {
	email, ok := p.formEmail(w, r)
	if !ok {
		return
	}
	code := strings.ToUpper(strings.TrimSpace(r.PostFormValue("user_code")))
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.device {
		if g.userCode == code && g.email == "" && p.o.Now().Before(g.expires) {
			g.email = email
			showDone(w)
			return
		}
	}
	showError(w, "The code is unknown, used or expired.")
}

func (p *Provider) exchangeDevice(w http.ResponseWriter, r *http.Request) {
	code := r.PostFormValue("device_code")
	p.mu.Lock()
	var g *grant
	if stored := p.device[code]; stored != nil {
		copied := *stored // a concurrent sign-in may change the stored grant
		g = &copied
		if g.email != "" {
			delete(p.device, code)
		}
	}
	p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	switch {
	case g == nil || p.o.Now().After(g.expires):
		refuse(w, "expired_token", "the device code is unknown, used or expired")
	case g.email == "":
		refuse(w, "authorization_pending", "the user has not signed in yet")
	case g.challenge != "" && g.challenge != base64.RawURLEncoding.EncodeToString(sum[:]):
		refuse(w, "invalid_grant", "the code_verifier does not match")
	default:
		p.answer(w, g)
	}
}
