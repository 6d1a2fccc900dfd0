// Package trust writes and reads what clients need to know of a CA: the trusted root (who is believed) and the signing
// configuration (who is asked), in the JSON of Sigstore's protobuf-specs.
//
// A trusted root MUST carry only material that the operator chose; nothing is ever fetched here.
package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Media types of the two documents.
const (
	rootMediaType    = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
	signingMediaType = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
	maxRoot          = 4 << 20
)

// Authority is a CA with one chain: issuing certificate first, root last. A zero To has no end.
type Authority struct {
	URL      string
	Chain    []*x509.Certificate
	From, To time.Time
}

// Log is a Certificate Transparency log. A zero To has no end. The log ID is the SHA-256 of the key (RFC 6962 §3.2).
type Log struct {
	URL, Origin, Operator string
	Key                   crypto.PublicKey
	From, To              time.Time
}

// Material is whom a verifier believes.
type Material struct {
	Authorities []Authority
	Logs        []Log
}

// TrustedRoot writes trusted_root.json, indented.
func (m Material) TrustedRoot() ([]byte, error) {
	if len(m.Authorities) == 0 {
		return nil, errors.New("a trusted root needs at least one authority")
	}
	out := &trustroot.TrustedRoot{MediaType: rootMediaType}
	for _, a := range m.Authorities {
		if len(a.Chain) == 0 {
			return nil, errors.New("an authority needs a chain")
		}
		ca := &trustroot.CertificateAuthority{Uri: a.URL, CertChain: &common.X509CertificateChain{}, ValidFor: timeRange(a.From, a.To)}
		subject := a.Chain[len(a.Chain)-1].Subject
		ca.Subject = &common.DistinguishedName{CommonName: subject.CommonName}
		if len(subject.Organization) > 0 {
			ca.Subject.Organization = subject.Organization[0]
		}
		for _, c := range a.Chain {
			ca.CertChain.Certificates = append(ca.CertChain.Certificates, &common.X509Certificate{RawBytes: c.Raw})
		}
		out.CertificateAuthorities = append(out.CertificateAuthorities, ca)
	}
	for _, l := range m.Logs {
		spki, err := x509.MarshalPKIXPublicKey(l.Key)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.URL, err)
		}
		details, err := keyDetails(l.Key)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.URL, err)
		}
		id := sha256.Sum256(spki)
		out.Ctlogs = append(out.Ctlogs, &trustroot.TransparencyLogInstance{
			BaseUrl: l.URL, HashAlgorithm: common.HashAlgorithm_SHA2_256, Operator: l.Operator,
			PublicKey: &common.PublicKey{RawBytes: spki, KeyDetails: details, ValidFor: timeRange(l.From, l.To)},
			LogId:     &common.LogId{KeyId: id[:]},
		})
	}
	return marshal(out)
}

// marshal gives the same bytes for the same message: protojson alone varies its white space.
func marshal(m proto.Message) ([]byte, error) {
	data, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func timeRange(from, to time.Time) *common.TimeRange {
	r := &common.TimeRange{Start: timestamppb.New(from.UTC())}
	if !to.IsZero() {
		r.End = timestamppb.New(to.UTC())
	}
	return r
}

func keyDetails(key crypto.PublicKey) (common.PublicKeyDetails, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, nil
		case elliptic.P384():
			return common.PublicKeyDetails_PKIX_ECDSA_P384_SHA_256, nil //nolint:staticcheck // logs sign over SHA-256 (RFC 6962 §2.1.4)
		}
	case *rsa.PublicKey:
		switch k.N.BitLen() {
		case 2048:
			return common.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256, nil
		case 3072:
			return common.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256, nil
		case 4096:
			return common.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256, nil
		}
	}
	return 0, fmt.Errorf("a trusted root has no name for a log key of type %T", key)
}

// ParseTrustedRoot reads trusted_root.json: its certificate authorities and Certificate Transparency logs.
func ParseTrustedRoot(data []byte) (Material, error) {
	var m Material
	if len(data) > maxRoot {
		return m, fmt.Errorf("a trusted root of %d bytes; the limit is %d", len(data), maxRoot)
	}
	in := &trustroot.TrustedRoot{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, in); err != nil {
		return m, errors.New("not a trusted root: the JSON does not have its shape")
	}
	if in.GetMediaType() == "" {
		return m, errors.New("not a trusted root: it has no mediaType")
	}
	for i, ca := range in.GetCertificateAuthorities() {
		a := Authority{URL: ca.GetUri()}
		a.From, a.To = times(ca.GetValidFor())
		for _, raw := range ca.GetCertChain().GetCertificates() {
			c, err := x509.ParseCertificate(raw.GetRawBytes())
			if err != nil {
				return m, fmt.Errorf("certificateAuthorities[%d]: %w", i, err)
			}
			a.Chain = append(a.Chain, c)
		}
		if len(a.Chain) == 0 {
			return m, fmt.Errorf("certificateAuthorities[%d] has no certificate", i)
		}
		m.Authorities = append(m.Authorities, a)
	}
	for i, l := range in.GetCtlogs() {
		key, err := x509.ParsePKIXPublicKey(l.GetPublicKey().GetRawBytes())
		if err != nil {
			return m, fmt.Errorf("ctlogs[%d]: %w", i, err)
		}
		log := Log{URL: l.GetBaseUrl(), Operator: l.GetOperator(), Key: key}
		log.From, log.To = times(l.GetPublicKey().GetValidFor())
		m.Logs = append(m.Logs, log)
	}
	if len(m.Authorities) == 0 {
		return m, errors.New("the trusted root names no certificate authority")
	}
	return m, nil
}

func times(r *common.TimeRange) (from, to time.Time) {
	if r.GetStart() != nil {
		from = r.GetStart().AsTime()
	}
	if r.GetEnd() != nil {
		to = r.GetEnd().AsTime()
	}
	return from, to
}

// Services are whom a signer asks, by URL; "" is none.
type Services struct {
	CA, OIDC, TSA, Rekor string
	Operator             string
	From                 time.Time
}

// SigningConfig writes signing_config.json, version 0.2.
func (s Services) SigningConfig() ([]byte, error) {
	if s.CA == "" {
		return nil, errors.New("a signing configuration needs the URL of the CA")
	}
	if s.Operator == "" {
		return nil, errors.New("a signing configuration needs the name of its operator")
	}
	service := func(url string, version uint32) []*trustroot.Service {
		if url == "" {
			return nil
		}
		return []*trustroot.Service{{Url: url, MajorApiVersion: version, ValidFor: timeRange(s.From, time.Time{}), Operator: s.Operator}}
	}
	out := &trustroot.SigningConfig{
		MediaType: signingMediaType, CaUrls: service(s.CA, 1), OidcUrls: service(s.OIDC, 1), RekorTlogUrls: service(s.Rekor, 2), TsaUrls: service(s.TSA, 1),
		RekorTlogConfig: &trustroot.ServiceConfiguration{Selector: trustroot.ServiceSelector_ANY},
		TsaConfig:       &trustroot.ServiceConfiguration{Selector: trustroot.ServiceSelector_ANY},
	}
	return marshal(out)
}
