package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// wrongChain is a chain that violates one requirement, and perhaps others as a consequence.
type wrongChain struct {
	name        string // what is wrong
	requirement string
	certificate int // the index of the finding
	problem     string
	usage       x509.ExtKeyUsage // 0: codeSigning
	chain       []*x509.Certificate
}

// changed returns copies of parsed certificates in which a field was changed to a value that no issuer would write.
func changed(chain []*x509.Certificate, i int, change func(c *x509.Certificate)) []*x509.Certificate {
	out := append([]*x509.Certificate(nil), chain...)
	c := *chain[i]
	change(&c)
	out[i] = &c
	return out
}

func wrongChains(t *testing.T) []wrongChain {
	t.Helper()
	now := time.Now()
	good, other := pki.New(pki.Options{}), pki.New(pki.Options{})
	issuing := func(f func(c *x509.Certificate)) []*x509.Certificate {
		return pki.New(pki.Options{Intermediate: f}).Chain
	}
	root := func(f func(c *x509.Certificate)) []*x509.Certificate { return pki.New(pki.Options{Root: f}).Chain }
	parsed := func(i int, f func(c *x509.Certificate)) []*x509.Certificate { return changed(good.Chain, i, f) }
	extension := func(critical bool, id asn1.ObjectIdentifier, value any) func(c *x509.Certificate) {
		der, err := asn1.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: der}}
		}
	}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa := pki.New(pki.Options{Key: pki.RSA2048})
	isCA := struct {
		IsCA bool
		Max  int
	}{true, 0}
	return []wrongChain{
		{"SHA-1", "signature algorithms", 0, "SHA1-RSA", 0, parsed(0, func(c *x509.Certificate) {
			c.SignatureAlgorithm = x509.SHA1WithRSA
		})},
		{"empty", "names and signatures", 0, "empty", 0, nil},
		{"no root", "names and signatures", 0, "not a root", 0, good.Chain[:1]},
		{
			"wrong order", "names and signatures", 0, "issuing certificate first", 0,
			[]*x509.Certificate{good.Root, good.Intermediate},
		},
		{
			"another root of the same name", "names and signatures", 0, "not signed by certificate 2", 0,
			[]*x509.Certificate{good.Intermediate, other.Root},
		},
		{"not a CA", "basic constraints", 0, "not a CA certificate", 0, issuing(func(c *x509.Certificate) {
			c.IsCA, c.MaxPathLenZero = false, false
		})},
		{
			"root not a CA", "basic constraints", 1, "certificate 2", 0,
			parsed(1, func(c *x509.Certificate) { c.IsCA = false }),
		},
		{"no keyCertSign", "key usage keyCertSign", 0, "keyCertSign", 0, issuing(func(c *x509.Certificate) {
			c.KeyUsage = x509.KeyUsageCRLSign
		})},
		{"path length of the root", "path length", 1, "allows 0 intermediates", 0, root(func(c *x509.Certificate) {
			c.MaxPathLenZero = true
		})},
		{
			"expired", "validity", 0, "expired at", 0,
			issuing(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }),
		},
		{"not yet valid", "validity", 0, "not valid before", 0, issuing(func(c *x509.Certificate) {
			c.NotBefore = now.Add(time.Hour)
		})},
		{
			"root expired", "validity", 1, "certificate 2", 0,
			root(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }),
		},
		{"no extended key usage", "extended key usage", 0, "lacks codeSigning", 0, issuing(func(c *x509.Certificate) {
			c.ExtKeyUsage = nil
		})},
		{"any extended key usage", "extended key usage", 0, "lacks codeSigning", 0, issuing(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		})},
		{
			"code signing for timestamps", "extended key usage", 0, "lacks timeStamping",
			x509.ExtKeyUsageTimeStamping, good.Chain,
		},
		{"root for servers", "extended key usage", 1, "allows nothing below it", 0, root(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})},
		{"unknown critical extension", "critical extensions", 0, "1.2.3", 0, issuing(extension(true,
			asn1.ObjectIdentifier{1, 2, 3}, 1))},
		{"five minutes left", "validity that is left", 0, "too soon", 0, issuing(func(c *x509.Certificate) {
			c.NotAfter = now.Add(5 * time.Minute)
		})},
		{"root with five minutes left", "validity that is left", 0, "too soon", 0, root(func(c *x509.Certificate) {
			c.NotAfter = now.Add(5 * time.Minute)
		})},
		{"no path length", "path length 0", 0, "no path length of 0", 0, issuing(func(c *x509.Certificate) {
			c.MaxPathLenZero = false
		})},
		{
			"P-224", "key strength", 0, "P-224", 0,
			parsed(0, func(c *x509.Certificate) { c.PublicKey = &weak.PublicKey }),
		},
		{
			"P-224 root", "key strength", 1, "certificate 2", 0,
			parsed(1, func(c *x509.Certificate) { c.PublicKey = &weak.PublicKey }),
		},
		{"two usages", "extended key usage alone", 0, "more than code signing", 0, issuing(func(c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		})},
		{"no intermediate", "intermediate", 0, "the root itself", 0, pki.New(pki.Options{SelfSigned: true}).Chain},
		{"one key", "keys of their own", 1, "the key of certificate 1", 0, parsed(1, func(c *x509.Certificate) {
			c.RawSubjectPublicKeyInfo = good.Intermediate.RawSubjectPublicKeyInfo
		})},
		{"no key usage", "key usage", 0, "no key usage", 0, issuing(func(c *x509.Certificate) { c.KeyUsage = 0 })},
		{"soft basic constraints", "critical basic constraints", 0, "not critical", 0, issuing(extension(false,
			asn1.ObjectIdentifier{2, 5, 29, 19}, isCA))},
		{"soft name constraints", "critical name constraints", 0, "not critical", 0, issuing(func(c *x509.Certificate) {
			c.PermittedEmailAddresses = []string{"example.com"}
		})},
		{
			"longer than the root", "validity within the parent's", 0, "longer than its issuer", 0,
			issuing(func(c *x509.Certificate) { c.NotAfter = c.NotAfter.AddDate(20, 0, 0) }),
		},
		{
			"earlier than the root", "validity within the parent's", 0, "earlier than its issuer", 0,
			issuing(func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-time.Hour) }),
		},
		{"another authority key", "key identifiers agree", 0, "0102", 0, parsed(0, func(c *x509.Certificate) {
			c.AuthorityKeyId = []byte{1, 2}
		})},
		{
			"serial 0", "serial number", 0, "not positive", 0,
			parsed(0, func(c *x509.Certificate) { c.SerialNumber = new(big.Int) }),
		},
		{"serial of 21 octets", "serial number", 0, "more than 20 octets", 0, parsed(0, func(c *x509.Certificate) {
			c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 159)
		})},
		{
			"no subject", "subject", 0, "no subject", 0,
			parsed(0, func(c *x509.Certificate) { c.RawSubject = []byte{0x30, 0} }),
		},
		{"one subject", "subject", 1, "the subject of certificate 1", 0, issuing(func(c *x509.Certificate) {
			c.Subject.CommonName = "test root"
		})},
		{"no organization", "common name and organization", 0, "without", 0, issuing(func(c *x509.Certificate) {
			c.Subject.Organization = nil
		})},
		{"no common name", "common name and organization", 1, "certificate 2", 0, root(func(c *x509.Certificate) {
			c.Subject.CommonName = ""
		})},
		{
			"digital signature", "key usage keyCertSign and cRLSign alone", 0, "another key usage", 0,
			issuing(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }),
		},
		{"soft key usage", "key usage keyCertSign and cRLSign alone", 0, "not critical", 0, issuing(extension(false,
			asn1.ObjectIdentifier{2, 5, 29, 15}, asn1.BitString{Bytes: []byte{6}, BitLength: 7}))},
		{
			"root for code signing", "no extended key usage in the root", 1, "extended key usage", 0,
			root(func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
			}),
		},
		{
			"no subject key identifier", "key identifiers", 1, "no subject key identifier", 0,
			parsed(1, func(c *x509.Certificate) {
				c.SubjectKeyId = nil
			}),
		},
		{
			"no authority key identifier", "key identifiers", 0, "no authority key identifier", 0,
			parsed(0, func(c *x509.Certificate) { c.AuthorityKeyId = nil }),
		},
		{
			"serial 1", "random serial number", 0, "64 random bits", 0,
			issuing(func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) }),
		},
		{
			"ECDSA below RSA", "one family of algorithms", 0, "verifier needs both", 0,
			parsed(0, func(c *x509.Certificate) {
				c.PublicKey = rsa.Root.PublicKey
			}),
		},
		{"RSA 2048", "RSA of 3072 bits", 0, "2048 bits", 0, rsa.Chain},
	}
}

