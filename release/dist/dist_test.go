package dist

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/release/build"
)

// make makes a release of the last commit of this repository, in a folder of its own.
func makeRelease(t *testing.T, name string, targets []build.Target, unsigned bool) map[string][]byte {
	t.Helper()
	base := filepath.Join(t.TempDir(), name)
	root := filepath.Join(base, "source")
	if out, err := exec.Command("git", "clone", "-q", "--shared", "../..", root).CombinedOutput(); err != nil {
		t.Skipf("the repository cannot be cloned: %v: %s", err, out)
	}
	source, err := build.Describe(t.Context(), root, false)
	if err != nil {
		t.Fatal(err)
	}
	progress := io.Discard
	if testing.Verbose() {
		progress = os.Stderr
	}
	out := filepath.Join(base, "dist")
	if err := Make(t.Context(), Options{
		Source: source, Targets: targets, Out: out, Unsigned: unsigned, Log: slog.New(slog.DiscardHandler),
		Progress: progress,
	}); err != nil {
		t.Fatal(err)
	}
	all := files(t, out)
	if !unsigned {
		verify(t, out, source)
	}
	return all
}

// verify runs the commands of the documentation that verify a release, with the program of the release.
func verify(t *testing.T, dir string, source build.Source) {
	t.Helper()
	page, err := os.ReadFile("../../docs/releasing.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(page), "\n## Verify\n")
	_, part, _ = strings.Cut(part, "```sh\n")
	block, _, ok := strings.Cut(part, "```")
	if !ok || !strings.Contains(block, "mayfly verify signatures/SHA256SUMS") {
		t.Fatalf("docs/releasing.md does not say how to verify a release: %q", block)
	}
	run := func(script string) error {
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+t.TempDir()+":"+os.Getenv("PATH"))
		path, _ := strings.CutPrefix(cmd.Env[len(cmd.Env)-1], "PATH=")
		bin, _, _ := strings.Cut(path, ":")
		name := (build.Target{OS: runtime.GOOS, Arch: runtime.GOARCH}).Name(source)
		archive := filepath.Join(dir, name+".tar.gz")
		// As the page installs it: from the archive.
		if out, err := exec.CommandContext(t.Context(), "tar", "-xzf", archive, "-C",
			bin).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Rename(filepath.Join(bin, name, "mayfly"), filepath.Join(bin, "mayfly")); err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := run(block); err != nil {
		t.Errorf("%s%v", block, err)
	}
	// The list of another release, signed or not, is found out.
	sums := filepath.Join(dir, Sums)
	before, err := os.ReadFile(sums)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sums, append(before, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(block); err == nil {
		t.Errorf("a changed %s verifies", Sums)
	}
}

// files returns the content of small files and the digest of large ones, by name.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if len(data) > 1<<20 {
			if f, err := elf.NewFile(bytes.NewReader(data)); err == nil && !strings.HasSuffix(name, ".tar") {
				for _, p := range f.Progs {
					if p.Type == elf.PT_INTERP {
						t.Errorf("%s is not static", name)
					}
				}
			}
			sum := sha256.Sum256(data)
			data = sum[:]
		}
		out[name] = data
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 2 {
		t.Errorf("beside the release: %v, %v", entries, err)
	}
	return out
}

// compare fails if two releases differ outside the signatures.
func compare(t *testing.T, one, two map[string][]byte) {
	t.Helper()
	reproducible := func(name string) bool { return !strings.HasPrefix(name, Signatures+"/") }
	for name, data := range one {
		if reproducible(name) && !bytes.Equal(data, two[name]) {
			t.Errorf("%s differs in a second release of the same commit", name)
		}
	}
	for name := range two {
		if _, ok := one[name]; !ok && reproducible(name) {
			t.Errorf("%s is in the second release only", name)
		}
	}
}

// needRelease skips a test that compiles programs of a release, which takes minutes with an empty build cache.
func needRelease(t *testing.T) {
	t.Helper()
	if os.Getenv("MAYFLY_RELEASE") == "" {
		t.Skip("MAYFLY_RELEASE is not set; make check-release runs this test")
	}
}

// A release of one program: its checksums are right, every file is signed, and a second one has the same bytes.
func TestRelease(t *testing.T) {
	t.Parallel()
	needRelease(t)
	targets := []build.Target{{OS: runtime.GOOS, Arch: runtime.GOARCH, Package: "./cmd/mayfly-client", Client: true}}
	one := makeRelease(t, "one", targets, false)
	two := makeRelease(t, "another folder", targets, true)
	compare(t, one, two)
	listed := 0
	for line := range strings.Lines(string(one[Sums])) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		data, ok := one[name]
		if !ok {
			t.Errorf("%s lists %s, which is not there", Sums, name)
		}
		have := hex.EncodeToString(data)
		if len(data) != sha256.Size {
			digest := sha256.Sum256(data)
			have = hex.EncodeToString(digest[:])
		}
		if have != sum {
			t.Errorf("%s has a wrong digest of %s", Sums, name)
		}
		listed++
		if bundle := one[Signatures+"/"+name+".sigstore.json"]; bundle == nil {
			t.Errorf("%s has no signature", name)
		}
	}
	signed := 0
	for name := range one {
		if strings.HasPrefix(name, Signatures+"/") {
			signed++
		}
	}
	// Beside the bundles of the listed files: that of the list, the trusted root and the signer.
	if want := 5; listed != want || signed != listed+3 || len(one) != listed+signed+1 {
		t.Errorf("%d files are listed, %d files are signatures, of %d", listed, signed, len(one))
	}
	for name := range two {
		if strings.HasPrefix(name, Signatures) {
			t.Errorf("an unsigned release has %s", name)
		}
	}
}

// A failure leaves neither a part of a release nor another file.
func TestFailure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	err := Make(t.Context(), Options{
		Source: build.Source{Root: dir}, Targets: []build.Target{{OS: "linux", Arch: "amd64", Package: "./cmd/none"}},
		Out: filepath.Join(dir, "dist"), Progress: io.Discard,
	})
	if err == nil {
		t.Error("a release of nothing")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Two releases of all programs have the same bytes, the second one compiled from nothing. This takes half an hour.
func TestWholeRelease(t *testing.T) { //nolint:paralleltest // it sets the environment
	needRelease(t)
	one := makeRelease(t, "one", build.Targets(), true)
	t.Setenv("GOCACHE", filepath.Join(t.TempDir(), "cache"))
	compare(t, one, makeRelease(t, "another folder", build.Targets(), true))
}
