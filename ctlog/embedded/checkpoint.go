package embedded

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/mayfly-ca/mayfly/monitor"
)

// signer signs SCTs (RFC 6962 §3.2) and checkpoints, which are notes whose signature is that of an RFC 6962 tree head
// (c2sp.org/static-ct-api, "Checkpoints").
type signer struct {
	origin string
	key    *ecdsa.PrivateKey
	id     [32]byte // SHA-256 of the SPKI (RFC 6962 §3.2)
	now    func() time.Time
	rand   io.Reader
	// degraded returns why no tree may be signed now, because it may not be on disk, or nil.
	degraded func() error
}

const tlsSHA256, tlsECDSA = 4, 3 // RFC 5246 §7.4.1.4.1

// Name implements [note.Signer].
func (s *signer) Name() string { return s.origin }

// KeyHash implements [note.Signer].
func (s *signer) KeyHash() uint32 { return monitor.NoteKeyID(s.origin, s.id) }

// Sign implements [note.Signer]: the timestamp, followed by the signature over the tree head that the note describes.
func (s *signer) Sign(msg []byte) ([]byte, error) {
	if err := s.degraded(); err != nil {
		return nil, fmt.Errorf("no checkpoint is signed while the storage fails: %w", err)
	}
	h, err := parseHead(msg, s.origin)
	if err != nil {
		return nil, err
	}
	h.Timestamp = uint64(s.now().UnixMilli()) //nolint:gosec // after 1970
	sig, err := s.digitallySigned(h.SignatureInput())
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64(nil, h.Timestamp), sig...), nil
}

// digitallySigned returns the TLS structure of RFC 5246 §4.7.
func (s *signer) digitallySigned(data []byte) ([]byte, error) {
	sig, err := s.sign(data)
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(nil)
	b.AddUint8(tlsSHA256)
	b.AddUint8(tlsECDSA)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sig) })
	return b.Bytes()
}

func (s *signer) sign(data []byte) ([]byte, error) {
	digest := sha256.Sum256(data)
	return s.key.Sign(s.rand, digest[:], crypto.SHA256)
}

// parseHead reads a checkpoint of the log with that origin. It verifies no signature.
func parseHead(note []byte, origin string) (monitor.Head, error) {
	h, of, err := monitor.ParseCheckpoint(note)
	if err == nil && of != origin {
		err = fmt.Errorf("the checkpoint has the origin %q, not %q", of, origin)
	}
	return h, err
}
