package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// maxBundle is the largest accepted bundle in bytes; attestations can be large.
const maxBundle = 32 << 20

// Expectation says what a bundle must prove. Exactly one form of the identity and one of the issuer is set.
type Expectation struct {
	Identity, IdentityRegexp string // the subject alternative name of the certificate
	Issuer, IssuerRegexp     string // the OpenID Connect issuer in the certificate
	Artifact                 io.Reader
	Digest                   string // ALGORITHM:HEX, in place of Artifact
	NoRekor                  bool   // requires a timestamp in place of an entry in a log of signatures
}

// Verified is the verified content of a bundle.
type Verified struct {
	Leaf       *x509.Certificate
	Identity   string
	Issuer     string
	Times      []Time // verified times of the signature, at least one
	LogEntries int    // verified entries of different logs of signatures of the trusted root
	SCTs       int    // verified SCTs of different logs of the trusted root
	Demanded   int    // number of required SCTs
	Statement  string // predicate type of an attestation; "" for a signature over the artifact

	// Skipped has a text for each entry of the trusted root that is not supported and was omitted.
	Skipped []string
}

// Time is a verified time of the signature, with its source.
type Time struct {
	Kind, Source string
	At           time.Time
}

// Failure reports that a bundle does not prove the expectation.
type Failure struct {
	Step string // the failed step, for people
	Hint string // what to check
	Err  error
}

// Error returns the step and the cause.
func (f *Failure) Error() string { return f.Step + ": " + f.Err.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// check returns the errors of e, in terms of the flags of the command line.
func (e Expectation) check() error {
	switch {
	case (e.Identity == "") == (e.IdentityRegexp == ""):
		return errors.New("the signer is needed; write either --identity or --identity-regexp")
	case (e.Issuer == "") == (e.IssuerRegexp == ""):
		return errors.New("the issuer of the signer is needed; write either --issuer or --issuer-regexp")
	case (e.Artifact == nil) == (e.Digest == ""):
		return errors.New("the signed artifact is needed; write either --artifact or --digest")
	}
	for _, expr := range []string{e.IdentityRegexp, e.IssuerRegexp} {
		if _, err := regexp.Compile(expr); err != nil {
			return err
		}
	}
	return nil
}

// artifact returns the signed artifact as a policy option of the verifier.
func (e Expectation) artifact() (verify.ArtifactPolicyOption, error) {
	if e.Artifact != nil {
		return verify.WithArtifact(e.Artifact), nil
	}
	algorithm, text, ok := strings.Cut(e.Digest, ":")
	sum, err := hex.DecodeString(text)
	size := map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}[algorithm]
	if !ok || err != nil || len(sum) != size {
		return nil, fmt.Errorf("%q is not a digest; write sha256: and 64 hexadecimal digits", e.Digest)
	}
	return verify.WithArtifactDigest(algorithm, sum), nil
}

// ErrUsage is wrapped by errors about the expectation itself.
var ErrUsage = errors.New("incomplete or contradictory expectation")

// VerifyBundle verifies a Sigstore bundle, in JSON, against a trusted root: chain at the time of the signature, SCT,
// log entry or timestamp, signature, identity. A regular expression must match the complete text. An unmet expectation
// is a [Failure].
func VerifyBundle(trustedRoot, bundleJSON []byte, e Expectation) (*Verified, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	artifact, err := e.artifact()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	identity, err := verify.NewShortCertificateIdentity(e.Issuer, whole(e.IssuerRegexp), e.Identity,
		whole(e.IdentityRegexp))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	b, err := parseBundle(bundleJSON)
	if err != nil {
		return nil, err
	}
	material, skipped, err := verifierMaterial(trustedRoot)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	options, demanded, err := demands(b, material, e)
	if err != nil {
		return nil, err
	}
	v, err := verify.NewVerifier(material, options...)
	if err != nil {
		return nil, err
	}
	result, err := v.Verify(b, verify.NewPolicy(artifact, verify.WithCertificateIdentity(identity)))
	if err != nil {
		return nil, failure(err, v, refused{b, material})
	}
	out, err := proven(b, result, material)
	if err != nil {
		return nil, err
	}
	out.Demanded, out.Skipped = demanded, skipped
	return out, nil
}

// trusted is a trusted root in the form of sigstore-go's verifier.
type trusted struct {
	*root.TrustedRoot
	hadCTLogs bool // the file names Certificate Transparency logs, supported or not
}

