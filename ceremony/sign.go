package ceremony

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/tsa"
)

// backdate is how long before now the default validity starts.
const backdate = ca.MaxBackdate

func bigEndian(serial []byte) *big.Int { return new(big.Int).SetBytes(serial) }

// order describes one certificate to make.
type order struct {
	profile Profile
	serial  []byte
	key     crypto.PublicKey    // that is certified
	parents []*x509.Certificate // the issuer first, its root last; empty: the certificate is self-signed
	signer  crypto.PublicKey    // the public key of the issuer
	now     time.Time
}

func (o order) issuer() *x509.Certificate {
	if len(o.parents) == 0 {
		return nil
	}
	return o.parents[0]
}

// unsigned is a TBSCertificate that passed the lint.
type unsigned struct {
	raw       []byte
	algorithm []byte                  // DER AlgorithmIdentifier
	scheme    x509.SignatureAlgorithm // the same
	parsed    *x509.Certificate       // with the signature of a temporary key, to be shown
	warnings  []string
}

// build returns the TBSCertificate of the order. The same order gives the same bytes.
func (o order) build() (*unsigned, error) {
	temporary, err := ca.NewKeyLike(o.signer)
	if err != nil {
		return nil, err
	}
	template, err := o.profile.template(o.serial)
	if err != nil {
		return nil, err
	}
	parent := template
	if issuer := o.issuer(); issuer != nil {
		parent = &x509.Certificate{RawSubject: issuer.RawSubject, SubjectKeyId: issuer.SubjectKeyId}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, o.key, temporary)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	parts, err := tbs.Split(der)
	if err != nil {
		return nil, err
	}
	return &unsigned{raw: parts.TBS, algorithm: parts.Algorithm, scheme: c.SignatureAlgorithm, parsed: c}, nil
}

// prepare builds and lints the TBSCertificate of an order. The result may be signed.
func (o order) prepare() (*unsigned, error) {
	u, err := o.build()
	if err != nil {
		return nil, err
	}
	if u.warnings, err = o.lint(u.parsed, false); err != nil {
		return nil, fmt.Errorf("lint before signing: %w", err)
	}
	return u, nil
}

// lint checks a certificate against its profile and the requirements of its chain. signed is false if the signature is
// by a temporary key.
func (o order) lint(c *x509.Certificate, signed bool) (warnings []string, err error) {
	if err := o.profile.lint(c, o.serial, o.key); err != nil {
		return nil, err
	}
	chain := append([]*x509.Certificate{c}, o.parents...)
	issuer := chain[min(1, len(chain)-1)]
	switch {
	case !bytes.Equal(c.RawIssuer, issuer.RawSubject):
		return nil, errors.New("the issuer is not the subject of the parent")
	case len(o.parents) > 0 && bytes.Equal(c.RawSubject, issuer.RawSubject):
		return nil, fmt.Errorf("the certificate has the name of its parent (%s); choose another name", issuer.Subject)
	case len(o.parents) > 0 && !bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId):
		return nil, errors.New("the authority key identifier is not the subject key identifier of the parent")
	case len(o.parents) > 0 && !issuer.IsCA:
		return nil, fmt.Errorf("the parent (%s) is not a CA certificate; name a CA certificate", issuer.Subject)
	}
	if err := o.checkRoom(chain); err != nil {
		return nil, err
	}
	if !signed {
		return examine(chain, o, unsignedRows)
	}
	if err := issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		return nil, fmt.Errorf("the signature does not verify with the key of the issuer: %w", err)
	}
	return examine(chain, o, nil)
}

// checkRoom checks that the path lengths of the parents allow the path length of the new certificate.
func (o order) checkRoom(chain []*x509.Certificate) error {
	for i, p := range chain[1:] {
		below := i + 1 + o.profile.PathLength
		limited := p.MaxPathLen > 0 || p.MaxPathLenZero
		if o.profile.PathLength > 0 && limited && p.MaxPathLen < below {
			return fmt.Errorf("the path length of the parent %s is %d, and a new certificate with the path "+
				"length %d needs at least %d; choose a shorter path length, or another parent",
				p.Subject, p.MaxPathLen, o.profile.PathLength, below)
		}
	}
	return nil
}

// unsignedRows are the requirements that a certificate without its signature cannot meet.
var unsignedRows = []string{"names and signatures"}

