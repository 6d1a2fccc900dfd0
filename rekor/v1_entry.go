package rekor

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	dssev001 "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1" // registers the kind
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/rekor/entry"
)

// verifyV1 checks a proposed entry of Rekor v1, in JSON, of the kind hashedrekord or dsse. The returned entry has the
// leaf that a server of Rekor v1 logs.
func verifyV1(ctx context.Context, body []byte) (*verified, error) {
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(body), consumer{})
	if err != nil {
		return nil, malformed("the body is no proposed entry of Rekor v1", err)
	}
	out := &verified{kind: proposed.Kind(), version: entry.VersionV1}
	switch out.kind {
	case entry.HashedRekord:
	case entry.DSSE:
		if err := checkEnvelopeV1(proposed); err != nil {
			return nil, err
		}
	default:
		return nil, malformed(fmt.Sprintf("kind is %.40q; write hashedrekord or dsse", out.kind), nil)
	}
	impl, err := types.CreateVersionedEntry(proposed) // verifies the signature
	if err != nil {
		return nil, fault.New(fault.EntrySignatureInvalid, err, "problem",
			"the entry is not complete, or the key in it does not verify the signature")
	}
	if out.leaf, err = types.CanonicalizeEntry(ctx, impl); err != nil {
		return nil, malformed("the entry has no canonical form (RFC 8785)", err)
	}
	logged, err := entry.Parse(out.leaf)
	if err != nil {
		return nil, malformed(err.Error(), err)
	}
	if n := len(logged.Signatures); n != 1 {
		return nil, malformed(fmt.Sprintf("the entry has %d keys; send one entry for each signature", n), nil)
	}
	out.digest = logged.Digest
	hash := "sha256" // of every envelope
	if out.kind == entry.HashedRekord {
		hash = out.digest.Algorithm
	}
	out.by, err = signerV1(logged.Signatures[0], hash)
	return out, err
}

// consumer decodes JSON for the package of Rekor.
type consumer struct{}

// Consume decodes one value.
func (consumer) Consume(r io.Reader, into any) error { return json.NewDecoder(r).Decode(into) }

// checkEnvelopeV1 refuses envelopes with several signatures or keys, before each key is tried with each signature.
func checkEnvelopeV1(proposed models.ProposedEntry) error {
	in, ok := proposed.(*models.DSSE)
	if !ok {
		return malformed("the entry is none of the kind dsse", nil)
	}
	var spec models.DSSEV001Schema
	if err := dssev001.DecodeEntry(in.Spec, &spec); err != nil {
		return malformed("spec is none of the kind dsse", err)
	}
	if spec.ProposedContent == nil || spec.ProposedContent.Envelope == nil {
		return malformed("spec.proposedContent.envelope is missing", nil)
	}
	if n := len(spec.ProposedContent.Verifiers); n != 1 {
		return malformed(fmt.Sprintf("spec.proposedContent.verifiers has %d keys; send the one that verifies the "+
			"signature", n), nil)
	}
	var envelope struct {
		Signatures []json.RawMessage `json:"signatures"`
	}
	if err := json.Unmarshal([]byte(*spec.ProposedContent.Envelope), &envelope); err != nil {
		return malformed("spec.proposedContent.envelope is no JSON object", err)
	}
	if n := len(envelope.Signatures); n != 1 {
		return malformed(fmt.Sprintf("the envelope has %d signatures; send one entry for each signature", n), nil)
	}
	return nil
}

// signerV1 returns the key or certificate of a signature in an entry. The key must be one that entries of Rekor v2 may
// have, and hash the digest of its algorithm.
func signerV1(by entry.Signature, hash string) (signer, error) {
	in := &pb.Verifier{Verifier: &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: by.Key}}}
	var key crypto.PublicKey
	if by.Certificate != nil {
		key = by.Certificate.PublicKey
		in.Verifier = &pb.Verifier_X509Certificate{X509Certificate: &v1.X509Certificate{RawBytes: by.Certificate.Raw}}
	} else {
		var err error
		if key, err = x509.ParsePKIXPublicKey(by.Key); err != nil {
			return signer{}, malformed("the key is no SubjectPublicKeyInfo (RFC 5280)", err)
		}
	}
	algorithm, err := signature.GetDefaultAlgorithmDetails(key, options.WithED25519ph())
	if err != nil {
		return signer{}, notAllowedV1(key, hash, err)
	}
	in.KeyDetails = algorithm.GetSignatureAlgorithm()
	out, err := parseSigner(in)
	if err == nil && out.digest() != hash {
		err = notAllowedV1(key, hash, errors.New("the digest is that of another algorithm"))
	}
	return out, err
}

func notAllowedV1(key crypto.PublicKey, hash string, cause error) error {
	name := fmt.Sprintf("%T with %s", key, hash)
	return fault.New(fault.EntryAlgorithmNotAllowed, cause, "algorithm", name, "problem",
		"the log does not take signatures with a key of type "+name)
}
