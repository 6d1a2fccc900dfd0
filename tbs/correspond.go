package tbs

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// split is a Certificate, split into the parts that [Correspond] compares.
type split struct {
	fields     []byte   // TBSCertificate content before the extensions
	issuer     [2]int   // where the issuer's name begins and ends in fields
	extensions [][]byte // each DER Extension element
	algorithm  []byte
}

// Issuer is what a certificate says about the key that signed it.
type Issuer struct {
	// Name is the DER Name of the issuer.
	Name []byte
	// AuthorityKey is the value of the authority key identifier extension (RFC 5280 §4.2.1.1), in DER. Empty: the
	// certificate does not have the extension.
	AuthorityKey []byte
}

// AuthorityKey returns the value of an authority key identifier extension that has only the key identifier (RFC 5280
// §4.2.1.1), in DER.
func AuthorityKey(keyID []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(keyID) })
	})
	return b.Bytes()
}

// Correspond proves that final is precert with one SCT list of exactly scts instead of the poison: all other bytes of
// the TBSCertificate are the same and in the same order (RFC 6962 §3.1). Both are DER Certificates.
func Correspond(precert, final []byte, scts [][]byte) error {
	return correspond(pair{precert: precert, final: final}, scts)
}

// Through are the issuers of a precertificate that a precertificate signing certificate signed, and of its certificate.
type Through struct {
	// Signer is the precertificate signing certificate, as the precertificate names it.
	Signer Issuer
	// Issuer is the issuing certificate, as the certificate names it.
	Issuer Issuer
}

// Correspond is [Correspond] for a precertificate with the issuer t.Signer and a certificate with the issuer t.Issuer;
// all other bytes are the same (RFC 6962 §3.2).
func (t Through) Correspond(precert, final []byte, scts [][]byte) error {
	return correspond(pair{precert, final, &t}, scts)
}

// pair is a precertificate and a certificate. through are the issuers that they must have; nil: they have the same one.
type pair struct {
	precert, final []byte
	through        *Through
}

func correspond(c pair, scts [][]byte) error {
	precert, final := c.precert, c.final
	p, err := splitCertificate(precert)
	if err != nil {
		return fmt.Errorf("precertificate: %w", err)
	}
	f, err := splitCertificate(final)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if c.through != nil {
		if err := p.issuedBy(c.through.Signer); err != nil {
			return fmt.Errorf("precertificate: %w", err)
		}
		if err := f.issuedBy(c.through.Issuer); err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
	}
	if !sameFields(p, f, c.through != nil) {
		return errors.New("fields differ from the precertificate")
	}
	if !bytes.Equal(p.algorithm, f.algorithm) {
		return errors.New("signature algorithm differs from the precertificate")
	}
	n := len(p.extensions)
	if n == 0 || !bytes.Equal(p.extensions[n-1], extPoison) {
		return errors.New("precertificate does not end in the poison")
	}
	if len(f.extensions) != n {
		return fmt.Errorf("certificate has %d extensions; the precertificate has %d", len(f.extensions), n)
	}
	for i := range n - 1 {
		same := bytes.Equal(p.extensions[i], f.extensions[i])
		if c.through != nil && isOID(p.extensions[i], oidAuthorityKey) {
			same = isOID(f.extensions[i], oidAuthorityKey) // issuedBy has compared the whole of both
		}
		if !same {
			return fmt.Errorf("extension %d differs from the precertificate", i)
		}
		if isOID(p.extensions[i], oidPoison) || isOID(p.extensions[i], oidSCTList) {
			return fmt.Errorf("extension %d is a second poison or SCT list", i)
		}
	}
	return checkList(f.extensions[n-1], scts)
}

// sameFields compares the fields before the extensions, with or without the issuer's name.
func sameFields(a, b split, otherIssuer bool) bool {
	if !otherIssuer {
		return bytes.Equal(a.fields, b.fields)
	}
	return bytes.Equal(a.fields[:a.issuer[0]], b.fields[:b.issuer[0]]) &&
		bytes.Equal(a.fields[a.issuer[1]:], b.fields[b.issuer[1]:])
}

// issuedBy returns an error unless s names exactly the issuer.
func (s *split) issuedBy(issuer Issuer) error {
	if !bytes.Equal(s.fields[s.issuer[0]:s.issuer[1]], issuer.Name) {
		return errors.New("the issuer's name differs")
	}
	want := authorityKey(issuer.AuthorityKey)
	n := 0
	for _, ext := range s.extensions {
		if !isOID(ext, oidAuthorityKey) {
			continue
		}
		if n++; !bytes.Equal(ext, want) {
			return errors.New("the authority key identifier differs")
		}
	}
	if n > 1 || n == 0 && len(want) > 0 {
		return fmt.Errorf("it has %d authority key identifiers", n)
	}
	return nil
}

// authorityKey returns the DER Extension with a value; nil for an empty value.
func authorityKey(value []byte) []byte {
	if len(value) == 0 {
		return nil
	}
	octets := append(header(asn1.OCTET_STRING, len(value)), value...)
	content := append(bytes.Clone(oidAuthorityKey), octets...)
	return append(header(asn1.SEQUENCE, len(content)), content...)
}

// checkList returns an error unless ext is a non-critical SCT list extension with exactly scts.
func checkList(ext []byte, scts [][]byte) error {
	in := cryptobyte.String(ext)
	var seq, value cryptobyte.String
	var oid []byte
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadBytes(&oid, len(oidSCTList)) || !bytes.Equal(oid, oidSCTList) ||
		!seq.ReadASN1(&value, asn1.OCTET_STRING) || !seq.Empty() {
		return errors.New("certificate does not end in an SCT list")
	}
	got, err := ParseSCTList(value)
	if err != nil {
		return err
	}
	if len(got) != len(scts) {
		return fmt.Errorf("certificate has %d SCTs, not %d", len(got), len(scts))
	}
	for i := range got {
		if !bytes.Equal(got[i], scts[i]) {
			return fmt.Errorf("SCT %d is not the one that the log returned", i)
		}
	}
	return nil
}

