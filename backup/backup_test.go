package backup_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/backup"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/testkit/ondisk"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/records"
	"github.com/mayfly-ca/mayfly/testkit/site"
	"github.com/mayfly-ca/mayfly/tlog"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// instance makes a configuration with a log of a few entries, a journal, and a file outside its directory.
func instance(t *testing.T) (dir, config string) {
	t.Helper()
	s := site.New(t, 0)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.MkdirAll(outside, 0o750))
	must(t, os.WriteFile(filepath.Join(outside, "old.pem"), s.PKI.ChainPEM(), 0o640))
	for _, d := range []string{"journal", "state"} {
		must(t, os.Mkdir(filepath.Join(s.Dir, d), 0o700))
	}
	s.Write(t, "state/token-uses", []byte("used"))
	s.Write(t, "state/provider-keys-1.json", []byte("{}"))
	s.Config(t, fmt.Sprintf("  embedded: {dir: log, origin: ca.example.com/ct}\naudit: {file: journal/journal.jsonl}\n"+
		"state_dir: state\nexperimental: {}\n"))
	config = filepath.Join(s.Dir, "mayfly.yaml")
	text, err := os.ReadFile(config)
	must(t, err)
	text = bytes.Replace(text, []byte("ca:\n"), fmt.Appendf(nil, "ca:\n  trust: [%q]\n", outside+"/old.pem"), 1)
	text = bytes.Replace(text, []byte("experimental: {}\n"), nil, 1)
	must(t, os.WriteFile(config, text, 0o600))
	log, err := embedded.OpenStore(t.Context(), embedded.Config{
		Dir: filepath.Join(s.Dir, "log"), Origin: "ca.example.com/ct",
	}, tlog.Options{})
	must(t, err)
	for n := range 3 {
		_, err := log.Open()[0].Log.Submit(t.Context(), precert(t, s.PKI, int64(n)))
		must(t, err)
	}
	must(t, log.Close(t.Context()))
	j := records.Open(t, journal.Config{File: filepath.Join(s.Dir, "journal", "journal.jsonl")}, journal.Options{})
	must(t, j.Append(t.Context(), records.Intent(1)))
	must(t, j.Close(t.Context(), 0))
	return s.Dir, config
}

// precert returns a precertificate that the standard library has signed.
func precert(t *testing.T, p *pki.PKI, n int64) tbs.Precertificate {
	t.Helper()
	der := p.Leaf(n+1, true)
	bare, _, err := tbs.WithoutSCTList(der)
	must(t, err)
	return tbs.Precertificate{
		DER: der, Chain: [][]byte{p.Intermediate.Raw, p.Root.Raw},
		Entry: tbs.Entry{IssuerKeyHash: sha256.Sum256(p.Intermediate.RawSubjectPublicKeyInfo), TBS: bare},
	}
}

func archive(t *testing.T, o backup.Options) ([]byte, *backup.Manifest) {
	t.Helper()
	var out bytes.Buffer
	m, finish, err := backup.Write(t.Context(), &out, o)
	must(t, err)
	must(t, finish(true))
	return out.Bytes(), m
}

// names lists the entries of an archive.
func names(t *testing.T, data []byte) (out []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		out = append(out, h.Name)
	}
}

