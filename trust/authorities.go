package trust

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Merge returns a trusted root with the material of m besides its own. An authority of m, known by its issuing
// certificate, has the validity that it has in m. A timestamp authority, known by its signing certificate, and a log,
// known by its ID, have the URL and the end that they have in m, and the earlier of the two beginnings: what verified
// before still verifies. Everything else of root stays: what a CA no longer uses, verifiers still need. The authorities
// of withdraw are removed. The result is read back and verified as [Material.TrustedRoot] does. If nothing changes, it
// is root itself. An empty root has nothing.
func Merge(root []byte, m Material, withdraw ...*x509.Certificate) ([]byte, error) {
	if len(root) == 0 {
		return m.TrustedRoot()
	}
	in := &trustroot.TrustedRoot{}
	if err := protojson.Unmarshal(root, in); err != nil {
		return nil, fmt.Errorf("the trusted root has a member that this version does not know and would lose: %w",
			err)
	}
	before := proto.Clone(in)
	in.CertificateAuthorities = slices.DeleteFunc(in.CertificateAuthorities,
		func(a *trustroot.CertificateAuthority) bool {
			return slices.ContainsFunc(withdraw, func(c *x509.Certificate) bool { return issues(a, c) })
		})
	if err := mergeAuthorities(&in.CertificateAuthorities, m.Authorities, func(have, fresh authorityEntry) {
		have.ValidFor = fresh.ValidFor
	}); err != nil {
		return nil, err
	}
	if err := mergeAuthorities(&in.TimestampAuthorities, m.Timestamps, func(have, fresh authorityEntry) {
		have.Uri, have.ValidFor = fresh.Uri, prolonged(have.ValidFor, fresh.ValidFor)
	}); err != nil {
		return nil, err
	}
	if err := mergeLogs(&in.Ctlogs, m.Logs, ctID); err != nil {
		return nil, err
	}
	if err := mergeLogs(&in.Tlogs, m.Rekor, rekorID); err != nil {
		return nil, err
	}
	if proto.Equal(before, in) {
		return root, nil
	}
	data, err := marshal(in, "certificateAuthorities", "ctlogs", "timestampAuthorities", "tlogs")
	if err != nil {
		return nil, err
	}
	_, skippedBefore, err := verifierMaterial(root)
	if err != nil {
		return nil, err
	}
	_, skipped, err := verifierMaterial(data)
	if err != nil {
		return nil, err
	}
	if len(skipped) > len(skippedBefore) {
		return nil, fmt.Errorf("clients would not understand the trusted root: %s", skipped[len(skipped)-1])
	}
	return data, nil
}

type authorityEntry = *trustroot.CertificateAuthority

// mergeAuthorities adds the authorities of all to entries, and calls update for those that entries already has.
func mergeAuthorities(entries *[]authorityEntry, all []Authority, update func(have, fresh authorityEntry)) error {
	fresh, err := authorities(all)
	if err != nil {
		return err
	}
	for i, one := range fresh {
		at := slices.IndexFunc(*entries, func(a authorityEntry) bool { return issues(a, all[i].Chain[0]) })
		if at >= 0 {
			update((*entries)[at], one)
		} else {
			*entries = append(*entries, one)
		}
	}
	return nil
}

// mergeLogs adds the logs of all to entries, and updates those that entries already has.
func mergeLogs(entries *[]*trustroot.TransparencyLogInstance, all []Log, id func(l Log, spki []byte) []byte) error {
	fresh, err := logs(all, id)
	if err != nil {
		return err
	}
	for _, one := range fresh {
		at := slices.IndexFunc(*entries, func(l *trustroot.TransparencyLogInstance) bool {
			return bytes.Equal(l.GetLogId().GetKeyId(), one.GetLogId().GetKeyId())
		})
		if at < 0 {
			*entries = append(*entries, one)
			continue
		}
		have := (*entries)[at]
		have.BaseUrl = one.BaseUrl
		if have.PublicKey == nil {
			have.PublicKey = one.PublicKey
		}
		have.PublicKey.ValidFor = prolonged(have.PublicKey.ValidFor, one.PublicKey.ValidFor)
	}
	return nil
}

// prolonged returns the period from the earlier beginning of have and next to the end of next.
func prolonged(have, next *common.TimeRange) *common.TimeRange {
	start := next.GetStart()
	if have.GetStart() == nil || have.GetStart().AsTime().Before(start.AsTime()) {
		start = have.GetStart()
	}
	return &common.TimeRange{Start: start, End: next.GetEnd()}
}

// issues reports whether c is the issuing certificate of a.
func issues(a *trustroot.CertificateAuthority, c *x509.Certificate) bool {
	chain := a.GetCertChain().GetCertificates()
	return len(chain) > 0 && string(chain[0].GetRawBytes()) == string(c.Raw)
}

// Validity returns how long m trusts the authority with this issuing certificate; ok is false where it does not.
func (m Material) Validity(issuing *x509.Certificate) (from, to time.Time, ok bool) {
	for _, a := range m.Authorities {
		if a.Chain[0].Equal(issuing) {
			return a.From, a.To, true
		}
	}
	return from, to, false
}

// Trial is a precertificate (RFC 6962 §3.1) that was signed to find out whether verifiers would accept a certificate.
type Trial struct {
	Precertificate *x509.Certificate
	Issuing        *x509.Certificate // its issuing certificate
	At             time.Time
}

// Verify verifies the precertificate with sigstore-go and a trusted root, as clients verify the chain of a certificate.
// The trusted root must lead to the issuing certificate. The poison is ignored, because a certificate has none.
func (t Trial) Verify(root []byte) error {
	material, _, err := verifierMaterial(root)
	if err != nil {
		return err
	}
	c := *t.Precertificate
	c.UnhandledCriticalExtensions = nil // the poison
	chains, err := verify.VerifyLeafCertificate(t.At, &c, material)
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.CANotAuthorizedForThisName {
		return nil // name constraints need not permit the name of the trial
	}
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if len(chain) > 1 && chain[1].Equal(t.Issuing) {
			return nil
		}
	}
	return errors.New("the trusted root leads from the trial to another issuing certificate")
}

// Target returns a file of the repository by the name that clients look for.
func (r *Repository) Target(name string) ([]byte, bool) {
	t, ok := r.targets.Signed.Targets[name]
	if !ok {
		return nil, false
	}
	data, ok := r.now[targetFile(t.Hashes["sha256"].String(), name)]
	return data, ok
}

// The names under which clients look for the two files.
const (
	TrustedRootTarget = rootTarget
	SigningTarget     = signingTarget
)
