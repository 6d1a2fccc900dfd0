package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/bounded"
)

// The names of metadata files, in the repository and in the metadata that describes them.
const (
	timestampFile = "timestamp.json"
	snapshotMeta  = "snapshot.json"
	targetsMeta   = "targets.json"
	rootSuffix    = ".root.json"
)

func rootFile(version int64) string     { return strconv.FormatInt(version, 10) + rootSuffix }
func snapshotFile(version int64) string { return strconv.FormatInt(version, 10) + "." + snapshotMeta }

func targetsFile(version int64) string { return strconv.FormatInt(version, 10) + "." + targetsMeta }

func targetFile(digest, name string) string { return "targets/" + digest + "." + name }

// The names that clients look for.
const (
	rootTarget    = "trusted_root.json"
	signingTarget = "signing_config.v0.2.json"
)

const (
	maxMetadata  = 5_000_000 // size limit of a metadata file in bytes; clients have the same limit
	maxRotations = 256       // number of roots that a client follows in one update
)

// targetName returns the name under which clients look for data, which must be a trusted root or a signing
// configuration.
func targetName(data []byte) (string, error) {
	var kind struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return "", errors.New("not JSON: publish takes a trusted root and a signing configuration")
	}
	switch kind.MediaType {
	case signingMediaType:
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data,
			&trustroot.SigningConfig{}); err != nil {
			return "", fmt.Errorf("not a signing configuration: %w", err)
		}
		return signingTarget, nil
	case "":
		return "", errors.New("it has no mediaType: publish takes a trusted root and a signing configuration")
	}
	if _, err := ParseTrustedRoot(data); err != nil {
		return "", err
	}
	return rootTarget, nil
}

// named returns files by the names under which clients look for them.
func named(contents [][]byte) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, data := range contents {
		name, err := targetName(data)
		if err != nil {
			return nil, err
		}
		files[name] = data
	}
	return files, nil
}

// NoAnchorError is the error for a repository without the copy in keys/published, which shows that the metadata is
// authentic. The repository is from an earlier version of mayfly, or its directory of keys was assembled by hand.
type NoAnchorError struct {
	Dir         string
	Fingerprint string // SHA-256 of repository/1.root.json, in hexadecimal
}

// Error returns a text that says what to compare and how to adopt the repository.
func (e *NoAnchorError) Error() string {
	return fmt.Sprintf("there is no copy of the published metadata in %s, so nothing shows whether the "+
		"repository is authentic; "+
		"repository/1.root.json has the SHA-256 %s: if the 1.root.json of clients has the same SHA-256, run "+
		"\"mayfly trust tuf adopt --dir %s --root-sha256 %s\"",
		filepath.Join(e.Dir, anchorDir), e.Fingerprint, e.Dir, e.Fingerprint)
}

// ErrNoRepository is wrapped by errors about a directory without a repository.
var ErrNoRepository = errors.New("the repository does not exist; create one with \"mayfly trust tuf init\"")

// anchorDir is the directory of the anchor, relative to the directory of the repository.
const anchorDir = "keys/published"

// occupied returns the name of a file of a repository or its keys in the directory, or "".
func (r *Repository) occupied() (string, error) {
	for _, pattern := range []string{
		"repository/" + timestampFile, "repository/*" + rootSuffix, "keys/*.pem",
		anchorDir, commitFile,
	} {
		names, err := filepath.Glob(filepath.Join(globEscape(r.o.Dir), filepath.FromSlash(pattern)))
		if err != nil {
			return "", err
		}
		if len(names) > 0 {
			return filepath.Rel(r.o.Dir, names[0])
		}
	}
	return "", nil
}

// globEscape makes a path match itself in [filepath.Glob].
func globEscape(name string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}

// files are the files of a repository, whose content is not trusted.
type files interface {
	read(name string) ([]byte, error)
	top() ([]string, error) // the names of the files that are in no directory
}

// folder is a directory whose content is not trusted.
type folder struct{ *os.Root }

func (f folder) top() ([]string, error) {
	entries, err := fs.ReadDir(f.FS(), ".")
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}

// memory has the files of a repository that is not in a directory, with the same limit.
type memory map[string][]byte

func (m memory) read(name string) ([]byte, error) {
	data, ok := m[name]
	switch {
	case !ok:
		return nil, fs.ErrNotExist
	case len(data) > maxMetadata:
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxMetadata)
	}
	return data, nil
}

func (m memory) top() ([]string, error) {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m)), func(name string) bool {
		return strings.Contains(name, "/")
	}), nil
}