// An archive has the files of the instance, but neither locks nor the uses of tokens, and what is restored has the same
// content and permissions.
func TestWriteAndRestore(t *testing.T) {
	t.Parallel()
	dir, config := instance(t)
	data, m := archive(t, backup.Options{Path: config, Tool: "test"})
	all := names(t, data)
	for _, want := range []string{
		"instance/mayfly.yaml", "instance/identity.yaml", "instance/chain.pem", "instance/key.pem",
		"instance/state/provider-keys-1.json", "instance/log/log.key.pem", "instance/log/checkpoint",
		"instance/journal/journal.jsonl", "instance/journal/journal.jsonl.head", "SHA256SUMS", "manifest.json",
	} {
		if !slices.Contains(all, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, name := range all {
		if strings.HasSuffix(name, "lock") || strings.Contains(name, "token-uses") {
			t.Errorf("%s is in the archive", name)
		}
	}
	if m.Logs[0].Shards[0].Size != 3 || m.Journal.Seq < 2 || m.Final || len(m.Omitted) != 0 {
		t.Errorf("%+v", m)
	}
	to := filepath.Join(t.TempDir(), "restored")
	r, err := backup.Restore(t.Context(), bytes.NewReader(data), backup.RestoreOptions{Dir: to})
	must(t, err)
	if r.Continue || r.Elsewhere != 1 || r.Config != filepath.Join(to, "mayfly.yaml") || len(r.Unverified) > 0 {
		t.Errorf("%+v", r)
	}
	have, want := ondisk.Contents(t, to), ondisk.Contents(t, dir)
	for path, content := range have {
		rel, err := filepath.Rel(to, path)
		must(t, err)
		if rel == "log/restored.json" {
			continue
		}
		original := filepath.Join(dir, rel)
		if want[original] != content {
			t.Errorf("%s differs", rel)
		}
		a, b := mode(t, path), mode(t, original)
		if a != b {
			t.Errorf("%s: mode %v, not %v", rel, a, b)
		}
	}
	if a, b := mode(t, filepath.Join(to, "journal")), mode(t, filepath.Join(dir, "journal")); a != b {
		t.Errorf("the directory of the journal has mode %v, not %v", a, b)
	}
	if entries, err := os.ReadDir(filepath.Dir(to)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	return st.Mode().Perm()
}

// An archive can be restored below the directory that it was made of.
func TestRestoreBelow(t *testing.T) {
	t.Parallel()
	dir, config := instance(t)
	data, _ := archive(t, backup.Options{Path: config})
	r, err := backup.Restore(t.Context(), bytes.NewReader(data),
		backup.RestoreOptions{Dir: filepath.Join(dir, "trial")})
	if err != nil || len(r.Unverified) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A file elsewhere that is missing is restored, with its directory; one that differs is an error, and nothing is left.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	_, config := instance(t)
	data, _ := archive(t, backup.Options{Path: config})
	at := ""
	for _, name := range names(t, data) {
		if rest, ok := strings.CutPrefix(name, "elsewhere/"); ok && strings.HasSuffix(name, "old.pem") {
			at = "/" + rest
		}
	}
	content, err := os.ReadFile(at)
	must(t, err)
	must(t, os.RemoveAll(filepath.Dir(at)))
	to := filepath.Join(t.TempDir(), "restored")
	_, err = backup.Restore(t.Context(), bytes.NewReader(data), backup.RestoreOptions{Dir: to})
	must(t, err)
	if again, err := os.ReadFile(at); err != nil || !bytes.Equal(again, content) || mode(t, at) != 0o640 ||
		mode(t, filepath.Dir(at)) != 0o750 {
		t.Errorf("%v", err)
	}
	must(t, os.WriteFile(at, []byte("other"), 0o600))
	second := filepath.Join(t.TempDir(), "second")
	if _, err := backup.Restore(t.Context(), bytes.NewReader(data), backup.RestoreOptions{Dir: second}); err == nil ||
		!strings.Contains(err.Error(), "exists and differs") {
		t.Errorf("%v", err)
	}
	// After an error, files that were made elsewhere are removed again.
	must(t, os.RemoveAll(filepath.Dir(at)))
	broken := edited(t, data, func(name string, data []byte) []byte {
		if name == "instance/identity.yaml" {
			return []byte("nonsense: true\n")
		}
		return data
	})
	if _, err := backup.Restore(t.Context(), bytes.NewReader(broken), backup.RestoreOptions{Dir: second}); err == nil {
		t.Error("a wrong configuration was restored")
	}
	for _, path := range []string{second, filepath.Dir(at)} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// An instance whose data is not in the directory of the configuration, as with /etc and /var/lib, is restored to the
// same places; also directories without files. A log is never restored over another one, not even over the same. After
// an error nothing is left.
func TestLogElsewhere(t *testing.T) {
	t.Parallel()
	dir, config := instance(t)
	text, err := os.ReadFile(config)
	must(t, err)
	data := filepath.Join(t.TempDir(), "data")
	must(t, os.Mkdir(data, 0o750))
	for name, setting := range map[string]string{"log": "dir: ", "journal": "file: ", "state": "state_dir: "} {
		must(t, os.Rename(filepath.Join(dir, name), filepath.Join(data, name)))
		text = bytes.Replace(text, []byte(setting+name), []byte(setting+filepath.Join(data, name)), 1)
	}
	must(t, os.Remove(filepath.Join(data, "state", "provider-keys-1.json")))
	must(t, os.Chmod(filepath.Join(data, "state"), 0o710))
	must(t, os.WriteFile(config, text, 0o600))
	before := ondisk.Contents(t, filepath.Join(data, "log"))
	changed := filepath.Join(data, "log", "log.pub.pem")
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	must(t, os.Chtimes(changed, when, when))
	whole, _ := archive(t, backup.Options{Path: config})
	restore := func(data []byte) error {
		r, err := backup.Restore(t.Context(), bytes.NewReader(data),
			backup.RestoreOptions{Dir: filepath.Join(t.TempDir(), "restored")})
		if err == nil && (r.Continue || len(r.Unverified) > 0) {
			t.Errorf("%+v", r)
		}
		return err
	}
	if err := restore(whole); err == nil || !strings.Contains(err.Error(), "never restored over another one") {
		t.Errorf("over a log: %v", err)
	}
	if _, err := os.Stat(filepath.Join(data, "log", "restored.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the log that was there is marked: %v", err)
	}
	must(t, os.RemoveAll(data))
	if err := restore(edited(t, whole, func(name string, d []byte) []byte {
		if strings.HasSuffix(name, "/log/tile/data/000.p/3") {
			d[200] ^= 1
		}
		return d
	})); err == nil || !strings.Contains(err.Error(), "ct.embedded") {
		t.Errorf("a damaged log: %v", err)
	}
	if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	must(t, restore(whole))
	after := ondisk.Contents(t, filepath.Join(data, "log"))
	delete(after, filepath.Join(data, "log", "restored.json"))
	for path, content := range after {
		if before[path] != content {
			t.Errorf("%s differs", path)
		}
	}
	if len(after) < 8 { // keys, checkpoint, state, tiles, issuers
		t.Errorf("restored: %v", after)
	}
	if st, err := os.Stat(changed); err != nil || !st.ModTime().Equal(when) {
		t.Errorf("%v, %v", st, err)
	}
	if m := mode(t, filepath.Join(data, "state")); m != 0o710 {
		t.Errorf("the directory without a file has mode %v", m)
	}
	if _, err := embedded.OpenStore(t.Context(), embedded.Config{
		Dir: filepath.Join(data, "log"), Origin: "ca.example.com/ct",
	}, tlog.Options{}); err == nil || !strings.Contains(err.Error(), "the log was restored from a backup") {
		t.Errorf("not marked: %v", err)
	}
}

// A log that the configuration names by a path such as ../log is restored only where that path leads to it.
func TestLogBeside(t *testing.T) {
	t.Parallel()
	dir, config := instance(t)
	beside := filepath.Join(filepath.Dir(dir), "log-beside")
	must(t, os.Rename(filepath.Join(dir, "log"), beside))
	text, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, bytes.Replace(text, []byte("dir: log"), []byte("dir: ../log-beside"), 1), 0o600))
	data, _ := archive(t, backup.Options{Path: config})
	must(t, os.RemoveAll(beside))
	if _, err := backup.Restore(t.Context(), bytes.NewReader(data),
		backup.RestoreOptions{Dir: filepath.Join(t.TempDir(), "restored")}); err == nil ||
		!strings.Contains(err.Error(), "restore into a directory beside the one that the backup is of, "+dir) {
		t.Errorf("in another directory: %v", err)
	}
	_, err = backup.Restore(t.Context(), bytes.NewReader(data), backup.RestoreOptions{Dir: dir + "-again"})
	must(t, err)
}

// edited returns an archive in which files were changed, with matching digests: as somebody would who can write to it.
func edited(t *testing.T, data []byte, edit func(name string, data []byte) []byte) []byte {
	t.Helper()
	var out, sums bytes.Buffer
	w := tar.NewWriter(&out)
	old := ""
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		switch {
		case h.Typeflag == tar.TypeDir:
		case h.Name == "SHA256SUMS":
			old = fmt.Sprintf("%x", sha256.Sum256(content))
			content = sums.Bytes()
		case h.Name == "manifest.json":
			content = edit(h.Name, bytes.Replace(content, []byte(old),
				fmt.Appendf(nil, "%x", sha256.Sum256(sums.Bytes())), 1))
		default:
			content = edit(h.Name, content)
			if content == nil {
				continue
			}
			fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(content), h.Name)
		}
		h.Size = int64(len(content))
		must(t, w.WriteHeader(h))
		_, err = w.Write(content)
		must(t, err)
	}
	must(t, w.Close())
	return out.Bytes()
}

