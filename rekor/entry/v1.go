package entry

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
)

// VersionV1 is the version of entries that were written over the API of Rekor v1.
const VersionV1 = "0.0.1"

// The entries of Rekor v1. The members are in the order of RFC 8785, so that encoding/json writes the canonical form:
// no value has a character that JSON escapes.
type (
	hashedRekordV1 struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			Data struct {
				Hash hashV1 `json:"hash"`
			} `json:"data"`
			Signature struct {
				Content   []byte `json:"content"`
				PublicKey struct {
					Content []byte `json:"content"` // PEM
				} `json:"publicKey"`
			} `json:"signature"`
		} `json:"spec"`
	}
	dsseV1 struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			EnvelopeHash hashV1 `json:"envelopeHash"`
			PayloadHash  hashV1 `json:"payloadHash"`
			Signatures   []struct {
				Signature []byte `json:"signature"`
				Verifier  []byte `json:"verifier"` // PEM
			} `json:"signatures"`
		} `json:"spec"`
	}
	hashV1 struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"value"` // hexadecimal
	}
)

// versionOf returns the version and the kind of an entry; "" if it has none.
func versionOf(body []byte) (version, kind string) {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if json.Unmarshal(body, &head) != nil {
		return "", ""
	}
	return head.APIVersion, head.Kind
}

// parseV1 parses an entry of Rekor v1.
func parseV1(body []byte, kind string) (*Entry, error) {
	switch kind {
	case HashedRekord:
		var m hashedRekordV1
		if err := strictV1(body, &m); err != nil {
			return nil, err
		}
		return entryV1(kind, m.Spec.Data.Hash, [2][]byte{m.Spec.Signature.Content, m.Spec.Signature.PublicKey.Content})
	case DSSE:
		var m dsseV1
		if err := strictV1(body, &m); err != nil {
			return nil, err
		}
		if _, err := m.Spec.EnvelopeHash.digest(); err != nil {
			return nil, err
		}
		var signatures [][2][]byte
		for _, s := range m.Spec.Signatures {
			signatures = append(signatures, [2][]byte{s.Signature, s.Verifier})
		}
		return entryV1(kind, m.Spec.PayloadHash, signatures...)
	}
	return nil, fmt.Errorf("unknown kind %q of an entry", kind)
}

// strictV1 decodes a body, which must be the canonical form of m.
func strictV1(body []byte, m any) error {
	if err := json.Unmarshal(body, m); err != nil {
		return fmt.Errorf("the entry is not one of Rekor v1: %w", err)
	}
	canonical, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if !bytes.Equal(canonical, body) {
		return errors.New("the entry is not in canonical form (RFC 8785), or has unknown members")
	}
	return nil
}

// entryV1 returns an entry with these signatures, each with its key or certificate in PEM.
func entryV1(kind string, hash hashV1, signatures ...[2][]byte) (*Entry, error) {
	digest, err := hash.digest()
	if err != nil {
		return nil, err
	}
	out := &Entry{Kind: kind, Digest: digest}
	for _, s := range signatures {
		one := Signature{Value: s[0]}
		switch block, _ := pem.Decode(s[1]); { // of a chain, the first certificate is that of the signature
		case block == nil:
		case block.Type == "CERTIFICATE":
			if one.Certificate, err = parseCertificate(block.Bytes); err != nil {
				return nil, err
			}
		default:
			one.Key = block.Bytes
		}
		out.Signatures = append(out.Signatures, one)
	}
	return out, nil
}

func (h hashV1) digest() (Digest, error) {
	sum, err := hex.DecodeString(h.Value)
	if err != nil {
		return Digest{}, errors.New("a digest that is not in hexadecimal digits")
	}
	return newDigest(h.Algorithm, sum)
}