// open opens a folder below the directory of the repository.
func (r *Repository) open(name string) (folder, error) {
	root, err := os.OpenRoot(filepath.Join(r.o.Dir, filepath.FromSlash(name)))
	return folder{root}, err
}

// read returns a regular file of at most [maxMetadata] bytes. A link that leads out of the folder is an error, as is a
// named pipe.
func (f folder) read(name string) ([]byte, error) {
	const limit = maxMetadata
	file, err := f.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := bounded.ReadAll(file, limit)
	if _, ok := errors.AsType[*bounded.TooLargeError](err); ok {
		return nil, fmt.Errorf("%s is %w", name, err)
	}
	return data, err
}

// readAnchor reads the anchor. The result is empty if there is none.
func (r *Repository) readAnchor() (map[string][]byte, error) {
	out := map[string][]byte{}
	f, err := r.open(anchorDir)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	err = fs.WalkDir(f.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		out[name], err = f.read(name)
		return err
	})
	return out, err
}

// load verifies the repository from the anchor, without checking expiry. After an error the repository is in the state
// of the anchor, if the anchor is valid.
func (r *Repository) load() error {
	anchor, err := r.readAnchor()
	if err != nil {
		return err
	}
	f, err := r.open("repository")
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(anchor) == 0:
		return ErrNoRepository
	case err == nil:
		defer f.Close() //nolint:errcheck // only read
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if len(anchor) == 0 {
		first, err := f.read(rootFile(1))
		if errors.Is(err, fs.ErrNotExist) {
			return ErrNoRepository
		}
		if err != nil {
			return err
		}
		sum := sha256.Sum256(first)
		return &NoAnchorError{Dir: r.o.Dir, Fingerprint: hex.EncodeToString(sum[:])}
	}
	if err := r.adopt(anchor); err != nil {
		return err
	}
	if f.Root == nil {
		return changed(errors.New("the directory repository is missing"))
	}
	served, err := r.follow(f)
	if err != nil {
		return changed(err)
	}
	r.now = served
	return r.parse()
}

// adopt verifies the anchor and sets the repository to its state.
func (r *Repository) adopt(anchor map[string][]byte) error {
	all, err := verified(anchor[rootFile(1)], memory(anchor).read)
	if err != nil {
		return fault.Cure(fmt.Errorf("%s is damaged: %w", anchorDir, err), "restore it from a backup")
	}
	if len(all) != len(anchor) {
		for name := range anchor {
			if _, ok := all[name]; !ok {
				return fmt.Errorf("%s is damaged; restore it from a backup: %s does not belong there", anchorDir, name)
			}
		}
	}
	r.anchor, r.now = all, all
	return r.parse()
}

