package embedded_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	f_note "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/fsck"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/crash"
	"github.com/mayfly-ca/mayfly/tlog"
)

// submitAll runs in the process that is killed, or whose system calls fail.
func submitAll(dir string) {
	l, err := embedded.Open(context.Background(), embedded.Config{Dir: dir, Origin: origin},
		tlog.Options{Every: 10 * time.Millisecond})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	crash.Work(func(n int) (string, error) {
		raw, err := l.Submit(context.Background(), precert(n))
		return hex.EncodeToString(raw), err
	}, l.Close)
}

func crashing() crash.Log {
	return crash.Log{Valid: func(text string) bool { return parsedSCT(text) != nil }, Prove: proveAll}
}

// parsedSCT returns the SCT in an answer; nil if there is none.
func parsedSCT(text string) []byte {
	raw, err := hex.DecodeString(text)
	if _, e := tbs.ParseSCT(raw); err != nil || e != nil {
		return nil
	}
	return raw
}

// proveAll opens the log after the process has ended, and proves with Tessera's fsck and with separate code that the
// tree is complete and has the entry of every SCT.
func proveAll(t *testing.T, dir string, scts []crash.Answer) {
	t.Helper()
	l, err := embedded.Open(t.Context(), embedded.Config{Dir: dir, Origin: origin}, tlog.Options{})
	if err != nil {
		t.Errorf("the log does not open again: %v", err)
		return
	}
	defer shut(t, l)
	size, root := head(t, l, 0)
	if int(size) < len(scts) { //nolint:gosec // small
		t.Errorf("%d SCTs, %d entries", len(scts), size)
	}
	if size > 0 {
		leaves, computed := tree(t, l, size)
		if !bytes.Equal(root, computed) {
			t.Error("the hashes of level 0 do not have the root of the checkpoint")
		}
		for _, p := range scts {
			raw := parsedSCT(p.Text)
			found(t, leaves, precert(p.N), raw)
			sct, err := tbs.ParseSCT(raw)
			if err != nil || sct.Verify(l.Key(), precert(p.N).Entry) != nil {
				t.Errorf("SCT %d does not verify: %v", p.N, err)
			}
		}
	}
	key, ok := l.Key().(*ecdsa.PublicKey)
	if !ok {
		t.Fatal("no ECDSA key")
	}
	vkey, err := f_note.RFC6962VerifierString(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := f_note.NewRFC6962Verifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if err := fsck.New(origin, v, bundles(dir), leafHashes, fsck.Opts{N: 2}).Check(t.Context()); err != nil {
		t.Errorf("fsck: %v", err)
	}
}

// bundles reads the files of a static-ct log for fsck.
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
	return b.read(p, func(p uint8) string { return "tile/data/" + layout.NWithSuffix(0, index, p) })
}

// leafHashes hashes the entries of a bundle of precertificates, byte by byte (c2sp.org/static-ct-api, "Log Entries").
func leafHashes(data []byte) (out [][]byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the bundle is cut: %v", r)
		}
	}()
	for len(data) > 0 {
		n := 8 + 2 + 32
		n += 3 + int(data[n])<<16 + int(binary.BigEndian.Uint16(data[n+1:]))
		n += 2 + int(binary.BigEndian.Uint16(data[n:]))
		out = append(out, rfc6962.DefaultHasher.HashLeaf(append([]byte{0, 0}, data[:n]...)))
		data = data[n:]
		n = 3 + int(data[0])<<16 + int(binary.BigEndian.Uint16(data[1:]))
		n += 2 + int(binary.BigEndian.Uint16(data[n:]))
		data = data[n:]
	}
	return out, nil
}

// A process that is killed repeatedly while it logs loses no entry with an SCT.
func TestKilled(t *testing.T) {
	t.Parallel()
	crashing().Killed(t)
}

// A log on a full disk refuses entries, loses none, and accepts entries again once there is space.
func TestFullDisk(t *testing.T) { crashing().FullDisk(t) }

// No entry with an SCT is lost, whichever system call of the process fails.
func TestFaults(t *testing.T) { crashing().Faults(t) }

// After a failed write no entry is accepted, readiness reports the cause, and the log continues when the storage works
// again.
func TestStorageFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := &journal{}
	l, err := embedded.Open(t.Context(), embedded.Config{Dir: dir, Origin: origin},
		tlog.Options{Every: 10 * time.Millisecond, Event: told.event})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, l) })
	submit(t, l, 0)
	for i, name := range []string{"tile", "issuer", ".state/treeState"} {
		path := filepath.Join(dir, name)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("not a log"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := precert(100 + i)
		p.Chain = append(p.Chain, fmt.Appendf(nil, "issuer %d", i))
		if _, err := l.Submit(t.Context(), p); err == nil || !strings.Contains(err.Error(), "LOG_UNAVAILABLE") {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
		until(t, "recovered after "+name, func() bool { return l.Health() == nil })
		submit(t, l, 200+i)
	}
	if !told.has("log-storage-failed") || !told.has("log-storage-works") {
		t.Errorf("journal: %v", told.reasons)
	}
	size, _ := head(t, l, 4)
	if size < 4 {
		t.Errorf("%d entries", size)
	}
}