// verifierMaterial parses a trusted root without the entries that the verifier does not support; skipped has a text for
// each.
func verifierMaterial(data []byte) (t *trusted, skipped []string, err error) {
	in, err := parseRoot(data)
	if err != nil {
		return nil, nil, err
	}
	had := len(in.GetCtlogs()) > 0
	check := func(member string, i int, err error) bool {
		if err != nil {
			skipped = append(skipped, fmt.Sprintf("%s[%d]: %v", member, i, err))
		}
		return err == nil
	}
	in.CertificateAuthorities = kept(in.CertificateAuthorities, func(i int, a *trustroot.CertificateAuthority) bool {
		_, err := root.ParseCertificateAuthority(a)
		return check("certificateAuthorities", i, err)
	})
	in.TimestampAuthorities = kept(in.TimestampAuthorities, func(i int, a *trustroot.CertificateAuthority) bool {
		_, err := root.ParseTimestampingAuthority(a)
		return check("timestampAuthorities", i, err)
	})
	log := func(member string) func(i int, l *trustroot.TransparencyLogInstance) bool {
		return func(i int, l *trustroot.TransparencyLogInstance) bool {
			_, err := root.ParseTransparencyLogs([]*trustroot.TransparencyLogInstance{l})
			return check(member, i, err)
		}
	}
	in.Ctlogs, in.Tlogs = kept(in.Ctlogs, log("ctlogs")), kept(in.Tlogs, log("tlogs"))
	out, err := root.NewTrustedRootFromProtobuf(in)
	if err != nil {
		return nil, nil, err
	}
	if len(in.CertificateAuthorities) == 0 {
		return nil, nil,
			errors.New(strings.Join(append([]string{"it has no supported certificate authority"},
				skipped...), "; "))
	}
	return &trusted{out, had}, skipped, nil
}

// kept returns the entries for which keep returns true.
func kept[T any](all []T, keep func(i int, one T) bool) []T {
	var out []T
	for i, one := range all {
		if keep(i, one) {
			out = append(out, one)
		}
	}
	return out
}

func parseBundle(data []byte) (*bundle.Bundle, error) {
	if len(data) > maxBundle {
		return nil, fmt.Errorf("the bundle has %d bytes; the limit is %d", len(data), maxBundle)
	}
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("not a Sigstore bundle: %w", err)
	}
	return b, nil
}

// whole anchors expr so that it must match the complete text.
func whole(expr string) string {
	if expr == "" {
		return ""
	}
	return `^(?:` + expr + `)$`
}

// demands returns the proofs that the bundle must contain. SCTs are required if the trusted root has a Certificate
// Transparency log.
func demands(b *bundle.Bundle, material *trusted, e Expectation) ([]verify.VerifierOption, int, error) {
	var out []verify.VerifierOption
	scts := 0
	if material.hadCTLogs {
		scts = 1
		out = append(out, verify.WithSignedCertificateTimestamps(scts))
	}
	stamps, err := b.Timestamps()
	if err != nil {
		return nil, 0, fmt.Errorf("not a Sigstore bundle: %w", err)
	}
	if !e.NoRekor {
		if entries, err := b.TlogEntries(); err != nil || len(entries) == 0 {
			return nil, 0, &Failure{
				stepLog,
				"sign with a Rekor log in the signing configuration; without one, --no-rekor requires a " +
					"timestamp instead", errors.New("the bundle has no entry of a Rekor log"),
			}
		}
		return append(out, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)), scts, nil
	}
	if len(stamps) == 0 {
		return nil, 0, &Failure{
			stepTime,
			"sign with a timestamp authority in the signing configuration: without a timestamp nothing shows that the " +
				"certificate was valid when it signed",
			errors.New("the bundle has no timestamp, and --no-rekor requires one"),
		}
	}
	return append(out, verify.WithSignedTimestamps(1)), scts, nil
}

// The steps of a verification, as messages call them.
const (
	stepLog         = "log of signatures"
	stepTime        = "time of the signature"
	stepChain       = "certificate chain"
	stepCertLogs    = "certificate transparency"
	stepSignature   = "signature"
	stepIdentity    = "identity"
	stepBundle      = "bundle"
	hintChain       = "is the CA in the trusted root, and was the certificate valid when it signed?"
	hintNotTrusted  = "the authority that issued the certificate was not trusted when it signed"
	hintOtherSigner = "another identity signed: compare identity and issuer"
)

// refused is a bundle that the verifier refused, and the trusted root that it was verified with.
type refused struct {
	bundle   *bundle.Bundle
	material *trusted
}

