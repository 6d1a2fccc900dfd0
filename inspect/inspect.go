// Package inspect describes certificates: their identity, extensions by name, embedded SCTs and remaining validity, as
// values for encoding/json and as text for a terminal.
//
// It verifies nothing. A caller that shows a certificate as trusted MUST verify that certificate first.
package inspect

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/trust"
)

// ToBeIssued is the Kind of a certificate that the CA would issue and that has no signature yet.
const ToBeIssued = "certificate to be issued"

// Certificate is the description of a certificate. A CA certificate has no identity.
type Certificate struct {
	// Kind is "certificate", "precertificate", "issuing certificate", "root certificate" or [ToBeIssued].
	Kind               string    `json:"kind"`
	Identity           *Identity `json:"identity,omitempty"`
	Subject            string    `json:"subject,omitempty"`
	IssuedBy           string    `json:"issued_by"`
	Serial             string    `json:"serial"`
	NotBefore          time.Time `json:"not_before"`
	NotAfter           time.Time `json:"not_after"`
	Lifetime           string    `json:"lifetime"`
	TimeLeft           string    `json:"time_left"`
	Expired            bool      `json:"expired"`
	PublicKey          string    `json:"public_key"`
	SignatureAlgorithm string    `json:"signature_algorithm"`
	KeyUsage           []string  `json:"key_usage,omitempty"`
	ExtendedKeyUsage   []string  `json:"extended_key_usage,omitempty"`
	// PathLength of a CA certificate, if it has one.
	PathLength     *int        `json:"path_length,omitempty"`
	SubjectKeyID   string      `json:"subject_key_id,omitempty"`
	AuthorityKeyID string      `json:"authority_key_id,omitempty"`
	Extensions     []Value     `json:"extensions,omitempty"`
	Other          []Value     `json:"other_extensions,omitempty"`
	SCTs           []Timestamp `json:"scts,omitempty"`
	Fingerprint    string      `json:"sha256"`
	// PublicKeySHA256 is the SHA-256 of the SubjectPublicKeyInfo.
	PublicKeySHA256 string `json:"public_key_sha256"`
}

// Identity is the identity that a certificate names.
type Identity struct {
	Kind    string `json:"kind"`
	Value   string `json:"value"`
	Issuer  string `json:"issuer"`
	Subject string `json:"subject,omitempty"`
}

// Value is the value of an extension.
type Value struct {
	Name  string `json:"name"`
	OID   string `json:"oid"`
	Value string `json:"value"`
}

// Timestamp is an embedded SCT.
type Timestamp struct {
	Log       string    `json:"log,omitempty"`
	LogID     string    `json:"log_id"`
	Timestamp time.Time `json:"timestamp"`
	LeafIndex *uint64   `json:"leaf_index,omitempty"` // static-ct logs only
}

