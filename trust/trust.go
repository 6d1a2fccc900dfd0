// Package trust writes and reads the files that clients need to use a CA: the trusted root (for verification) and the
// signing configuration (the URLs of the services), in the JSON form of Sigstore's protobuf-specs.
//
// A trusted root MUST contain only material that the operator chose. Material MUST be fetched only from a TUF
// repository that verifies from the root.json of the caller. Files for clients MUST be parsed and verified before they
// are written.
package trust

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/loglist"
)

// Media types of the two documents, and the size limit of a trusted root in bytes.
const (
	rootMediaType    = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
	signingMediaType = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
	maxRoot          = 4 << 20
)

// Authority is a CA with one chain: issuing certificate first, root last. A zero To means no end.
type Authority struct {
	URL      string
	Chain    []*x509.Certificate
	From, To time.Time
}

// Log is a Certificate Transparency log or a log of signatures (Rekor) as a trusted root has it: URL, operator, key and
// window. The origin is used for the ID of a log of signatures.
type Log struct {
	loglist.Log
	// RootID is the ID in the trusted root; nil: computed from the key (RFC 6962 §3.2, C2SP signed-note).
	RootID []byte
}

// Material holds the keys and chains that a verifier trusts: CAs, Certificate Transparency logs, timestamp authorities,
// and logs of signatures.
type Material struct {
	Authorities []Authority
	Logs        []Log
	Timestamps  []Authority // timestamp authorities (RFC 3161)
	Rekor       []Log       // logs of signatures

	// Skipped has a text for each entry of the trusted root that is not supported and was omitted. Certificates and
	// SCTs of those entries do not verify.
	Skipped []string

	skippedLog bool // at least one skipped entry is a Certificate Transparency log
}

// TrustedRoot returns trusted_root.json, indented. Before that, this package and sigstore-go parse the document and
// check that each chain leads from its first certificate to its last and that each entry is supported.
func (m Material) TrustedRoot() ([]byte, error) {
	if len(m.Authorities) == 0 {
		return nil, errors.New("a trusted root needs at least one authority")
	}
	out := &trustroot.TrustedRoot{MediaType: rootMediaType}
	var err error
	if out.CertificateAuthorities, err = authorities(m.Authorities); err != nil {
		return nil, err
	}
	if out.TimestampAuthorities, err = authorities(m.Timestamps); err != nil {
		return nil, err
	}
	if out.Ctlogs, err = logs(m.Logs, ctID); err != nil {
		return nil, err
	}
	if out.Tlogs, err = logs(m.Rekor, rekorID); err != nil {
		return nil, err
	}
	data, err := marshal(out, "certificateAuthorities", "ctlogs", "timestampAuthorities", "tlogs")
	if err != nil {
		return nil, err
	}
	back, err := ParseTrustedRoot(data)
	if err != nil {
		return nil, err
	}
	_, skipped, err := verifierMaterial(data)
	if err != nil {
		return nil, err
	}
	if skipped = append(back.Skipped, skipped...); len(skipped) > 0 {
		return nil, fmt.Errorf("clients would not support the trusted root: %s", skipped[0])
	}
	return data, nil
}

func authorities(all []Authority) ([]*trustroot.CertificateAuthority, error) {
	var out []*trustroot.CertificateAuthority
	for _, a := range all {
		if len(a.Chain) == 0 {
			return nil, errors.New("an authority needs a chain")
		}
		for i, c := range a.Chain[1:] {
			if err := a.Chain[i].CheckSignatureFrom(c); err != nil {
				return nil,
					fmt.Errorf("authority %s: certificate %d of the chain (%s) is not signed by the next one (%s): %w",
						a.URL, i+1, a.Chain[i].Subject, c.Subject, err)
			}
		}
		ca := &trustroot.CertificateAuthority{
			Uri: a.URL, CertChain: &common.X509CertificateChain{},
			ValidFor: timeRange(a.From, a.To),
		}
		subject := a.Chain[len(a.Chain)-1].Subject
		// For people; some clients require both.
		organization := strings.Join(subject.Organization, ", ")
		name := cmp.Or(subject.CommonName, organization, subject.String(), a.URL)
		ca.Subject = &common.DistinguishedName{CommonName: name, Organization: cmp.Or(organization, name)}
		for _, c := range a.Chain {
			ca.CertChain.Certificates = append(ca.CertChain.Certificates, &common.X509Certificate{RawBytes: c.Raw})
		}
		out = append(out, ca)
	}
	return out, nil
}

func logs(all []Log, id func(l Log, spki []byte) []byte) ([]*trustroot.TransparencyLogInstance, error) {
	var out []*trustroot.TransparencyLogInstance
	for _, l := range all {
		spki, err := x509.MarshalPKIXPublicKey(l.Key)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.URL, err)
		}
		details, err := keyDetails(l.Key)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.URL, err)
		}
		name := l.RootID
		if name == nil {
			name = id(l, spki)
		}
		out = append(out, &trustroot.TransparencyLogInstance{
			BaseUrl: l.URL, HashAlgorithm: common.HashAlgorithm_SHA2_256, Operator: l.Operator,
			PublicKey: &common.PublicKey{
				RawBytes: spki, KeyDetails: details,
				ValidFor: timeRange(l.NotBefore, l.NotAfter),
			},
			LogId: &common.LogId{KeyId: name},
		})
	}
	return out, nil
}

