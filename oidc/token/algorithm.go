package token

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// The two names of one algorithm: EdDSA (RFC 8037 §3.1) leaves the curve to the key and is deprecated; Ed25519 names
// the curve (RFC 9864 §2.2). Both are accepted, for keys on that curve only.
const (
	edDSA   = "EdDSA"
	ed25519 = "Ed25519"
)

// algorithms are the asymmetric JWS algorithms (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2, RFC 9964).
var algorithms = []string{
	"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", edDSA, ed25519,
	"ML-DSA-44", "ML-DSA-65", "ML-DSA-87",
}

// Algorithms returns the JWS algorithms that tokens may be signed with.
func Algorithms() []string { return slices.Clone(algorithms) }

// IsAlgorithm reports whether tokens may be signed with the JWS algorithm of this name.
func IsAlgorithm(name string) bool { return slices.Contains(algorithms, name) }

// SameAlgorithm reports whether two names mean the same algorithm.
func SameAlgorithm(a, b string) bool {
	return a == b || a == edDSA && b == ed25519 || a == ed25519 && b == edDSA
}

// PermitsAlgorithm reports whether a list of names, of a configuration or of a provider's metadata, has an algorithm
// under any of its names.
func PermitsAlgorithm(list []string, name string) bool {
	return slices.ContainsFunc(list, func(one string) bool { return SameAlgorithm(one, name) })
}

// coseNames maps the fully specified names of COSE to those of JOSE. RFC 9864 §2.1 defines them for COSE only, because
// the names of JOSE always included the curve (RFC 7518 §3.4).
var coseNames = map[string]string{"ESP256": "ES256", "ESP384": "ES384", "ESP512": "ES512"}

// AlgorithmError returns nil if tokens may be signed with the JWS algorithm of this name; otherwise a [fault.Setting].
func AlgorithmError(name string, path ...string) error {
	jose, isCOSE := coseNames[name]
	switch {
	case IsAlgorithm(name):
		return nil
	case isCOSE:
		return fault.BadSetting(name+" is an algorithm name of COSE, not of JOSE (RFC 9864 section 2.1)",
			"write "+jose+", the name of this algorithm in JOSE", path...)
	case name == "Ed448":
		return fault.BadSetting("Ed448 is not supported", "write Ed25519, or another algorithm", path...)
	}
	return fault.BadSetting(fmt.Sprintf("%q is not a signature algorithm for tokens", name),
		"write some of "+strings.Join(algorithms, ", "), path...)
}
