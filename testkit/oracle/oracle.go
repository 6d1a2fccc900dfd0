// Package oracle verifies certificates without the product's code: with the standard library and
// certificate-transparency-go, as the profile in docs/compatibility.md describes.
package oracle

import (
	"bytes"
	"crypto"
	"crypto/sha1" //nolint:gosec // the subject key identifier is one
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	cttypes "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/ctutil"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
)

// Expect describes the expected certificate.
type Expect struct {
	Chain      []*x509.Certificate // issuing certificate first, root last
	SPKI       []byte
	Email, URI string            // the only SAN
	OtherName  string            // the only SAN, as an otherName of the type 1.3.6.1.4.1.57264.1.7
	Extensions map[string]string // all extensions 1.3.6.1.4.1.57264.1.N, by N
	Custom     map[string]string // the operator's own UTF8String extensions, by OID, after the others
	Logs       []crypto.PublicKey
	Now        time.Time // the time of verification; zero is time.Now()
}

// Check fails the test if the certificate differs from e.
func Check(t testing.TB, e Expect, der []byte) {
	t.Helper()
	if err := e.Verify(der); err != nil {
		t.Errorf("oracle: %v", err)
	}
}

// Verify returns an error if the certificate differs from e.
func (e Expect) Verify(der []byte) error {
	if e.Now.IsZero() {
		e.Now = time.Now()
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	return errors.Join(e.fields(c), e.extensions(c), e.chain(c), e.timestamps(der))
}

func (e Expect) fields(c *x509.Certificate) error {
	var errs []error
	must := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New(what))
		}
	}
	issuer := e.Chain[0]
	must(c.Version == 3, "version")
	must(c.SerialNumber.Sign() > 0 && len(c.SerialNumber.Bytes()) <= 20 &&
		c.SerialNumber.BitLen() >= 64, "serial number")
	must(bytes.Equal(c.RawIssuer, issuer.RawSubject), "issuer")
	must(bytes.Equal(c.RawSubject, []byte{0x30, 0}), "subject is not empty")
	must(bytes.Equal(c.RawSubjectPublicKeyInfo, e.SPKI), "public key")
	must(c.NotAfter.Sub(c.NotBefore) == 10*time.Minute, "validity is not ten minutes")
	must(!c.NotBefore.After(e.Now) && e.Now.Sub(c.NotBefore) <= time.Minute, "notBefore")
	must(!c.NotAfter.After(issuer.NotAfter), "outlives its issuer")
	must(c.KeyUsage == x509.KeyUsageDigitalSignature, "key usage")
	must(slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}) && len(c.UnknownExtKeyUsage) == 0,
		"extended key usage")
	must(!c.BasicConstraintsValid, "basic constraints")
	must(bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId), "authority key identifier")
	var spki struct {
		Algorithm asn1.RawValue
		Bits      asn1.BitString
	}
	_, err := asn1.Unmarshal(e.SPKI, &spki)
	sum := sha1.Sum(spki.Bits.Bytes) //nolint:gosec // as above
	must(err == nil && bytes.Equal(c.SubjectKeyId, sum[:]), "subject key identifier")
	var uris []string
	for _, u := range c.URIs {
		uris = append(uris, u.String())
	}
	var wantEmail, wantURI []string
	if e.Email != "" {
		wantEmail = []string{e.Email}
	}
	if e.URI != "" {
		wantURI = []string{e.URI}
	}
	if e.OtherName != "" {
		must(otherName(c) == e.OtherName, "otherName")
		c.UnhandledCriticalExtensions = nil // the SAN, which was checked above
	}
	must(slices.Equal(c.EmailAddresses, wantEmail) && slices.Equal(uris, wantURI) &&
		len(c.DNSNames)+len(c.IPAddresses) == 0, "subject alternative name")
	return errors.Join(errs...)
}

