package monitor

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// Entry is one entry of a log.
type Entry struct {
	Index     uint64
	Timestamp uint64 // the SCT's timestamp, in milliseconds since 1970
	Precert   bool
	// IssuerKeyHash is the SHA-256 of the issuing certificate's SubjectPublicKeyInfo, for a precertificate.
	IssuerKeyHash [32]byte
	// Content is the TBSCertificate without poison and SCT list of a precertificate, or the DER of a certificate.
	Content    []byte
	Extensions []byte // the SCT's extensions
	// Precertificate is the DER of the submitted precertificate.
	Precertificate []byte
	// Chain has the SHA-256 of each issuing certificate, nearest first. Issuers has their DER if the log serves the
	// certificates themselves, as an RFC 6962 log does.
	Chain   [][32]byte
	Issuers [][]byte

	leaf []byte // the MerkleTreeLeaf (RFC 6962 §3.4)
}

// The values of LogEntryType (RFC 6962 §3.1).
const (
	entryX509    = 0
	entryPrecert = 1
)

// Leaf returns the MerkleTreeLeaf (RFC 6962 §3.4) of the entry. The caller MUST NOT modify it.
func (e *Entry) Leaf() []byte { return e.leaf }

// Time returns the timestamp.
func (e *Entry) Time() time.Time { return TimeOf(e.Timestamp) }

// LeafHash returns the entry's leaf hash (RFC 6962 §2.1).
func (e *Entry) LeafHash() [32]byte {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(e.leaf)
	return [32]byte(h.Sum(nil))
}

// ParseDataTile reads an entry bundle (c2sp.org/static-ct-api, "Log Entries") whose first entry has the index first. A
// bundle of more than most entries is an error. The slices of the entries share data's memory.
func ParseDataTile(data []byte, first uint64, most int) ([]Entry, error) {
	out := make([]Entry, 0, min(most, tileWidth, len(data)/minTileEntry+1))
	in := cryptobyte.String(data)
	for !in.Empty() {
		e := Entry{Index: first + uint64(len(out))}
		if len(out) == most {
			return nil, fmt.Errorf("the bundle has more than %d entries", most)
		}
		from := in
		if err := e.readTimestamped(&in); err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		e.leaf = append([]byte{0, 0}, from[:len(from)-len(in)]...) // version v1, timestamped_entry
		var chain cryptobyte.String
		if e.Precert && !in.ReadUint24LengthPrefixed((*cryptobyte.String)(&e.Precertificate)) ||
			!in.ReadUint16LengthPrefixed(&chain) {
			return nil, fmt.Errorf("entry %d: truncated", e.Index)
		}
		if len(chain) > maxChain*sha256.Size {
			return nil, fmt.Errorf("entry %d: a chain of more than %d certificates", e.Index, maxChain)
		}
		for !chain.Empty() {
			var sum []byte
			if !chain.ReadBytes(&sum, 32) {
				return nil, fmt.Errorf("entry %d: the chain is not a list of digests", e.Index)
			}
			e.Chain = append(e.Chain, [32]byte(sum))
		}
		out = append(out, e)
	}
	return out, nil
}

// minTileEntry is the length of the shortest entry in a bundle: a timestamp, a type, and three empty vectors. maxChain
// bounds the certificates in the chain of an entry.
const (
	minTileEntry = 8 + 2 + 3 + 2 + 2
	maxChain     = 64
)

// ParseLeafEntry parses an entry of get-entries (RFC 6962 §4.6) from its decoded leaf_input and extra_data.
func ParseLeafEntry(index uint64, leafInput, extraData []byte) (Entry, error) {
	e := Entry{Index: index, leaf: leafInput}
	in := cryptobyte.String(leafInput)
	var version, kind uint8
	if !in.ReadUint8(&version) || !in.ReadUint8(&kind) || version != 0 || kind != 0 {
		return e, fmt.Errorf("entry %d: not a leaf of version 1", index)
	}
	if err := e.readTimestamped(&in); err != nil {
		return e, fmt.Errorf("entry %d: %w", index, err)
	}
	extra := cryptobyte.String(extraData)
	var chain cryptobyte.String
	if !in.Empty() || e.Precert && !extra.ReadUint24LengthPrefixed((*cryptobyte.String)(&e.Precertificate)) ||
		!extra.ReadUint24LengthPrefixed(&chain) || !extra.Empty() {
		return e, fmt.Errorf("entry %d: invalid leaf_input or extra_data", index)
	}
	for !chain.Empty() {
		var der cryptobyte.String
		switch {
		case !chain.ReadUint24LengthPrefixed(&der) || der.Empty(): // ASN.1Cert is not empty (RFC 6962 §3.1)
			return e, fmt.Errorf("entry %d: the chain is truncated", index)
		case len(e.Chain) == maxChain:
			return e, fmt.Errorf("entry %d: a chain of more than %d certificates", index, maxChain)
		}
		e.Issuers = append(e.Issuers, der)
		e.Chain = append(e.Chain, sha256.Sum256(der))
	}
	return e, nil
}

// readTimestamped parses a TimestampedEntry (RFC 6962 §3.4).
func (e *Entry) readTimestamped(in *cryptobyte.String) error {
	var kind uint16
	if !in.ReadUint64(&e.Timestamp) || !in.ReadUint16(&kind) {
		return errors.New("truncated")
	}
	switch kind {
	case entryX509:
	case entryPrecert:
		e.Precert = true
		var hash []byte
		if !in.ReadBytes(&hash, 32) {
			return errors.New("truncated")
		}
		e.IssuerKeyHash = [32]byte(hash)
	default:
		return fmt.Errorf("unknown entry type %d", kind)
	}
	if !in.ReadUint24LengthPrefixed((*cryptobyte.String)(&e.Content)) ||
		!in.ReadUint16LengthPrefixed((*cryptobyte.String)(&e.Extensions)) {
		return errors.New("truncated")
	}
	return nil
}

// LeafIndex returns the SCT extension with the index of an entry (c2sp.org/static-ct-api, "SCT Extension").
func LeafIndex(index uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{0, 0, 5}, index)
	return append(b[:3], b[6:]...) // the index has 40 bits
}

// ParseLeafIndex returns the index in the extensions of an SCT of a static-ct log.
func ParseLeafIndex(extensions []byte) (uint64, bool) {
	in := cryptobyte.String(extensions)
	var kind uint8
	var value cryptobyte.String
	for !in.Empty() {
		if !in.ReadUint8(&kind) || !in.ReadUint16LengthPrefixed(&value) {
			return 0, false
		}
		if kind == 0 && len(value) == 5 {
			var n uint64
			for _, b := range value {
				n = n<<8 | uint64(b)
			}
			return n, true
		}
	}
	return 0, false
}
