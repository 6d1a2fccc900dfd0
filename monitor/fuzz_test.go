package monitor

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/ct"
)

// sample returns a small static-ct log.
func sample(t testing.TB) (headVerifier, *ct.Static) {
	t.Helper()
	s, err := ct.NewStatic(t.TempDir(), "log.test/2026")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []ct.StaticEntry{
		{
			Timestamp: 1, IssuerKeyHash: [32]byte{1}, TBS: []byte("tbs"), Certificate: []byte("pre"),
			Chain: [][32]byte{{2}},
		},
		{Timestamp: 2, Certificate: []byte("final")},
	} {
		if _, err := s.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Publish(); err != nil {
		t.Fatal(err)
	}
	p, err := newHeadVerifier(loglist.Log{Key: s.Key.Public(), Origin: s.Origin}, Certificates)
	if err != nil {
		t.Fatal(err)
	}
	return p, s
}

func read(t testing.TB, s *ct.Static, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func FuzzParseDataTile(f *testing.F) {
	_, s := sample(f)
	f.Add(read(f, s, "tile/data/000.p/2"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := ParseDataTile(data, 256, tileWidth)
		if err != nil {
			return
		}
		for i, e := range all {
			if e.Index != uint64(256+i) || len(e.Leaf()) < 2+8+2 {
				t.Errorf("entry %d: %+v", i, e)
			}
		}
	})
}

func FuzzParseLeafEntry(f *testing.F) {
	_, s := sample(f)
	all, err := ParseDataTile(read(f, s, "tile/data/000.p/2"), 0, tileWidth)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(all[0].Leaf(), []byte{0, 0, 3, 'p', 'r', 'e', 0, 0, 4, 0, 0, 1, 'c'})
	f.Add(all[1].Leaf(), []byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, leaf, extra []byte) {
		e, err := ParseLeafEntry(7, leaf, extra)
		if err == nil && (e.Index != 7 || !bytes.Equal(e.Leaf(), leaf) || len(e.Chain) != len(e.Issuers)) {
			t.Errorf("%+v", e)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	p, s := sample(f)
	good := read(f, s, "checkpoint")
	want, _, err := p.checkpoint(good)
	if err != nil || want.Size != 2 {
		f.Fatal(want, err)
	}
	f.Add(good)
	f.Add(append(bytes.Clone(good), "— cosigner AAAAAAAA\n"...))
	f.Fuzz(func(t *testing.T, note []byte) {
		if h, _, err := p.checkpoint(note); err == nil && h != want {
			t.Errorf("a head without a valid signature: %+v", h)
		}
		if _, origin, err := ParseCheckpoint(note); err == nil && strings.Contains(origin, "\n") {
			t.Errorf("%q", origin)
		}
	})
}

// fixed is a log all of whose files have the same content.
type fixed struct{ checkpoint, rest []byte }

func (s fixed) get(_ context.Context, path string, _ int64) ([]byte, error) {
	if path == checkpointPath {
		return s.checkpoint, nil
	}
	return s.rest, nil
}

func FuzzCheck(f *testing.F) {
	p, s := sample(f)
	good := read(f, s, "checkpoint")
	f.Add(good, read(f, s, "tile/data/000.p/2"))
	f.Add(good, read(f, s, "tile/0/000.p/2"))
	f.Add([]byte("log.test/2026\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— log.test/2026 AAAAAAA=\n"),
		[]byte{0})
	f.Fuzz(func(t *testing.T, checkpoint, rest []byte) {
		l := &Log{verifier: p, source: &static{p, fixed{checkpoint, rest}}}
		for e, err := range l.Entries(t.Context(), Head{Size: 300}, 1, 300) {
			if err == nil && e.Index == 0 {
				t.Error("an entry that was not asked for")
			}
		}
		found := false
		if _, err := l.Check(t.Context(), CheckOptions{
			Now:   time.Now(),
			Found: func(Finding) { found = true },
		}); err != nil || !found {
			t.Errorf("entries that no CA made pass: %v", err)
		}
	})
}

func FuzzLeafIndex(f *testing.F) {
	f.Add(LeafIndex(1<<40-1), uint64(7))
	f.Fuzz(func(t *testing.T, extensions []byte, index uint64) {
		if n, ok := ParseLeafIndex(extensions); !ok && n != 0 || n >= 1<<40 {
			t.Error(n, ok)
		}
		if n, ok := ParseLeafIndex(LeafIndex(index % (1 << 40))); !ok || n != index%(1<<40) {
			t.Errorf("%d comes back as %d", index, n)
		}
	})
}

func FuzzSTH(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	p, err := newHeadVerifier(loglist.Log{Key: key.Public()}, Certificates)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"tree_size":1,"timestamp":2,"sha256_root_hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","tree_head_signature":"BAMABzAFAgEBAgEB"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if h, err := p.sth(body); err == nil {
			t.Errorf("a head without a valid signature: %+v", h)
		}
	})
}

func FuzzEntries(f *testing.F) {
	f.Add([]byte(`{"entries":[{"leaf_input":"AAAAAAAAAAAAAQAAAAADYWJjAAA=","extra_data":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		all, err := parseEntries(body, 3, batch)
		for i := range all {
			if err == nil && all[i].Index != uint64(3+i) {
				t.Errorf("entry %d has the index %d", i, all[i].Index)
			}
		}
	})
}

func FuzzState(f *testing.F) {
	_, s := sample(f)
	l, err := Open(Options{Log: loglist.Log{Key: s.Key.Public(), Origin: s.Origin}, Dir: s.Dir})
	if err != nil {
		f.Fatal(err)
	}
	w, err := Follow(l, FollowerOptions{})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := w.Next(f.Context(), func(*Entry) error { return nil }); err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(w.State())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		var s State
		if json.Unmarshal(data, &s) != nil {
			return
		}
		if tree := s.tree(); tree.End() != s.Size {
			t.Errorf("a tree over %d for a state of %d", tree.End(), s.Size)
		}
		again, err := json.Marshal(s)
		var back State
		if err != nil || json.Unmarshal(again, &back) != nil || back.Head != s.Head {
			t.Errorf("%s does not come back", again)
		}
	})
}
