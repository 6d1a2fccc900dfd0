package oidc

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/mayfly-ca/mayfly/oidc/claims"
	"github.com/mayfly-ca/mayfly/oidc/issuer"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// ReservedIssuer is the issuer of the tokens that the CA makes for itself. A verifier from [New] refuses each token of
// this issuer with ISSUER_NOT_TRUSTED, because no entry of an issuer file can apply to it.
const ReservedIssuer = issuer.Reserved

// reservedAudience is the audience of these tokens.
const reservedAudience = "canary"

// reservedLife is how long one of these tokens is valid.
const reservedLife = time.Minute

// Reserved makes tokens of [ReservedIssuer], with a key that exists only in its memory, and verifies them with the code
// that verifies every other token. It MUST be closed.
type Reserved struct {
	verifier *Verifier
	key      ed25519.PrivateKey
	keyID    string
}

// NewReserved makes a key and the verifier of its tokens. Of the options, only Now is used.
func NewReserved(o Options) (*Reserved, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	r := &Reserved{key: key, keyID: rand.Text()}
	jwks, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": r.keyID,
		"x": base64.RawURLEncoding.EncodeToString(public),
	}}})
	if err != nil {
		return nil, err
	}
	table, err := issuer.CompileReserved(IssuerConfig{
		ClientID:      reservedAudience,
		MaxLifetime:   reservedLife,
		MappingConfig: claims.MappingConfig{Type: "uri", SubjectDomain: ReservedIssuer},
		KeysConfig:    provider.KeysConfig{StaticKeys: &provider.StaticKeysConfig{JWKS: string(jwks)}},
	})
	if err != nil {
		return nil, err
	}
	s := newShared(Options{Now: o.Now})
	if r.verifier, err = s.verifierOf(table); err != nil {
		s.pool.Close()
		return nil, err
	}
	return r, nil
}

// Token returns a token for a path below [ReservedIssuer], such as "/run"; its subject is the URL.
func (r *Reserved) Token(path string) (string, error) {
	now := r.verifier.shared.now()
	encode := func(v any) (string, error) {
		data, err := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(data), err
	}
	head, err := encode(map[string]string{"typ": "JWT", "alg": "EdDSA", "kid": r.keyID})
	if err != nil {
		return "", err
	}
	body, err := encode(map[string]any{
		"iss": ReservedIssuer, "sub": ReservedIssuer + path, "aud": reservedAudience, "iat": now.Unix(),
		"exp": now.Add(reservedLife).Unix(),
	})
	if err != nil {
		return "", err
	}
	signed := head + "." + body
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(r.key, []byte(signed))), nil
}

// Verifier returns the verifier of the tokens. It accepts no others.
func (r *Reserved) Verifier() *Verifier { return r.verifier }

// Close releases what the verifier holds.
func (r *Reserved) Close() { r.verifier.shared.pool.Close() }
