package monitor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// State records how far a log has been read. The zero State is the beginning.
type State struct {
	// Log is the log ID.
	Log [32]byte
	// Size is the number of entries that were read and proven; Hashes are the roots of the perfect trees over them,
	// left to right.
	Size   uint64
	Hashes [][]byte
	// Head is the largest head so far.
	Head Head
}

// stateJSON is the JSON form of a state, with digests in hexadecimal.
type stateJSON struct {
	Log       string   `json:"log"`
	Size      uint64   `json:"size"`
	Hashes    []string `json:"hashes,omitempty"`
	HeadSize  uint64   `json:"head_size"`
	HeadRoot  string   `json:"head_root"`
	Timestamp uint64   `json:"head_timestamp"` // milliseconds since 1970
}

// MarshalJSON implements [json.Marshaler].
func (s State) MarshalJSON() ([]byte, error) {
	out := stateJSON{
		Log: hex.EncodeToString(s.Log[:]), Size: s.Size, HeadSize: s.Head.Size,
		HeadRoot: hex.EncodeToString(s.Head.Root[:]), Timestamp: s.Head.Timestamp,
	}
	for _, h := range s.Hashes {
		out.Hashes = append(out.Hashes, hex.EncodeToString(h))
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements [json.Unmarshaler]. It refuses a state from which Follow could not continue.
func (s *State) UnmarshalJSON(data []byte) error {
	var in stateJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	out := State{Size: in.Size, Head: Head{Size: in.HeadSize, Timestamp: in.Timestamp}}
	log, err1 := hex.DecodeString(in.Log)
	root, err2 := hex.DecodeString(in.HeadRoot)
	if err := errors.Join(err1, err2); err != nil || len(log) != sha256.Size || len(root) != sha256.Size {
		return errors.New("state of a log: log or head_root is not a digest")
	}
	out.Log, out.Head.Root = [32]byte(log), [32]byte(root)
	if in.Size > in.HeadSize || in.HeadSize > 1<<62 {
		return fmt.Errorf("state of a log: %d entries read under a head over %d", in.Size, in.HeadSize)
	}
	if want := compact.RangeSize(0, in.Size); len(in.Hashes) != want {
		return fmt.Errorf("state of a log: %d hashes over %d entries; there must be %d", len(in.Hashes), in.Size, want)
	}
	for _, text := range in.Hashes {
		h, err := hex.DecodeString(text)
		if err != nil || len(h) != sha256.Size {
			return errors.New("state of a log: a hash is not a digest")
		}
		out.Hashes = append(out.Hashes, h)
	}
	*s = out
	return nil
}

// tree returns a compact range over the entries read. It shares no memory with s.
func (s State) tree() *compact.Range {
	f := &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r, err := f.NewRange(0, s.Size, cloned(s.Hashes))
	if err != nil { // the state was not made by Follow or UnmarshalJSON
		return f.NewEmptyRange(0)
	}
	return r
}

func cloned(hashes [][]byte) [][]byte {
	out := make([][]byte, 0, len(hashes)+1)
	for _, h := range hashes {
		out = append(out, append([]byte(nil), h...))
	}
	return out
}