func isOID(ext, oid []byte) bool {
	in := cryptobyte.String(ext)
	var seq cryptobyte.String
	return in.ReadASN1(&seq, asn1.SEQUENCE) && bytes.HasPrefix(seq, oid)
}

func splitCertificate(der []byte) (split, error) {
	p, err := Split(der)
	if err != nil {
		return split{}, err
	}
	s := split{algorithm: p.Algorithm}
	whole := cryptobyte.String(p.TBS)
	var tbs cryptobyte.String
	if !whole.ReadASN1(&tbs, asn1.SEQUENCE) {
		return s, errors.New("not a DER TBSCertificate")
	}
	return s, s.readTBS(tbs)
}

// Parts are the three parts of a Certificate (RFC 5280 §4.1).
type Parts struct {
	TBS       []byte // DER TBSCertificate
	Algorithm []byte // DER AlgorithmIdentifier
	Signature []byte // the bits of signatureValue
}

// Split returns the parts of a DER Certificate, which share its memory. Bytes before, between or after the parts are an
// error, and so is a signature that is not a whole number of bytes.
func Split(certificate []byte) (Parts, error) {
	in := cryptobyte.String(certificate)
	var cert, tbs, alg cryptobyte.String
	var p Parts
	if !in.ReadASN1(&cert, asn1.SEQUENCE) || !in.Empty() || !cert.ReadASN1Element(&tbs, asn1.SEQUENCE) ||
		!cert.ReadASN1Element(&alg, asn1.SEQUENCE) || !cert.ReadASN1BitStringAsBytes(&p.Signature) || !cert.Empty() {
		return Parts{}, errors.New("not a DER Certificate")
	}
	p.TBS, p.Algorithm = tbs, alg
	return p, nil
}

// issuerField is the place of the issuer among the fields of a TBSCertificate of version 3, from 0 (RFC 5280 §4.1).
const issuerField = 3

func (s *split) readTBS(tbs cryptobyte.String) error {
	whole := tbs
	for i := 0; !tbs.Empty() && !tbs.PeekASN1Tag(tagExtensions); i++ {
		var element cryptobyte.String
		var tag asn1.Tag
		begin := len(whole) - len(tbs)
		if !tbs.ReadAnyASN1Element(&element, &tag) {
			return errors.New("not a DER TBSCertificate")
		}
		if i == issuerField {
			s.issuer = [2]int{begin, begin + len(element)}
		}
	}
	s.fields = whole[:len(whole)-len(tbs)]
	var wrapped, list cryptobyte.String
	if !tbs.ReadASN1(&wrapped, tagExtensions) || !tbs.Empty() || !wrapped.ReadASN1(&list, asn1.SEQUENCE) ||
		!wrapped.Empty() {
		return errors.New("TBSCertificate does not end in extensions")
	}
	s.extensions = make([][]byte, 0, 16)
	for !list.Empty() {
		var ext cryptobyte.String
		if !list.ReadASN1Element(&ext, asn1.SEQUENCE) {
			return errors.New("malformed extension")
		}
		s.extensions = append(s.extensions, ext)
	}
	return nil
}

// WithoutSCTList returns the TBSCertificate of a DER Certificate without poison and SCT list: the bytes that a log
// signs in an SCT. scts are the embedded SCTs in TLS encoding; a certificate without a list has none.
func WithoutSCTList(certificate []byte) (tbs []byte, scts [][]byte, err error) {
	s, err := splitCertificate(certificate)
	if err != nil {
		return nil, nil, err
	}
	t := TBS{fields: s.fields}
	for _, ext := range s.extensions {
		switch {
		case isOID(ext, oidPoison):
		case isOID(ext, oidSCTList):
			if scts != nil {
				return nil, nil, errors.New("certificate has two SCT lists")
			}
			if scts, err = listOf(ext); err != nil {
				return nil, nil, err
			}
		default:
			t.extensions = append(t.extensions, ext...)
		}
	}
	return t.WithoutSCTList(), scts, nil
}

// ForIssuer returns the TBSCertificate that a log signs for a precertificate that a precertificate signing certificate
// signed: without the poison, with the name of the issuer of the certificate, and with its authority key identifier, at
// the place of the precertificate's (RFC 6962 §3.2). precert is a DER Certificate.
func ForIssuer(precert []byte, issuer Issuer) ([]byte, error) {
	s, err := splitCertificate(precert)
	if err != nil {
		return nil, err
	}
	if s.issuer[1] == 0 {
		return nil, errors.New("not a TBSCertificate of version 3")
	}
	t := TBS{fields: bytes.Join([][]byte{s.fields[:s.issuer[0]], issuer.Name, s.fields[s.issuer[1]:]}, nil)}
	for _, ext := range s.extensions {
		switch {
		case isOID(ext, oidPoison):
		case isOID(ext, oidAuthorityKey):
			t.extensions = append(t.extensions, authorityKey(issuer.AuthorityKey)...)
		default:
			t.extensions = append(t.extensions, ext...)
		}
	}
	return t.WithoutSCTList(), nil
}

func listOf(ext []byte) ([][]byte, error) {
	in := cryptobyte.String(ext)
	var seq, value cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.Skip(len(oidSCTList)) || !seq.SkipOptionalASN1(asn1.BOOLEAN) ||
		!seq.ReadASN1(&value, asn1.OCTET_STRING) || !seq.Empty() {
		return nil, errors.New("malformed SCT list extension")
	}
	return ParseSCTList(value)
}
