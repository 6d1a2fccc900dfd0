package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/tlog"
)

// RestoreOptions are the options of [Restore].
type RestoreOptions struct {
	// Dir is the directory of the instance. It is made, and must be empty if it exists.
	Dir string
	// Unchanged is the statement of the operator that no server has signed anything with the logs since the archive was
	// written: they are not marked, and continue.
	Unchanged bool
	// Progress is called with what is being verified. Optional.
	Progress func(what string)
}

// Restored is the result of [Restore].
type Restored struct {
	Manifest Manifest
	// Config is the path of the configuration.
	Config string
	// Continue says that the logs continue. If it is false, they are marked.
	Continue bool
	// Files are the numbers of files in the directory of the instance and elsewhere.
	Files, Elsewhere int
	// Unverified says what could not be verified, and why.
	Unverified []string
}

// Bounds of what is read into memory.
const (
	maxSums     = 1 << 30
	maxManifest = 16 << 20
)

// Restore restores an instance from an archive. After an error, nothing that Restore wrote is left.
func Restore(ctx context.Context, r io.Reader, o RestoreOptions) (_ *Restored, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil,
			fmt.Errorf("%s is not empty (it has %s); existing files are never overwritten: name a new directory",
				o.Dir, entries[0].Name())
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, err
	}
	staging, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".restoring-")
	if err != nil {
		return nil, err
	}
	x := &reader{o: o, staging: staging, sums: map[string]string{}, dirs: map[string]fs.FileMode{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.abandon())
		}
	}()
	o.Progress("the digests of the archive")
	if err := x.extract(ctx, r); err != nil {
		return nil, fmt.Errorf("the archive: %w", err)
	}
	out := &Restored{
		Manifest: x.manifest, Config: filepath.Join(dir, x.manifest.Config), Files: len(x.sums) - x.elsewhere,
		Elsewhere: x.elsewhere, Continue: x.manifest.Final || o.Unchanged,
	}
	for _, l := range x.manifest.Logs {
		out.Continue = out.Continue && !l.Marked
	}
	for _, l := range x.manifest.Logs { // before they are at their place, where a server could open them
		if _, there := x.dirs[l.Dir]; there && !out.Continue {
			if err := tlog.Fence(x.at(l.Dir), tlog.Mark{Copied: x.manifest.Ended}); err != nil {
				return nil, err
			}
		}
	}
	if err := x.placeElsewhere(); err != nil {
		return nil, err
	}
	if out.Unverified, err = x.verify(ctx); err != nil {
		return nil, err
	}
	return out, x.commit(dir)
}

// reader restores one archive.
type reader struct {
	o         RestoreOptions
	staging   string                 // what becomes the directory of the instance
	sums      map[string]string      // the digest of each file, by its name in the archive
	dirs      map[string]fs.FileMode // of directories, by their names
	manifest  Manifest
	elsewhere int      // how many files are not in the directory of the instance
	placed    bool     // these files are at their place
	made      []string // files and directories that were made elsewhere, in this order
}

// elsewhereDir is where files for other directories are, until everything is verified.
const elsewhereDir = ".elsewhere"

// at returns where an entry of the archive is now.
func (x *reader) at(name string) string {
	if rest, ok := strings.CutPrefix(name, elsewherePrefix); ok {
		if x.placed {
			return placeOf(rest)
		}
		return filepath.Join(x.staging, elsewhereDir, filepath.FromSlash(rest))
	}
	return filepath.Join(x.staging, filepath.FromSlash(strings.TrimPrefix(name+"/", instancePrefix)))
}

// entry is an entry of an archive whose name and type were checked.
type entry struct {
	*tar.Header
	name string // without a slash at the end
}

