package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Keyring holds the keys of an issuer as of one fetch. It is immutable.
type Keyring struct {
	fetched    time.Time
	algorithms []string // algorithms that the provider announces
	keys       []publicKey
	unusable   map[string]string // why keys of the set are not used, by key ID; at most maxUnusable
	raw        []byte            // the JWK set as it was received; nil if it is not stored
	size       int               // size of the JWK set in bytes
}

// publicKey is a key with its SHA-256 thumbprint (RFC 7638) in base64url.
type publicKey struct {
	jose.JSONWebKey
	thumbprint string
}

// Limits on the keys of one provider.
const (
	// maxCandidates is how many keys of a set are tried for a token that names no key. Each try costs a verification.
	maxCandidates = 64
	// maxUnusable is the number of unusable keys whose reason is stored.
	maxUnusable = 64
)

var (
	errUnknownKey   = errors.New("the key set does not have this key ID")
	errNoUsableKeys = errors.New("the key set has no usable key")
)

// unusableError means that a provider publishes keys, but none of them is accepted. A retry does not help.
type unusableError string

func (e unusableError) Error() string { return string(e) }

// Len returns the number of keys.
func (r *Keyring) Len() int { return len(r.keys) }

// Verify verifies the signature of a token and returns the thumbprint of the key that verified it. Errors are
// [fault.Error] values.
func (r *Keyring) Verify(t *token.Token) (thumbprint string, err error) {
	issuer, _ := t.Claims["iss"].(string)
	keys, err := r.find(issuer, t.Algorithm, t.KeyID)
	if err != nil {
		return "", err
	}
	return verifyWith(t, keys)
}

func verifyWith(t *token.Token, keys []publicKey) (thumbprint string, err error) {
	jws, err := jose.ParseSignedCompact(t.Raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(t.Algorithm)})
	if err != nil {
		return "", fault.New(fault.TokenMalformed, errors.New("not a JWS"))
	}
	for _, k := range keys {
		payload, err := jws.Verify(verifierOf(k.Key, t.Algorithm))
		switch {
		case err != nil:
		case string(payload) != string(t.Payload):
			return "", fault.New(fault.SignatureInvalid, errors.New("the verified payload differs from the parsed one"))
		default:
			return k.thumbprint, nil
		}
	}
	return "", fault.New(fault.SignatureInvalid, fmt.Errorf("none of %d keys verifies the signature", len(keys)))
}

// verifierOf returns what go-jose verifies a signature with: the key, except under the name Ed25519, which go-jose does
// not know.
func verifierOf(key any, algorithm string) any {
	if k, ok := key.(ed25519.PublicKey); ok && algorithm == "Ed25519" {
		return ed25519Verifier(k)
	}
	return key
}

// ed25519Verifier verifies signatures whose algorithm is called Ed25519 (RFC 9864 §2.2).
type ed25519Verifier ed25519.PublicKey

// VerifyPayload implements [jose.OpaqueVerifier].
func (v ed25519Verifier) VerifyPayload(payload, signature []byte, algorithm jose.SignatureAlgorithm) error {
	if algorithm != "Ed25519" {
		return jose.ErrUnsupportedAlgorithm
	}
	return ed25519.VerifyWithOptions(ed25519.PublicKey(v), payload, signature, &ed25519.Options{})
}

// find returns the keys for an algorithm and a key ID; an empty key ID means all keys. Errors are [fault.Error] values.
func (r *Keyring) find(issuer, algorithm, keyID string) ([]publicKey, error) {
	if !token.PermitsAlgorithm(r.algorithms, algorithm) {
		return nil, fault.New(fault.AlgorithmNotAllowed, errors.New("the provider does not announce it"),
			"alg", algorithm)
	}
	var out []publicKey
	known := false
	for _, k := range r.keys {
		if keyID != "" && k.KeyID != keyID {
			continue
		}
		known = true
		if fits(algorithm, k) {
			out = append(out, k)
		}
	}
	why, unusable := r.unusable[keyID]
	switch {
	case len(out) > maxCandidates:
		return nil, fault.New(fault.KeyIDUnknown,
			fmt.Errorf("%d keys match; at most %d are tried", len(out), maxCandidates), "kid", keyID)
	case len(out) > 0:
		return out, nil
	case known:
		return nil, fault.New(fault.AlgorithmNotAllowed,
			errors.New("the key does not suit the algorithm"), "alg", algorithm)
	case unusable && keyID != "":
		return nil, fault.New(fault.ProviderKeysUnusable,
			fmt.Errorf("the key %.64q is unusable: %s", keyID, why), "issuer", issuer)
	}
	return nil, fault.New(fault.KeyIDUnknown, errUnknownKey, "kid", keyID)
}

