package rekor

import (
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"

	"github.com/mayfly-ca/mayfly/fault"
)

// envelope converts a request with a DSSE envelope, as sigstore-js and sigstore-java send it, to the request for the
// same signature over a digest, as other clients send it: the digest is that of the pre-authentication encoding (DSSE
// v1.0.2), and is what clients reconstruct when they verify the entry. rekor-tiles up to v2.2 logged such requests as
// entries of the kind dsse, which most clients do not verify any more.
func envelope(in *pb.DSSERequestV002) (*pb.HashedRekordRequestV002, error) { //nolint:staticcheck // deprecated, and sent by clients
	from, verifiers := in.GetEnvelope(), in.GetVerifiers() //nolint:staticcheck // deprecated, and sent by clients
	switch {
	case from == nil:
		return nil, malformed("envelope is missing", nil)
	case len(from.GetSignatures()) != 1:
		return nil, malformed(fmt.Sprintf("the envelope has %d signatures; send one request for each signature",
			len(from.GetSignatures())), nil)
	case len(verifiers) != 1:
		return nil, malformed(fmt.Sprintf("%d verifiers for one signature; send the one that verifies it",
			len(verifiers)), nil)
	}
	details := verifiers[0].GetKeyDetails()
	if details == v1.PublicKeyDetails_PKIX_ED25519 {
		return nil, fault.New(fault.EntryAlgorithmNotAllowed, fmt.Errorf("keyDetails is %s", details), "algorithm",
			details.String(), "problem", "Ed25519 signs a message, and the log has the digests of messages; sign with "+
				"Ed25519ph, or with an ECDSA key")
	}
	by, err := parseSigner(verifiers[0])
	if err != nil {
		return nil, err
	}
	message := by.algorithm.GetHashType().New()
	message.Write(dsse.PAE(from.GetPayloadType(), from.GetPayload()))
	return &pb.HashedRekordRequestV002{
		Digest:    message.Sum(nil),
		Signature: &pb.Signature{Content: from.GetSignatures()[0].GetSig(), Verifier: verifiers[0]},
	}, nil
}
