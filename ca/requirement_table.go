package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/human"
)

const nameSignatures = "names and signatures"

// requirements are the rows of [Examine]. [New] reports the first required one that is not met, so their order counts.
// check returns what is wrong with the certificate at index i, and what to do; "" is nothing.
var requirements = []struct {
	name  string
	level Level
	check func(e examination, i int) (problem, fix string)
}{
	{"signature algorithms", Required, checkDigest},
	{nameSignatures, Required, checkIssuer},
	{"basic constraints", Required, checkIsCA},
	{"key usage keyCertSign", Required, checkCertSign},
	{"path length", Required, checkPathLength},
	{"validity", Required, checkValidity},
	{"extended key usage", Required, checkUsage},
	{"critical extensions", Required, checkCritical},
	{"validity that is left", Required, checkTimeLeft},
	{"path length 0", Production, checkPathLengthZero},
	{"key strength", Production, checkKeyStrength},
	{"extended key usage alone", Advised, checkUsageAlone},
	{"intermediate", Advised, checkIntermediate},
	{"keys of their own", Advised, checkOwnKey},
	{"key usage", Advised, checkHasKeyUsage},
	{"critical basic constraints", Advised, checkCriticalBasics},
	{"critical name constraints", Advised, checkCriticalNames},
	{"validity within the parent's", Advised, checkNested},
	{"key identifiers agree", Advised, checkKeyIDs},
	{"serial number", Advised, checkSerial},
	{"subject", Advised, checkSubject},
	{"common name and organization", Customary, checkNames},
	{"key usage keyCertSign and cRLSign alone", Customary, checkExactKeyUsage},
	{"no extended key usage in the root", Customary, checkRootUsage},
	{"key identifiers", Customary, checkHasKeyIDs},
	{"random serial number", Customary, checkRandomSerial},
	{"one family of algorithms", Customary, checkFamily},
	{"RSA of 3072 bits", Customary, checkLongRSA},
}

func checkDigest(e examination, i int) (problem, fix string) {
	switch a := e.chain[i].SignatureAlgorithm; a {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return fmt.Sprintf("%s is signed with %s, which verifiers refuse", e.numbered(i), a),
			"have it issued again with SHA-256 or stronger"
	}
	return "", ""
}

func checkIssuer(e examination, i int) (problem, fix string) {
	if err := checkLink(e.chain, i); err != nil {
		return err.Error(), "write the certificates in PEM, issuing certificate first, root last"
	}
	return "", ""
}

func checkIsCA(e examination, i int) (problem, fix string) {
	if c := e.chain[i]; c.BasicConstraintsValid && c.IsCA {
		return "", ""
	}
	return e.numbered(i) + " is not a CA certificate", "have it issued again with the basic constraints CA:TRUE"
}

func checkCertSign(e examination, i int) (problem, fix string) {
	if c := e.chain[i]; c.KeyUsage == 0 || c.KeyUsage&x509.KeyUsageCertSign != 0 {
		return "", ""
	}
	return e.numbered(i) + " may not sign certificates: its key usage lacks keyCertSign",
		"have it issued again with keyCertSign"
}

func checkPathLength(e examination, i int) (problem, fix string) {
	if c := e.chain[i]; c.MaxPathLen >= 0 && (c.MaxPathLen > 0 || c.MaxPathLenZero) && i > c.MaxPathLen {
		return fmt.Sprintf("%s allows %d intermediates below it; the chain has %d", e.numbered(i), c.MaxPathLen, i),
			"have the certificates below it issued by a CA whose path length allows them"
	}
	return "", ""
}

func checkValidity(e examination, i int) (problem, fix string) {
	switch c := e.chain[i]; {
	case e.now.Before(c.NotBefore):
		return fmt.Sprintf("%s is not valid before %s", e.numbered(i), c.NotBefore.UTC().Format(time.RFC3339)),
			"wait, or correct the clock of this machine"
	case !e.now.Before(c.NotAfter):
		return fmt.Sprintf("%s expired at %s", e.numbered(i), c.NotAfter.UTC().Format(time.RFC3339)),
			"have a new one issued"
	}
	return "", ""
}

func checkUsage(e examination, i int) (problem, fix string) {
	c := e.chain[i]
	fix = "have it issued again with " + e.usageName()
	switch {
	case i == 0 && len(e.chain) > 1 && !hasUsage(c, e.usage):
		return fmt.Sprintf("%s may not issue for %s: its extended key usage lacks %s", e.numbered(i), e.purpose(),
			e.usageName()), fix
	case (len(c.ExtKeyUsage) > 0 || len(c.UnknownExtKeyUsage) > 0) && !hasUsage(c, e.usage) &&
		!hasUsage(c, x509.ExtKeyUsageAny):
		return fmt.Sprintf("%s allows nothing below it for %s: its extended key usage lacks %s", e.numbered(i),
			e.purpose(), e.usageName()), fix + ", or without extended key usage"
	}
	return "", ""
}

