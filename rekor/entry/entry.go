// Package entry reads the entries of a log of signatures: what was signed, and with which certificate or key.
//
// An entry is canonical JSON (RFC 8785): of the message Entry in Rekor's entry.proto, or of a hashedrekord or dsse
// entry of Rekor v1. The package verifies no signature: a log MUST have done that before it accepted the entry.
package entry

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json/jsontext"
	"errors"
	"fmt"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"google.golang.org/protobuf/encoding/protojson"
)

// The kinds of entries, and their version.
const (
	HashedRekord = "hashedrekord" // the signature of a digest
	DSSE         = "dsse"         // the signatures of an envelope, with the digest of its payload
	Version      = "0.0.2"
)

// The largest entry, in bytes, and the largest number of signatures in it.
const (
	MaxSize       = 1<<16 - 1 // the length of an entry in a bundle has 16 bits (c2sp.org/tlog-tiles, "Log Entries")
	maxSignatures = 64
)

// Digest is a digest and its algorithm.
type Digest struct {
	Algorithm string // "sha256", "sha384" or "sha512"
	Sum       []byte
}

// String returns ALGORITHM:HEX.
func (d Digest) String() string { return d.Algorithm + ":" + hex.EncodeToString(d.Sum) }

// Signature is a signature in an entry. Exactly one of Certificate and Key is set.
type Signature struct {
	Value       []byte
	Certificate *x509.Certificate
	Key         []byte // SubjectPublicKeyInfo in DER
}

// Entry is an entry of a log of signatures.
type Entry struct {
	Kind string // [HashedRekord] or [DSSE]
	// Digest is that of the signed bytes of a hashedrekord entry, and of the payload of a dsse entry.
	Digest     Digest
	Signatures []Signature
}

// Parse parses the body of an entry. A body that is not in canonical form is an error: a log has one form of an entry.
func Parse(body []byte) (*Entry, error) {
	if len(body) > MaxSize {
		return nil, fmt.Errorf("the entry has %d bytes, more than %d", len(body), MaxSize)
	}
	var out *Entry
	var err error
	if version, kind := versionOf(body); version == VersionV1 {
		out, err = parseV1(body, kind)
	} else {
		out, err = parseV2(body)
	}
	if err == nil {
		err = out.check()
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// check returns an error if the number of signatures is wrong, or one of them is not complete.
func (e *Entry) check() error {
	if n := len(e.Signatures); n == 0 || n > maxSignatures {
		return fmt.Errorf("the entry has %d signatures, not 1 to %d", n, maxSignatures)
	}
	for _, s := range e.Signatures {
		switch {
		case len(s.Value) == 0:
			return errors.New("an empty signature")
		case s.Certificate == nil && len(s.Key) == 0:
			return errors.New("a signature without a certificate or key")
		}
	}
	return nil
}

// parseV2 parses an entry of Rekor v2.
func parseV2(body []byte) (*Entry, error) {
	var m rekorpb.Entry
	if err := protojson.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("the entry is not one of Rekor v2: %w", err)
	}
	canonical, err := Canonical(&m)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(canonical, body) {
		return nil, errors.New("the entry is not in canonical form (RFC 8785)")
	}
	if m.GetApiVersion() != Version {
		return nil, fmt.Errorf("unknown version %q of an entry", m.GetApiVersion())
	}
	out := &Entry{Kind: m.GetKind()}
	var hash *common.HashOutput
	var signatures []*rekorpb.Signature
	switch spec := m.GetSpec(); {
	case out.Kind == HashedRekord && spec.GetHashedRekordV002() != nil:
		hash = spec.GetHashedRekordV002().GetData()
		signatures = []*rekorpb.Signature{spec.GetHashedRekordV002().GetSignature()}
	case out.Kind == DSSE && spec.GetDsseV002() != nil: //nolint:staticcheck // released clients send such entries
		hash = spec.GetDsseV002().GetPayloadHash()      //nolint:staticcheck // likewise
		signatures = spec.GetDsseV002().GetSignatures() //nolint:staticcheck // likewise
	default:
		return nil, fmt.Errorf("unknown kind %q of an entry, or content of another kind", out.Kind)
	}
	algorithm, known := map[common.HashAlgorithm]string{
		common.HashAlgorithm_SHA2_256: "sha256", common.HashAlgorithm_SHA2_384: "sha384",
		common.HashAlgorithm_SHA2_512: "sha512",
	}[hash.GetAlgorithm()]
	if !known {
		algorithm = hash.GetAlgorithm().String()
	}
	if out.Digest, err = newDigest(algorithm, hash.GetDigest()); err != nil {
		return nil, err
	}
	for _, s := range signatures {
		one := Signature{Value: s.GetContent(), Key: s.GetVerifier().GetPublicKey().GetRawBytes()}
		if der := s.GetVerifier().GetX509Certificate().GetRawBytes(); len(der) > 0 {
			if one.Certificate, err = parseCertificate(der); err != nil {
				return nil, err
			}
		}
		out.Signatures = append(out.Signatures, one)
	}
	return out, nil
}

func parseCertificate(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the certificate of the entry: %w", err)
	}
	return c, nil
}

// Canonical returns the body of an entry.
func Canonical(m *rekorpb.Entry) ([]byte, error) {
	data, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("the entry has no JSON form: %w", err)
	}
	body := jsontext.Value(data)
	if err := body.Canonicalize(); err != nil {
		return nil, fmt.Errorf("the entry has no canonical form (RFC 8785): %w", err)
	}
	return body, nil
}

func newDigest(algorithm string, sum []byte) (Digest, error) {
	size, known := map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}[algorithm]
	if !known {
		return Digest{}, fmt.Errorf("unknown algorithm %q of a digest", algorithm)
	}
	if len(sum) != size {
		return Digest{}, fmt.Errorf("a digest of %s with %d bytes", algorithm, len(sum))
	}
	return Digest{algorithm, sum}, nil
}