// age is the time since the keys were fetched. Keys that were fetched in the future (the clock was or is wrong) count
// as infinitely old.
func (r *Keyring) age(now time.Time) time.Duration {
	if d := now.Sub(r.fetched); d > -time.Minute {
		return d
	}
	return math.MaxInt64
}

// requireKeys returns an error if there are no keys.
func (r *Keyring) requireKeys() error {
	if len(r.keys) > 0 {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(r.unusable)) {
		return unusableError(fmt.Sprintf("no usable key; %.64q: %s", id, r.unusable[id]))
	}
	return errNoUsableKeys
}

// curveAlgorithms maps curves to their algorithms (RFC 7518 §3.4).
var curveAlgorithms = map[elliptic.Curve]string{
	elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512",
}

// fits reports whether a key has the type and the curve that an algorithm needs (D2).
func fits(algorithm string, k publicKey) bool {
	if k.Algorithm != "" && !token.SameAlgorithm(k.Algorithm, algorithm) {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return algorithm == curveAlgorithms[key.Curve]
	case ed25519.PublicKey:
		return token.SameAlgorithm(algorithm, "Ed25519")
	case *mldsa.PublicKey:
		return algorithm == key.Parameters().String()
	}
	return false
}

// weakness returns why a key may not sign tokens (E10); empty if it may.
func weakness(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return fmt.Sprintf("an RSA key of %d bits (2048 to 8192 are accepted)", n)
		}
		if k.E < 3 || k.E%2 == 0 {
			return fmt.Sprintf("an RSA key with the exponent %d", k.E)
		}
		return ""
	case *ecdsa.PublicKey:
		if curveAlgorithms[k.Curve] == "" {
			return "a key on a curve that is not accepted (P-256, P-384 and P-521 are)"
		}
		return ""
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return ""
		}
	case *mldsa.PublicKey:
		return ""
	}
	return "a key of a type that is not accepted (RSA, ECDSA, Ed25519 and ML-DSA are)"
}

// keySet is a parsed JWK set.
type keySet struct {
	keys     []publicKey
	unusable map[string]string // see [Keyring]
}

// parseUsableKeys parses a JWK set of a provider and omits the keys that cannot verify tokens. A set without usable
// keys is an error, so that the last good keys stay in use.
func parseUsableKeys(body []byte) (keySet, error) {
	set, err := parseKeySet(body)
	if err != nil {
		return set, err
	}
	return set, (&Keyring{keys: set.keys, unusable: set.unusable}).requireKeys()
}

// parseKeySet parses a JWK set (RFC 7517 §5) that may have no usable keys. The reader of the set limits its bytes;
// there is no limit on the number of keys.
func parseKeySet(body []byte) (keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return keySet{}, errors.New("the key set is not a JWK set in JSON")
	}
	set := keySet{unusable: map[string]string{}}
	for _, one := range raw.Keys {
		k, id, why := parseKey(one)
		switch {
		case why == "":
			set.keys = append(set.keys, k)
		case why != otherUse && len(set.unusable) < maxUnusable:
			set.unusable[id] = why
		}
	}
	return set, nil
}

// otherUse is the reason for which a key that is not for signatures is omitted. Such a key is not reported as unusable.
const otherUse = "a key for another use"

// parseKey parses one key, or returns why it is not used. It keeps the public key with its key ID and algorithm, but
// not its certificates.
func parseKey(data []byte) (k publicKey, id, why string) {
	var named struct {
		KeyID any `json:"kid"`
	}
	if json.Unmarshal(data, &named) == nil {
		id, _ = named.KeyID.(string)
	}
	id = id[:min(len(id), token.MaxKeyID)]
	var j jose.JSONWebKey
	switch err := j.UnmarshalJSON(data); {
	case err != nil || !j.Valid():
		return k, id, "a key of an unknown type, or damaged"
	case !j.IsPublic():
		return k, id, "a private or secret key"
	case j.Use == "enc":
		return k, id, otherUse
	}
	if why := weakness(j.Key); why != "" {
		return k, id, why
	}
	sum, err := j.Thumbprint(crypto.SHA256)
	if err != nil {
		return k, id, "a key without a thumbprint"
	}
	k.JSONWebKey = jose.JSONWebKey{Key: j.Key, KeyID: j.KeyID, Algorithm: j.Algorithm, Use: j.Use}
	k.thumbprint = base64.RawURLEncoding.EncodeToString(sum)
	return k, id, ""
}