// failure finds the step at which v refused the bundle with err. The verifier has no error types for its steps, so
// failure repeats the steps in the verifier's order until one fails.
func failure(err error, v *verify.Verifier, r refused) *Failure {
	b, material := r.bundle, r.material
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // without the verifier's own name of the step
	}
	if _, ok := errors.AsType[*verify.ErrNoMatchingCertificateIdentity](err); ok {
		return &Failure{stepIdentity, hintOtherSigner, err}
	}
	logTimes, stepErr := v.VerifyTransparencyLogInclusion(b)
	if stepErr != nil {
		return &Failure{stepLog, "is the log of the bundle in the trusted root?", stepErr}
	}
	times, stepErr := v.VerifyObserverTimestamps(b, logTimes)
	if stepErr != nil {
		return &Failure{stepTime, "is the timestamp authority of the bundle in the trusted root?", stepErr}
	}
	content, stepErr := b.VerificationContent()
	if stepErr != nil || content.Certificate() == nil {
		return &Failure{stepBundle, "", err}
	}
	var chains [][]*x509.Certificate
	for _, t := range times {
		if chains, stepErr = authorityAt(t.Timestamp, content, material); stepErr != nil {
			return &Failure{stepChain, hintChain, err}
		}
	}
	if material.hadCTLogs && len(chains) > 0 {
		if stepErr = verify.VerifySignedCertificateTimestamp(chains, 1, material); stepErr != nil {
			return &Failure{stepCertLogs, "is the log of the SCT in the trusted root?", stepErr}
		}
	}
	if _, stepErr = b.SignatureContent(); stepErr != nil {
		return &Failure{stepBundle, "", err}
	}
	return &Failure{stepSignature, "is this the artifact that was signed?", err}
}

func proven(b *bundle.Bundle, r *verify.VerificationResult, material *trusted) (*Verified, error) {
	content, err := b.VerificationContent()
	if err != nil {
		return nil, err
	}
	out := &Verified{Leaf: content.Certificate()}
	if out.Leaf == nil || r.Signature == nil || r.Signature.Certificate == nil {
		return nil, &Failure{
			stepChain, "the bundle is signed with a key without a certificate",
			errors.New("the bundle has no certificate"),
		}
	}
	out.Identity, out.Issuer = r.Signature.Certificate.SubjectAlternativeName, r.Signature.Certificate.Issuer
	var chains [][]*x509.Certificate
	for _, t := range r.VerifiedTimestamps {
		out.Times = append(out.Times, Time{Kind: t.Type, Source: t.URI, At: t.Timestamp})
		found, err := authorityAt(t.Timestamp, content, material)
		if err != nil {
			return nil, err
		}
		chains = append(chains, found...)
	}
	entries, err := b.TlogEntries()
	if err != nil {
		return nil, err
	}
	// The verifier reports only whether a given number was reached, so the number is raised until it fails.
	out.LogEntries = most(len(entries), func(n int) error {
		_, err := verify.VerifyTlogEntry(b, material, n, false)
		return err
	})
	out.SCTs = most(len(material.CTLogs()),
		func(n int) error { return verify.VerifySignedCertificateTimestamp(chains, n, material) })
	if r.Statement != nil {
		out.Statement = r.Statement.GetPredicateType()
	}
	return out, nil
}

// most returns the largest n up to limit for which verify finds n proofs.
func most(limit int, verify func(n int) error) int {
	for n := range limit {
		if verify(n+1) != nil {
			return n
		}
	}
	return limit
}

// authorityAt returns the chains to authorities that are trusted at the time of the signature. A certificate in the
// bundle must not replace an authority of the trusted root whose period had ended at that time, because another
// authority may have the same root.
func authorityAt(at time.Time, content verify.VerificationContent, material *trusted) ([][]*x509.Certificate, error) {
	chains, err := verify.VerifyLeafCertificate(at, content.Certificate(), material)
	if err == nil {
		return chains, nil
	}
	included := content.Intermediates()
	for _, a := range material.FulcioCertificateAuthorities() {
		ca, ok := a.(*root.FulcioCertificateAuthority)
		if !ok {
			continue
		}
		for _, known := range ca.Intermediates {
			if slices.ContainsFunc(included, func(c *x509.Certificate) bool {
				return bytes.Equal(c.RawSubjectPublicKeyInfo, known.RawSubjectPublicKeyInfo)
			}) {
				return nil, &Failure{
					stepChain, hintNotTrusted, err,
				}
			}
		}
	}
	// The trusted root contains only a root certificate, and the bundle contains the intermediate certificates.
	for _, a := range material.FulcioCertificateAuthorities() {
		ca, ok := a.(*root.FulcioCertificateAuthority)
		if !ok {
			continue
		}
		with := *ca
		with.Intermediates = append(slices.Clone(ca.Intermediates), included...)
		if chains, err = with.Verify(content.Certificate(), at); err == nil {
			return chains, nil
		}
	}
	return nil, &Failure{
		stepChain, hintChain, err,
	}
}