// ctID returns the log ID of RFC 6962 §3.2.
func ctID(_ Log, spki []byte) []byte {
	id := sha256.Sum256(spki)
	return id[:]
}

// rekorID returns the ID of a log of signatures. For an Ed25519 key and a known origin this is the key ID of the log's
// checkpoints (C2SP signed-note), of which verifiers compare the first four bytes; otherwise it is the log ID of RFC
// 6962.
func rekorID(l Log, spki []byte) []byte {
	key, ok := l.Key.(ed25519.PublicKey)
	if !ok || l.Origin == "" {
		return ctID(l, spki)
	}
	id := sha256.Sum256(append([]byte(l.Origin+"\n\x01"), key...)) // 1 is Ed25519
	return id[:]
}

// RekorV2 reports whether a log of signatures is Rekor version 2. The ID of such a log is computed from its origin and
// its key (C2SP signed-note); the ID of a version 1 log is computed from the key alone (RFC 6962 §3.2).
func (l Log) RekorV2() bool {
	if _, old := l.Key.(*rsa.PublicKey); old { // version 2 has no RSA keys
		return false
	}
	spki, err := x509.MarshalPKIXPublicKey(l.Key)
	if err != nil {
		return false
	}
	id := l.RootID
	if id == nil {
		id = rekorID(l, spki)
	}
	sum := sha256.Sum256(spki)
	return !bytes.Equal(id, sum[:])
}

// marshal returns the same bytes for equal messages, unlike protojson, which varies its white space. Members that some
// clients require are present even if they are empty lists.
func marshal(m proto.Message, lists ...string) ([]byte, error) {
	data, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, err
	}
	for _, l := range lists {
		if members[l] == nil {
			members[l] = json.RawMessage("[]")
		}
	}
	if data, err = json.MarshalIndent(members, "", "  "); err != nil { // sorted by name
		return nil, err
	}
	return append(data, '\n'), nil
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
			// the only P-384 value that verifiers support; they take the hash from the SCT
			return common.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384, nil
		}
	case ed25519.PublicKey:
		return common.PublicKeyDetails_PKIX_ED25519, nil
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
	return 0, fmt.Errorf("a trusted root cannot contain a log key of type %T", key)
}

// ParseTrustedRoot parses trusted_root.json. An entry with an unsupported type of key or certificate is left out and
// described in Skipped. A trusted root without any supported authority is an error.
func ParseTrustedRoot(data []byte) (Material, error) {
	var m Material
	in, err := parseRoot(data)
	if err != nil {
		return m, err
	}
	skip := func(member string, i int, err error) {
		m.Skipped = append(m.Skipped, fmt.Sprintf("%s[%d]: %v", member, i, err))
	}
	for i, ca := range in.GetCertificateAuthorities() {
		if a, err := parseAuthority(ca); err != nil {
			skip("certificateAuthorities", i, err)
		} else {
			m.Authorities = append(m.Authorities, a)
		}
	}
	for i, ca := range in.GetTimestampAuthorities() {
		if a, err := parseAuthority(ca); err != nil {
			skip("timestampAuthorities", i, err)
		} else {
			m.Timestamps = append(m.Timestamps, a)
		}
	}
	for i, l := range in.GetCtlogs() {
		if log, err := parseLog(l); err != nil {
			skip("ctlogs", i, err)
			m.skippedLog = true
		} else {
			m.Logs = append(m.Logs, log)
		}
	}
	for i, l := range in.GetTlogs() {
		if log, err := parseLog(l); err != nil {
			skip("tlogs", i, err)
		} else {
			m.Rekor = append(m.Rekor, log)
		}
	}
	if len(m.Authorities) == 0 {
		if len(m.Skipped) > 0 {
			return Material{}, fmt.Errorf("the trusted root has no supported certificate authority: %s",
				m.Skipped[0])
		}
		return Material{}, errors.New("the trusted root has no certificate authority")
	}
	return m, nil
}

func parseRoot(data []byte) (*trustroot.TrustedRoot, error) {
	if len(data) > maxRoot {
		return nil, fmt.Errorf("the trusted root has %d bytes; the limit is %d", len(data), maxRoot)
	}
	in := &trustroot.TrustedRoot{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, in); err != nil {
		return nil, errors.New("not a trusted root: the JSON does not match its schema")
	}
	if in.GetMediaType() == "" {
		return nil, errors.New("not a trusted root: it has no mediaType")
	}
	return in, nil
}

func parseAuthority(ca *trustroot.CertificateAuthority) (Authority, error) {
	a := Authority{URL: ca.GetUri()}
	var err error
	if a.From, a.To, err = times(ca.GetValidFor()); err != nil {
		return a, err
	}
	for _, raw := range ca.GetCertChain().GetCertificates() {
		c, err := x509.ParseCertificate(raw.GetRawBytes())
		if err != nil {
			return a, err
		}
		a.Chain = append(a.Chain, c)
	}
	if len(a.Chain) == 0 {
		return a, errors.New("it has no certificate")
	}
	return a, nil
}

