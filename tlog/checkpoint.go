package tlog

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-ca/mayfly/monitor"
)

// noteSigner returns the signer of the log's checkpoints.
func (l *Log) noteSigner() (note.Signer, error) {
	if l.kind == StaticCT {
		return &headSigner{origin: l.origin, key: l.key, id: l.id, now: l.now}, nil
	}
	hash, _, err := rekornote.KeyHash(l.origin, l.key.Public())
	return &plainSigner{origin: l.origin, key: l.key, hash: hash}, err
}

// signCheckpoint returns the checkpoint over a tree (c2sp.org/tlog-checkpoint).
func signCheckpoint(s note.Signer, t tree) ([]byte, error) {
	return note.Sign(&note.Note{
		Text: fmt.Sprintf("%s\n%d\n%s\n", s.Name(), t.Size, base64.StdEncoding.EncodeToString(t.Root)),
	}, s)
}

// plainSigner signs notes as they are (c2sp.org/signed-note).
type plainSigner struct {
	origin string
	key    crypto.Signer
	hash   uint32
}

// Name implements [note.Signer].
func (s *plainSigner) Name() string { return s.origin }

// KeyHash implements [note.Signer].
func (s *plainSigner) KeyHash() uint32 { return s.hash }

// Sign implements [note.Signer].
func (s *plainSigner) Sign(msg []byte) ([]byte, error) {
	hash := monitor.NoteHash(s.key.Public())
	if hash == 0 {
		return s.key.Sign(rand.Reader, msg, hash)
	}
	h := hash.New()
	h.Write(msg)
	return s.key.Sign(rand.Reader, h.Sum(nil), hash)
}

// headSigner signs checkpoints whose signature is that of an RFC 6962 tree head (c2sp.org/static-ct-api,
// "Checkpoints").
type headSigner struct {
	origin string
	key    crypto.Signer
	id     [32]byte // SHA-256 of the SPKI (RFC 6962 §3.2)
	now    func() time.Time
}

const tlsSHA256, tlsECDSA = 4, 3 // RFC 5246 §7.4.1.4.1

// Name implements [note.Signer].
func (s *headSigner) Name() string { return s.origin }

// KeyHash implements [note.Signer].
func (s *headSigner) KeyHash() uint32 { return monitor.NoteKeyID(s.origin, s.id) }

// Sign implements [note.Signer]: the timestamp, followed by the signature over the tree head that the note describes, a
// TLS structure (RFC 5246 §4.7).
func (s *headSigner) Sign(msg []byte) ([]byte, error) {
	h, err := parseHead(msg, s.origin)
	if err != nil {
		return nil, err
	}
	h.Timestamp = uint64(s.now().UnixMilli()) //nolint:gosec // after 1970
	digest := sha256.Sum256(h.SignatureInput())
	sig, err := s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(binary.BigEndian.AppendUint64(nil, h.Timestamp))
	b.AddUint8(tlsSHA256)
	b.AddUint8(tlsECDSA)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sig) })
	return b.Bytes()
}

// firstSigner lets Tessera sign the checkpoint over the empty tree of a new log, while the log is opened. From then on,
// only the [publisher] signs and publishes: Tessera publishes at most ten times a second, and two publishers in one
// process could replace a checkpoint by a smaller one, because Tessera's lock holds only between processes.
type firstSigner struct {
	note.Signer
	opened atomic.Bool
}

// Sign implements [note.Signer].
func (s *firstSigner) Sign(msg []byte) ([]byte, error) {
	h, err := parseHead(msg, s.Name())
	if err == nil && (h.Size > 0 || s.opened.Load()) {
		err = errors.New("checkpoints are published by the log itself")
	}
	if err != nil {
		return nil, err
	}
	return s.Signer.Sign(msg)
}

// parseHead reads a checkpoint of the log with that origin. It verifies no signature.
func parseHead(note []byte, origin string) (monitor.Head, error) {
	h, of, err := monitor.ParseCheckpoint(note)
	if err == nil && of != origin {
		err = fmt.Errorf("the checkpoint has the origin %q, not %q", of, origin)
	}
	return h, err
}
