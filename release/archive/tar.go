package archive

import (
	"archive/tar"
	"errors"
	"io"
	"path"
	"time"
)

// Tar writes directories and files as a tar archive for the root of a file system. Directories come first, in the given
// order; they have the permissions 0755, and belong to root unless owners has another user, which is also the group.
func Tar(w io.Writer, dirs []string, owners map[string]int, files []File, at time.Time) error {
	t := tar.NewWriter(w)
	var err error
	for _, dir := range dirs {
		err = errors.Join(err, t.WriteHeader(&tar.Header{
			Typeflag: tar.TypeDir, Name: path.Clean(dir) + "/", Mode: 0o755, ModTime: at,
			Uid: owners[dir], Gid: owners[dir],
		}))
	}
	for _, f := range files {
		err = errors.Join(err, t.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: path.Clean(f.Name), Size: int64(len(f.Data)),
			Mode: int64(f.mode()), ModTime: at,
		}))
		if err == nil {
			_, err = t.Write(f.Data)
		}
	}
	return errors.Join(err, t.Close())
}