// examine returns an error if the chain does not meet a relevant requirement, and the other findings as warnings. All
// requirements of the new certificate are relevant. The requirements of its parents are relevant if a running CA does
// not start without them.
func examine(chain []*x509.Certificate, o order, skip []string) (warnings []string, err error) {
	switch {
	case o.profile.Role == RoleTimestamping:
		return nil, checkTimestamping(chain, o)
	case len(o.parents) == 0: // a root does not issue certificates of clients
		skip = append([]string{"path length 0", "extended key usage alone", "intermediate"}, skip...)
	case o.profile.PathLength > 0: // an intermediate above others
		skip = append([]string{"path length 0"}, skip...)
	}
	at := o.now
	if at.Before(o.profile.NotBefore) { // the validity of the new certificate may start in the future
		at = o.profile.NotBefore
	}
	var problems []string
	for _, r := range ca.Examine(chain, at, o.profile.usage()) {
		if contains(skip, r.Name) {
			continue
		}
		for _, f := range r.Findings {
			text := f.Problem + "; " + f.Fix
			if r.Level <= ca.Production || f.Certificate == 0 && r.Name != "one family of algorithms" {
				problems = append(problems, text)
			} else {
				warnings = append(warnings, text)
			}
		}
	}
	if len(problems) > 0 {
		return nil, errors.New(strings.Join(problems, "\n"))
	}
	return warnings, nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// checkTimestamping checks that the certificate of a timestamp authority meets the requirements of RFC 3161 §2.3 and of
// verifiers.
func checkTimestamping(chain []*x509.Certificate, o order) error {
	leaf, parent := chain[0], chain[len(chain)-1]
	if err := tsa.CheckCertificate(leaf); err != nil {
		return err
	}
	switch {
	case len(o.parents) == 0:
		return errors.New("a certificate for timestamping needs a parent")
	case leaf.NotAfter.After(chain[1].NotAfter) || leaf.NotBefore.Before(chain[1].NotBefore):
		return fmt.Errorf("the certificate is valid until %s, longer than its issuer; write a shorter validity",
			leaf.NotAfter.Format(time.RFC3339))
	case !o.now.Before(parent.NotAfter):
		return errors.New("the root is expired; make a new one")
	}
	return nil
}

// certify signs the linted TBSCertificate and lints the certificate.
func (o order) certify(ctx context.Context, u *unsigned, key crypto.Signer,
	random io.Reader,
) (*x509.Certificate, error) {
	if !equalKeys(key.Public(), o.signer) {
		return nil, errors.New("the signing key is not the key of the issuer; name the key that belongs to the parent")
	}
	signature, err := signing{key, u.scheme, random, ctx}.sign(u.raw)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	der, err := tbs.Certificate(u.raw, u.algorithm, signature)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the signed certificate cannot be parsed: %w", err)
	}
	if !bytes.Equal(c.RawTBSCertificate, u.raw) {
		return nil, errors.New("the signed certificate differs from the linted one")
	}
	if _, err := o.lint(c, true); err != nil {
		return nil, fmt.Errorf("lint after signing: %w", err)
	}
	return c, nil
}

func equalKeys(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// signing is a key with its signature algorithm.
type signing struct {
	key       crypto.Signer
	algorithm x509.SignatureAlgorithm
	random    io.Reader
	ctx       context.Context //nolint:containedctx // of one call
}

// sign signs the digest of message, or for Ed25519 and ML-DSA the message itself.
func (s signing) sign(message []byte) ([]byte, error) {
	var hash crypto.Hash
	switch s.algorithm {
	case x509.SHA256WithRSA, x509.ECDSAWithSHA256:
		hash = crypto.SHA256
	case x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	case x509.PureEd25519, x509.MLDSA44, x509.MLDSA65, x509.MLDSA87:
		return s.digest(message, crypto.Hash(0))
	default:
		return nil, fmt.Errorf("signatures with %s are not supported", s.algorithm)
	}
	h := hash.New()
	h.Write(message)
	return s.digest(h.Sum(nil), hash)
}

// digest signs a digest with the key. A call to a key outside this process ends with the context.
func (s signing) digest(digest []byte, hash crypto.Hash) ([]byte, error) {
	if k, ok := s.key.(interface {
		SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	}); ok && s.ctx != nil {
		return k.SignContext(s.ctx, digest, hash)
	}
	return s.key.Sign(s.random, digest, hash)
}

// algorithmOf returns the algorithm with which a key signs certificates.
func algorithmOf(key crypto.PublicKey) (x509.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return x509.SHA256WithRSA, nil
	case ed25519.PublicKey:
		return x509.PureEd25519, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return x509.ECDSAWithSHA256, nil
		case elliptic.P384():
			return x509.ECDSAWithSHA384, nil
		case elliptic.P521():
			return x509.ECDSAWithSHA512, nil
		}
	case *mldsa.PublicKey:
		switch k.Parameters() {
		case mldsa.MLDSA44():
			return x509.MLDSA44, nil
		case mldsa.MLDSA65():
			return x509.MLDSA65, nil
		case mldsa.MLDSA87():
			return x509.MLDSA87, nil
		}
	}
	return 0, fmt.Errorf("a key of type %T cannot sign here; use ECDSA, RSA, Ed25519 or ML-DSA", key)
}
