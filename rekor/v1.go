package rekor

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"net/http"
	"time"

	rekorutil "github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/mayfly-ca/mayfly/fault"
)

// EntriesPathV1 is the path of the write API of Rekor v1.
const EntriesPathV1 = "/api/v1/log/entries"

const methodCreateV1 = "CreateEntryV1"

// V1 has what the write API of Rekor v1 needs beside the log. Released clients use it that cannot write to a Rekor v2.
// Its entries are in the same tree, so that witnesses and auditors see them. An answer has a checkpoint in the form of
// Rekor v1, with the size and the root of the checkpoint that the log has published, and a signed entry timestamp: the
// signature of the log over the entry, its index and the time.
type V1 struct {
	// Key returns the key of the log, or of the shard, with this ID.
	Key func(logID []byte) (KeyV1, error)
	// Now returns the time for signed entry timestamps, or an error if the clock must not be trusted. Nil: time.Now.
	Now func() (time.Time, error)
}

// KeyV1 is the key of a log.
type KeyV1 struct {
	Origin string           // the host name in the URL of the log
	Signer signature.Signer // ECDSA on P-256 with SHA-256: clients verify no other signed entry timestamps
}

// HandlerV1 serves [EntriesPathV1]. writeError writes an error of Options.Call.
func (s *Service) HandlerV1(v V1, writeError func(http.ResponseWriter, *http.Request, error)) http.Handler {
	if v.Now == nil {
		v.Now = func() (time.Time, error) { return time.Now(), nil }
	}
	return s.posts(methodCreateV1, writeError, func(ctx context.Context, about Request, in posted) ([]byte, error) {
		if _, err := v.Now(); err != nil { // before the entry is logged
			return nil, fault.New(fault.EntryNotLogged, err)
		}
		entry, at, err := s.create(ctx, about, func() (*verified, error) { return verifyV1(ctx, in.body) })
		if err != nil {
			return nil, err
		}
		out, err := v.answer(ctx, entry.leaf, at)
		if err == nil {
			in.header.Set("Location", EntriesPathV1+"/"+idV1(entry.leaf))
		}
		return out, err
	})
}

// treeV1 is the number of the tree in the first line of checkpoints of Rekor v1. Clients take any number.
const treeV1 = 1

// idV1 returns the name of an entry: the number of the tree, and the hash of the leaf.
func idV1(leaf []byte) string {
	return fmt.Sprintf("%016x%x", treeV1, rfc6962.DefaultHasher.HashLeaf(leaf))
}

// entryV1 is an entry in an answer.
type entryV1 struct {
	Body           string          `json:"body"`           // base64
	IntegratedTime int64           `json:"integratedTime"` // seconds since 1970
	LogID          string          `json:"logID"`          // hexadecimal
	LogIndex       uint64          `json:"logIndex"`
	Verification   *verificationV1 `json:"verification,omitempty"` // absent in what is signed
}

type verificationV1 struct {
	InclusionProof       proofV1 `json:"inclusionProof"`
	SignedEntryTimestamp []byte  `json:"signedEntryTimestamp"`
}

type proofV1 struct {
	Checkpoint string   `json:"checkpoint"`
	Hashes     []string `json:"hashes"` // hexadecimal
	LogIndex   uint64   `json:"logIndex"`
	RootHash   string   `json:"rootHash"` // hexadecimal
	TreeSize   uint64   `json:"treeSize"`
}

// answer returns the answer for a logged entry.
func (v V1) answer(ctx context.Context, leaf []byte, at *Inclusion) ([]byte, error) {
	key, err := v.Key(at.LogID)
	if err == nil {
		err = key.check(at.LogID)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("the key for Rekor v1: %w", err))
	}
	now, err := v.Now()
	if err != nil {
		return nil, unavailable(err)
	}
	out := entryV1{
		Body: base64.StdEncoding.EncodeToString(leaf), IntegratedTime: now.Unix(), LogID: hex.EncodeToString(at.LogID),
		LogIndex: at.Index,
	}
	promise, err := key.sign(ctx, out)
	if err != nil {
		return nil, unavailable(fmt.Errorf("sign the entry timestamp: %w", err))
	}
	checkpoint, err := rekorutil.CreateAndSignCheckpoint(ctx, key.Origin, treeV1, at.Size, at.Root, key.Signer)
	if err != nil {
		return nil, unavailable(fmt.Errorf("sign the checkpoint of Rekor v1: %w", err))
	}
	hashes := make([]string, len(at.Hashes)) // an empty list, not null
	for i, h := range at.Hashes {
		hashes[i] = hex.EncodeToString(h)
	}
	out.Verification = &verificationV1{
		InclusionProof: proofV1{
			Checkpoint: string(checkpoint), Hashes: hashes, LogIndex: at.Index, RootHash: hex.EncodeToString(at.Root),
			TreeSize: at.Size,
		},
		SignedEntryTimestamp: promise,
	}
	answer, err := json.Marshal(map[string]entryV1{idV1(leaf): out})
	return append(answer, '\n'), err // sigstore-rs cuts the last character off
}

// sign returns a signed entry timestamp: the signature over the entry in the form of RFC 8785.
func (k KeyV1) sign(ctx context.Context, e entryV1) ([]byte, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	text := jsontext.Value(data)
	if err := text.Canonicalize(); err != nil {
		return nil, err
	}
	return k.Signer.SignMessage(bytes.NewReader(text), options.WithContext(ctx))
}

// check returns an error if clients would not verify signatures of k for the log with this ID.
func (k KeyV1) check(logID []byte) error {
	key, err := k.Signer.PublicKey()
	if err != nil {
		return err
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return fmt.Errorf("its type is %T; clients need ECDSA on P-256", key)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	if id := sha256.Sum256(spki); !bytes.Equal(id[:], logID) {
		return errors.New("the entry is in a log with another key")
	}
	return nil
}
