package ctlog

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/mayfly-ca/mayfly/tbs"
)

// ParseResponse turns the JSON that a log answers to add-pre-chain (RFC 6962 §4.1) into an SCT in TLS encoding (§3.2), the
// extensions as they came. It errs on anything but one JSON object with an SCT of version 1; it verifies no signature.
func ParseResponse(body []byte) ([]byte, error) {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("not an SCT in JSON: %w", err)
	}
	switch {
	case a.Version == nil || a.Timestamp == nil:
		return nil, errors.New("not an SCT in JSON: sct_version or timestamp is absent")
	case *a.Version != 0:
		return nil, fmt.Errorf("SCT has version %d, not v1", *a.Version+1)
	case len(a.ID) != 32:
		return nil, fmt.Errorf("not an SCT: the log id has %d bytes, not 32", len(a.ID))
	}
	extensions, err := base64.StdEncoding.DecodeString(a.Extensions)
	if err != nil {
		return nil, fmt.Errorf("not an SCT: extensions: %w", err)
	}
	s := tbs.SCT{LogID: [32]byte(a.ID), Timestamp: *a.Timestamp, Extensions: extensions}
	signed := cryptobyte.String(a.Signature) // digitally-signed (RFC 5246 §4.7)
	var signature cryptobyte.String
	if !signed.ReadUint8(&s.Hash) || !signed.ReadUint8(&s.Sig) || !signed.ReadUint16LengthPrefixed(&signature) || !signed.Empty() {
		return nil, errors.New("not an SCT: the signature is cut short or has trailing bytes")
	}
	s.Signature = signature
	return s.Marshal()
}

// answer is what a log says to add-pre-chain. A pointer tells an absent member from a zero one: an absent version is not
// version 1.
type answer struct {
	Version    *uint64 `json:"sct_version"`
	ID         []byte  `json:"id"`
	Timestamp  *uint64 `json:"timestamp"`
	Extensions string  `json:"extensions"`
	Signature  []byte  `json:"signature"`
}

// decodeRoots turns the base64 of get-roots into DER.
func decodeRoots(certificates []string) ([][]byte, error) {
	roots := make([][]byte, 0, len(certificates))
	for i, text := range certificates {
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, &Failure{Result: Garbled, Err: fmt.Errorf("root %d is not base64", i)}
		}
		roots = append(roots, der)
	}
	return roots, nil
}
