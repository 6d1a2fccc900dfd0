package trust

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// maxBundle caps a bundle in bytes; attestations can be large.
const maxBundle = 32 << 20

// Expectation is what a bundle must prove. Of identity and issuer, one form each is set.
type Expectation struct {
	Identity, IdentityRegexp string // the subject alternative name of the certificate
	Issuer, IssuerRegexp     string // the OpenID Connect issuer in it
	Artifact                 io.Reader
	Digest                   string // ALGORITHM:HEX, in place of Artifact
	NoRekor                  bool   // the bundle need not be in a log of signatures; then it needs a timestamp
}

// Verified is what a bundle has proven.
type Verified struct {
	Leaf       *x509.Certificate
	Identity   string
	Issuer     string
	Times      []Time // when it was signed, at least one
	LogEntries int    // of signatures, in logs of the trusted root
	SCTs       int    // demanded
	Statement  string // the type of an attestation; "" for a signature over the artifact
}

// Time is when somebody saw the signature.
type Time struct {
	Kind, Source string
	At           time.Time
}

// Failure is a bundle that does not prove what was expected.
type Failure struct {
	Step string // what failed, for people
	Hint string // what to look at
	Err  error
}

// Error gives the step and the cause.
func (f *Failure) Error() string { return f.Step + ": " + f.Err.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// check reports what is wrong with e, in the words of the command line.
func (e Expectation) check() error {
	switch {
	case (e.Identity == "") == (e.IdentityRegexp == ""):
		return errors.New("name the signer, in one way: --identity or --identity-regexp")
	case (e.Issuer == "") == (e.IssuerRegexp == ""):
		return errors.New("name the signer's issuer, in one way: --issuer or --issuer-regexp")
	case (e.Artifact == nil) == (e.Digest == ""):
		return errors.New("name what was signed, in one way: --artifact or --digest")
	}
	for _, expr := range []string{e.IdentityRegexp, e.IssuerRegexp} {
		if _, err := regexp.Compile(expr); err != nil {
			return err
		}
	}
	return nil
}

// artifact is what was signed.
func (e Expectation) artifact() (verify.ArtifactPolicyOption, error) {
	if e.Artifact != nil {
		return verify.WithArtifact(e.Artifact), nil
	}
	algorithm, text, ok := strings.Cut(e.Digest, ":")
	sum, err := hex.DecodeString(text)
	size := map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}[algorithm]
	if !ok || err != nil || len(sum) != size {
		return nil, fmt.Errorf("%q is no digest; write sha256: and 64 hexadecimal digits", e.Digest)
	}
	return verify.WithArtifactDigest(algorithm, sum), nil
}

// ErrUsage is wrapped by errors about the expectation itself.
var ErrUsage = errors.New("what to verify is not clear")

// VerifyBundle verifies a Sigstore bundle, in JSON, against a trusted root: chain at the time of the signature, SCT, log entry or
// timestamp, signature, identity. A regular expression must match the whole of its text. What the bundle fails to prove is a
// [Failure].
func VerifyBundle(trustedRoot, bundleJSON []byte, e Expectation) (*Verified, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	artifact, err := e.artifact()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	identity, err := verify.NewShortCertificateIdentity(e.Issuer, whole(e.IssuerRegexp), e.Identity, whole(e.IdentityRegexp))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	b, err := parseBundle(bundleJSON)
	if err != nil {
		return nil, err
	}
	material, err := root.NewTrustedRootFromJSON(trustedRoot)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	options, scts, err := demands(b, material, e)
	if err != nil {
		return nil, err
	}
	v, err := verify.NewVerifier(material, options...)
	if err != nil {
		return nil, err
	}
	result, err := v.Verify(b, verify.NewPolicy(artifact, verify.WithCertificateIdentity(identity)))
	if err != nil {
		return nil, failure(err)
	}
	return proven(b, result, scts)
}

func parseBundle(data []byte) (*bundle.Bundle, error) {
	if len(data) > maxBundle {
		return nil, fmt.Errorf("a bundle of %d bytes; the limit is %d", len(data), maxBundle)
	}
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("not a Sigstore bundle: %w", err)
	}
	return b, nil
}

// whole makes expr match nothing less than the whole text.
func whole(expr string) string {
	if expr == "" {
		return ""
	}
	return `^(?:` + expr + `)$`
}

// demands are the proofs that the bundle must carry. SCTs are demanded where the trusted root names a log of certificates.
func demands(b *bundle.Bundle, material *root.TrustedRoot, e Expectation) ([]verify.VerifierOption, int, error) {
	var out []verify.VerifierOption
	scts := 0
	if len(material.CTLogs()) > 0 {
		scts = 1
		out = append(out, verify.WithSignedCertificateTimestamps(scts))
	}
	stamps, err := b.Timestamps()
	if err != nil {
		return nil, 0, fmt.Errorf("not a Sigstore bundle: %w", err)
	}
	if !e.NoRekor {
		if entries, err := b.TlogEntries(); err != nil || len(entries) == 0 {
			return nil, 0, &Failure{"log of signatures", "sign with a Rekor log in the signing configuration; if you run none, --no-rekor demands a timestamp in its place", errors.New("the bundle has no entry of one")}
		}
		return append(out, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)), scts, nil
	}
	if len(stamps) == 0 {
		return nil, 0, &Failure{"time of the signature", "sign with a timestamp authority in the signing configuration: without one nothing shows that the certificate was valid when it signed", errors.New("the bundle has no timestamp, and --no-rekor demands one")}
	}
	return append(out, verify.WithSignedTimestamps(1)), scts, nil
}

// failure says which proof failed and what to look at.
func failure(err error) *Failure {
	for _, f := range []struct{ prefix, step, hint string }{
		{"failed to verify log inclusion", "log of signatures", "is the log of the bundle in the trusted root?"},
		{"failed to verify timestamps", "time of the signature", "is the timestamp authority of the bundle in the trusted root?"},
		{"failed to verify leaf certificate", "certificate chain", "is the CA in the trusted root, and was the certificate valid when it signed?"},
		{"failed to verify signed certificate timestamp", "certificate transparency", "is the log that the SCT is of in the trusted root?"},
		{"failed to verify signature", "signature", "is this the artifact that was signed?"},
		{"failed to verify certificate identity", "identity", "somebody else signed: compare identity and issuer"},
	} {
		if strings.HasPrefix(err.Error(), f.prefix) {
			return &Failure{f.step, f.hint, errors.New(strings.TrimPrefix(strings.TrimPrefix(err.Error(), f.prefix), ": "))}
		}
	}
	return &Failure{"bundle", "", err}
}

func proven(b *bundle.Bundle, r *verify.VerificationResult, scts int) (*Verified, error) {
	content, err := b.VerificationContent()
	if err != nil {
		return nil, err
	}
	out := &Verified{Leaf: content.Certificate(), SCTs: scts}
	if out.Leaf == nil || r.Signature == nil || r.Signature.Certificate == nil {
		return nil, &Failure{"certificate chain", "the bundle is signed with a bare key", errors.New("there is no certificate in it")}
	}
	out.Identity, out.Issuer = r.Signature.Certificate.SubjectAlternativeName, r.Signature.Certificate.Issuer
	for _, t := range r.VerifiedTimestamps {
		out.Times = append(out.Times, Time{Kind: t.Type, Source: t.URI, At: t.Timestamp})
	}
	entries, err := b.TlogEntries()
	if err != nil {
		return nil, err
	}
	out.LogEntries = len(entries)
	if r.Statement != nil {
		out.Statement = r.Statement.GetPredicateType()
	}
	return out, nil
}