// Describe describes c at the time now. logs has the names of logs by log ID; a log without a name is described by its
// ID alone.
func Describe(c *x509.Certificate, now time.Time, logs map[[32]byte]string) (Certificate, error) {
	sum := sha256.Sum256(c.Raw)
	v := Certificate{
		Kind: "certificate", Subject: c.Subject.String(), IssuedBy: c.Issuer.String(),
		Serial:    hex.EncodeToString(c.SerialNumber.Bytes()),
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Lifetime: c.NotAfter.Sub(c.NotBefore).String(),
		TimeLeft: timeLeft(c, now), Expired: now.After(c.NotAfter), PublicKey: KeyName(c.PublicKey),
		SignatureAlgorithm: c.SignatureAlgorithm.String(), KeyUsage: keyUsages(c.KeyUsage),
		ExtendedKeyUsage: extendedKeyUsages(c),
		SubjectKeyID:     hex.EncodeToString(c.SubjectKeyId), AuthorityKeyID: hex.EncodeToString(c.AuthorityKeyId),
		Fingerprint: hex.EncodeToString(sum[:]),
	}
	spki := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	v.PublicKeySHA256 = hex.EncodeToString(spki[:])
	if c.IsCA {
		if c.MaxPathLen > 0 || c.MaxPathLenZero {
			v.PathLength = &c.MaxPathLen
		}
		v.Kind = "issuing certificate"
		if c.CheckSignatureFrom(c) == nil {
			v.Kind = "root certificate"
		}
		return v, nil
	}
	if id, err := identity.Parse(c); err == nil {
		v.Identity = &Identity{id.SAN.Kind.String(), id.SAN.Value, id.Issuer, id.Subject}
		for x := range identity.Known() {
			if value := id.Extensions.Get(x); value != "" {
				v.Extensions = append(v.Extensions, Value{x.String(), x.OID().String(), value})
			}
		}
	}
	v.Other = otherExtensions(c)
	for _, o := range v.Other {
		if o.OID == oidPoison {
			v.Kind = "precertificate"
		}
	}
	_, scts, err := tbs.WithoutSCTList(c.Raw)
	if err != nil {
		return v, err
	}
	for _, raw := range scts {
		t, err := describeTimestamp(raw, logs)
		if err != nil {
			return v, err
		}
		v.SCTs = append(v.SCTs, t)
	}
	return v, nil
}

func describeTimestamp(raw []byte, logs map[[32]byte]string) (Timestamp, error) {
	s, err := tbs.ParseSCT(raw)
	if err != nil {
		return Timestamp{}, err
	}
	t := Timestamp{Log: logs[s.LogID], LogID: hex.EncodeToString(s.LogID[:]), Timestamp: s.Time()}
	if index, ok := monitor.ParseLeafIndex(s.Extensions); ok {
		t.LeafIndex = &index
	}
	return t, nil
}

const (
	oidPoison  = "1.3.6.1.4.1.11129.2.4.3"
	oidSCTList = "1.3.6.1.4.1.11129.2.4.2"
)

// otherExtensions lists the extensions that no other member describes.
func otherExtensions(c *x509.Certificate) []Value {
	shown := map[string]bool{
		"2.5.29.15": true, "2.5.29.37": true, "2.5.29.14": true, "2.5.29.35": true,
		"2.5.29.17": true, oidSCTList: true,
	}
	names := map[string]string{oidPoison: "precertificate-poison", "2.5.29.19": "basic-constraints"}
	var out []Value
	for _, e := range c.Extensions {
		oid := e.Id.String()
		if x := strings.TrimPrefix(oid, "1.3.6.1.4.1.57264.1."); shown[oid] || (x != oid && isKnownArc(oid)) {
			continue
		}
		name := names[oid]
		if name == "" {
			name = oid
		}
		out = append(out, Value{name, oid, hex.EncodeToString(e.Value)})
	}
	return out
}

func isKnownArc(oid string) bool {
	for x := range identity.Known() {
		if x.OID().String() == oid {
			return true
		}
	}
	return false
}

// ParseCertificates parses PEM certificates, or one certificate in DER.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	if c, err := x509.ParseCertificate(data); err == nil {
		return []*x509.Certificate{c}, nil
	}
	certs, err := pemfile.Certificates(data)
	if err != nil && !bytes.Contains(data, []byte("-----BEGIN ")) {
		return nil, errors.New("the file contains no certificate in PEM or DER")
	}
	return certs, err
}

// LogNames returns the URLs of the logs of a trusted root (trusted_root.json), by log ID.
func LogNames(data []byte) (map[[32]byte]string, error) {
	m, err := trust.ParseTrustedRoot(data)
	if err != nil {
		return nil, err
	}
	names := make(map[[32]byte]string)
	for _, l := range m.Logs {
		spki, err := x509.MarshalPKIXPublicKey(l.Key)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.URL, err)
		}
		names[sha256.Sum256(spki)] = l.URL
	}
	return names, nil
}
