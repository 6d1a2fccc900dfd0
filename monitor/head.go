package monitor

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-ca/mayfly/loglist"
)

// Head is a signed tree head (RFC 6962 §3.5), or a checkpoint with the same content.
type Head struct {
	Size uint64
	Root [32]byte
	// Timestamp is the time at which the log signed the head, in milliseconds since 1970.
	Timestamp uint64
}

// Time returns the timestamp.
func (h Head) Time() time.Time { return TimeOf(h.Timestamp) }

// SignatureInput returns the TreeHeadSignature (RFC 6962 §3.5) that the log signs.
func (h Head) SignatureInput() []byte {
	b := binary.BigEndian.AppendUint64([]byte{0, 1}, h.Timestamp) // v1, tree_hash
	return append(binary.BigEndian.AppendUint64(b, h.Size), h.Root[:]...)
}

// TimeOf converts a timestamp of a log, in milliseconds since 1970.
func TimeOf(timestamp uint64) time.Time {
	return time.UnixMilli(int64(min(timestamp, 1<<62))).UTC() //nolint:gosec // bounded
}

// noteRFC6962 is the type of a checkpoint signature that is the signature of a tree head (c2sp.org/static-ct-api,
// "Checkpoints").
const noteRFC6962 = "\x05"

// maxSignatures bounds the signature lines of a note: there are few cosigners (c2sp.org/signed-note).
const maxSignatures = 64

// headVerifier verifies the heads of one log.
type headVerifier struct {
	key    crypto.PublicKey
	id     [32]byte // log ID
	origin string   // empty if only RFC 6962 tree heads are read
	format Format
	note   note.Verifier // of an opaque log
}

func newHeadVerifier(l loglist.Log, f Format) (v headVerifier, err error) {
	v = headVerifier{key: l.Key, origin: l.Origin, format: f}
	if f == Opaque {
		if v.note, err = noteVerifier(l); err != nil {
			return v, err
		}
	}
	v.id, err = LogID(f, l.Origin, l.Key)
	return v, err
}

// noteKey returns the key ID in the notes of the log (c2sp.org/signed-note, "Signatures").
func (v headVerifier) noteKey() uint32 {
	if v.note != nil {
		return v.note.KeyHash()
	}
	return NoteKeyID(v.origin, v.id)
}

// checkpoint reads a note (c2sp.org/tlog-checkpoint) and verifies the log's own signature on it. cosigners are the
// names in the other signatures, which are not verified.
func (v headVerifier) checkpoint(raw []byte) (h Head, cosigners []string, err error) {
	text, signatures, ok := strings.Cut(string(raw), "\n\n")
	switch {
	case !ok:
		return h, nil, errors.New("checkpoint: no blank line between text and signatures")
	case !strings.HasSuffix(signatures, "\n"):
		return h, nil, errors.New("checkpoint: truncated")
	case !utf8.Valid(raw) || bytes.ContainsFunc(raw,
		func(r rune) bool { return r < ' ' && r != '\n' }): // c2sp.org/signed-note
		return h, nil, errors.New("checkpoint: it contains characters that are not allowed in a note")
	}
	h, origin, err := ParseCheckpoint(raw)
	if err != nil {
		return Head{}, nil, err
	}
	if origin != v.origin {
		return Head{}, nil,
			fmt.Errorf("%w: the checkpoint has the origin %q, but the configured origin is %q", ErrBadHead,
				clip(origin), v.origin)
	}
	lines := strings.Split(strings.TrimSuffix(signatures, "\n"), "\n")
	if len(lines) > maxSignatures {
		return Head{}, nil, fmt.Errorf("checkpoint: %d signatures; at most %d are read", len(lines), maxSignatures)
	}
	var own []byte
	for _, line := range lines {
		name, encoded, ok := strings.Cut(strings.TrimPrefix(line, "— "), " ")
		blob, err := base64.StdEncoding.Strict().DecodeString(encoded)
		switch {
		case !ok || !strings.HasPrefix(line, "— ") || err != nil || len(blob) < 5:
			return Head{}, nil, errors.New("checkpoint: a signature line is malformed")
		case name != v.origin || binary.BigEndian.Uint32(blob) != v.noteKey():
			cosigners = append(cosigners, name)
		case own == nil:
			own = blob
		}
	}
	switch {
	case own == nil:
		return Head{}, nil, fmt.Errorf("%w: the checkpoint has no signature by the pinned key", ErrBadHead)
	case v.note != nil:
		if !v.note.Verify([]byte(text+"\n"), own[4:]) {
			return Head{}, nil, fmt.Errorf("%w: the signature over size %d does not verify with the pinned key",
				ErrBadHead, h.Size)
		}
		return h, cosigners, nil
	case len(own) < 12:
		return Head{}, nil, fmt.Errorf("%w: the checkpoint's signature is truncated", ErrBadHead)
	}
	h.Timestamp = binary.BigEndian.Uint64(own[4:])
	return h, cosigners, v.verify(h, own[12:])
}

