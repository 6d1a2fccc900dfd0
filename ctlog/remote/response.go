package remote

import (
	"encoding/base64"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/tbs"
)

// sctAnswer is the JSON answer to add-pre-chain (RFC 6962 §4.1). A pointer distinguishes an absent member from zero,
// which AddChainResponse of certificate-transparency-go does not: an absent version is not version 1.
type sctAnswer struct {
	Version    *uint64 `json:"sct_version"`
	ID         []byte  `json:"id"`
	Timestamp  *uint64 `json:"timestamp"`
	Extensions string  `json:"extensions"`
	Signature  []byte  `json:"signature"`
}

// sct returns the SCT in TLS encoding (RFC 6962 §3.2), with the extensions as received. It returns an error for
// anything but an SCT of version 1; it verifies no signature.
func (a *sctAnswer) sct() ([]byte, error) {
	switch {
	case a.Version == nil || a.Timestamp == nil:
		return nil, errors.New("not an SCT in JSON: sct_version or timestamp is absent")
	case *a.Version != 0:
		return nil, fmt.Errorf("SCT has version %d, not v1", *a.Version+1)
	case len(a.ID) != 32:
		return nil, fmt.Errorf("not an SCT: the log ID has %d bytes, not 32", len(a.ID))
	}
	extensions, err := base64.StdEncoding.DecodeString(a.Extensions)
	if err != nil {
		return nil, fmt.Errorf("not an SCT: extensions: %w", err)
	}
	s := tbs.SCT{LogID: [32]byte(a.ID), Timestamp: *a.Timestamp, Extensions: extensions}
	signed := cryptobyte.String(a.Signature) // digitally-signed (RFC 5246 §4.7)
	var signature cryptobyte.String
	if !signed.ReadUint8(&s.Hash) || !signed.ReadUint8(&s.Sig) || !signed.ReadUint16LengthPrefixed(&signature) ||
		!signed.Empty() {
		return nil, errors.New("not an SCT: the signature is truncated or has trailing bytes")
	}
	s.Signature = signature
	return s.Marshal()
}

// rootsAnswer is the JSON answer to get-roots (RFC 6962 §4.7).
type rootsAnswer struct {
	Certificates []string `json:"certificates"`
}

// roots returns the certificates in DER.
func (a *rootsAnswer) roots() ([][]byte, error) {
	roots := make([][]byte, 0, len(a.Certificates))
	for i, text := range a.Certificates {
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, &ctlog.Failure{Result: ctlog.Garbled, Err: fmt.Errorf("root %d is not base64", i)}
		}
		roots = append(roots, der)
	}
	return roots, nil
}
