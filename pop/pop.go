// Package pop verifies proofs of possession: it takes a public key and the proof that the caller holds the private key,
// and returns the key that a certificate may contain. It uses no I/O, no clock and no randomness.
//
// A proof has one of two forms. A signed challenge is a signature over exactly the subject of the identity token, with
// the hash that the type of the key determines. A certificate signing request (RFC 2986) is signed with its own key;
// only its public key is used. A signing request is not bound to the token: anyone who obtains the request can have its
// key certified under their own identity.
//
// The checks run from the cheapest to the most expensive: size of the input, parsing, size of the key, strength, proof,
// permitted algorithm. A weak key MUST be refused before any signature is verified with it, because verification with a
// modulus of, for example, 16,384 bits is slow.
//
// [Key.SPKI] MUST be, byte for byte, the encoding that the caller sent, and the only DER encoding of the key: two
// parsers can read a non-canonical encoding in two ways.
//
// Every failure is a [fault.Error]. Its cause contains sizes, names and positions, never bytes of a key or a proof.
package pop

import (
	"crypto"
	"crypto/mldsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/spelling"
)

// Config is the operator's choice of permitted client keys.
type Config struct {
	// Algorithms lists names of the Sigstore algorithm registry, such as "ecdsa-sha2-256-nistp256". Nil selects the
	// default list: every key type that released clients use, with the hash that matches its size. ML-DSA (FIPS 204)
	// is accepted only if it is listed.
	//
	// An entry permits a key type, a size and a hash. As in Fulcio, three kinds of entries permit less than their names
	// suggest: "rsa-sign-pss-*" permits RSA keys of that size with PKCS #1 v1.5, while PSS is never accepted;
	// "ed25519-ph" permits nothing; "ecdsa-sha2-256-nistp384" and "-nistp521" permit signing requests only, because a
	// signed challenge of such a key uses the longer hash.
	Algorithms []string
}

// Options holds the inputs of [New] that are not configuration.
type Options struct {
	// Forbidden lists the public keys that are never certified: the keys of the CA, its logs and its listeners.
	Forbidden []crypto.PublicKey
}

// Policy accepts or refuses client keys. It is immutable and safe for concurrent use.
type Policy struct {
	names     []string
	permitted map[algorithm]bool
	forbidden map[[sha256.Size]byte]bool // SHA-256 of the SPKI
	rsa       *rsaTests
}

// Key is a public key whose possession was proven and that the policy accepts.
type Key struct {
	// SPKI is the DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
	SPKI []byte
	// Public is the same key: *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey or *mldsa.PublicKey.
	Public crypto.PublicKey
	// Algorithm is the registry name of key type, size and hash of the proof.
	Algorithm string
}

// Proof is a public key and a signature over a challenge.
type Proof struct {
	// PublicKey is one PEM block "PUBLIC KEY" (PKIX) or "RSA PUBLIC KEY" (PKCS #1), or a PKIX key in DER without PEM.
	PublicKey []byte
	// Signature is the signature over Challenge: ECDSA with SHA-256, SHA-384 or SHA-512 for P-256, P-384 and P-521, in
	// ASN.1 or as the concatenation of r and s (64, 96 or 132 bytes, IEEE P1363); PKCS #1 v1.5 with SHA-256 for RSA;
	// pure Ed25519; pure ML-DSA with an empty context (FIPS 204 section 5.2).
	Signature []byte
	// Challenge is the subject of the verified identity token: the exact text of the claim.
	Challenge string
	// ChallengeClaim is the name of that claim. It is used only in the error, which tells the caller what to sign.
	ChallengeClaim string
}

// New checks the configuration and returns the policy. For each unknown name the error contains a [fault.Setting] whose
// path is the index in the list. A forbidden key of an unknown type is a plain error.
func New(c Config, o Options) (*Policy, error) {
	names := c.Algorithms
	if names == nil {
		names = defaultAlgorithms()
	}
	p := &Policy{
		permitted: make(map[algorithm]bool, len(names)),
		forbidden: make(map[[sha256.Size]byte]bool, len(o.Forbidden)),
		rsa:       newRSATests(),
	}
	if err := p.permit(names); err != nil {
		return nil, err
	}
	for i, k := range o.Forbidden {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, fmt.Errorf("forbidden key %d: %w", i, err)
		}
		p.forbidden[sha256.Sum256(der)] = true
	}
	return p, nil
}

func (p *Policy) permit(names []string) error {
	if len(names) == 0 {
		return fault.BadSetting("the list of client algorithms is empty, so no key could be certified",
			"remove the setting to use the default list")
	}
	var errs []error
	reachable := false
	for i, name := range names {
		a, ok := lookup(name)
		if !ok {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("unknown client algorithm %.80q", name),
				suggest(name), strconv.Itoa(i)))
			continue
		}
		if err := MLDSAError(); a.family == familyMLDSA && err != nil {
			errs = append(errs, fault.BadSetting(name+" is not in this build: "+err.Error(),
				"remove it, or use a build without GOFIPS140=v1.0.0", strconv.Itoa(i)))
		}
		p.permitted[a] = true
		reachable = reachable || a.provable()
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if !reachable {
		return fault.BadSetting("none of these client algorithms can be used for a proof, so no key could be certified",
			`write at least one that can, for example "ecdsa-sha2-256-nistp256"`)
	}
	for _, row := range registry {
		if slices.Contains(names, row.name) {
			p.names = append(p.names, row.name)
		}
	}
	return nil
}

// MLDSAError returns why this build has no ML-DSA, or nil: version 1.0.0 of Go's module for FIPS 140-3 has none.
func MLDSAError() error {
	_, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), make([]byte, mldsa.PrivateKeySize))
	return err
}

// Algorithms returns the permitted names without duplicates, in the order of the registry.
func (p *Policy) Algorithms() []string { return slices.Clone(p.names) }

// suggest returns the cure for an unknown name: the closest name, or the list of names.
func suggest(name string) string {
	best, distance := "", len(name)/3+1
	for _, row := range registry {
		if d := spelling.Distance(strings.ToLower(name), row.name); d < distance {
			best, distance = row.name, d
		}
	}
	if best != "" && len(name) <= 80 {
		return fmt.Sprintf("did you mean %q?", best)
	}
	all := make([]string, len(registry))
	for i, row := range registry {
		all[i] = row.name
	}
	return "write one of " + strings.Join(all, ", ")
}
