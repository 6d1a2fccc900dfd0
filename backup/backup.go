// Package backup copies an instance into one archive while the instance runs, and restores an instance from an archive.
//
// An archive is a tar stream (POSIX.1-2001, pax): the files of the instance, then SHA256SUMS with the digest of each,
// then manifest.json. It has the configuration, every file and directory that the configuration names, the logs and the
// journal. It does not have secrets from environment variables, and not the uses of tokens.
//
// Each log in an archive is one state of the log, and the journal one state of the journal. The journal MUST be copied
// after the logs, because the record of an intent is written before the log entry: an archive has the intent of every
// entry that it has. An archive without manifest.json MUST NOT be restored.
//
// [Restore] MUST NOT replace a file, and MUST verify everything before the directory of the instance exists: the
// digests, the configuration, every hash and signature of the logs, and the chain of the journal. A log MUST NOT sign a
// second history: a log that is restored from an archive of a running instance is marked, and is not opened before an
// operator has decided how it continues.
package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
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
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/tlog"
)

// Format is the version of archives that this package writes, and the newest that this package reads.
const Format = 1

// The names of the entries of an archive. Directories end with a slash.
const (
	instancePrefix  = "instance/"  // relative to the directory of the configuration
	elsewherePrefix = "elsewhere/" // an absolute path, without its first slash
	sumsName        = "SHA256SUMS"
	manifestName    = "manifest.json"
)

// Manifest describes an archive.
type Manifest struct {
	Format int    `json:"format"`
	Tool   string `json:"tool"` // the program that wrote the archive
	// Begun and Ended are when the archive was written.
	Begun time.Time `json:"begun"`
	Ended time.Time `json:"ended"`
	// Config is the name of the configuration, below instance/. Dir is its directory when the archive was written.
	Config string `json:"config"`
	Dir    string `json:"dir"`
	Digest string `json:"config_digest"`
	// Final says that no server ran, and that none can run with the originals of the logs any more.
	Final bool  `json:"final"`
	Logs  []Log `json:"logs"`
	// Journal is the last record of the journal; nil if there is no journal in a file.
	Journal *journal.Copied `json:"journal,omitempty"`
	// Environment are the variables that have secrets of the configuration. They are not in the archive.
	Environment []string `json:"environment"`
	// Omitted are files that are not in the archive because they are not regular, or because they are not needed.
	Omitted []string `json:"omitted"`
	// Sums is the SHA-256 of SHA256SUMS, in hexadecimal.
	Sums string `json:"sums"`
}

// Log is a log in an archive.
type Log struct {
	Setting string        `json:"setting"` // ct.embedded
	Dir     string        `json:"dir"`     // the name of its directory in the archive
	Shards  []tlog.Copied `json:"shards"`
	// Marked says that the log was restored or moved, and was not to continue where it was copied. Then it does not
	// continue where it is restored.
	Marked bool `json:"marked,omitempty"`
}

// Options for [Write].
type Options struct {
	// Path is the path of the configuration.
	Path string
	// Final says to write the last archive of an instance that is moved: no server may run, and afterwards none can run
	// with the originals of the logs.
	Final bool
	// Tool is the name and the version of the program.
	Tool string
	// Now is the time of this machine. Nil: [time.Now].
	Now func() time.Time
	// Progress is called with the number of files and bytes that were written. Optional.
	Progress func(files int, bytes int64)
}

// ErrRunning is the error of a final archive of an instance that runs.
var ErrRunning = errors.New("a server runs with this configuration; stop it first")

// Write writes an archive of the instance to w. With [Options.Final], the caller MUST make the archive durable before
// it calls the returned function, which marks the originals of the logs, or releases them if its argument is false. The
// function is never nil.
func Write(ctx context.Context, w io.Writer, o Options) (m *Manifest, finish func(done bool) error, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	finish = func(bool) error { return nil }
	cfg, _, err := config.Load(o.Path)
	if err != nil {
		return nil, finish, err
	}
	b := &writer{o: o, cfg: cfg, out: tar.NewWriter(w), names: map[string]bool{}, manifest: Manifest{
		Format: Format, Tool: o.Tool, Begun: o.Now().UTC(), Config: filepath.Base(o.Path), Digest: cfg.Digest,
		Final: o.Final, Logs: []Log{}, Environment: cfg.Environment(), Omitted: []string{},
	}}
	if b.manifest.Dir, err = filepath.Abs(filepath.Dir(o.Path)); err != nil {
		return nil, finish, err
	}
	if o.Final {
		if finish, err = b.reserve(); err != nil {
			return nil, func(bool) error { return nil }, err
		}
	}
	for _, step := range []func(context.Context) error{b.files, b.directories, b.logs, b.journal, b.conclude} {
		if err := step(ctx); err != nil {
			return nil, finish, err
		}
	}
	return &b.manifest, finish, nil
}

