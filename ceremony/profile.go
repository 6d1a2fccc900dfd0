package ceremony

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// Subject is the name of a CA certificate.
type Subject struct {
	// CommonName is the name of the CA, such as "Example code signing 2026".
	CommonName string `yaml:"common_name"`
	// Organization is the organization that runs the CA.
	Organization string `yaml:"organization"`
	// OrganizationalUnit is a part of the organization.
	OrganizationalUnit string `yaml:"organizational_unit"`
	// Country is a country code of two letters (ISO 3166).
	Country string `yaml:"country"`
	// Province is a state or province.
	Province string `yaml:"province"`
	// Locality is a city.
	Locality string `yaml:"locality"`
}

// maxName is the maximum number of characters in one attribute of a name (RFC 5280, appendix A.1: ub-common-name and
// others).
const maxName = 64

func (s Subject) name() pkix.Name {
	one := func(text string) []string {
		if text == "" {
			return nil
		}
		return []string{text}
	}
	return pkix.Name{
		Country: one(s.Country), Organization: one(s.Organization), OrganizationalUnit: one(s.OrganizationalUnit),
		Locality: one(s.Locality), Province: one(s.Province), CommonName: s.CommonName,
	}
}

// der returns the name in DER. Its error says which attribute is not allowed in a certificate.
func (s Subject) der() ([]byte, error) {
	for _, part := range []struct{ name, text string }{
		{"common_name", s.CommonName},
		{"organization", s.Organization},
		{"organizational_unit", s.OrganizationalUnit},
		{"country", s.Country},
		{"province", s.Province},
		{"locality", s.Locality},
	} {
		hidden, found := printable.Hidden(part.text)
		switch {
		case found:
			return nil, fault.BadSetting(fmt.Sprintf("%s has the character %q, which is not printable",
				part.name, hidden), "remove the character")
		case len([]rune(part.text)) > maxName:
			return nil, fault.BadSetting(fmt.Sprintf("%s has more than %d characters", part.name, maxName),
				"write a shorter one")
		}
	}
	switch {
	case s.CommonName == "":
		return nil, fault.BadSetting("common_name is missing", "write the name of this CA")
	case s.Organization == "":
		return nil, fault.BadSetting("organization is missing", "write the organization that runs this CA")
	case s.Country != "" && len(s.Country) != 2:
		return nil, fault.BadSetting(fmt.Sprintf("country is %q", s.Country), "write a code of two letters, such as DE")
	}
	return asn1.Marshal(s.name().ToRDNSequence())
}

// The roles of a certificate.
const (
	RoleRoot = "root" // signs itself and intermediates; no extended key usage
	// a CA only for code signing; with path length 0, it issues certificates of clients
	RoleIntermediate = "intermediate"
	RoleTimestamping = "timestamping" // signs timestamps (RFC 3161 §2.3); not a CA
)

