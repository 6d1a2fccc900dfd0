package ct

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
)

// Static writes a static-ct log (c2sp.org/static-ct-api) into a directory, tile by tile. It shares no code with the
// product.
type Static struct {
	Dir, Origin string
	Key         *ecdsa.PrivateKey
	Now         func() time.Time

	bundle  []byte     // the entries after the last full bundle of 256
	partial int        // the number of entries in bundle
	levels  [][][]byte // hashes of perfect trees of 256^level leaves that are in no full tile yet
	counts  []int      // full tiles written, by level
	size    uint64
}

// NewStatic creates an empty log in dir, with a new key.
func NewStatic(dir, origin string) (*Static, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &Static{Dir: dir, Origin: origin, Key: key, Now: time.Now}, err
}

// StaticEntry is an entry to add.
type StaticEntry struct {
	Timestamp     uint64 // milliseconds since 1970
	IssuerKeyHash [32]byte
	TBS           []byte // the TBSCertificate of a precertificate; nil: Certificate is a final certificate
	Certificate   []byte
	Chain         [][32]byte
}

// Extensions returns the SCT extension with the leaf index of an entry.
func Extensions(index uint64) []byte {
	return append([]byte{0, 0, 5, byte(index >> 32)}, binary.BigEndian.AppendUint32(nil, uint32(index))...)
}

// Add adds an entry and returns its index. No checkpoint covers the entry before Publish.
func (s *Static) Add(e StaticEntry) (uint64, error) {
	index := s.size
	content, kind := e.TBS, byte(1)
	if e.TBS == nil {
		content, kind = e.Certificate, 0
	}
	at := binary.BigEndian.AppendUint64(nil, e.Timestamp)
	at = append(at, 0, kind)
	if kind == 1 {
		at = append(at, e.IssuerKeyHash[:]...)
	}
	at = append(append(at, byte(len(content)>>16), byte(len(content)>>8), byte(len(content))), content...)
	x := Extensions(index)
	at = append(append(at, 0, byte(len(x))), x...)
	s.bundle = append(s.bundle, at...)
	if kind == 1 {
		der := e.Certificate
		s.bundle = append(append(s.bundle, byte(len(der)>>16), byte(len(der)>>8), byte(len(der))), der...)
	}
	s.bundle = binary.BigEndian.AppendUint16(s.bundle, uint16(32*len(e.Chain)))
	for _, sum := range e.Chain {
		s.bundle = append(s.bundle, sum[:]...)
	}
	s.partial++
	s.size++
	if s.partial == 256 {
		if err := s.write(fmt.Sprintf("tile/data/%s", number(index/256)), s.bundle); err != nil {
			return 0, err
		}
		s.bundle, s.partial = s.bundle[:0], 0
	}
	return index, s.push(0, rfc6962.DefaultHasher.HashLeaf(append([]byte{0, 0}, at...)))
}

// push adds a hash to a level, and to the level above when a tile is full.
func (s *Static) push(level int, hash []byte) error {
	if level == len(s.levels) {
		s.levels, s.counts = append(s.levels, nil), append(s.counts, 0)
	}
	s.levels[level] = append(s.levels[level], hash)
	if len(s.levels[level]) < 256 {
		return nil
	}
	whole := s.levels[level]
	if err := s.write(fmt.Sprintf("tile/%d/%s", level, number(uint64(s.counts[level]))), join(whole)); err != nil {
		return err
	}
	s.levels[level] = nil
	s.counts[level]++
	return s.push(level+1, root(whole))
}

func join(hashes [][]byte) (out []byte) {
	for _, h := range hashes {
		out = append(out, h...)
	}
	return out
}

// root returns the Merkle tree hash over the given leaf hashes (RFC 6962 §2.1).
func root(hashes [][]byte) []byte {
	if len(hashes) == 1 {
		return hashes[0]
	}
	k := 1
	for k*2 < len(hashes) {
		k *= 2
	}
	return rfc6962.DefaultHasher.HashChildren(root(hashes[:k]), root(hashes[k:]))
}

// Root returns the root hash over all entries.
func (s *Static) Root() []byte {
	var right []byte
	for level := range s.levels {
		row := s.levels[level]
		if right != nil {
			row = append(row[:len(row):len(row)], right)
		}
		if len(row) > 0 {
			right = root(row)
		}
	}
	if right == nil {
		return rfc6962.DefaultHasher.EmptyRoot()
	}
	return right
}

// Publish writes the partial tiles and a checkpoint over all entries.
func (s *Static) Publish() error {
	if s.partial > 0 {
		if err := s.write(fmt.Sprintf("tile/data/%s.p/%d", number(s.size/256), s.partial), s.bundle); err != nil {
			return err
		}
	}
	for level, row := range s.levels {
		if len(row) == 0 {
			continue
		}
		if err := s.write(fmt.Sprintf("tile/%d/%s.p/%d", level, number(uint64(s.counts[level])), len(row)),
			join(row)); err != nil {
			return err
		}
	}
	return s.write("checkpoint", Checkpoint(CheckpointOptions{
		Origin: s.Origin, Key: s.Key, Size: s.size,
		Root: s.Root(), Now: s.Now(),
	}))
}

// Size returns the number of entries.
func (s *Static) Size() uint64 { return s.size }

func (s *Static) write(path string, data []byte) error {
	name := filepath.Join(s.Dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o644)
}

func number(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%03d", n)
	}
	rest := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		rest = fmt.Sprintf("x%03d/", n%1000) + rest
	}
	return rest
}

// CheckpointOptions are the options of [Checkpoint].
type CheckpointOptions struct {
	Origin string
	Key    *ecdsa.PrivateKey
	Size   uint64
	Root   []byte
	Now    time.Time
}

// Checkpoint returns a note signed with the RFC 6962 tree head signature (c2sp.org/static-ct-api).
func Checkpoint(o CheckpointOptions) []byte {
	at := binary.BigEndian.AppendUint64(nil, uint64(o.Now.UnixMilli()))
	head := append([]byte{0, 1}, at...)
	head = append(binary.BigEndian.AppendUint64(head, o.Size), o.Root...)
	digest := sha256.Sum256(head)
	signature, err := ecdsa.SignASN1(rand.Reader, o.Key, digest[:])
	if err != nil {
		panic(err)
	}
	id := keyID(o.Key.Public())
	h := sha256.New()
	h.Write([]byte(o.Origin + "\n\x05"))
	h.Write(id[:])
	blob := h.Sum(nil)[:4:4]
	blob = append(blob, at...)
	blob = append(blob, 4, 3, byte(len(signature)>>8), byte(len(signature)))
	blob = append(blob, signature...)
	return fmt.Appendf(nil, "%s\n%d\n%s\n\n— %s %s\n", o.Origin, o.Size,
		base64.StdEncoding.EncodeToString(o.Root), o.Origin,
		base64.StdEncoding.EncodeToString(blob))
}

func keyID(key crypto.PublicKey) [32]byte {
	return sha256.Sum256(spki(key))
}
