package monitor

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// batch is how many entries are requested from get-entries at once. A log may return fewer.
const batch = 256

// rfc6962Log reads an RFC 6962 log (§4).
type rfc6962Log struct {
	headVerifier
	from getter
}

func (s *rfc6962Log) head(ctx context.Context) (Head, error) {
	body, err := s.from.get(ctx, "ct/v1/get-sth", maxHead)
	if err != nil {
		return Head{}, err
	}
	return s.sth(body)
}

// unit implements [source].
func (s *rfc6962Log) unit(from uint64) uint64 { return (from/batch + 1) * batch }

// entries implements [source] with one or more calls of get-entries (RFC 6962 §4.6).
func (s *rfc6962Log) entries(ctx context.Context, from, to, _ uint64) ([]Entry, error) {
	var all []Entry
	for next := from; next < to; next = from + uint64(len(all)) {
		body, err := s.from.get(ctx, fmt.Sprintf("ct/v1/get-entries?start=%d&end=%d", next, to-1), maxBundle)
		if err != nil {
			return nil, err
		}
		some, err := parseEntries(body, next, to-next)
		if err != nil {
			return nil, err
		}
		if len(some) == 0 {
			return nil, fmt.Errorf("get-entries from %d to %d: the log returned %d entries", next, to-1, len(some))
		}
		all = append(all, some...)
	}
	return all, nil
}

// parseEntries reads the answer to get-entries. An answer with more than most entries is refused (RFC 6962 §4.6: no
// more than requested) as soon as the first entry too many is read.
func parseEntries(body []byte, first, most uint64) ([]Entry, error) {
	bad := func(problem string) error { return fmt.Errorf("get-entries: not the expected JSON: %s", problem) }
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, bad("no object")
	}
	var out []Entry
	seen := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, bad(err.Error())
		}
		if name, _ := key.(string); !strings.EqualFold(name, "entries") {
			var other json.RawMessage
			if err := dec.Decode(&other); err != nil {
				return nil, bad(err.Error())
			}
			continue
		}
		if t, err := dec.Token(); err != nil || t != json.Delim('[') || seen {
			return nil, bad("entries is missing or occurs twice")
		}
		seen = true
		for dec.More() {
			var one struct {
				Leaf  []byte `json:"leaf_input"`
				Extra []byte `json:"extra_data"`
			}
			if uint64(len(out)) == most {
				return nil, fmt.Errorf("get-entries: the log returned more than the %d entries requested", most)
			}
			if err := dec.Decode(&one); err != nil {
				return nil, bad(err.Error())
			}
			e, err := ParseLeafEntry(first+uint64(len(out)), one.Leaf, one.Extra)
			if err != nil {
				return nil, fmt.Errorf("%w: get-entries: %w", ErrMismatch, err)
			}
			out = append(out, e)
		}
		if _, err := dec.Token(); err != nil {
			return nil, bad(err.Error())
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, bad(err.Error())
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, bad("bytes follow the value")
	}
	return out, nil
}

// consistency implements [source]: get-sth-consistency (RFC 6962 §4.4).
func (s *rfc6962Log) consistency(ctx context.Context, from, to uint64) ([][]byte, error) {
	body, err := s.from.get(ctx, fmt.Sprintf("ct/v1/get-sth-consistency?first=%d&second=%d", from, to), maxProof)
	if err != nil {
		return nil, err
	}
	var in struct {
		Proof [][]byte `json:"consistency"`
	}
	if err := decodeJSON(body, &in); err != nil {
		return nil, fmt.Errorf("get-sth-consistency: %w", err)
	}
	return in.Proof, nil
}

// maxProofs bounds the inclusion proofs that are requested to find the entry that is not in the tree.
const maxProofs = 2 * batch

// mismatch implements [source]: it uses the log's inclusion proofs (get-proof-by-hash, RFC 6962 §4.5).
func (s *rfc6962Log) mismatch(ctx context.Context, from, to, size uint64) string {
	head, err := s.head(ctx)
	if err != nil || head.Size < size {
		return ""
	}
	for next := from; next < min(to, from+maxProofs); next = s.unit(next) {
		all, err := s.entries(ctx, next, min(s.unit(next), to), size)
		if err != nil {
			return ""
		}
		for i := range all {
			if err := s.included(ctx, &all[i], head); err != nil {
				return fmt.Sprintf("entry %d: %v", all[i].Index, err)
			}
		}
	}
	return ""
}

// included verifies that e is in the tree of head, at its index.
func (s *rfc6962Log) included(ctx context.Context, e *Entry, head Head) error {
	sum := e.LeafHash()
	query := url.Values{"hash": {base64.StdEncoding.EncodeToString(sum[:])}, "tree_size": {fmt.Sprint(head.Size)}}
	body, err := s.from.get(ctx, "ct/v1/get-proof-by-hash?"+query.Encode(), maxProof)
	if err != nil {
		return fmt.Errorf("the log returned no inclusion proof for the entry: %w", err)
	}
	var in struct {
		Index uint64   `json:"leaf_index"`
		Path  [][]byte `json:"audit_path"`
	}
	if err := decodeJSON(body, &in); err != nil {
		return err
	}
	if in.Index != e.Index {
		return fmt.Errorf("the log's tree has the entry at the index %d", in.Index)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, e.Index, head.Size, sum[:], in.Path,
		head.Root[:]); err != nil {
		return errors.New("the inclusion proof does not give the signed root")
	}
	return nil
}