// Each file that was changed, with matching digests, is found by what verifies its content; and each archive that was
// damaged, by its digests. Nothing is left.
func TestDamaged(t *testing.T) {
	t.Parallel()
	_, config := instance(t)
	data, _ := archive(t, backup.Options{Path: config})
	replace := func(file, before, after string) func(string, []byte) []byte {
		return func(name string, data []byte) []byte {
			if name == file {
				return bytes.Replace(data, []byte(before), []byte(after), 1)
			}
			return data
		}
	}
	flipped := func(at int) []byte {
		out := bytes.Clone(data)
		out[at] ^= 1
		return out
	}
	for name, row := range map[string]struct {
		archive []byte
		want    string
	}{
		"an entry of the log": {edited(t, data, func(name string, d []byte) []byte {
			if name == "instance/log/tile/data/000.p/3" {
				d[200] ^= 1
			}
			return d
		}), "ct.embedded"},
		"a hash of the log": {edited(t, data, func(name string, d []byte) []byte {
			if name == "instance/log/tile/0/000.p/3" {
				d[40] ^= 1
			}
			return d
		}), "ct.embedded"},
		"no checkpoint": {edited(t, data, func(name string, d []byte) []byte {
			if name == "instance/log/checkpoint" {
				return nil
			}
			return d
		}), "ct.embedded"},
		"a record of the journal": {
			edited(t, data, replace("instance/journal/journal.jsonl", "alice", "mallo")),
			"the journal is damaged",
		},
		"no journal": {
			edited(t, data, replace("manifest.json", `"seq": `, `"seq": 9`)),
			"the journal ends with record",
		},
		"the configuration": {
			edited(t, data,
				replace("instance/mayfly.yaml", "state_dir: state", "state_dir: other")),
			"is not the one that manifest.json names",
		},
		"a newer format": {
			edited(t, data, replace("manifest.json", `"format": 1`, `"format": 2`)),
			"use that version",
		},
		"no format": {
			edited(t, data, replace("manifest.json", `"format": 1`, `"format": 0`)),
			"the format is missing",
		},
		"a path as the name": {
			edited(t, data, replace("manifest.json", `"config": "`, `"config": "../`)),
			"is not the name of a configuration",
		},
		"a flipped bit": {
			flipped(bytes.Index(data, []byte("PRIVATE KEY")) + 40),
			"is damaged: its SHA-256 is",
		},
		"a flipped sum": {
			flipped(bytes.LastIndex(data, []byte("  instance/mayfly.yaml")) - 1),
			"SHA256SUMS is not the file",
		},
		"cut off":        {data[:bytes.LastIndex(data, []byte("manifest.json"))], "ends too early"},
		"empty":          {nil, "ends too early"},
		"not an archive": {bytes.Repeat([]byte("text"), 1000), "invalid tar header"},
	} {
		to := filepath.Join(t.TempDir(), "restored")
		_, err := backup.Restore(t.Context(), bytes.NewReader(row.archive), backup.RestoreOptions{Dir: to})
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %s", name, err, row.want)
		}
		if entries, err := os.ReadDir(filepath.Dir(to)); err != nil || len(entries) != 0 {
			t.Errorf("%s: left: %v, %v", name, entries, err)
		}
	}
}