// follow verifies DIR/repository as a client does whose last update was the anchor.
func (r *Repository) follow(f files) (map[string][]byte, error) {
	source := f.read
	served, err := verified(r.anchor[rootFile(1)], source)
	if err != nil {
		return nil, err
	}
	if served[rootFile(1)], err = source(rootFile(1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for name, data := range r.anchor {
		if strings.HasSuffix(name, rootSuffix) && !bytes.Equal(served[name], data) {
			return nil, differs(name, served[name] != nil)
		}
	}
	now := Repository{now: served}
	if err := now.parse(); err != nil {
		return nil, err
	}
	for _, c := range []struct {
		name       string
		got, known int64
		file       func(int64) string
	}{
		{
			timestampFile, now.timestamp.Signed.Version, r.timestamp.Signed.Version,
			func(int64) string { return timestampFile },
		},
		{"snapshot", now.snapshot.Signed.Version, r.snapshot.Signed.Version, snapshotFile},
		{"targets", now.targets.Signed.Version, r.targets.Signed.Version, targetsFile},
	} {
		if c.got < c.known {
			return nil, fmt.Errorf("%s was rolled back: it has version %d, but version %d was published",
				c.name, c.got, c.known)
		}
		if c.got == c.known && !bytes.Equal(served[c.file(c.got)], r.anchor[c.file(c.known)]) {
			return nil, differs(c.file(c.got), true)
		}
	}
	return served, r.strayRoots(f, served)
}

func differs(name string, there bool) error {
	if !there {
		return fmt.Errorf("%s is missing", name)
	}
	return fmt.Errorf("%s differs from the published file", name)
}

// changed returns an error about DIR/repository, with what to do.
func changed(err error) error {
	return fault.Cure(fmt.Errorf("the repository was changed after it was published: %w", err),
		"find out who changed it, then \"mayfly trust tuf restore\" restores it")
}

// strayRoots returns an error if the directory has root metadata that does not verify from the other roots, because a
// client would read it after the next rotation.
func (r *Repository) strayRoots(f files, served map[string][]byte) error {
	names, err := f.top()
	if err != nil {
		return err
	}
	for _, name := range names {
		number, ok := strings.CutSuffix(name, rootSuffix)
		if _, err := strconv.ParseInt(number, 10, 64); !ok || err != nil {
			continue
		}
		if served[name] == nil {
			return fmt.Errorf("%s does not verify with the previous roots", name)
		}
	}
	return nil
}

// verified verifies a repository from its first root, as a client does: signatures, thresholds, versions, lengths and
// hashes. It accepts expired metadata, which must be renewed. It returns every verified file by name.
func verified(first []byte, source func(name string) ([]byte, error)) (map[string][]byte, error) {
	out := map[string][]byte{}
	if first == nil {
		return nil, errors.New("1.root.json is missing")
	}
	tm, err := trustedmetadata.New(first)
	if err != nil {
		return nil, fmt.Errorf("1.root.json: %w", err)
	}
	if v := tm.Root.Signed.Version; v != 1 {
		return nil, fmt.Errorf("1.root.json: it has version %d", v)
	}
	tm.RefTime = time.Time{}
	out[rootFile(1)] = first
	for v := int64(2); ; v++ {
		data, err := source(rootFile(v))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err == nil && v > maxRotations {
			err = fmt.Errorf("clients follow at most %d roots", maxRotations)
		}
		if err == nil {
			_, err = tm.UpdateRoot(data)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rootFile(v), err)
		}
		out[rootFile(v)] = data
	}
	if !tm.Root.Signed.ConsistentSnapshot {
		return nil, errors.New("the root has no consistent snapshots, which are required here")
	}
	get := func(name string, use func(data []byte) error) error {
		data, err := source(name)
		if err == nil {
			err = use(data)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		out[name] = data
		return nil
	}
	if err := get(timestampFile, func(data []byte) error {
		_, err := tm.UpdateTimestamp(data)
		return err
	}); err != nil {
		return nil, err
	}
	snapshot := tm.Timestamp.Signed.Meta[snapshotMeta]
	if snapshot == nil {
		return nil, fmt.Errorf("%s names no snapshot", timestampFile)
	}
	if err := get(snapshotFile(snapshot.Version), func(data []byte) error {
		_, err := tm.UpdateSnapshot(data, false)
		return err
	}); err != nil {
		return nil, err
	}
	targets := tm.Snapshot.Signed.Meta[targetsMeta]
	if targets == nil {
		return nil, fmt.Errorf("%s names no targets", snapshotFile(snapshot.Version))
	}
	if err := get(targetsFile(targets.Version), func(data []byte) error {
		_, err := tm.UpdateTargets(data)
		return err
	}); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(tm.Targets[metadata.TARGETS].Signed.Targets)) {
		target := tm.Targets[metadata.TARGETS].Signed.Targets[name]
		if target == nil || len(target.Hashes) != 1 || target.Hashes["sha256"] == nil || path.Base(name) != name {
			return nil, fmt.Errorf("%s: the file %q has a name or hashes that this tool does not publish",
				targetsFile(targets.Version), name)
		}
		if err := get(targetFile(target.Hashes["sha256"].String(), name), target.VerifyLengthHashes); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// reset discards changes and returns to the verified metadata.
func (r *Repository) reset() error {
	r.begin()
	return r.parse()
}

// parse reads the newest metadata of the verified files.
func (r *Repository) parse() error {
	newest := int64(0)
	for name := range r.now {
		number, ok := strings.CutSuffix(name, rootSuffix)
		if v, err := strconv.ParseInt(number, 10, 64); ok && err == nil {
			newest = max(newest, v)
		}
	}
	root, err := metadata.Root().FromBytes(r.now[rootFile(newest)])
	if err != nil {
		return err
	}
	timestamp, err := metadata.Timestamp().FromBytes(r.now[timestampFile])
	if err != nil {
		return err
	}
	snapshot, err := metadata.Snapshot().FromBytes(r.now[snapshotFile(timestamp.Signed.Meta[snapshotMeta].Version)])
	if err != nil {
		return err
	}
	targets, err := metadata.Targets().FromBytes(r.now[targetsFile(snapshot.Signed.Meta[targetsMeta].Version)])
	if err != nil {
		return err
	}
	for _, role := range Roles() {
		if root.Signed.Roles[role] == nil {
			return fmt.Errorf("%s names no role %s", rootFile(newest), role)
		}
	}
	if targets.Signed.Targets == nil {
		targets.Signed.Targets = map[string]*metadata.TargetFiles{}
	}
	r.root, r.timestamp, r.snapshot, r.targets = root, timestamp, snapshot, targets
	return nil
}
