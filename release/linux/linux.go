// Package linux has the content of the packages for Linux distributions, which is the same for each format: the
// program, the units of systemd, the manual pages and completions, and examples of a configuration.
//
// A [Package] goes in, which names a binary, generated files and the root of the repository; the [File] values of the
// package come out, sorted by path. The same input MUST give the same output: no file of the package has a time, an
// owner or a mode of this machine. The binary MUST be one of Linux for the architecture of the package.
package linux

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Facts that both formats state.
const (
	Name       = "mayfly"
	Homepage   = "https://github.com/mayfly-ca/mayfly"
	Maintainer = "mayfly <mayfly-ca@users.noreply.github.com>"
	License    = "Apache-2.0"
	Summary    = "certificate authority for code signing"
	// Description has lines of at most 74 columns; an empty line ends a paragraph.
	Description = "mayfly verifies an OpenID Connect identity token, issues an X.509\n" +
		"certificate for the identity in the token, and logs the certificate to\n" +
		"Certificate Transparency before it answers. The certificate is valid for\n" +
		"ten minutes. The server has the API of Sigstore's Fulcio, and can also\n" +
		"run the other services of Sigstore: both logs, a timestamp authority and\n" +
		"a TUF repository.\n" +
		"\n" +
		"The program also requests, inspects and verifies certificates and\n" +
		"signatures."
)

// Package describes a package for one architecture.
type Package struct {
	// Version is what "git describe --tags --always --dirty" prints; see [ParseVersion].
	Version string
	// Arch is the architecture as Go names it: amd64 or arm64.
	Arch string
	// Time is the time of all files: that of the commit.
	Time time.Time
	// Binary is the path of the program mayfly, a static binary.
	Binary string
	// Manuals is the path of the directory with the manual pages, *.1.
	Manuals string
	// Completions is the path of the directory with the completions: mayfly.bash, mayfly.zsh, mayfly.fish.
	Completions string
	// Repository is the path of the root of the repository.
	Repository string
}

// Format says where a kind of distribution keeps its files.
type Format struct {
	// Environment is the path of the file with the environment of the service.
	Environment string
	// Zsh is the directory of completions for zsh.
	Zsh string
	// Units is the directory of units of systemd.
	Units string
}

// User is the user as which the service runs.
const User = "mayfly"

// File is a file or a directory of a package.
type File struct {
	// Path is absolute.
	Path string
	// Mode has the permissions, and [fs.ModeDir] for a directory.
	Mode fs.FileMode
	Data []byte
	// Owner is the user to whom the file belongs, and the name of its group; "": root. tmpfiles.conf sets the owner,
	// too.
	Owner string
	// Config says that the operator may change the file, and that an upgrade keeps the change.
	Config bool
	// Doc says that the file is documentation.
	Doc bool
}

// machines are the architectures with a package, and what their binaries say.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// Check finds what is wrong with the fields that need no file.
func (p Package) Check() error {
	_, err := ParseVersion(p.Version)
	if _, known := machines[p.Arch]; !known {
		err = errors.Join(err, fmt.Errorf("architecture %q: packages are made for amd64 and arm64", p.Arch))
	}
	if p.Time.Unix() <= 0 {
		err = errors.Join(err, errors.New("the time of the package is missing; write that of the commit"))
	}
	return err
}

// Files returns the files and directories that are the same in each format.
func (p Package) Files(f Format) ([]File, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	binary, err := p.binary()
	if err != nil {
		return nil, err
	}
	out := []File{
		{Path: "/usr/bin/mayfly", Mode: 0o755, Data: binary},
		{Path: "/etc/mayfly", Mode: fs.ModeDir | 0o750, Owner: User},
		{Path: "/var/lib/mayfly", Mode: fs.ModeDir | 0o750, Owner: User},
	}
	const doc = "/usr/share/doc/mayfly"
	var errs []error
	for _, one := range []struct {
		from, to string
		mode     fs.FileMode
		config   bool
	}{
		{"deploy/systemd/mayfly.service", f.Units + "/mayfly.service", 0o644, false},
		{"deploy/systemd/mayfly.socket", f.Units + "/mayfly.socket", 0o644, false},
		{"deploy/systemd/sysusers.conf", "/usr/lib/sysusers.d/mayfly.conf", 0o644, false},
		{"deploy/systemd/tmpfiles.conf", "/usr/lib/tmpfiles.d/mayfly.conf", 0o644, false},
		{"deploy/systemd/environment", f.Environment, 0o600, true},
		{"deploy/one-machine/mayfly.yaml", doc + "/examples/mayfly.yaml", 0o644, false},
		{"deploy/one-machine/identity.yaml", doc + "/examples/identity.yaml", 0o644, false},
		{"deploy/one-machine/nginx.conf", doc + "/examples/nginx.conf", 0o644, false},
		{"README.md", doc + "/README.md", 0o644, false},
	} {
		data, err := os.ReadFile(filepath.Join(p.Repository, filepath.FromSlash(one.from)))
		errs = append(errs, err)
		out = append(out, File{
			Path: one.to, Mode: one.mode, Data: data, Config: one.config,
			Doc: strings.HasPrefix(one.to, doc),
		})
	}
	pages, err := filepath.Glob(filepath.Join(p.Manuals, "*.1"))
	if len(pages) == 0 {
		err = errors.Join(err, fmt.Errorf("%s has no manual pages; write them with mayfly manual", p.Manuals))
	}
	errs = append(errs, err)
	for _, page := range pages {
		data, err := os.ReadFile(page)
		errs = append(errs, err)
		out = append(out, File{
			Path: "/usr/share/man/man1/" + filepath.Base(page) + ".gz", Mode: 0o644, Data: Compress(data), Doc: true,
		})
	}
	for from, to := range map[string]string{
		"mayfly.bash": "/usr/share/bash-completion/completions/mayfly",
		"mayfly.zsh":  f.Zsh + "/_mayfly",
		"mayfly.fish": "/usr/share/fish/vendor_completions.d/mayfly.fish",
	} {
		data, err := os.ReadFile(filepath.Join(p.Completions, from))
		errs = append(errs, err)
		out = append(out, File{Path: to, Mode: 0o644, Data: data})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return Sort(out), nil
}

// binary returns the program, which must be one for the architecture of the package that needs no library.
func (p Package) binary() ([]byte, error) {
	data, err := os.ReadFile(p.Binary)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s is not a program for Linux: %w", p.Binary, err)
	}
	libraries, err := f.ImportedLibraries()
	switch {
	case f.Machine != machines[p.Arch]:
		return nil, fmt.Errorf("%s is a program for %s, not for %s", p.Binary, f.Machine, p.Arch)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", p.Binary, err)
	case len(libraries) > 0:
		return nil, fmt.Errorf("%s needs %s; build it with CGO_ENABLED=0", p.Binary, strings.Join(libraries, ", "))
	}
	return data, nil
}

// Sort sorts files by their paths.
func Sort(files []File) []File {
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return files
}

// Parents returns the directories above the files that are not among the files, in the order of their paths, without
// the root.
func Parents(files []File) []string {
	own, seen := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		own[f.Path] = true
	}
	var out []string
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "/" && !seen[dir] && !own[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			out = append(out, dir)
		}
	}
	slices.Sort(out)
	return out
}

// Compress returns data in the gzip format, without a name and a time, as "gzip -9n" does.
func Compress(data []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(data)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		panic("gzip into memory: " + err.Error()) // neither the level nor the writer can fail
	}
	return out.Bytes()
}