// hostile returns an archive of one entry.
func hostile(h tar.Header, content string) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	h.Size, h.Mode = int64(len(content)), 0o644
	if h.Typeflag != tar.TypeReg {
		h.Size, content = 0, ""
	}
	if err := w.WriteHeader(&h); err != nil {
		panic(err)
	}
	_, _ = w.Write([]byte(content))
	_ = w.Close()
	return out.Bytes()
}

// Names that lead elsewhere, links and devices are refused.
func TestHostile(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]byte{
		"instance/../../escape": tar.TypeReg, "../escape": tar.TypeReg, "/instance/a": tar.TypeReg,
		"other/a":  tar.TypeReg,
		"instance": tar.TypeReg, "instance/./a": tar.TypeReg, "instance//a": tar.TypeReg, "manifest.json/": tar.TypeDir,
		"instance/link": tar.TypeSymlink, "instance/hard": tar.TypeLink, "instance/fifo": tar.TypeFifo,
		"instance/.elsewhere/a": tar.TypeReg, "elsewhere/../a": tar.TypeReg,
	} {
		dir := t.TempDir()
		_, err := backup.Restore(t.Context(), bytes.NewReader(hostile(tar.Header{
			Name: name, Typeflag: kind, Linkname: "/etc/passwd",
		}, "x")), backup.RestoreOptions{Dir: filepath.Join(dir, "deep", "restored")})
		if err == nil || !strings.Contains(err.Error(), "is not one of a backup") &&
			!strings.Contains(err.Error(), "neither a file nor a directory") {
			t.Errorf("%s: %v", name, err)
		}
		if all := ondisk.Contents(t, dir); len(all) > 0 {
			t.Errorf("%s wrote %v", name, all)
		}
	}
}