func parseLog(l *trustroot.TransparencyLogInstance) (Log, error) {
	log := Log{Log: loglist.Log{URL: l.GetBaseUrl(), Operator: l.GetOperator()}, RootID: l.GetLogId().GetKeyId()}
	var err error
	if log.Key, err = parseKey(l.GetPublicKey()); err != nil {
		return log, err
	}
	log.NotBefore, log.NotAfter, err = times(l.GetPublicKey().GetValidFor())
	return log, err
}

// parseKey parses a key in the encoding that its keyDetails name: PKCS #1 for the deprecated names of RSA keys,
// otherwise PKIX.
func parseKey(k *common.PublicKey) (crypto.PublicKey, error) {
	var key crypto.PublicKey
	var err error
	switch k.GetKeyDetails() {
	case common.PublicKeyDetails_PKCS1_RSA_PKCS1V5, common.PublicKeyDetails_PKCS1_RSA_PSS: //nolint:staticcheck // Sigstore's staging root has them
		key, err = x509.ParsePKCS1PublicKey(k.GetRawBytes())
	default:
		key, err = x509.ParsePKIXPublicKey(k.GetRawBytes())
	}
	if err != nil {
		return nil, fmt.Errorf("the key (keyDetails %s) is not supported: %w", k.GetKeyDetails(), err)
	}
	return key, nil
}

// ForClient converts the trusted root for package client: its authorities and Certificate Transparency logs with their
// validity periods. One SCT is required, unless the trusted root has no such log.
func (m Material) ForClient() client.Trust {
	t := client.Trust{}
	for _, a := range m.Authorities {
		t.Authorities = append(t.Authorities, client.Authority{Chain: a.Chain, From: a.From, To: a.To})
	}
	for _, l := range m.Logs {
		t.Logs = append(t.Logs, l.Log)
	}
	if len(m.Logs) == 0 && !m.skippedLog {
		t.MinSCTs = client.NoSCTs
	}
	return t
}

func times(r *common.TimeRange) (from, to time.Time, err error) {
	for _, t := range []*timestamppb.Timestamp{r.GetStart(), r.GetEnd()} {
		if t != nil && t.CheckValid() != nil {
			return from, to, errors.New("its validFor is not a valid time range")
		}
	}
	if r.GetStart() != nil {
		from = r.GetStart().AsTime()
	}
	if r.GetEnd() != nil {
		to = r.GetEnd().AsTime()
	}
	return from, to, nil
}

// Service is a service that a signer uses: its URL, and when signers use it. A zero From means since [Services.From], a
// zero To no end.
type Service struct {
	URL      string
	From, To time.Time
}

// At returns the service with this URL, without an end; none for "".
func At(url string) []Service {
	if url == "" {
		return nil
	}
	return []Service{{URL: url}}
}

// Services holds the services that a signer uses; an empty value means none. Of several timestamp authorities or logs
// of signatures, signers use the one that began last.
type Services struct {
	CA, OIDC   string
	TSA, Rekor []Service
	RekorV1    []Service // of Rekor, those that take entries of Rekor v1 too
	Operator   string
	From       time.Time
}

// SigningConfig returns signing_config.json, version 0.2.
func (s Services) SigningConfig() ([]byte, error) {
	if s.CA == "" {
		return nil, errors.New("a signing configuration needs the URL of the CA")
	}
	if s.Operator == "" {
		return nil, errors.New("a signing configuration needs the name of its operator")
	}
	list := func(all []Service, version uint32) []*trustroot.Service {
		var out []*trustroot.Service
		for _, one := range all {
			from := one.From
			if from.IsZero() {
				from = s.From
			}
			out = append(out, &trustroot.Service{
				Url: one.URL, MajorApiVersion: version, ValidFor: timeRange(from, one.To), Operator: s.Operator,
			})
		}
		// Clients that take the first one get the newest.
		slices.SortStableFunc(out, func(a, b *trustroot.Service) int {
			return b.ValidFor.Start.AsTime().Compare(a.ValidFor.Start.AsTime())
		})
		return out
	}
	out := &trustroot.SigningConfig{
		MediaType: signingMediaType, CaUrls: list(At(s.CA), 1), OidcUrls: list(At(s.OIDC), 1),
		RekorTlogUrls: append(list(s.Rekor, 2), list(s.RekorV1, 1)...), TsaUrls: list(s.TSA, 1),
	}
	// Clients (sigstore-js) fail if a selector is present without a service.
	if len(s.Rekor) > 0 {
		out.RekorTlogConfig = &trustroot.ServiceConfiguration{Selector: trustroot.ServiceSelector_ANY}
	}
	if len(s.TSA) > 0 {
		out.TsaConfig = &trustroot.ServiceConfiguration{Selector: trustroot.ServiceSelector_ANY}
	}
	return marshal(out)
}