// C9: for each requirement there is a chain that violates it, and the finding at that requirement says what to do. A
// chain that this module makes meets all requirements.
func TestExamine(t *testing.T) {
	t.Parallel()
	h, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "Example", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, r := range ca.Examine(h.Chain, time.Now(), x509.ExtKeyUsageCodeSigning) {
		left[r.Name] = true
		for _, f := range r.Findings {
			t.Errorf("a good chain: %s: %+v", r.Name, f)
		}
	}
	for _, w := range wrongChains(t) {
		if w.usage == 0 {
			w.usage = x509.ExtKeyUsageCodeSigning
		}
		delete(left, w.requirement)
		found := false
		for _, r := range ca.Examine(w.chain, time.Now(), w.usage) {
			for _, f := range r.Findings {
				if f.Problem == "" || f.Fix == "" {
					t.Errorf("%s: %s: half a finding: %+v", w.name, r.Name, f)
				}
				found = found || r.Name == w.requirement && f.Certificate == w.certificate &&
					strings.Contains(f.Problem, w.problem)
			}
		}
		if !found {
			t.Errorf("%s: no finding %q of %q at certificate %d: %+v", w.name, w.problem,
				w.requirement, w.certificate+1,
				ca.Examine(w.chain, time.Now(), w.usage))
		}
	}
	for name := range left {
		t.Errorf("no chain that does not meet %q", name)
	}
}