// FuzzRestore feeds archives: whatever they have, Restore writes nothing outside its directory, and nothing remains
// after an error.
func FuzzRestore(f *testing.F) {
	f.Add(hostile(tar.Header{Name: "instance/mayfly.yaml", Typeflag: tar.TypeReg}, "ca: {}\n"))
	f.Add(hostile(tar.Header{Name: "manifest.json", Typeflag: tar.TypeReg}, `{"format":1,"config":"mayfly.yaml"}`))
	f.Add(hostile(tar.Header{Name: "SHA256SUMS", Typeflag: tar.TypeReg}, "00  instance/a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if _, err := backup.Restore(t.Context(), bytes.NewReader(data), backup.RestoreOptions{
			Dir: filepath.Join(dir, "restored"),
		}); err == nil {
			t.Error("nonsense was restored")
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("left: %v, %v", entries, err)
		}
	})
}

// Existing files are never overwritten, and a final archive needs a stopped server, which then does not start again;
// where it is restored, the log continues.
func TestFinal(t *testing.T) {
	t.Parallel()
	dir, config := instance(t)
	c := embedded.Config{Dir: filepath.Join(dir, "log"), Origin: "ca.example.com/ct"}
	log, err := embedded.OpenStore(t.Context(), c, tlog.Options{})
	must(t, err)
	var out bytes.Buffer
	if _, _, err := backup.Write(t.Context(), &out, backup.Options{Path: config, Final: true}); !errors.Is(err,
		backup.ErrRunning) {
		t.Errorf("a running server: %v", err)
	}
	must(t, log.Close(t.Context()))
	j := records.Open(t, journal.Config{File: filepath.Join(dir, "journal", "journal.jsonl")}, journal.Options{})
	if _, _, err := backup.Write(t.Context(), &out, backup.Options{Path: config, Final: true}); !errors.Is(err,
		backup.ErrRunning) {
		t.Errorf("a journal in use: %v", err)
	}
	must(t, j.Close(t.Context(), 0))

	out.Reset()
	_, finish, err := backup.Write(t.Context(), &out, backup.Options{Path: config, Final: true})
	must(t, err)
	if _, err := embedded.OpenStore(t.Context(), c, tlog.Options{}); err == nil {
		t.Error("a server started before the archive was on disk")
	}
	must(t, finish(false)) // it could not be written
	log, err = embedded.OpenStore(t.Context(), c, tlog.Options{})
	must(t, err)
	must(t, log.Close(t.Context()))

	data, m := archive(t, backup.Options{Path: config, Final: true})
	if _, err := embedded.OpenStore(t.Context(), c, tlog.Options{}); err == nil ||
		!strings.Contains(err.Error(), "the log was moved by the backup") || !m.Final {
		t.Errorf("the original: %v", err)
	}
	to := filepath.Join(t.TempDir(), "restored")
	r, err := backup.Restore(t.Context(), bytes.NewReader(data), backup.RestoreOptions{Dir: to})
	must(t, err)
	if !r.Continue {
		t.Errorf("%+v", r)
	}
	moved, err := embedded.OpenStore(t.Context(), embedded.Config{Dir: filepath.Join(to, "log"), Origin: c.Origin},
		tlog.Options{})
	must(t, err)
	if _, err := moved.Open()[0].Log.Submit(t.Context(), precert(t, pki.New(pki.Options{}), 9)); err != nil {
		t.Error(err)
	}
	must(t, moved.Close(t.Context()))
	if _, err := backup.Restore(t.Context(), bytes.NewReader(data), backup.RestoreOptions{Dir: to}); err == nil ||
		!strings.Contains(err.Error(), "is not empty") {
		t.Errorf("an existing directory: %v", err)
	}
}