// next returns the next entry. It refuses everything that [Write] does not write: other types, and names that lead out
// of the directory or that are not written as [path.Clean] writes them.
func next(t *tar.Reader) (entry, error) {
	h, err := t.Next()
	if err != nil {
		return entry{}, err
	}
	name := strings.TrimSuffix(h.Name, "/")
	_, inside := strings.CutPrefix(name+"/", instancePrefix)
	_, outside := strings.CutPrefix(name, elsewherePrefix)
	last := name == sumsName || name == manifestName
	switch {
	case path.Clean(name) != name, !filepath.IsLocal(filepath.FromSlash(name)), strings.ContainsRune(name, 0),
		!inside && !outside && !last, strings.HasPrefix(name, instancePrefix+elsewhereDir):
		return entry{}, fmt.Errorf("the name %q is not one of a backup", h.Name)
	case h.Typeflag == tar.TypeDir && !last, h.Typeflag == tar.TypeReg && name != "instance":
		return entry{h, name}, nil
	}
	return entry{}, fmt.Errorf("%s is neither a file nor a directory", h.Name)
}

// extract writes the entries below the staging directory, and compares their digests with SHA256SUMS and the manifest.
func (x *reader) extract(ctx context.Context, r io.Reader) error {
	t := tar.NewReader(r)
	var sums []byte
	complete := false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := next(t)
		switch {
		case errors.Is(err, io.EOF):
			if !complete {
				return errors.New("the archive ends too early: manifest.json, the last entry, is missing")
			}
			return x.compare(sums)
		case err != nil:
			return err
		case complete:
			return fmt.Errorf("%s follows manifest.json, which is the last entry", e.name)
		}
		switch {
		case e.name == sumsName:
			sums, err = bounded.ReadAll(t, maxSums)
		case e.name == manifestName:
			complete = true
			err = x.readManifest(t)
		case e.Typeflag == tar.TypeDir:
			x.dirs[e.name] = fs.FileMode(e.Mode).Perm() //nolint:gosec // only these bits
			err = os.MkdirAll(x.at(e.name), 0o700)
		default:
			err = x.write(e, t)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
}

// write writes one file.
func (x *reader) write(e entry, content io.Reader) error {
	if _, twice := x.sums[e.name]; twice {
		return errors.New("the file is in the archive twice")
	}
	at := x.at(e.name)
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	mode := fs.FileMode(e.Mode).Perm() //nolint:gosec // only these bits
	sum, err := create(at, original{mode: mode, changed: e.ModTime, content: content})
	if err != nil {
		return err
	}
	x.sums[e.name] = sum
	if strings.HasPrefix(e.name, elsewherePrefix) {
		x.elsewhere++
	}
	return nil
}

// create writes a file, which must not exist, and returns its SHA-256 in hexadecimal. After an error the file does not
// exist, unless it existed before.
func create(at string, from original) (sum string, err error) {
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the name was checked
	if err != nil {
		return "", err
	}
	sum, err = digest(io.TeeReader(from.content, f))
	if err = errors.Join(err, f.Chmod(from.mode), f.Close(), os.Chtimes(at, from.changed, from.changed)); err != nil {
		return "", errors.Join(err, os.Remove(at))
	}
	return sum, nil
}

// digest returns the SHA-256 of what is read, in hexadecimal.
func digest(r io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), err
}

func (x *reader) readManifest(r io.Reader) error {
	data, err := bounded.ReadAll(r, maxManifest)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &x.manifest); err != nil {
		return err
	}
	m := x.manifest
	switch {
	case m.Format > Format:
		return fmt.Errorf("a newer mayfly (%s) wrote the archive in format %d; use that version", m.Tool, m.Format)
	case m.Format < 1:
		return errors.New("the format is missing")
	case m.Config == "" || m.Config != filepath.Base(m.Config) || !filepath.IsLocal(m.Config):
		return fmt.Errorf("%q is not the name of a configuration", m.Config)
	}
	return nil
}

