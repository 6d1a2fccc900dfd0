package monitor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/binary"
	"errors"
	"fmt"

	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-ca/mayfly/loglist"
)

// Format is what a tiled log contains and how its checkpoints are signed.
type Format int

const (
	// Certificates is the format of c2sp.org/static-ct-api.
	Certificates Format = iota
	// Opaque is a log of c2sp.org/tlog-tiles, whose entries are bytes and whose checkpoints are plain notes
	// (c2sp.org/signed-note), such as a Rekor v2 log. Its heads have no timestamp, and its entries have only Index,
	// Content and the leaf hash.
	Opaque
)

// LogID returns the ID of a log: the SHA-256 of the key's SubjectPublicKeyInfo (RFC 6962 §3.2). For an opaque log, it
// is the SHA-256 from which the key ID of the note is cut (c2sp.org/signed-note, "Verifier keys"; Rekor v2 for keys
// other than Ed25519).
func LogID(f Format, origin string, key crypto.PublicKey) (id [32]byte, err error) {
	if f == Certificates {
		return loglist.ID(key)
	}
	_, sum, err := rekornote.KeyHash(origin, key)
	if err == nil && len(sum) != len(id) {
		err = errors.New("the log ID is not a SHA-256")
	}
	if err != nil {
		return id, err
	}
	return [32]byte(sum), nil
}

// NoteHash is the hash function with which a key signs a plain note; 0 for a key that signs the note itself.
func NoteHash(key crypto.PublicKey) crypto.Hash {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P384():
			return crypto.SHA384
		case elliptic.P521():
			return crypto.SHA512
		}
		return crypto.SHA256
	default:
		return 0
	}
}

// noteVerifier returns the verifier of an opaque log's notes.
func noteVerifier(l loglist.Log) (note.Verifier, error) {
	v, err := signature.LoadVerifier(l.Key, NoteHash(l.Key))
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", l.Name, err)
	}
	return rekornote.NewNoteVerifier(l.Origin, v)
}

// parseBundle reads an entry bundle of an opaque log (c2sp.org/tlog-tiles, "Log Entries") whose first entry has the
// index first. A bundle of more than most entries is an error. The slices of the entries share data's memory.
func parseBundle(data []byte, first uint64, most int) ([]Entry, error) {
	out := make([]Entry, 0, min(most, tileWidth))
	for len(data) > 0 {
		index := first + uint64(len(out))
		if len(out) == most {
			return nil, fmt.Errorf("the bundle has more than %d entries", most)
		}
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("entry %d: truncated", index)
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		leaf := data[2:end:end]
		out = append(out, Entry{Index: index, Content: leaf, leaf: leaf})
		data = data[end:]
	}
	return out, nil
}