// A log that must not continue where it is, because it was restored or moved, does not continue from an archive of it
// either.
func TestMarked(t *testing.T) {
	t.Parallel()
	_, config := instance(t)
	data, _ := archive(t, backup.Options{Path: config})
	to := filepath.Join(t.TempDir(), "restored")
	r, err := backup.Restore(t.Context(), bytes.NewReader(data), backup.RestoreOptions{Dir: to})
	must(t, err)
	archive(t, backup.Options{Path: config, Final: true})
	for name, one := range map[string]struct{ config, want string }{
		"restored": {r.Config, "the log was restored from a backup"},
		"moved":    {config, "the log was moved by the backup"},
	} {
		var out bytes.Buffer
		_, finish, err := backup.Write(t.Context(), &out, backup.Options{Path: one.config, Final: true})
		if err == nil || !strings.Contains(err.Error(), one.want) || out.Len() > 0 {
			t.Errorf("%s: a final archive of %d bytes: %v", name, out.Len(), err)
		}
		must(t, finish(false))
		data, m := archive(t, backup.Options{Path: one.config})
		if !m.Logs[0].Marked {
			t.Errorf("%s: %+v", name, m.Logs)
		}
		to := filepath.Join(t.TempDir(), "again")
		again, err := backup.Restore(t.Context(), bytes.NewReader(data),
			backup.RestoreOptions{Dir: to, Unchanged: true})
		must(t, err)
		_, err = embedded.OpenStore(t.Context(), embedded.Config{
			Dir: filepath.Join(to, "log"), Origin: "ca.example.com/ct",
		}, tlog.Options{})
		if err == nil || !strings.Contains(err.Error(), "the log was restored from a backup") || again.Continue {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
	}
}

// Create writes a complete file for its owner alone, or no file; a file that exists stays as it is.
func TestCreate(t *testing.T) {
	t.Parallel()
	dir, config := instance(t)
	to := filepath.Join(t.TempDir(), "x.tar")
	if _, err := backup.Create(t.Context(), to, backup.Options{Path: config + "-wrong"}); err == nil {
		t.Error("an archive of nothing")
	}
	c := embedded.Config{Dir: filepath.Join(dir, "log"), Origin: "ca.example.com/ct"}
	log, err := embedded.OpenStore(t.Context(), c, tlog.Options{})
	must(t, err)
	if _, err := backup.Create(t.Context(), to, backup.Options{Path: config, Final: true}); !errors.Is(err,
		backup.ErrRunning) {
		t.Errorf("a running server: %v", err)
	}
	must(t, log.Close(t.Context()))
	if left := ondisk.Contents(t, filepath.Dir(to)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	_, err = backup.Create(t.Context(), to, backup.Options{Path: config, Final: true})
	must(t, err)
	if _, err := embedded.OpenStore(t.Context(), c, tlog.Options{}); err == nil {
		t.Error("the original starts after its final archive")
	}
	data, err := os.ReadFile(to)
	must(t, err)
	if all := names(t, data); all[len(all)-1] != "manifest.json" || mode(t, to) != 0o600 {
		t.Errorf("%v, mode %v", all, mode(t, to))
	}
	if _, err := backup.Create(t.Context(), to, backup.Options{Path: config}); err == nil ||
		!strings.Contains(err.Error(), "existing files are never overwritten") {
		t.Errorf("an existing file: %v", err)
	}
	if all := ondisk.Contents(t, filepath.Dir(to)); len(all) != 1 || all[to] != string(data) {
		t.Errorf("%d files", len(all))
	}
}

// Without the mark, which only the statement of the operator leaves out, a restored log continues.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	_, config := instance(t)
	data, _ := archive(t, backup.Options{Path: config})
	for _, unchanged := range []bool{false, true} {
		to := filepath.Join(t.TempDir(), "restored")
		_, err := backup.Restore(t.Context(), bytes.NewReader(data),
			backup.RestoreOptions{Dir: to, Unchanged: unchanged})
		must(t, err)
		log, err := embedded.OpenStore(t.Context(), embedded.Config{
			Dir: filepath.Join(to, "log"), Origin: "ca.example.com/ct",
		}, tlog.Options{Now: time.Now})
		if (err == nil) != unchanged {
			t.Errorf("unchanged %t: %v", unchanged, err)
		}
		if err == nil {
			must(t, log.Close(t.Context()))
		}
	}
}
