// Package archive writes archives whose bytes depend on nothing but the content: files in the given order, with the
// given time, permissions 0755 or 0644, and root as the owner.
package archive

import (
	"archive/tar"
	"archive/zip"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"path"
	"time"
)

// File is one regular file of an archive.
type File struct {
	Name       string // slash-separated, relative
	Data       []byte
	Executable bool
}

func (f File) mode() fs.FileMode {
	if f.Executable {
		return 0o755
	}
	return 0o644
}

// TarGz writes files below the folder dir as a compressed tar archive (USTAR where the names are short enough).
func TarGz(w io.Writer, dir string, files []File, at time.Time) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for _, f := range files {
		err = errors.Join(err, t.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: path.Join(dir, f.Name), Size: int64(len(f.Data)), Mode: int64(f.mode()),
			ModTime: at, Uname: "root", Gname: "root",
		}))
		if err != nil {
			return err
		}
		if _, err := t.Write(f.Data); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

// Zip writes files below the folder dir as a zip archive.
func Zip(w io.Writer, dir string, files []File, at time.Time) error {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(w, flate.BestCompression)
	})
	for _, f := range files {
		h := &zip.FileHeader{Name: path.Join(dir, f.Name), Method: zip.Deflate, Modified: at.UTC()}
		h.SetMode(f.mode())
		entry, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := entry.Write(f.Data); err != nil {
			return err
		}
	}
	return z.Close()
}