// Profile is the content of a certificate except its serial number, its key and its issuer.
type Profile struct {
	Role string `json:"role"`
	// Subject is the name in DER, and Name the same name as text.
	Subject   []byte    `json:"subject_der"`
	Name      string    `json:"subject"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	// PathLength is the path length of the basic constraints. It is 0 for timestamping.
	PathLength int `json:"path_length"`
	// SubjectKeyID is the subject key identifier.
	SubjectKeyID []byte `json:"subject_key_id"`
}

// newProfile fills in the fields that the key and the name determine. The key identifier is that of RFC 7093 §2, method
// 1.
func newProfile(p Profile, key crypto.PublicKey) (Profile, error) {
	name, err := nameOf(p.Subject)
	if err != nil {
		return p, err
	}
	p.Name = name
	if p.SubjectKeyID == nil {
		if p.SubjectKeyID, err = keyID(key); err != nil {
			return p, err
		}
	}
	p.NotBefore, p.NotAfter = p.NotBefore.UTC(), p.NotAfter.UTC()
	return p, p.check()
}

func nameOf(der []byte) (string, error) {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return "", errors.New("the subject is not a name in DER")
	}
	var name pkix.Name
	name.FillFromRDNSequence(&rdns)
	return name.String(), nil
}

func keyID(key crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("a key of type %T cannot be certified; use ECDSA, RSA or Ed25519", key)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &info); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20], nil
}

func (p Profile) check() error {
	switch {
	case p.Role != RoleRoot && p.Role != RoleIntermediate && p.Role != RoleTimestamping:
		return fmt.Errorf("unknown role %q", p.Role)
	case p.PathLength < 0 || p.PathLength > 8:
		return fmt.Errorf("path length %d is out of range; write 0 to 8", p.PathLength)
	case !p.NotAfter.After(p.NotBefore):
		return fmt.Errorf("the validity ends at %s, before it begins; write a longer one",
			p.NotAfter.Format(time.RFC3339))
	case p.NotBefore.Nanosecond() != 0 || p.NotAfter.Nanosecond() != 0:
		return errors.New("the validity has a fraction of a second; write whole seconds")
	}
	return nil
}

var oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}

// usage returns the extended key usage of the certificates issued under this one; for timestamping, that of this
// certificate.
func (p Profile) usage() x509.ExtKeyUsage {
	if p.Role == RoleTimestamping {
		return x509.ExtKeyUsageTimeStamping
	}
	return x509.ExtKeyUsageCodeSigning
}

func (p Profile) template(serial []byte) (*x509.Certificate, error) {
	c := &x509.Certificate{
		SerialNumber: bigEndian(serial), RawSubject: p.Subject, NotBefore: p.NotBefore, NotAfter: p.NotAfter,
		SubjectKeyId: p.SubjectKeyID,
	}
	if p.Role == RoleTimestamping {
		// RFC 3161 §2.3: one extended key usage, and critical.
		purpose, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
		if err != nil {
			return nil, err
		}
		c.KeyUsage = x509.KeyUsageDigitalSignature
		c.ExtraExtensions = []pkix.Extension{{Id: oidExtKeyUsage, Critical: true, Value: purpose}}
		return c, nil
	}
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	c.BasicConstraintsValid, c.IsCA = true, true
	c.MaxPathLen, c.MaxPathLenZero = p.PathLength, p.PathLength == 0
	if p.Role == RoleIntermediate {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}
	return c, nil
}

// lint compares a parsed certificate with the profile. It has no code in common with template.
func (p Profile) lint(c *x509.Certificate, serial []byte, key crypto.PublicKey) error {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	isCA := p.Role != RoleTimestamping
	usages, critical := extKeyUsage(c)
	var want []x509.ExtKeyUsage
	if p.Role != RoleRoot {
		want = []x509.ExtKeyUsage{p.usage()}
	}
	wantKey := x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if !isCA {
		wantKey = x509.KeyUsageDigitalSignature
	}
	allowed := []string{"2.5.29.14", "2.5.29.15", "2.5.29.19", "2.5.29.35", "2.5.29.37"}
	for _, ext := range c.Extensions {
		if !slices.Contains(allowed, ext.Id.String()) {
			return fmt.Errorf("the certificate has the extension %s, which the plan does not have", ext.Id)
		}
	}
	switch {
	case c.Version != 3:
		return fmt.Errorf("the version is %d, not 3", c.Version)
	case !bytes.Equal(c.SerialNumber.Bytes(), bytes.TrimLeft(serial, "\x00")):
		return errors.New("the serial number differs from the chosen one")
	case !bytes.Equal(c.RawSubject, p.Subject):
		return fmt.Errorf("the subject is %s, not %s", c.Subject, p.Name)
	case !bytes.Equal(c.RawSubjectPublicKeyInfo, spki):
		return errors.New("the certificate has a different public key")
	case !c.NotBefore.Equal(p.NotBefore) || !c.NotAfter.Equal(p.NotAfter):
		return fmt.Errorf("the validity is %s to %s, not that of the plan", c.NotBefore.Format(time.RFC3339),
			c.NotAfter.Format(time.RFC3339))
	case c.KeyUsage != wantKey:
		return errors.New("the key usage is not that of the plan")
	case !slices.Equal(usages, want) || len(c.UnknownExtKeyUsage) > 0 || critical != (p.Role == RoleTimestamping):
		return errors.New("the extended key usage is not that of the plan")
	case c.IsCA != isCA || c.BasicConstraintsValid != isCA:
		return fmt.Errorf("the basic constraints have CA:%t", c.IsCA)
	case isCA && (c.MaxPathLen != p.PathLength || c.MaxPathLenZero != (p.PathLength == 0)):
		return fmt.Errorf("the path length is %d, not %d", c.MaxPathLen, p.PathLength)
	case !bytes.Equal(c.SubjectKeyId, p.SubjectKeyID):
		return errors.New("the subject key identifier is not that of the plan")
	}
	return nil
}

func extKeyUsage(c *x509.Certificate) (usages []x509.ExtKeyUsage, critical bool) {
	for _, ext := range c.Extensions {
		if ext.Id.Equal(oidExtKeyUsage) {
			critical = ext.Critical
		}
	}
	return c.ExtKeyUsage, critical
}

// Validity is the start and the length of a certificate's validity.
type Validity struct {
	// NotBefore is the start of the validity. Zero: now minus [ca.MaxBackdate], so that the first certificate of a
	// client can be backdated.
	NotBefore time.Time
	For       time.Duration
}

// The default validities of the root and of the other certificate: ten and five years.
const (
	DefaultRootValidity    = 87600 * time.Hour
	DefaultIssuingValidity = 43800 * time.Hour
)

// between returns notBefore and notAfter, for a ceremony at the time now.
func (v Validity) between(now time.Time, fallback time.Duration) (from, to time.Time) {
	if from = v.NotBefore; from.IsZero() {
		from = now.UTC().Truncate(time.Second).Add(-backdate)
	}
	return from.UTC(), from.UTC().Add(cmp.Or(v.For, fallback))
}
