// Package dist makes the files of a release.
//
// A work tree of git goes in; a directory comes out. Everything in it except the directory signatures is reproducible:
// the same commit and the same targets MUST give the same bytes, in every folder and at every time. The directory is
// complete when Make returns nil, and is not there otherwise.
package dist

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/release/archive"
	"github.com/mayfly-ca/mayfly/release/bom"
	"github.com/mayfly-ca/mayfly/release/build"
	"github.com/mayfly-ca/mayfly/release/deb"
	"github.com/mayfly-ca/mayfly/release/image"
	"github.com/mayfly-ca/mayfly/release/linux"
	"github.com/mayfly-ca/mayfly/release/pages"
	"github.com/mayfly-ca/mayfly/release/provenance"
	"github.com/mayfly-ca/mayfly/release/rpm"
	"github.com/mayfly-ca/mayfly/release/sign"
)

// Names of files and directories of a release.
const (
	Sums       = "SHA256SUMS"
	Provenance = "provenance.intoto.json"
	Signatures = "signatures"
	Layout     = "image" // the OCI image layout
	SignerFile = "signer.json"
)

// Options are the inputs of a release.
type Options struct {
	Source  build.Source
	Targets []build.Target
	Out     string        // directory, which is replaced
	Service *sign.Service // nil: the lab; see package sign
	// Unsigned leaves the signatures out.
	Unsigned bool
	Log      *slog.Logger // of the services that sign
	Progress io.Writer    // one line for each step
}

// release is a release that is being made.
type release struct {
	Options
	dir      string // temporary, beside Out
	binaries []build.Binary
	programs []*bom.Program
	made     string // directory of the manual pages and completions; "" if no program has them
}

// Make makes a release.
func Make(ctx context.Context, o Options) (err error) {
	out, err := filepath.Abs(o.Out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil { //nolint:gosec // everyone may read a release
		return err
	}
	// The directory is below the same parent, so that it can be renamed.
	dir, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+".new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // as above
		return err
	}
	r := &release{Options: o, dir: dir}
	defer func() {
		if r.made != "" {
			err = errors.Join(err, os.RemoveAll(r.made))
		}
	}()
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"fetch modules", func(ctx context.Context) error { return build.Modules(ctx, o.Source.Root, o.Targets) }},
		{"compile", r.compile},
		{"bills of materials", r.bills},
		{"manual pages and completions", r.pages},
		{"archives", r.archives},
		{"packages", r.packages},
		{"container image", r.images},
		{"provenance and checksums", r.account},
		{"signatures", r.sign},
	} {
		fmt.Fprintf(o.Progress, "release: %s\n", step.name)
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	return os.Rename(dir, out)
}

// path returns the path of a file of the release.
func (r *release) path(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }

func (r *release) compile(ctx context.Context) error {
	for _, t := range r.Targets {
		fmt.Fprintf(r.Progress, "release:   %s for %s\n", t.Package, t.Platform())
		name := t.Name(r.Source)
		if t.OS == "windows" {
			name += ".exe"
		}
		b, err := build.Build(ctx, r.Source, t, r.path(name))
		if err != nil {
			return err
		}
		r.binaries = append(r.binaries, b)
	}
	return nil
}

func (r *release) bills(context.Context) error {
	for _, b := range r.binaries {
		p, err := bom.Read(b.Path, filepath.Base(b.Path), r.Source.Version, r.Source.Date)
		if err != nil {
			return err
		}
		r.programs = append(r.programs, p)
		for suffix, encode := range map[string]func() ([]byte, error){".cdx.json": p.CycloneDX, ".spdx.json": p.SPDX} {
			text, err := encode()
			if err != nil {
				return err
			}
			if err := write(r.path(b.Name(r.Source)+suffix), text); err != nil {
				return err
			}
		}
	}
	return nil
}

// pages has the program write its manual pages and completions. They are the same for every platform; the program of
// this machine makes them.
func (r *release) pages(ctx context.Context) error {
	if !slices.ContainsFunc(r.binaries, func(b build.Binary) bool { return !b.Client }) {
		return nil
	}
	var err error
	if r.made, err = os.MkdirTemp("", "mayfly-pages-"); err != nil {
		return err
	}
	program, ok := r.host()
	if !ok {
		target := build.Target{OS: runtime.GOOS, Arch: runtime.GOARCH, Package: "./cmd/mayfly"}
		if program, err = build.Build(ctx, r.Source, target, filepath.Join(r.made, target.Command())); err != nil {
			return err
		}
	}
	return pages.Write(ctx, program.Path, r.Source.Date, r.made)
}

// written returns the manual pages and completions as files of an archive.
func (r *release) written() ([]archive.File, error) {
	var out []archive.File
	for _, dir := range []string{pages.Manuals, pages.Completions} {
		entries, err := os.ReadDir(filepath.Join(r.made, dir)) // sorted by name
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(r.made, dir, e.Name()))
			if err != nil {
				return nil, err
			}
			out = append(out, archive.File{Name: dir + "/" + e.Name(), Data: text})
		}
	}
	return out, nil
}

