package pop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rsa"
	"fmt"
)

type family uint8

const (
	familyRSA family = iota + 1
	familyECDSA
	familyEd25519
	familyMLDSA
)

// algorithm is a key type, the size of its modulus or curve in bits (ML-DSA: the number of the parameter set, FIPS
// 204), and a hash (zero: the signature scheme hashes the message).
type algorithm struct {
	family family
	size   int
	hash   crypto.Hash
}

// registry lists the names of the Sigstore algorithm registry that an operator may write, in the registry's order. A
// PSS row permits the same key and hash as its PKCS #1 row. Prehashed Ed25519 is never accepted as a proof.
var registry = []struct {
	name      string
	algorithm algorithm
	byDefault bool
}{
	{"rsa-sign-pkcs1-2048-sha256", algorithm{familyRSA, 2048, crypto.SHA256}, true},
	{"rsa-sign-pkcs1-3072-sha256", algorithm{familyRSA, 3072, crypto.SHA256}, true},
	{"rsa-sign-pkcs1-4096-sha256", algorithm{familyRSA, 4096, crypto.SHA256}, true},
	{"rsa-sign-pss-2048-sha256", algorithm{familyRSA, 2048, crypto.SHA256}, false},
	{"rsa-sign-pss-3072-sha256", algorithm{familyRSA, 3072, crypto.SHA256}, false},
	{"rsa-sign-pss-4096-sha256", algorithm{familyRSA, 4096, crypto.SHA256}, false},
	{"ecdsa-sha2-256-nistp256", algorithm{familyECDSA, 256, crypto.SHA256}, true},
	{"ecdsa-sha2-384-nistp384", algorithm{familyECDSA, 384, crypto.SHA384}, true},
	{"ecdsa-sha2-256-nistp384", algorithm{familyECDSA, 384, crypto.SHA256}, false},
	{"ecdsa-sha2-512-nistp521", algorithm{familyECDSA, 521, crypto.SHA512}, true},
	{"ecdsa-sha2-256-nistp521", algorithm{familyECDSA, 521, crypto.SHA256}, false},
	{"ed25519", algorithm{familyEd25519, 255, 0}, true},
	{"ed25519-ph", algorithm{familyEd25519, 255, crypto.SHA512}, false},
	{"mldsa-44", algorithm{familyMLDSA, 44, 0}, false},
	{"mldsa-65", algorithm{familyMLDSA, 65, 0}, false},
	{"mldsa-87", algorithm{familyMLDSA, 87, 0}, false},
}

func defaultAlgorithms() []string {
	var names []string
	for _, row := range registry {
		if row.byDefault {
			names = append(names, row.name)
		}
	}
	return names
}

func lookup(name string) (algorithm, bool) {
	for _, row := range registry {
		if row.name == name {
			return row.algorithm, true
		}
	}
	return algorithm{}, false
}

// provable reports whether this package accepts any proof with a.
func (a algorithm) provable() bool { return a.family != familyEd25519 || a.hash == 0 }

// name returns the registry's name of a, or a name of the same form if the registry has none.
func (a algorithm) name() string {
	for _, row := range registry {
		if row.algorithm == a {
			return row.name
		}
	}
	bits := a.hash.Size() * 8
	if a.family == familyRSA {
		return fmt.Sprintf("rsa-sign-pkcs1-%d-sha%d", a.size, bits)
	}
	return fmt.Sprintf("ecdsa-sha2-%d-nistp%d", bits, a.size)
}

// ofKey returns the algorithm of pub with hash h. The strength of pub has been checked, so pub has one of four types.
func ofKey(pub crypto.PublicKey, h crypto.Hash) algorithm {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return algorithm{familyRSA, k.N.BitLen(), h}
	case *ecdsa.PublicKey:
		return algorithm{familyECDSA, k.Curve.Params().BitSize, h}
	case ed25519.PublicKey:
		return algorithm{familyEd25519, 255, h}
	case *mldsa.PublicKey:
		return algorithm{familyMLDSA, parameterSet(k), h}
	}
	return algorithm{}
}

// parameterSet returns the number in the name of k's parameter set: 44, 65 or 87.
func parameterSet(k *mldsa.PublicKey) int {
	switch k.Parameters() {
	case mldsa.MLDSA44():
		return 44
	case mldsa.MLDSA65():
		return 65
	default:
		return 87
	}
}

// challengeHash returns the hash that a signed challenge of pub must use.
func challengeHash(pub crypto.PublicKey) crypto.Hash {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return crypto.SHA256
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return crypto.SHA256
		case 384:
			return crypto.SHA384
		default:
			return crypto.SHA512
		}
	}
	return 0
}