// compare compares what was extracted with the digests in the archive.
func (x *reader) compare(sums []byte) error {
	if sum := sha256.Sum256(sums); hex.EncodeToString(sum[:]) != x.manifest.Sums {
		return errors.New("SHA256SUMS is not the file that manifest.json names")
	}
	listed := 0
	for line := range bytes.Lines(sums) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), "  ")
		switch have, there := x.sums[name]; {
		case !ok || !there:
			return fmt.Errorf("%s is in SHA256SUMS, but not in the archive", name)
		case have != sum:
			return fmt.Errorf("%s is damaged: its SHA-256 is %s, not %s", name, have, sum)
		}
		listed++
	}
	if listed != len(x.sums) {
		return fmt.Errorf("%d files are in the archive, and %d in SHA256SUMS", len(x.sums), listed)
	}
	for _, l := range x.manifest.Logs {
		if _, there := x.dirs[l.Dir]; !there && len(l.Shards) > 0 && l.Shards[0].Size > 0 {
			return fmt.Errorf("the directory %s of the log %s is missing", l.Dir, l.Setting)
		}
	}
	return nil
}

// placeElsewhere gives the files that are not in the directory of the instance their places. A file that is there with
// the same content is left as it is, except that a log is never written over another one.
func (x *reader) placeElsewhere() error {
	for _, l := range x.manifest.Logs {
		rest, ok := strings.CutPrefix(l.Dir, elsewherePrefix)
		if _, there := x.dirs[l.Dir]; !ok || !there {
			continue
		}
		switch entries, err := os.ReadDir(placeOf(rest)); {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		case len(entries) > 0:
			return fmt.Errorf("%s exists, and a log is never restored over another one: move it away, or restore on "+
				"another machine", placeOf(rest))
		}
	}
	var dirs, missing []string // below the directory of what is to be placed
	below := filepath.Join(x.staging, elsewhereDir)
	err := filepath.WalkDir(below, func(from string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && from == below: // every file is in the directory of the instance
			return nil
		case err != nil || from == below:
			return err
		}
		rest, err := filepath.Rel(below, from)
		if err != nil {
			return err
		}
		if e.IsDir() {
			if _, known := x.dirs[path.Join(elsewherePrefix, filepath.ToSlash(rest))]; known {
				dirs = append(dirs, rest)
			}
			return nil
		}
		same, err := sameContent(from, placeOf(rest))
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, rest)
			return nil
		}
		if err == nil && !same {
			err = fmt.Errorf("%s exists and differs from the file in the backup; existing files are never "+
				"overwritten: move it away, or restore on another machine", placeOf(rest))
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, rest := range dirs {
		if err := x.mkdirElsewhere(placeOf(rest)); err != nil {
			return err
		}
	}
	for _, rest := range missing {
		if err := x.place(filepath.Join(below, rest), placeOf(rest)); err != nil {
			return err
		}
	}
	x.placed = true
	return os.RemoveAll(below)
}

// placeOf returns the path of a file of which the archive has the name rest below elsewhere/.
func placeOf(rest string) string { return string(filepath.Separator) + filepath.FromSlash(rest) }

// sameContent compares two files. Its error is [fs.ErrNotExist] if b does not exist.
func sameContent(a, b string) (bool, error) {
	var sums [2]string
	for i, name := range []string{a, b} {
		f, err := os.Open(name) //nolint:gosec // the name was checked
		if err != nil {
			return false, err
		}
		sum, err := digest(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return false, err
		}
		sums[i] = sum
	}
	return sums[0] == sums[1], nil
}

// place copies a file to its place elsewhere, which may be on another disk.
func (x *reader) place(from, to string) error {
	in, err := os.Open(from) //nolint:gosec // the name was checked
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if err := x.mkdirElsewhere(filepath.Dir(to)); err != nil {
		return err
	}
	if _, err := create(to, original{mode: st.Mode().Perm(), changed: st.ModTime(), content: in}); err != nil {
		return err
	}
	x.made = append(x.made, to)
	return nil
}

// mkdirElsewhere makes a directory with its parents, and notes those that it made.
func (x *reader) mkdirElsewhere(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := x.mkdirElsewhere(filepath.Dir(dir)); err != nil {
		return err
	}
	mode, known := x.dirs[path.Join(elsewherePrefix, filepath.ToSlash(dir))]
	if !known {
		mode = 0o755
	}
	if err := os.Mkdir(dir, mode); err != nil {
		return err
	}
	x.made = append(x.made, dir)
	return nil
}

