package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io"
	"testing"
	"time"
)

var (
	at    = time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)
	files = []File{
		{Name: "mayfly", Data: []byte("program"), Executable: true},
		{Name: "doc/LICENSE", Data: []byte("text")},
	}
)

// An archive has the files with the given time, mode and owner, and the same bytes each time.
func TestTarGz(t *testing.T) {
	t.Parallel()
	var one, two bytes.Buffer
	for _, w := range []io.Writer{&one, &two} {
		if err := TarGz(w, "mayfly_1.0.0", files, at); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two archives differ")
	}
	z, err := gzip.NewReader(&one)
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() {
		t.Errorf("the compressed stream has the time %s", z.ModTime)
	}
	r := tar.NewReader(z)
	for i, want := range []tar.Header{
		{Name: "mayfly_1.0.0/mayfly", Mode: 0o755},
		{Name: "mayfly_1.0.0/doc/LICENSE", Mode: 0o644},
	} {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(data, files[i].Data) {
			t.Errorf("%s: %q, %v", h.Name, data, err)
		}
		if h.Name != want.Name || h.Mode != want.Mode || !h.ModTime.Equal(at) || h.Uid != 0 || h.Uname != "root" {
			t.Errorf("%+v", h)
		}
	}
	if _, err := r.Next(); err != io.EOF { //nolint:errorlint // as io.Reader says
		t.Errorf("after the last file: %v", err)
	}
}

func TestZip(t *testing.T) {
	t.Parallel()
	var one, two bytes.Buffer
	for _, w := range []io.Writer{&one, &two} {
		if err := Zip(w, "mayfly_1.0.0", files, at.In(time.FixedZone("x", 3600))); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two archives differ")
	}
	r, err := zip.NewReader(bytes.NewReader(one.Bytes()), int64(one.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.File) != 2 || r.File[0].Name != "mayfly_1.0.0/mayfly" || r.File[0].Mode() != 0o755 ||
		r.File[1].Mode() != 0o644 || !r.File[0].Modified.Equal(at) {
		t.Errorf("%+v", r.File[0].FileHeader)
	}
}

// A directory of a root file system may belong to another user than root.
func TestTar(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Tar(&out, []string{"var", "var/lib"}, map[string]int{"var/lib": 7}, files, at); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&out)
	for _, want := range []struct {
		name string
		uid  int
	}{{"var/", 0}, {"var/lib/", 7}, {"mayfly", 0}, {"doc/LICENSE", 0}} {
		h, err := r.Next()
		if err != nil || h.Name != want.name || h.Uid != want.uid || h.Gid != want.uid || !h.ModTime.Equal(at) {
			t.Errorf("%+v, want %+v, %v", h, want, err)
		}
	}
}
