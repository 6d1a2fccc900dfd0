package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// WithAuthorities returns a trusted root in which the authorities of m have the validity that they have in m, and those
// that root does not have yet are new. Everything else of root stays: other authorities, logs, timestamp authorities.
// An authority is known by its issuing certificate. Those of withdraw are removed. The result is read back and verified
// as [Material.TrustedRoot] does. If nothing changes, it is root itself.
func WithAuthorities(root []byte, m Material, withdraw ...*x509.Certificate) ([]byte, error) {
	in := &trustroot.TrustedRoot{}
	if err := protojson.Unmarshal(root, in); err != nil {
		return nil, fmt.Errorf("the trusted root has a member that this version does not know and would lose: %w",
			err)
	}
	before := proto.Clone(in)
	fresh, err := authorities(m.Authorities)
	if err != nil {
		return nil, err
	}
	in.CertificateAuthorities = slices.DeleteFunc(in.CertificateAuthorities,
		func(a *trustroot.CertificateAuthority) bool {
			return slices.ContainsFunc(withdraw, func(c *x509.Certificate) bool { return issues(a, c) })
		})
	for i, one := range fresh {
		at := slices.IndexFunc(in.CertificateAuthorities, func(a *trustroot.CertificateAuthority) bool {
			return issues(a, m.Authorities[i].Chain[0])
		})
		if at >= 0 {
			in.CertificateAuthorities[at].ValidFor = one.ValidFor
		} else {
			in.CertificateAuthorities = append(in.CertificateAuthorities, one)
		}
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

// TrustedRootTarget is the name under which clients look for the trusted root.
const TrustedRootTarget = rootTarget