// packages makes the packages of Linux distributions.
func (r *release) packages(ctx context.Context) error {
	for _, b := range r.linux() {
		p := linux.Package{
			Version: r.Source.Version, Arch: b.Arch, Time: r.Source.Date, Binary: b.Path, Repository: r.Source.Root,
			Manuals: filepath.Join(r.made, pages.Manuals), Completions: filepath.Join(r.made, pages.Completions),
		}
		for _, format := range []func(context.Context, linux.Package, string) (string, error){deb.Build, rpm.Build} {
			if _, err := format(ctx, p, r.dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// documents are the files of the repository that archives contain.
var documents = []string{"LICENSE", "README.md", "CHANGELOG.md"}

func (r *release) archives(context.Context) error {
	for _, b := range r.binaries {
		text, err := os.ReadFile(b.Path)
		if err != nil {
			return err
		}
		files := []archive.File{{Name: b.Command(), Data: text, Executable: true}}
		for _, name := range documents {
			text, err := os.ReadFile(filepath.Join(r.Source.Root, name))
			if err != nil {
				return err
			}
			files = append(files, archive.File{Name: name, Data: text})
		}
		if !b.Client {
			made, err := r.written()
			if err != nil {
				return err
			}
			files = append(files, made...)
		}
		pack, suffix := archive.TarGz, ".tar.gz"
		if b.OS == "windows" {
			pack, suffix = archive.Zip, ".zip"
		}
		var out bytes.Buffer
		if err := pack(&out, b.Name(r.Source), files, r.Source.Date); err != nil {
			return err
		}
		if err := write(r.path(b.Name(r.Source)+suffix), out.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// linux returns the programs that packages and images are made of.
func (r *release) linux() []build.Binary {
	return slices.DeleteFunc(slices.Clone(r.binaries), func(b build.Binary) bool { return b.OS != "linux" || b.Client })
}

// host returns the program that runs on this machine.
func (r *release) host() (build.Binary, bool) {
	for _, b := range r.linux() {
		if b.OS == runtime.GOOS && b.Arch == runtime.GOARCH {
			return b, true
		}
	}
	return build.Binary{}, false
}

func (r *release) images(context.Context) error {
	if len(r.linux()) == 0 {
		return nil
	}
	license, err := os.ReadFile(filepath.Join(r.Source.Root, "LICENSE"))
	if err != nil {
		return err
	}
	images, err := image.Images(image.Options{Source: r.Source, Binaries: r.linux(), License: license})
	if err != nil {
		return err
	}
	if err := image.WriteLayout(r.path(Layout), r.Source, images); err != nil {
		return err
	}
	prefix := "mayfly_" + r.Source.Number() + "_image_"
	for _, one := range images {
		if err := image.WriteDocker(r.path(prefix+"docker_"+one.Arch+".tar"), r.Source, one); err != nil {
			return err
		}
	}
	//nolint:gosec // everyone may read a release
	file, err := os.OpenFile(r.path(prefix+"oci.tar"), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(image.PackLayout(file, r.path(Layout), r.Source.Date), file.Close())
}

// files returns the names of the files that are there, slash-separated and in order, without signatures.
func (r *release) files() ([]string, error) {
	var out []string
	err := fs.WalkDir(os.DirFS(r.dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, name)
		}
		return err
	})
	slices.Sort(out)
	return out, err
}

// account writes the provenance, which names every file, and then the checksums of all, the provenance included.
func (r *release) account(context.Context) error {
	names, err := r.files()
	if err != nil {
		return err
	}
	var subjects []provenance.Subject
	sums := map[string]string{}
	for _, name := range names {
		if sums[name], err = digest(r.path(name)); err != nil {
			return err
		}
		subjects = append(subjects, provenance.Subject{Name: name, SHA256: sums[name]})
	}
	statement, err := provenance.Statement(provenance.Options{
		Source: r.Source, Targets: r.Targets, Programs: r.programs, Subjects: subjects,
	})
	if err != nil {
		return err
	}
	if err := write(r.path(Provenance), statement); err != nil {
		return err
	}
	if sums[Provenance], err = digest(r.path(Provenance)); err != nil {
		return err
	}
	var list strings.Builder
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(&list, "%s  %s\n", sums[name], name)
	}
	return write(r.path(Sums), []byte(list.String()))
}

// sign signs the files of the release; those of the OCI layout are signed as the archive of the layout.
func (r *release) sign(ctx context.Context) error {
	if r.Unsigned {
		return nil
	}
	names, err := r.files()
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names,
		func(name string) bool { return strings.Contains(name, "/") || name == Provenance })
	signer, err := sign.Release(ctx, sign.Options{
		Dir: r.dir, Files: names, Statement: Provenance, Subject: filepath.Base(r.binaries[0].Path),
		Out: r.path(Signatures), Service: r.Service, Log: r.Log,
	})
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(signer, "", "  ")
	if err != nil {
		return err
	}
	return write(r.path(Signatures+"/"+SignerFile), append(text, '\n'))
}

func write(path string, text []byte) error { return os.WriteFile(path, text, 0o644) } //nolint:gosec // public files

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}
