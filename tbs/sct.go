package tbs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Precertificate is a precertificate for submission to a log.
type Precertificate struct {
	// DER is the whole precertificate. Chain has the issuing certificate first and the root last, as in add-pre-chain
	// (RFC 6962 §4.2).
	DER   []byte
	Chain [][]byte
	// Entry is the content that the log signs in the SCT.
	Entry Entry
	// NotBefore and NotAfter are the precertificate's validity: logs shard by NotAfter.
	NotBefore, NotAfter time.Time
}

// Entry is a precertificate as a log signs it (RFC 6962 §3.2, PreCert).
type Entry struct {
	IssuerKeyHash [32]byte // SHA-256 of the issuing certificate's SPKI
	TBS           []byte   // TBSCertificate without poison and without SCT list
}

// SCT is a SignedCertificateTimestamp, version 1 (RFC 6962 §3.2).
type SCT struct {
	LogID      [32]byte
	Timestamp  uint64 // milliseconds since the epoch
	Extensions []byte // a static-ct log puts the leaf index here; copied, never parsed
	Hash, Sig  uint8  // TLS HashAlgorithm and SignatureAlgorithm (RFC 5246 §7.4.1.4.1)
	Signature  []byte
}

// TLS code points that RFC 6962 §2.1.4 allows.
const (
	tlsSHA256 = 4
	tlsRSA    = 1
	tlsECDSA  = 3
)

// Time returns the timestamp.
func (s SCT) Time() time.Time { return time.UnixMilli(int64(min(s.Timestamp, 1<<62))).UTC() } //nolint:gosec // bounded

// ParseSCT reads one SCT in TLS encoding. Trailing bytes and other versions are errors.
func ParseSCT(data []byte) (SCT, error) {
	var s SCT
	var version uint8
	var id []byte
	var ext, sig cryptobyte.String
	in := cryptobyte.String(data)
	if !in.ReadUint8(&version) {
		return s, errors.New("SCT is empty")
	}
	if version != 0 {
		return s, fmt.Errorf("SCT has version %d, not v1", version+1)
	}
	if !in.ReadBytes(&id, 32) || !in.ReadUint64(&s.Timestamp) || !in.ReadUint16LengthPrefixed(&ext) ||
		!in.ReadUint8(&s.Hash) || !in.ReadUint8(&s.Sig) || !in.ReadUint16LengthPrefixed(&sig) || !in.Empty() {
		return s, errors.New("SCT is truncated or has trailing bytes")
	}
	s.LogID, s.Extensions, s.Signature = [32]byte(id), ext, sig
	return s, nil
}

// Marshal returns the TLS encoding.
func (s SCT) Marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 64+len(s.Extensions)+len(s.Signature)))
	b.AddUint8(0)
	b.AddBytes(s.LogID[:])
	b.AddUint64(s.Timestamp)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s.Extensions) })
	b.AddUint8(s.Hash)
	b.AddUint8(s.Sig)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s.Signature) })
	return b.Bytes()
}

// SignatureInput returns the digitally-signed struct of an SCT over a precertificate (RFC 6962 §3.2).
func SignatureInput(timestamp uint64, extensions []byte, e Entry) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 64+len(e.TBS)+len(extensions)))
	b.AddUint8(0) // v1
	b.AddUint8(0) // certificate_timestamp
	b.AddUint64(timestamp)
	b.AddUint16(1) // precert_entry
	b.AddBytes(e.IssuerKeyHash[:])
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.TBS) })
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(extensions) })
	return b.Bytes()
}

// Verify checks the signature over e with the log's key: ECDSA or RSA PKCS #1 v1.5, both with SHA-256 (RFC 6962
// §2.1.4). It checks neither the timestamp nor the log ID.
func (s SCT) Verify(key crypto.PublicKey, e Entry) error {
	input, err := SignatureInput(s.Timestamp, s.Extensions, e)
	if err != nil {
		return err
	}
	if s.Hash != tlsSHA256 {
		return fmt.Errorf("SCT is signed with hash algorithm %d, not SHA-256", s.Hash)
	}
	digest := sha256.Sum256(input)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if s.Sig != tlsECDSA {
			return fmt.Errorf("SCT is signed with signature algorithm %d; the log's key is ECDSA", s.Sig)
		}
		if !ecdsa.VerifyASN1(k, digest[:], s.Signature) {
			return errors.New("SCT signature does not verify")
		}
	case *rsa.PublicKey:
		if s.Sig != tlsRSA {
			return fmt.Errorf("SCT is signed with signature algorithm %d; the log's key is RSA", s.Sig)
		}
		if err := rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], s.Signature); err != nil {
			return errors.New("SCT signature does not verify")
		}
	default:
		return fmt.Errorf("log key of type %T: a log signs with ECDSA or RSA", key)
	}
	return nil
}

// MarshalSCTList returns the TLS SignedCertificateTimestampList (RFC 6962 §3.3).
func MarshalSCTList(scts [][]byte) ([]byte, error) {
	if len(scts) == 0 {
		return nil, errors.New("an SCT list needs at least one SCT")
	}
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, s := range scts {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s) })
		}
	})
	return b.Bytes()
}

// ParseSCTList reads the value of the SCT list extension (the OCTET STRING inside extnValue) into SCTs in TLS encoding.
func ParseSCTList(extnValue []byte) ([][]byte, error) {
	in := cryptobyte.String(extnValue)
	var inner, list cryptobyte.String
	if !in.ReadASN1(&inner, asn1.OCTET_STRING) || !in.Empty() ||
		!inner.ReadUint16LengthPrefixed(&list) || !inner.Empty() {
		return nil, errors.New("not an SCT list")
	}
	var out [][]byte
	for !list.Empty() {
		var one cryptobyte.String
		if !list.ReadUint16LengthPrefixed(&one) || one.Empty() {
			return nil, errors.New("SCT list is truncated")
		}
		out = append(out, one)
	}
	if len(out) == 0 {
		return nil, errors.New("SCT list is empty")
	}
	return out, nil
}