func checkCritical(e examination, i int) (problem, fix string) {
	if unknown := e.chain[i].UnhandledCriticalExtensions; len(unknown) > 0 {
		return fmt.Sprintf("%s has the critical extension %s, which verifiers do not know", e.numbered(i), unknown[0]),
			"have it issued again without it"
	}
	return "", ""
}

func checkTimeLeft(e examination, i int) (problem, fix string) {
	if i > 0 || e.usage != x509.ExtKeyUsageCodeSigning {
		return "", ""
	}
	if _, to := window(e.chain); to.Sub(e.now) < Validity+margin {
		return fmt.Sprintf("the chain expires at %s, too soon for certificates of %s", to.UTC().Format(time.RFC3339),
			human.Duration(Validity)), "write a chain that is valid for longer"
	}
	return "", ""
}

func checkPathLengthZero(e examination, i int) (problem, fix string) {
	c := e.chain[i]
	if i > 0 || c.MaxPathLenZero && c.MaxPathLen == 0 {
		return "", ""
	}
	return e.which(i) +
			" has no path length of 0 (pathlen:0 in its basic constraints): its key can make further CAs, " +
			"whose certificates are not monitored",
		"have it issued again with pathlen:0 (mayfly ca init makes such a chain)"
}

func checkKeyStrength(e examination, i int) (problem, fix string) {
	if _, err := schemeOf(e.chain[i].PublicKey); err != nil {
		return e.which(i) + " has a weak key: " + err.Error(), "have it issued again for a stronger key"
	}
	return "", ""
}

func checkUsageAlone(e examination, i int) (problem, fix string) {
	c := e.chain[i]
	if i > 0 {
		return "", ""
	}
	var others []string
	for _, u := range c.ExtKeyUsage {
		if u != e.usage {
			others = append(others, u.String())
		}
	}
	for _, oid := range c.UnknownExtKeyUsage {
		others = append(others, oid.String())
	}
	switch {
	case len(others) > 0:
		return e.which(i) + " may issue for more than " + e.purpose() + " (extended key usage " +
			strings.Join(others, ", ") + ")", "have it issued again with " + e.usageName() + " alone"
	case len(c.ExtKeyUsage) == 0: // a root that issues certificates itself
		return e.which(i) + " has no extended key usage: its key can make certificates for any purpose",
			"have one issued with " + e.usageName() + " alone"
	}
	return "", ""
}

func checkIntermediate(e examination, i int) (problem, fix string) {
	if len(e.chain) > 1 {
		return "", ""
	}
	return e.which(i) + " is the root itself: its key cannot be replaced without another root for every verifier",
		"keep the root's key offline and use an intermediate (mayfly ca init makes such a chain)"
}

func checkOwnKey(e examination, i int) (problem, fix string) {
	for j := range i {
		if bytes.Equal(e.chain[i].RawSubjectPublicKeyInfo, e.chain[j].RawSubjectPublicKeyInfo) {
			return fmt.Sprintf("%s has the key of certificate %d: whoever holds the one holds the other", e.which(i),
					j+1),
				"have a chain made in which each certificate has a key of its own"
		}
	}
	return "", ""
}

func checkHasKeyUsage(e examination, i int) (problem, fix string) {
	if e.chain[i].KeyUsage == 0 {
		return e.which(i) + " has no key usage (RFC 5280 section 4.2.1.3)", "have it issued again with keyCertSign"
	}
	return "", ""
}

const (
	idKeyUsage         = "2.5.29.15"
	idBasicConstraints = "2.5.29.19"
)

// isNotCritical reports whether c has the extension and the extension is not critical.
func isNotCritical(c *x509.Certificate, id string) bool {
	for _, ext := range c.Extensions {
		if ext.Id.String() == id && !ext.Critical {
			return true
		}
	}
	return false
}

func checkCriticalBasics(e examination, i int) (problem, fix string) {
	if isNotCritical(e.chain[i], idBasicConstraints) {
		return e.which(i) + " has basic constraints that are not critical (RFC 5280 section 4.2.1.9)",
			"have it issued again with critical basic constraints"
	}
	return "", ""
}

func checkCriticalNames(e examination, i int) (problem, fix string) {
	if isNotCritical(e.chain[i], idNameConstraints) {
		return e.which(i) + " has name constraints that are not critical (RFC 5280 section 4.2.1.10): some verifiers " +
			"ignore them", "have it issued again with critical name constraints"
	}
	return "", ""
}

func checkNested(e examination, i int) (problem, fix string) {
	c, parent := e.chain[i], e.parent(i)
	switch {
	case c.NotAfter.After(parent.NotAfter):
		return fmt.Sprintf("%s is valid until %s, longer than its issuer (until %s)", e.which(i),
				c.NotAfter.UTC().Format(time.RFC3339), parent.NotAfter.UTC().Format(time.RFC3339)),
			"have it issued again for a validity within that of its issuer"
	case c.NotBefore.Before(parent.NotBefore):
		return fmt.Sprintf("%s is valid from %s, earlier than its issuer (from %s)", e.which(i),
				c.NotBefore.UTC().Format(time.RFC3339), parent.NotBefore.UTC().Format(time.RFC3339)),
			"have it issued again for a validity within that of its issuer"
	}
	return "", ""
}

