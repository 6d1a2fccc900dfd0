package rekor

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/rekor/entry"
)

// requestDSSE is the word for requests with an envelope in messages.
const requestDSSE = "dsse"

// verified is an entry whose signatures were verified.
type verified struct {
	kind, version string
	leaf          []byte       // canonical JSON, which is logged
	digest        entry.Digest // that was signed
	by            signer
}

// signer is the key or certificate of a signature.
type signer struct {
	certificate *x509.Certificate // nil: a bare key
	key         crypto.PublicKey
	spki        []byte
	algorithm   signature.AlgorithmDetails
	registry    *signature.AlgorithmRegistryConfig // of the algorithm alone
}

// name returns the algorithm in the words of the configuration, such as ecdsa-sha2-256-nistp256.
func (s signer) name() string {
	text, err := signature.FormatSignatureAlgorithmFlag(s.algorithm.GetSignatureAlgorithm())
	if err != nil {
		return s.algorithm.GetSignatureAlgorithm().String()
	}
	return text
}

// digest returns the name of the algorithm of digests that are signed, as in [entry.Digest].
func (s signer) digest() string {
	return strings.ReplaceAll(strings.ToLower(s.algorithm.GetHashType().String()), "-", "")
}

// verify checks a request and returns its entry. It does no I/O. Its errors have reasons of package fault; their
// messages are those of rekor-tiles, and "problem" in their metadata says what is wrong.
func verify(in *pb.CreateEntryRequest) (*verified, error) {
	kind, request := entry.HashedRekord, in.GetHashedRekordRequestV002()
	var err error
	switch spec := in.GetSpec().(type) {
	case *pb.CreateEntryRequest_HashedRekordRequestV002:
	case *pb.CreateEntryRequest_DsseRequestV002:
		kind = requestDSSE
		request, err = envelope(spec.DsseRequestV002) //nolint:staticcheck // deprecated, and sent by clients
	default:
		return nil, fault.New(fault.EntryMalformed, nil, "problem",
			"the request has neither hashedRekordRequestV002 nor dsseRequestV002").
			WithPublic("invalid type, must be either hashedrekord or dsse")
	}
	var out *verified
	if err == nil {
		out, err = hashedRekord(request)
	}
	if err != nil {
		return nil, fault.From(err).WithPublic("invalid %s request", kind)
	}
	return out, nil
}

// canonical returns the entry as it is logged.
func canonical(in *pb.Entry) ([]byte, error) {
	leaf, err := entry.Canonical(in)
	if err != nil {
		return nil, malformed("the entry has no canonical form (RFC 8785)", err)
	}
	if len(leaf) > entry.MaxSize {
		return nil, malformed(fmt.Sprintf("the entry has %d bytes; an entry of this log has at most %d", len(leaf),
			entry.MaxSize), nil)
	}
	return leaf, nil
}

// malformed returns ENTRY_MALFORMED. problem is for the client, and cause for the log.
func malformed(problem string, cause error) error {
	if cause == nil {
		cause = errors.New(problem)
	}
	return fault.New(fault.EntryMalformed, cause, "problem", problem)
}

// hashedRekord verifies the signature over a digest.
func hashedRekord(in *pb.HashedRekordRequestV002) (*verified, error) {
	switch {
	case len(in.GetDigest()) == 0:
		return nil, malformed("digest is missing", nil)
	case len(in.GetSignature().GetContent()) == 0:
		return nil, malformed("signature.content is missing", nil)
	}
	by, err := parseSigner(in.GetSignature().GetVerifier())
	if err != nil {
		return nil, err
	}
	if hash := by.algorithm.GetHashType(); len(in.GetDigest()) != hash.Size() {
		return nil, malformed(fmt.Sprintf("digest has %d bytes, and a digest of %s has %d", len(in.GetDigest()), hash,
			hash.Size()), nil)
	}
	// The registry has this one algorithm: the key is used with the algorithm that the entry names, and no other one.
	made, err := hashedrekord.ToLogEntry(in, by.registry)
	if err != nil {
		return nil, fault.New(fault.EntrySignatureInvalid, err, "problem",
			"the key does not verify the signature over the digest")
	}
	out := &verified{
		kind: made.GetKind(), version: made.GetApiVersion(), by: by,
		digest: entry.Digest{Algorithm: by.digest(), Sum: in.GetDigest()},
	}
	out.leaf, err = canonical(made)
	return out, err
}

// algorithms are those of rekor-tiles. Ed25519 alone is not among them: it signs a message, not a digest.
func algorithms() []v1.PublicKeyDetails {
	return []v1.PublicKeyDetails{
		v1.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
		v1.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256,
		v1.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256,
		v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		v1.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		v1.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512,
		v1.PublicKeyDetails_PKIX_ED25519_PH,
	}
}

// parseSigner reads the key or certificate of a signature, and checks that the key has the algorithm that it names.
func parseSigner(in *pb.Verifier) (signer, error) {
	var out signer
	var err error
	switch v := in.GetVerifier().(type) {
	case *pb.Verifier_PublicKey:
		out.spki = v.PublicKey.GetRawBytes()
		out.key, err = x509.ParsePKIXPublicKey(out.spki)
		if err != nil {
			return out, malformed("verifier.publicKey.rawBytes is no SubjectPublicKeyInfo in DER (RFC 5280)", err)
		}
	case *pb.Verifier_X509Certificate:
		out.certificate, err = x509.ParseCertificate(v.X509Certificate.GetRawBytes())
		if err != nil {
			return out, malformed("verifier.x509Certificate.rawBytes is no certificate in DER (RFC 5280)", err)
		}
		out.key, out.spki = out.certificate.PublicKey, out.certificate.RawSubjectPublicKeyInfo
	default:
		return out, malformed("verifier has neither publicKey nor x509Certificate", nil)
	}
	details := in.GetKeyDetails()
	if !slices.Contains(algorithms(), details) {
		return out, fault.New(fault.EntryAlgorithmNotAllowed, fmt.Errorf("keyDetails is %s", details),
			"algorithm", details.String(), "problem",
			"the log does not take signatures with keyDetails "+details.String())
	}
	if out.algorithm, err = signature.GetAlgorithmDetails(details); err != nil {
		return out, malformed("the algorithm is not supported", err)
	}
	out.registry, err = signature.NewAlgorithmRegistryConfig([]v1.PublicKeyDetails{details})
	if err != nil {
		return out, malformed("the algorithm is not supported", err)
	}
	if fits, err := out.registry.IsAlgorithmPermitted(out.key, out.algorithm.GetHashType()); err != nil || !fits {
		return out, fault.New(fault.EntryAlgorithmNotAllowed, fmt.Errorf("a key of type %T with keyDetails %s", out.key,
			details), "algorithm", details.String(), "problem", "the key does not have the algorithm in keyDetails, "+
			details.String())
	}
	return out, nil
}

// sum returns the SHA-256 of data in hexadecimal.
func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}
