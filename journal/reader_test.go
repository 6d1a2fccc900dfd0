package journal_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/journal"
)

// A read error ends the reading: it is no damage of the journal, and to continue at once would be an endless loop.
func TestReadUnreadable(t *testing.T) {
	t.Parallel()
	n := 0
	for _, err := range journal.Read(t.TempDir(), 0) {
		var d *journal.Damage
		if err == nil || errors.As(err, &d) {
			t.Fatalf("error %v, want one that is no damage", err)
		}
		if n++; n > 1 {
			t.Fatal("reading goes on behind an error")
		}
	}
	if n != 1 {
		t.Error("a directory was read as a journal")
	}
}

// A line that is too long is skipped in pieces, each reported once, and the lines after it are read.
func TestReadLongLine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(journal.Config{File: path}, journal.Options{})
	must(t, err)
	must(t, j.Close(t.Context(), 0))
	data, err := os.ReadFile(path)
	must(t, err)
	at := bytes.IndexByte(data, '\n') + 1
	long := append(bytes.Repeat([]byte{'x'}, 3<<20), '\n')
	must(t, os.WriteFile(path, bytes.Join([][]byte{data[:at], long, data[at:]}, nil), 0o600))
	r := journal.NewReader(path, 0)
	defer r.Close() //nolint:errcheck // only read
	var seqs []uint64
	places := map[int64]bool{}
	for {
		e, err := r.Next()
		var d *journal.Damage
		if errors.Is(err, io.EOF) {
			break
		}
		switch {
		case errors.As(err, &d):
			if places[d.At.Offset] {
				t.Fatalf("%v, twice", d)
			}
			places[d.At.Offset] = true
		case err != nil:
			t.Fatal(err)
		default:
			seqs = append(seqs, e.Seq)
		}
	}
	if diff := cmp.Diff([]uint64{1, 2}, seqs); diff != "" {
		t.Error(diff)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// G4: an Acknowledged reader does not read records after the acknowledged end, also if other records replace them
// later.
func TestReadAcknowledged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(journal.Config{File: path}, journal.Options{})
	must(t, err)
	must(t, j.Close(t.Context(), 0))
	data, err := os.ReadFile(path)
	must(t, err)
	head, err := os.ReadFile(path + ".head")
	must(t, err)
	r := journal.NewReader(path, 0).Acknowledged()
	defer r.Close() //nolint:errcheck // only read
	for range 2 {
		_, err := r.Next()
		must(t, err)
	}
	unborn := bytes.Replace(data[bytes.IndexByte(data, '\n')+1:], []byte(`{"seq":2,`), []byte(`{"seq":3,`), 1)
	must(t, os.WriteFile(path, append(bytes.Clone(data), unborn...), 0o600))
	for range 2 {
		if e, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Fatalf("record %d, %v; it was not acknowledged", e.Seq, err)
		}
	}
	if e, err := journal.NewReader(path, 3).Next(); err != nil || e.Seq != 3 {
		t.Errorf("whoever asks for everything gets %d, %v", e.Seq, err)
	}
	other := bytes.Replace(unborn, []byte(`"kind":"stop"`), []byte(`"kind":"event"`), 1)
	must(t, os.WriteFile(path, append(bytes.Clone(data), other...), 0o600))
	must(t, os.WriteFile(path+".head", bytes.Replace(head, []byte("2 "), []byte("3 "), 1), 0o600))
	if e, err := r.Next(); err != nil || e.Seq != 3 || e.Kind != journal.Event {
		t.Errorf("record %d (%s), %v; want the one that was acknowledged", e.Seq, e.Kind, err)
	}
}
