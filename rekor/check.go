package rekor

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/rekor/entry"
)

// CheckEntry checks an entry that is in a log: its canonical form, and the signature in it. The signature of a dsse
// entry of Rekor v1 cannot be verified, because the log has only digests of the signed bytes.
func CheckEntry(ctx context.Context, leaf []byte) (*entry.Entry, error) {
	e, err := entry.Parse(leaf)
	if err != nil {
		return nil, err
	}
	again, err := checkAgain(ctx, e, leaf)
	if err == nil && !bytes.Equal(again, leaf) {
		err = errors.New("the entry differs from the one that its members describe")
	}
	return e, err
}

// checkAgain verifies the entry as if it were to be logged, and returns the leaf that would be logged.
func checkAgain(ctx context.Context, e *entry.Entry, leaf []byte) ([]byte, error) {
	var m pb.Entry
	if err := protojson.Unmarshal(leaf, &m); err == nil && m.GetSpec().GetHashedRekordV002() != nil {
		spec := m.GetSpec().GetHashedRekordV002()
		made, err := hashedRekord(&pb.HashedRekordRequestV002{
			Signature: spec.GetSignature(), Digest: spec.GetData().GetDigest(),
		})
		if err != nil {
			return nil, fmt.Errorf("the signature: %w", err)
		}
		return made.leaf, nil
	}
	if e.Kind != entry.HashedRekord {
		return leaf, nil
	}
	made, err := verifyV1(ctx, leaf)
	if err != nil {
		return nil, fmt.Errorf("the signature: %w", err)
	}
	return made.leaf, nil
}