func checkKeyIDs(e examination, i int) (problem, fix string) {
	c, parent := e.chain[i], e.parent(i)
	if len(c.AuthorityKeyId) > 0 && len(parent.SubjectKeyId) > 0 &&
		!bytes.Equal(c.AuthorityKeyId, parent.SubjectKeyId) {
		return fmt.Sprintf("%s names the key %x as its issuer's, but that is the key %x: some verifiers find no path",
				e.which(i), c.AuthorityKeyId, parent.SubjectKeyId),
			"have it issued again with the subject key identifier of its issuer as authority key identifier"
	}
	return "", ""
}

// maxSerial is the length of the longest serial number, in octets (RFC 5280 §4.1.2.2).
const maxSerial = 20

func checkSerial(e examination, i int) (problem, fix string) {
	serial := e.chain[i].SerialNumber
	const again = "have it issued again with a random serial number"
	switch {
	case serial.Sign() <= 0:
		return e.which(i) + " has a serial number that is not positive (RFC 5280 section 4.1.2.2)", again
	case serial.BitLen() >= maxSerial*8:
		return e.which(i) + " has a serial number of more than 20 octets (RFC 5280 section 4.1.2.2)", again
	}
	return "", ""
}

func checkSubject(e examination, i int) (problem, fix string) {
	c := e.chain[i]
	if bytes.Equal(c.RawSubject, []byte{0x30, 0}) {
		return e.which(i) + " has no subject (RFC 5280 section 4.1.2.6)", "have it issued again with a subject"
	}
	for j := range i {
		if bytes.Equal(c.RawSubject, e.chain[j].RawSubject) {
			return fmt.Sprintf("%s has the subject of certificate %d: verifiers take them for one CA", e.which(i), j+1),
				"have a chain made in which each certificate has a subject of its own"
		}
	}
	return "", ""
}

func checkNames(e examination, i int) (problem, fix string) {
	s := e.chain[i].Subject
	if s.CommonName == "" || len(s.Organization) == 0 {
		return e.which(i) + " has a subject without common name or organization",
			"have it issued again with both"
	}
	return "", ""
}

func checkExactKeyUsage(e examination, i int) (problem, fix string) {
	c := e.chain[i]
	const fixes = "have it issued again with the critical key usage keyCertSign, cRLSign"
	switch {
	case c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign:
		return e.which(i) + " has another key usage than keyCertSign and cRLSign", fixes
	case isNotCritical(c, idKeyUsage):
		return e.which(i) + " has a key usage that is not critical (RFC 5280 section 4.2.1.3)", fixes
	}
	return "", ""
}

func checkRootUsage(e examination, i int) (problem, fix string) {
	c := e.chain[i]
	if e.isRoot(i) && i > 0 && (len(c.ExtKeyUsage) > 0 || len(c.UnknownExtKeyUsage) > 0) {
		return e.which(i) + " is a root with an extended key usage", "have it issued again without one"
	}
	return "", ""
}

func checkHasKeyIDs(e examination, i int) (problem, fix string) {
	c := e.chain[i]
	switch {
	case len(c.SubjectKeyId) == 0:
		return e.which(i) + " has no subject key identifier (RFC 5280 section 4.2.1.2)",
			"have it issued again with the extension"
	case !e.isRoot(i) && len(c.AuthorityKeyId) == 0:
		return e.which(i) + " has no authority key identifier (RFC 5280 section 4.2.1.1)",
			"have it issued again with the extension"
	}
	return "", ""
}

// minSerialBits is the least length of a serial number that is random (CA/Browser Forum Baseline Requirements 7.1).
const minSerialBits = 64

func checkRandomSerial(e examination, i int) (problem, fix string) {
	// one random number of 64 bits in 65536 begins with 16 zero bits
	if e.chain[i].SerialNumber.BitLen() <= minSerialBits-16 {
		return e.which(i) + " has a serial number of less than 64 random bits",
			"have it issued again with a random serial number"
	}
	return "", ""
}

// family is the family of signature algorithms of a public key.
func family(key any) string {
	switch key.(type) {
	case *rsa.PublicKey:
		return "RSA"
	case *ecdsa.PublicKey:
		return "ECDSA"
	case ed25519.PublicKey:
		return "EdDSA"
	case *mldsa.PublicKey:
		return "ML-DSA"
	}
	return fmt.Sprintf("%T", key)
}

func checkFamily(e examination, i int) (problem, fix string) {
	own, parents := family(e.chain[i].PublicKey), family(e.parent(i).PublicKey)
	if own == parents {
		return "", ""
	}
	return fmt.Sprintf("%s has a key for %s, and its issuer one for %s: a verifier needs both",
			e.which(i), own, parents),
		"have a chain made with keys of one family"
}

func checkLongRSA(e examination, i int) (problem, fix string) {
	if k, ok := e.chain[i].PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < 3072 {
		return fmt.Sprintf("%s has an RSA key of %d bits", e.which(i), k.N.BitLen()), "use 3072 bits or more, or ECDSA"
	}
	return "", ""
}