// extensions checks that the certificate has the profile's extensions only, in its order and with its criticality.
func (e Expect) extensions(c *x509.Certificate) error {
	head := []string{"2.5.29.15", "2.5.29.37", "2.5.29.14", "2.5.29.35", "2.5.29.17"}
	critical := []string{"2.5.29.15", "2.5.29.17"}
	seen, own := map[string]string{}, map[string]string{}
	lastArc := 0
	for i, x := range c.Extensions {
		oid := x.Id.String()
		if x.Critical != slices.Contains(critical, oid) {
			return fmt.Errorf("extension %s: critical is %t", oid, x.Critical)
		}
		var arc int
		switch {
		case i < len(head):
			if oid != head[i] {
				return fmt.Errorf("extension %d is %s, not %s", i, oid, head[i])
			}
			continue
		case oid == "1.3.6.1.4.1.11129.2.4.2":
			if i != len(c.Extensions)-1 || len(e.Logs) == 0 {
				return errors.New("the SCT list is not the last extension, or is not expected")
			}
			continue
		}
		if _, ok := e.Custom[oid]; ok {
			text, err := utf8String(x.Value)
			if err != nil {
				return fmt.Errorf("extension %s: %w", oid, err)
			}
			lastArc, own[oid] = 1<<16, text
			continue
		}
		if n, err := fmt.Sscanf(oid, "1.3.6.1.4.1.57264.1.%d", &arc); n != 1 || err != nil || arc <= lastArc {
			return fmt.Errorf("extension %s does not belong there", oid)
		}
		lastArc = arc
		value := string(x.Value)
		if arc > 6 {
			var err error
			if value, err = utf8String(x.Value); err != nil {
				return fmt.Errorf("extension %s: %w", oid, err)
			}
		}
		seen[fmt.Sprint(arc)] = value
	}
	for arc, want := range e.Extensions {
		if seen[arc] != want {
			return fmt.Errorf("extension .%s is %q, not %q", arc, seen[arc], want)
		}
	}
	for oid, want := range e.Custom {
		if own[oid] != want {
			return fmt.Errorf("extension %s is %q, not %q", oid, own[oid], want)
		}
	}
	if len(seen) != len(e.Extensions) {
		return fmt.Errorf("%d extensions of the identity, not %d: %v", len(seen), len(e.Extensions), seen)
	}
	return nil
}

// otherName parses a SAN that holds one otherName of Sigstore's type with a UTF8String.
func otherName(c *x509.Certificate) string {
	for _, x := range c.Extensions {
		if x.Id.String() != "2.5.29.17" || len(c.UnhandledCriticalExtensions) != 1 {
			continue
		}
		var names []struct {
			Type  asn1.ObjectIdentifier
			Value string `asn1:"tag:0,explicit,utf8"`
		}
		rest, err := asn1.UnmarshalWithParams(bytes.Replace(x.Value, []byte{0xa0}, []byte{0x30}, 1), &names, "")
		if err != nil || len(rest) != 0 || len(names) != 1 || names[0].Type.String() != "1.3.6.1.4.1.57264.1.7" {
			return ""
		}
		return names[0].Value
	}
	return ""
}

func utf8String(der []byte) (string, error) {
	var raw asn1.RawValue
	rest, err := asn1.Unmarshal(der, &raw)
	if err != nil || len(rest) != 0 || raw.Tag != asn1.TagUTF8String || raw.Class != asn1.ClassUniversal {
		return "", errors.New("not a UTF8String")
	}
	return string(raw.Bytes), nil
}

func (e Expect) chain(c *x509.Certificate) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(e.Chain[len(e.Chain)-1])
	for _, i := range e.Chain[:len(e.Chain)-1] {
		intermediates.AddCert(i)
	}
	_, err := c.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: e.Now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	return err
}

// timestamps verifies one embedded SCT per log over the precertificate that certificate-transparency-go reconstructs.
func (e Expect) timestamps(der []byte) error {
	leaf, err := ctx509.ParseCertificate(der)
	if ctx509.IsFatal(err) {
		return err
	}
	issuer, err := ctx509.ParseCertificate(e.Chain[0].Raw)
	if ctx509.IsFatal(err) {
		return err
	}
	scts, err := x509util.ParseSCTsFromSCTList(&leaf.SCTList)
	if err != nil {
		return err
	}
	if len(scts) != len(e.Logs) {
		return fmt.Errorf("%d SCTs, not %d", len(scts), len(e.Logs))
	}
	used := map[[32]byte]bool{}
	for _, sct := range scts {
		if err := e.timestamp(sct, []*ctx509.Certificate{leaf, issuer}); err != nil {
			return err
		}
		if used[sct.LogID.KeyID] {
			return errors.New("two SCTs of one log")
		}
		used[sct.LogID.KeyID] = true
	}
	return nil
}

func (e Expect) timestamp(sct *cttypes.SignedCertificateTimestamp, chain []*ctx509.Certificate) error {
	problem := errors.New("the SCT is of an unknown log")
	for _, key := range e.Logs {
		if problem = ctutil.VerifySCT(key, chain, sct, true); problem == nil {
			at := time.UnixMilli(int64(sct.Timestamp)) //nolint:gosec // far from the end
			if at.Before(e.Now.Add(-2*time.Minute)) || at.After(e.Now.Add(2*time.Minute)) {
				return fmt.Errorf("the SCT is of %s", at)
			}
			return nil
		}
	}
	return problem
}
