package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/tbs"
)

// maxTBS bounds a TBSCertificate, in bytes: no claim can make a certificate too large for clients (A15).
const maxTBS = 16 << 10

// form is one of the three forms of a TBSCertificate.
type form uint8

const (
	formPrecertificate form = iota // precertificate
	formWithSCTs                   // certificate with SCT list
	formWithoutSCTs                // certificate of a CA without logs
)

// expectation is the required content of a TBSCertificate. It is made from the request and the profile, not from the
// template.
type expectation struct {
	serial    []byte
	notBefore time.Time
	spki      []byte
	keyID     []byte
	identity  *identity.Identity
	issuing   *x509.Certificate
	algorithm []byte
}

// placeholder is a signature value, so that a TBSCertificate can be parsed as a certificate.
var placeholder = make([]byte, 64)

// lint parses the bytes that will be signed and compares them with the request (A3, A4, A10). The parser is that of the
// standard library and shares no code with the builder.
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
		return errors.New("the parsed bytes are not the bytes to sign")
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
		return errors.New("public key differs from the one that was proved")
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

// The first extensions of the list, in their order, and the last one of a precertificate and of a certificate with
// SCTs. The identity extensions are between them.
var (
	head = []struct {
		oid      asn1.ObjectIdentifier
		critical bool
	}{
		{asn1.ObjectIdentifier{2, 5, 29, 15}, true},  // key usage
		{asn1.ObjectIdentifier{2, 5, 29, 37}, false}, // extended key usage
		{asn1.ObjectIdentifier{2, 5, 29, 14}, false}, // subject key identifier
		{oidAuthorityKey, false},
		{asn1.ObjectIdentifier{2, 5, 29, 17}, true}, // subject alternative name
	}
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidPoison       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTList      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// extensions checks that the list of extensions is that of the profile: order, criticality, no duplicates, no others.
func (e *expectation) extensions(c *x509.Certificate, f form) error {
	in := extensionReader{left: c.Extensions}
	for _, h := range head {
		if h.oid.Equal(oidAuthorityKey) && len(e.issuing.SubjectKeyId) == 0 {
			continue
		}
		in.take(h.oid.Equal, h.critical)
	}
	for x := range identity.Known() {
		if e.identity.Extensions.Get(x) != "" {
			in.take(x.Is, false)
		}
	}
	for _, x := range e.identity.Custom {
		if value := in.take(x.OID.Equal, false); in.err == nil && !x.HasValue(value) {
			return fmt.Errorf("extension %s differs from the request", x.OID)
		}
	}
	switch f {
	case formPrecertificate:
		if value := in.take(oidPoison.Equal, true); in.err == nil && !bytes.Equal(value, []byte{5, 0}) {
			return errors.New("poison is not NULL")
		}
	case formWithSCTs:
		in.take(oidSCTList.Equal, false)
	case formWithoutSCTs:
	}
	if in.err == nil && len(in.left) > 0 {
		return fmt.Errorf("extension %s at the end, which was not requested", in.left[0].Id)
	}
	return in.err
}

// extensionReader removes extensions from the front of a list. It keeps the first error.
type extensionReader struct {
	left []pkix.Extension
	err  error
}

// take returns the value of the next extension, for whose OID the function is must return true.
func (r *extensionReader) take(is func(asn1.ObjectIdentifier) bool, critical bool) []byte {
	if r.err != nil {
		return nil
	}
	if len(r.left) == 0 {
		r.err = errors.New("an extension is missing at the end")
		return nil
	}
	ext := r.left[0]
	r.left = r.left[1:]
	switch {
	case !is(ext.Id):
		r.err = fmt.Errorf("extension %s is not in the expected position", ext.Id)
	case ext.Critical != critical:
		r.err = fmt.Errorf("extension %s: critical is %t", ext.Id, ext.Critical)
	}
	return ext.Value
}
