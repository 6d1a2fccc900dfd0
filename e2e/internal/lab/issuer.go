package lab

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"time"
)

// Issuer is an OpenID Connect issuer of the lab: discovery, keys, and the token endpoint of a GitHub Actions runner. It
// signs with RS256, because cosign accepts no other algorithm for a token in a flag. It issues any claims.
type Issuer struct {
	URL    string
	lab    *Lab
	key    *rsa.PrivateKey
	runner map[string]any // claims of the tokens that the runner's endpoint hands out
}

// runnerSecret is the bearer token of the runner's endpoint.
const runnerSecret = "runner-secret"

// Issuer starts an issuer. runner holds the claims of its GitHub Actions tokens; nil turns that endpoint off.
func (l *Lab) Issuer(runner map[string]any) *Issuer {
	l.Helper()
	i := &Issuer{lab: l, key: must(rsa.GenerateKey(rand.Reader, 2048))(l), runner: runner}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.discovery)
	mux.HandleFunc("GET /keys", i.keys)
	mux.HandleFunc("GET /runner/token", i.runnerToken)
	server := httptest.NewServer(mux)
	l.Cleanup(server.Close)
	i.URL = server.URL
	return i
}

func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{
		"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize",
		"token_endpoint":           i.URL + "/token",
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
}

func (i *Issuer) keys(w http.ResponseWriter, _ *http.Request) {
	exponent := big.NewInt(int64(i.key.E)).Bytes()
	writeJSON(w, map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "lab", "n": b64(i.key.N.Bytes()), "e": b64(exponent),
	}}})
}

// runnerToken answers as ACTIONS_ID_TOKEN_REQUEST_URL does.
func (i *Issuer) runnerToken(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "bearer "+runnerSecret &&
		r.Header.Get("Authorization") != "Bearer "+runnerSecret {
		http.Error(w, "wrong runner secret", http.StatusUnauthorized)
		return
	}
	claims := maps.Clone(i.runner)
	claims["aud"] = r.URL.Query().Get("audience")
	writeJSON(w, map[string]any{"value": i.Token(claims)})
}

// RunnerEnv is the environment that makes cosign find the runner's endpoint.
func (i *Issuer) RunnerEnv() []string {
	return []string{
		"GITHUB_ACTIONS=true",
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + i.URL + "/runner/token?api-version=2.0",
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + runnerSecret,
	}
}

// Email returns a token of an e-mail address.
func (i *Issuer) Email(address string) string {
	return i.Token(map[string]any{"sub": "subject-of-" + address, "email": address, "email_verified": true})
}

// Token returns a signed token. Claims win over the usual ones.
func (i *Issuer) Token(claims map[string]any) string {
	now := time.Now().Unix()
	all := map[string]any{"iss": i.URL, "aud": "sigstore", "iat": now, "nbf": now, "exp": now + 300}
	maps.Copy(all, claims)
	header, err := json.Marshal(map[string]string{"alg": "RS256", "kid": "lab", "typ": "JWT"})
	if err != nil {
		panic(err) // strings always marshal
	}
	payload, err := json.Marshal(all)
	if err != nil {
		i.lab.Error(err)
		return ""
	}
	input := b64(header) + "." + b64(payload)
	digest := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, digest[:])
	if err != nil {
		i.lab.Error(err)
		return ""
	}
	return input + "." + b64(signature)
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// SetRunner changes the claims of the tokens that the runner's endpoint hands out from now on.
func (i *Issuer) SetRunner(claims map[string]any) { i.runner = claims }