// Create writes an archive of the instance to a file, which has permissions for its owner alone and appears when it is
// complete. A file that exists is an error. With [Options.Final], it marks the originals when the archive is durable.
func Create(ctx context.Context, name string, o Options) (m *Manifest, err error) {
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, fmt.Errorf("%s exists, and existing files are never overwritten", name))
	}
	temp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".new-*") // mode 0600
	if err != nil {
		return nil, err
	}
	m, finish, err := Write(ctx, temp, o)
	if err == nil {
		err = temp.Sync()
	}
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Link(temp.Name(), name) // does not replace a file
	}
	err = errors.Join(err, os.Remove(temp.Name()))
	if err == nil {
		err = durable.SyncDir(filepath.Dir(name))
	}
	if err = errors.Join(err, finish(err == nil)); err != nil {
		return nil, err
	}
	return m, nil
}

// writer writes one archive.
type writer struct {
	o        Options
	cfg      *config.Config
	out      *tar.Writer
	names    map[string]bool // written
	sums     bytes.Buffer
	count    int
	bytes    int64
	manifest Manifest
}

// name returns the name of a file or directory in the archive.
func (b *writer) name(at string) string {
	if rel, err := filepath.Rel(b.manifest.Dir, at); err == nil && filepath.IsLocal(rel) {
		return path.Join(instancePrefix, filepath.ToSlash(rel))
	}
	return path.Join(elsewherePrefix, filepath.ToSlash(at))
}

// directory writes the entry of a directory, and before it those of the directories above it that are in the instance.
func (b *writer) directory(at string) error {
	name := b.name(at) + "/"
	if b.names[name] {
		return nil
	}
	if above := filepath.Dir(at); strings.HasPrefix(name, instancePrefix) && name != instancePrefix {
		if err := b.directory(above); err != nil {
			return err
		}
	}
	st, err := os.Stat(at)
	if err != nil {
		return err
	}
	b.names[name] = true
	return b.out.WriteHeader(&tar.Header{
		Typeflag: tar.TypeDir, Name: name, Mode: int64(st.Mode().Perm()), ModTime: st.ModTime(), Format: tar.FormatPAX,
	})
}

// original is a file to write, of size bytes, whose original is at the path at.
type original struct {
	at      string
	mode    fs.FileMode
	changed time.Time
	size    int64
	content io.Reader
}

// put writes a file. A file that was written before is not written again: two settings may name it.
func (b *writer) put(f original) error {
	name := b.name(f.at)
	if b.names[name] {
		return nil
	}
	if err := b.directory(filepath.Dir(f.at)); err != nil {
		return err
	}
	b.names[name] = true
	if err := b.out.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: int64(f.mode), ModTime: f.changed, Size: f.size, Format: tar.FormatPAX,
	}); err != nil {
		return err
	}
	digest := sha256.New()
	if _, err := io.Copy(io.MultiWriter(b.out, digest), f.content); err != nil {
		return fmt.Errorf("%s: %w", f.at, err)
	}
	fmt.Fprintf(&b.sums, "%x  %s\n", digest.Sum(nil), name)
	b.count++
	b.bytes += f.size
	if b.o.Progress != nil {
		b.o.Progress(b.count, b.bytes)
	}
	return nil
}

// copyFile writes a file. It reads the file whole, so that its size is right.
func (b *writer) copyFile(at string) error {
	st, err := os.Stat(at)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		b.manifest.Omitted = append(b.manifest.Omitted, at+": it is not a regular file")
		return nil
	}
	data, err := os.ReadFile(at) //nolint:gosec // named by the configuration
	if err != nil {
		return err
	}
	return b.put(original{at, st.Mode().Perm(), st.ModTime(), int64(len(data)), bytes.NewReader(data)})
}