// ParseCheckpoint reads the first three lines of a checkpoint (c2sp.org/tlog-checkpoint): origin, size and root hash.
// It verifies no signature.
func ParseCheckpoint(raw []byte) (h Head, origin string, err error) {
	lines := strings.SplitN(string(raw), "\n", 4)
	if len(lines) < 4 {
		return h, "", errors.New("checkpoint: fewer than three lines")
	}
	if h.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || strconv.FormatUint(h.Size, 10) != lines[1] {
		return h, "", errors.New("checkpoint: the second line is not a tree size")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != sha256.Size {
		return h, "", errors.New("checkpoint: the third line is not a root hash")
	}
	h.Root = [32]byte(root)
	return h, lines[0], nil
}

// NoteKeyID returns the key ID of a log in a note (c2sp.org/signed-note, "Signatures"), from its origin and its log ID.
func NoteKeyID(origin string, id [32]byte) uint32 {
	sum := sha256.Sum256(append([]byte(origin+"\n"+noteRFC6962), id[:]...))
	return binary.BigEndian.Uint32(sum[:])
}

// sth parses the response to get-sth (RFC 6962 §4.3) and verifies the tree head.
func (v headVerifier) sth(body []byte) (Head, error) {
	var in struct {
		Size      *uint64 `json:"tree_size"`
		Timestamp *uint64 `json:"timestamp"`
		Root      []byte  `json:"sha256_root_hash"`
		Signature []byte  `json:"tree_head_signature"`
	}
	if err := decodeJSON(body, &in); err != nil {
		return Head{}, fmt.Errorf("tree head: %w", err)
	}
	if in.Size == nil || in.Timestamp == nil || len(in.Root) != sha256.Size || *in.Size > 1<<62 {
		return Head{}, errors.New("tree head: tree_size, timestamp or sha256_root_hash is missing or invalid")
	}
	h := Head{Size: *in.Size, Root: [32]byte(in.Root), Timestamp: *in.Timestamp}
	return h, v.verify(h, in.Signature)
}

// decodeJSON decodes exactly one JSON value.
func decodeJSON(body []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("not the expected JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("not the expected JSON: bytes follow the value")
	}
	return nil
}

// verify checks the signature over a TreeHeadSignature (RFC 6962 §3.5), a DigitallySigned struct (RFC 5246 §4.7).
func (v headVerifier) verify(h Head, signed []byte) error {
	const sha256Hash, rsaSignature, ecdsaSignature = 4, 1, 3 // RFC 5246 §7.4.1.4.1
	in := cryptobyte.String(signed)
	var hash, algorithm uint8
	var signature cryptobyte.String
	if !in.ReadUint8(&hash) || !in.ReadUint8(&algorithm) || !in.ReadUint16LengthPrefixed(&signature) || !in.Empty() {
		return fmt.Errorf("%w: invalid encoding of the tree head signature", ErrBadHead)
	}
	digest := sha256.Sum256(h.SignatureInput())
	good := false
	switch key := v.key.(type) {
	case *ecdsa.PublicKey:
		good = hash == sha256Hash && algorithm == ecdsaSignature && ecdsa.VerifyASN1(key, digest[:], signature)
	case *rsa.PublicKey:
		good = hash == sha256Hash && algorithm == rsaSignature &&
			rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	}
	if !good {
		return fmt.Errorf("%w: the signature over size %d does not verify with the pinned key", ErrBadHead, h.Size)
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), 200)] }
