package tlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/fsck"

	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/testkit/crash"
	"github.com/mayfly-ca/mayfly/tlog"
)

// addAll runs in the process that is killed, or whose system calls fail.
func addAll(dir string) {
	l, err := tlog.Open(context.Background(), config(dir), tlog.Options{Every: 10 * time.Millisecond})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	crash.Work(func(n int) (string, error) {
		in, err := l.Add(context.Background(), leafOf(n))
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(in)
		return string(text), err
	}, l.Close)
}

func leafOf(n int) []byte { return fmt.Appendf(nil, "entry %d %0500d", n, n) }

func crashing() crash.Log {
	return crash.Log{
		Valid: func(text string) bool { return json.Valid([]byte(text)) }, Prove: proveAll,
	}
}

// proveAll opens the log after the process has ended. It proves with Tessera's fsck that the tree is complete, with
// the log's own reader that it has every entry with a proof at its index, and that each proof verifies and that its
// checkpoint is one of the same tree.
func proveAll(t *testing.T, dir string, answers []crash.Answer) {
	t.Helper()
	c := config(dir)
	l, err := tlog.Open(t.Context(), c, tlog.Options{})
	if err != nil {
		t.Errorf("the log does not open again: %v", err)
		return
	}
	defer shut(t, l)
	all := monitored(t, c, l.Key())
	roots := map[uint64][]byte{}
	for _, a := range answers {
		var in tlog.Inclusion
		if err := json.Unmarshal([]byte(a.Text), &in); err != nil {
			t.Fatal(err)
		}
		verify(t, l.Key(), leafOf(a.N), in)
		if in.Index >= uint64(len(all)) || all[in.Index] != string(leafOf(a.N)) {
			t.Errorf("entry %d was answered, and is not in the log at %d", a.N, in.Index)
		}
		if in.Size > uint64(len(all)) {
			t.Errorf("a checkpoint over %d entries was given out, and the log has %d", in.Size, len(all))
			continue
		}
		if roots[in.Size] == nil {
			roots[in.Size] = rootOf(all[:in.Size])
		}
		if !bytes.Equal(roots[in.Size], in.Root) {
			t.Errorf("a checkpoint over %d entries is of another tree", in.Size)
		}
	}
	sv, err := signature.LoadVerifier(l.Key(), monitor.NoteHash(l.Key()))
	if err != nil {
		t.Fatal(err)
	}
	v, err := rekornote.NewNoteVerifier(origin, sv)
	if err != nil {
		t.Fatal(err)
	}
	if err := fsck.New(origin, v, bundles(dir), leafHashes, fsck.Opts{N: 2}).Check(t.Context()); err != nil {
		t.Errorf("fsck: %v", err)
	}
}

// rootOf computes the root of the tree of some entries (RFC 6962 §2.1).
func rootOf(all []string) []byte {
	switch len(all) {
	case 0:
		return rfc6962.DefaultHasher.EmptyRoot()
	case 1:
		return rfc6962.DefaultHasher.HashLeaf([]byte(all[0]))
	}
	k := 1
	for 2*k < len(all) {
		k *= 2
	}
	return rfc6962.DefaultHasher.HashChildren(rootOf(all[:k]), rootOf(all[k:]))
}

// bundles reads the files of a log for fsck.
type bundles string

func (b bundles) read(partial uint8, path func(uint8) string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(b), path(partial)))
	if errors.Is(err, fs.ErrNotExist) && partial > 0 {
		return os.ReadFile(filepath.Join(string(b), path(0)))
	}
	return data, err
}

func (b bundles) ReadCheckpoint(context.Context) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(b), "checkpoint"))
}

func (b bundles) ReadTile(_ context.Context, level, index uint64, p uint8) ([]byte, error) {
	return b.read(p, func(p uint8) string { return layout.TilePath(level, index, p) })
}

func (b bundles) ReadEntryBundle(_ context.Context, index uint64, p uint8) ([]byte, error) {
	return b.read(p, func(p uint8) string { return layout.EntriesPath(index, p) })
}

// leafHashes hashes the entries of a bundle.
func leafHashes(data []byte) ([][]byte, error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(data); err != nil {
		return nil, err
	}
	out := make([][]byte, 0, len(b.Entries))
	for _, leaf := range b.Entries {
		out = append(out, rfc6962.DefaultHasher.HashLeaf(leaf))
	}
	return out, nil
}

// A process that is killed repeatedly while it logs loses no entry with a proof, and gives out no checkpoint of a tree
// that the log does not continue.
func TestKilled(t *testing.T) {
	t.Parallel()
	crashing().Killed(t)
}

// A log on a full disk refuses entries, loses none, and accepts entries again once there is space.
func TestFullDisk(t *testing.T) { crashing().FullDisk(t) }

// No entry with a proof is lost, whichever system call of the process fails.
func TestFaults(t *testing.T) { crashing().Faults(t) }