// verify verifies the configuration, the logs and the journal in the staging directory.
func (x *reader) verify(ctx context.Context) (unverified []string, err error) {
	x.o.Progress("the configuration")
	cfg, _, err := config.Load(filepath.Join(x.staging, x.manifest.Config))
	if err != nil {
		return nil, err
	}
	if cfg.Digest != x.manifest.Digest {
		return nil, errors.New("the configuration in the archive is not the one that manifest.json names")
	}
	for _, l := range x.manifest.Logs {
		if err := x.verifyLog(ctx, l, logsOf(cfg)); err != nil {
			return nil, fmt.Errorf("%s: %w", l.Setting, err)
		}
	}
	if x.manifest.Journal == nil || cfg.Audit == nil || x.manifest.Journal.Seq == 0 {
		return nil, nil
	}
	x.o.Progress("the journal")
	key, err := cfg.Audit.Key.Read()
	if s, ok := errors.AsType[*fault.Setting](err); ok { // the secret is not in the archive
		return []string{"the journal: audit.key: " + s.Problem}, nil
	}
	if err != nil {
		return nil, err
	}
	at := x.staged(cfg.Audit.File)
	summary, damage, err := journal.Verify(at, journal.VerifyOptions{Key: key})
	switch {
	case err != nil:
		return nil, err
	case len(damage) > 0:
		return nil, fmt.Errorf("the journal is damaged: %s", damage[0])
	case summary.Last < x.manifest.Journal.Seq:
		return nil, fmt.Errorf("the journal ends with record %d, and the archive was written after record %d",
			summary.Last,
			x.manifest.Journal.Seq)
	}
	return nil, nil
}

// staged returns the path at which a file of the configuration is now: paths in the configuration are relative to the
// staging directory, or absolute.
func (x *reader) staged(at string) string {
	if rel, err := filepath.Rel(x.staging, at); err == nil && filepath.IsLocal(rel) {
		return at
	}
	if rel, err := filepath.Rel(x.manifest.Dir, at); err == nil && filepath.IsLocal(rel) {
		return filepath.Join(x.staging, rel)
	}
	return at
}

// verifyLog verifies the shards of a log, unless the log was never opened. known are the logs of the configuration.
func (x *reader) verifyLog(ctx context.Context, l Log, known []logSetting) error {
	i := slices.IndexFunc(known, func(k logSetting) bool { return k.setting == l.Setting })
	if i < 0 {
		return fmt.Errorf("a log of the setting %q is unknown to this version of mayfly", l.Setting)
	}
	if _, there := x.dirs[l.Dir]; !there {
		return nil
	}
	c := known[i].config
	if at := x.staged(c.Dir); at != x.at(l.Dir) { // a path such as ../log
		return fmt.Errorf("the configuration would name %s, and the log was in %s: restore into a directory beside "+
			"the one that the backup is of, %s", at, x.at(l.Dir), x.manifest.Dir)
	}
	c.Dir = x.at(l.Dir)
	for _, s := range l.Shards {
		x.o.Progress(fmt.Sprintf("%s: %d entries", s.Origin, s.Size))
		if err := c.VerifyCopy(ctx, s); err != nil {
			return fmt.Errorf("shard %q: %w", s.Name, err)
		}
	}
	return nil
}

// commit gives the directories their permissions and moves the staging directory to its place.
func (x *reader) commit(dir string) error {
	mode := fs.FileMode(0o700)
	for name, m := range x.dirs {
		if name+"/" == instancePrefix {
			mode = m
			continue
		}
		if !strings.HasPrefix(name, instancePrefix) {
			continue
		}
		if err := os.Chmod(x.at(name), m); err != nil {
			return err
		}
	}
	syscall.Sync() // every file, before the directory is there
	if err := errors.Join(os.Chmod(x.staging, mode), os.Rename(x.staging, dir)); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// abandon removes what was written.
func (x *reader) abandon() error {
	errs := []error{os.RemoveAll(x.staging)}
	for i := len(x.made) - 1; i >= 0; i-- {
		errs = append(errs, os.Remove(x.made[i]))
	}
	return errors.Join(errs...)
}