// files writes the configuration and the files that it names.
func (b *writer) files(context.Context) error {
	at := filepath.Join(b.manifest.Dir, b.manifest.Config)
	if err := b.copyFile(at); err != nil {
		return err
	}
	for _, p := range b.cfg.Paths() {
		switch {
		case p.Dir || p.Path == b.journalFile():
			continue
		case p.Made:
			if err := b.directory(filepath.Dir(p.Path)); err != nil {
				return err
			}
		}
		if err := b.copyFile(p.Path); errors.Is(err, fs.ErrNotExist) { // a file that is made later
			if err := b.directory(filepath.Dir(p.Path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	if at := b.journalFile(); at != "" { // older than the logs in the archive, as the auditor expects
		if err := b.copyFile(reconcile.StatePath(at)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	again, _, err := config.Load(b.o.Path)
	if err == nil && again.Digest != b.cfg.Digest {
		err = errors.New("the configuration was changed while it was copied; run the command again")
	}
	return err
}

// usesFile is the file with the uses of tokens, in state_dir. A restored instance must not have it: a token that was
// used after the copy would be accepted again. Without the file, tokens that were issued before the first start are
// not.
const usesFile = "token-uses"

// directories writes the directories that the configuration names, except those of the logs.
func (b *writer) directories(ctx context.Context) error {
	for _, p := range b.cfg.Paths() {
		if f := b.cfg.Find; f != nil && p.Path == f.Dir { // it is made from the logs
			continue
		}
		if !p.Dir || slices.ContainsFunc(logsOf(b.cfg), func(l logSetting) bool { return l.config.Dir == p.Path }) {
			continue
		}
		if err := b.tree(ctx, p.Path, p.Path == b.cfg.StateDir); err != nil {
			return err
		}
	}
	return nil
}

// treeAttempts bounds how often a directory is read again because a file in it was replaced meanwhile.
const treeAttempts = 10

// tree writes the regular files below a directory as they were at one moment: it reads them again until nothing has
// changed meanwhile.
func (b *writer) tree(ctx context.Context, dir string, state bool) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for attempt := 1; ; attempt++ {
		before, err := b.list(dir, state)
		if err != nil {
			return err
		}
		contents := make([][]byte, len(before))
		for i, f := range before {
			if err := ctx.Err(); err != nil {
				return err
			}
			if contents[i], err = os.ReadFile(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		after, err := b.list(dir, state)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(before, after, found.same) {
			if attempt == treeAttempts {
				return fmt.Errorf("%s changes all the time, so no consistent copy of its files can be made", dir)
			}
			continue
		}
		if err := b.directory(dir); err != nil {
			return err
		}
		for i, f := range before {
			if err := b.put(original{
				f.path, f.mode, f.changed, int64(len(contents[i])),
				bytes.NewReader(contents[i]),
			}); err != nil {
				return err
			}
		}
		return nil
	}
}

// found is a file below a directory.
type found struct {
	path    string
	mode    fs.FileMode
	changed time.Time
	size    int64
	info    fs.FileInfo
}

func (f found) same(o found) bool {
	return f.path == o.path && f.changed.Equal(o.changed) && f.size == o.size && os.SameFile(f.info, o.info)
}

// list lists the files to copy below a directory.
func (b *writer) list(dir string, state bool) (out []found, err error) {
	err = filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && at != dir: // removed meanwhile
			return nil
		case err != nil:
			return err
		case e.IsDir():
			return nil
		case state && filepath.Dir(at) == dir && strings.HasPrefix(e.Name(), usesFile),
			strings.HasSuffix(e.Name(), "lock"),
			strings.HasPrefix(e.Name(), ".") && strings.Contains(e.Name(), ".new-"):
			return nil
		case !e.Type().IsRegular():
			if text := at + ": it is not a regular file"; !slices.Contains(b.manifest.Omitted, text) {
				b.manifest.Omitted = append(b.manifest.Omitted, text)
			}
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			out = append(out, found{at, info.Mode().Perm(), info.ModTime(), info.Size(), info})
		}
		return err
	})
	return out, err
}

// logSetting is a log of the configuration.
type logSetting struct {
	setting string
	config  tlog.Config
}

// logsOf lists the logs in the process of the CA.
func logsOf(cfg *config.Config) (out []logSetting) {
	if c := cfg.CT.Embedded; c != nil {
		out = append(out, logSetting{"ct.embedded", c.Log()})
	}
	if cfg.Rekor != nil { // the keys that the configuration names are not needed for a copy
		out = append(out, logSetting{"rekor", cfg.RekorLog()})
	}
	return out
}

// logs writes the logs.
func (b *writer) logs(ctx context.Context) error {
	for _, l := range logsOf(b.cfg) {
		copied, err := l.config.Copy(ctx, func(f tlog.File) error {
			return b.put(original{
				filepath.Join(l.config.Dir, filepath.FromSlash(f.Name)), f.Mode, f.Time, int64(len(f.Data)),
				bytes.NewReader(f.Data),
			})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", l.setting, err)
		}
		b.manifest.Logs = append(b.manifest.Logs, Log{
			Setting: l.setting, Dir: b.name(l.config.Dir), Shards: copied, Marked: l.config.Marked(),
		})
	}
	return nil
}

// journalFile returns the path of the journal; "" if there is none in a file.
func (b *writer) journalFile() string {
	if b.cfg.Audit == nil {
		return ""
	}
	return b.cfg.Audit.File
}

// journal writes the journal, after the logs.
func (b *writer) journal(context.Context) error {
	at := b.journalFile()
	if at == "" {
		return nil
	}
	if err := b.directory(filepath.Dir(at)); err != nil {
		return err
	}
	copied, err := journal.Copy(at, func(f journal.CopiedFile) error {
		return b.put(original{filepath.Join(filepath.Dir(at), f.Name), f.Mode, b.o.Now(), f.Size, f.Content})
	})
	if err != nil {
		return fmt.Errorf("audit.file: %w", err)
	}
	b.manifest.Journal = &copied
	return nil
}

// conclude writes SHA256SUMS and the manifest.
func (b *writer) conclude(context.Context) error {
	b.manifest.Sums = fmt.Sprintf("%x", sha256.Sum256(b.sums.Bytes()))
	b.manifest.Ended = b.o.Now().UTC()
	text, err := json.MarshalIndent(b.manifest, "", "  ")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{sumsName, b.sums.Bytes()}, {manifestName, append(text, '\n')}} {
		if err := b.out.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: f.name, Mode: 0o600, ModTime: b.manifest.Ended, Size: int64(len(f.data)),
			Format: tar.FormatPAX,
		}); err != nil {
			return err
		}
		if _, err := b.out.Write(f.data); err != nil {
			return err
		}
	}
	return b.out.Close()
}

// reserve locks the logs and the journal against a server. A log that is marked is an error: it would continue from the
// archive, and might sign a second history.
func (b *writer) reserve() (finish func(bool) error, err error) {
	var locks []*durable.FileLock
	release := func() error {
		var errs []error
		for _, l := range locks {
			errs = append(errs, l.Unlock())
		}
		return errors.Join(errs...)
	}
	hold := func(l *durable.FileLock, err error) error {
		if errors.Is(err, durable.ErrLocked) {
			return errors.Join(ErrRunning, release())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, release())
		}
		locks = append(locks, l) // nil if the directory does not exist
		return nil
	}
	for _, l := range logsOf(b.cfg) {
		if err := hold(l.config.Reserve()); err != nil {
			return nil, err
		}
		if err := l.config.CheckFence(); err != nil {
			return nil, errors.Join(err, release())
		}
	}
	if at := b.journalFile(); at != "" {
		if err := hold(journal.Reserve(at)); err != nil {
			return nil, err
		}
	}
	return func(done bool) error {
		var errs []error
		for _, l := range logsOf(b.cfg) {
			if _, err := os.Stat(l.config.Dir); done && err == nil {
				errs = append(errs, tlog.Fence(l.config.Dir, tlog.Mark{Copied: b.manifest.Ended, Moved: true}))
			}
		}
		return errors.Join(append(errs, release())...)
	}, nil
}
