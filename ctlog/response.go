package ctlog

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/tbs"
)

// ParseResponse turns the JSON that a log answers to add-pre-chain (RFC 6962 §4.1) into an SCT in TLS encoding (§3.2), the
// extensions as they came. It errs on anything but one JSON object with an SCT of version 1; it verifies no signature.
func ParseResponse(body []byte) ([]byte, error) {
	// The library's struct cannot tell an absent member from a zero one, and an absent version is not version 1.
	var present struct {
		Version   *json.RawMessage `json:"sct_version"`
		Timestamp *json.RawMessage `json:"timestamp"`
	}
	var answer ct.AddChainResponse
	if err := errors.Join(json.Unmarshal(body, &present), json.Unmarshal(body, &answer)); err != nil {
		return nil, fmt.Errorf("not an SCT in JSON: %w", err)
	}
	if present.Version == nil || present.Timestamp == nil {
		return nil, errors.New("not an SCT in JSON: sct_version or timestamp is absent")
	}
	if answer.SCTVersion != ct.V1 {
		return nil, fmt.Errorf("SCT has version %d, not v1", uint64(answer.SCTVersion)+1)
	}
	s, err := answer.ToSignedCertificateTimestamp()
	if err != nil {
		return nil, fmt.Errorf("not an SCT: %w", err)
	}
	return tbs.SCT{
		LogID:      s.LogID.KeyID,
		Timestamp:  s.Timestamp,
		Extensions: s.Extensions,
		Hash:       uint8(s.Signature.Algorithm.Hash),
		Sig:        uint8(s.Signature.Algorithm.Signature),
		Signature:  s.Signature.Signature,
	}.Marshal()
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
