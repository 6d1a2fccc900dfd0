package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/tbs"
)

// maxTBS caps a TBSCertificate in bytes: no claim can make a certificate that clients choke on (A15).
const maxTBS = 16 << 10

// form is which of its three shapes a TBSCertificate has.
type form uint8

const (
	poisoned form = iota // precertificate
	listed               // certificate with SCT list
	bare                 // certificate of a CA that logs nowhere
)

// expectation is what a TBSCertificate must say: the request and the profile, from the values, not from the template.
type expectation struct {
	serial    []byte
	notBefore time.Time
	spki      []byte
	keyID     []byte
	identity  identity.Identity
	issuing   *x509.Certificate
	algorithm []byte
}

// placeholder is a signature value that makes a TBSCertificate parseable.
var placeholder = make([]byte, 64)

// lint parses the very bytes that will be signed and compares them with what was asked for (A3, A4, A10). The parser is the
// standard library's and shares no code with the builder.
func (e *expectation) lint(raw []byte, f form) error {
	if len(raw) > maxTBS {
		return fmt.Errorf("TBSCertificate has %d bytes; the limit is %d", len(raw), maxTBS)
	}
	der, err := tbs.Certificate(raw, e.algorithm, placeholder)
	if err != nil {
		return err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if !bytes.Equal(c.RawTBSCertificate, raw) {
		return errors.New("parsed bytes are not the bytes to sign")
	}
	if err := e.fields(c); err != nil {
		return err
	}
	if err := e.extensions(c, f); err != nil {
		return err
	}
	got, err := identity.Parse(c)
	if err != nil {
		return err
	}
	if got.SAN != e.identity.SAN || got.Extensions != e.identity.Extensions {
		return errors.New("identity differs from the request")
	}
	return nil
}

func (e *expectation) fields(c *x509.Certificate) error {
	switch {
	case c.Version != 3:
		return fmt.Errorf("version is %d", c.Version)
	case !bytes.Equal(c.SerialNumber.Bytes(), e.serial) || c.SerialNumber.Sign() <= 0:
		return errors.New("serial number differs")
	case !bytes.Equal(c.RawIssuer, e.issuing.RawSubject):
		return errors.New("issuer is not the issuing certificate's subject")
	case !bytes.Equal(c.RawSubject, []byte{0x30, 0}):
		return errors.New("subject is not empty")
	case !bytes.Equal(c.RawSubjectPublicKeyInfo, e.spki):
		return errors.New("public key differs from the proven one")
	case !c.NotBefore.Equal(e.notBefore) || c.NotAfter.Sub(c.NotBefore) != Validity:
		return errors.New("validity differs from the profile")
	case c.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("key usage is not digitalSignature")
	case len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageCodeSigning || len(c.UnknownExtKeyUsage) != 0:
		return errors.New("extended key usage is not codeSigning")
	case c.BasicConstraintsValid || c.IsCA:
		return errors.New("basic constraints are present")
	case !bytes.Equal(c.SubjectKeyId, e.keyID):
		return errors.New("subject key identifier differs")
	case !bytes.Equal(c.AuthorityKeyId, e.issuing.SubjectKeyId):
		return errors.New("authority key identifier is not the issuing certificate's")
	}
	return nil
}

// The extensions in their order; identity extensions stand after the SAN.
var (
	dottedHead   = []string{"2.5.29.15", "2.5.29.37", "2.5.29.14", "2.5.29.35", "2.5.29.17"}
	dottedPoison = "1.3.6.1.4.1.11129.2.4.3"
	dottedList   = "1.3.6.1.4.1.11129.2.4.2"
)

// extensions checks that the list of extensions is the profile's: order, criticality, nothing twice, nothing else.
func (e *expectation) extensions(c *x509.Certificate, f form) error {
	want := make([]string, 0, 32)
	for _, oid := range dottedHead {
		if oid == "2.5.29.35" && len(e.issuing.SubjectKeyId) == 0 {
			continue
		}
		want = append(want, oid)
	}
	for x := range identity.Known() {
		if e.identity.Extensions.Get(x) != "" {
			want = append(want, x.OID().String())
		}
	}
	own := len(want)
	for _, x := range e.identity.Custom {
		want = append(want, x.OID.String())
	}
	switch f {
	case poisoned:
		want = append(want, dottedPoison)
	case listed:
		want = append(want, dottedList)
	}
	if len(c.Extensions) != len(want) {
		return fmt.Errorf("%d extensions, not %d", len(c.Extensions), len(want))
	}
	for i, ext := range c.Extensions {
		oid := ext.Id.String()
		if oid != want[i] {
			return fmt.Errorf("extension %d is %s, not %s", i, oid, want[i])
		}
		critical := oid == "2.5.29.15" || oid == "2.5.29.17" || oid == dottedPoison
		if ext.Critical != critical {
			return fmt.Errorf("extension %s: critical is %t", oid, ext.Critical)
		}
		if n := i - own; n >= 0 && n < len(e.identity.Custom) && !e.identity.Custom[n].Holds(ext.Value) {
			return fmt.Errorf("extension %s differs from the request", oid)
		}
		if oid == dottedPoison && !bytes.Equal(ext.Value, []byte{5, 0}) {
			return errors.New("poison is not NULL")
		}
	}
	return nil
}
