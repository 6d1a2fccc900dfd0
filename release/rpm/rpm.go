// Package rpm makes packages for Fedora, RHEL, SUSE and the distributions that follow them. It needs no tool of a
// distribution.
//
// A [linux.Package] goes in, a file NAME-VERSION-RELEASE.ARCH.rpm comes out. The same input MUST give the same bytes.
// The scripts do what those of the package for Debian do, in the manner of these distributions: docs/packages.md
// describes it.
package rpm

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/rpmpack"

	"github.com/mayfly-ca/mayfly/release/linux"
)

//go:embed scripts
var scripts embed.FS

// revision is that of the packaging, of which each version has one.
const revision = "1"

// architectures are the names of architectures, by those of Go.
var architectures = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// Build writes the package to the directory out and returns its path.
func Build(ctx context.Context, p linux.Package, out string) (string, error) {
	files, err := Files(p)
	if err != nil {
		return "", err
	}
	v, err := linux.ParseVersion(p.Version)
	if err != nil {
		return "", err
	}
	r, err := rpmpack.NewRPM(rpmpack.RPMMetaData{
		Name: linux.Name, Version: v.Text("^"), Release: revision, Arch: architectures[p.Arch], OS: "linux",
		Summary: capital(linux.Summary), Description: linux.Description, URL: linux.Homepage, Licence: linux.License,
		Packager: linux.Maintainer, Vendor: linux.Name, Group: "System Environment/Daemons",
		BuildTime: p.Time, BuildHost: "reproducible",
		Compressor: "zstd:best", Epoch: rpmpack.NoEpoch,
		Requires: rpmpack.Relations{
			{Name: "/bin/sh"}, {Name: "ca-certificates"}, {Name: "systemd"},
		},
		Provides: rpmpack.Relations{{Name: "user(" + linux.User + ")"}, {Name: "group(" + linux.User + ")"}},
	})
	if err != nil {
		return "", fmt.Errorf("rpm: %w", err)
	}
	for _, f := range files {
		r.AddFile(file(f, p))
	}
	if err := addScripts(r, p); err != nil {
		return "", err
	}
	addChangelog(r, p, v.Text("^")+"-"+revision)
	var data bytes.Buffer
	if err := r.Write(&data); err != nil {
		return "", fmt.Errorf("rpm: %w", err)
	}
	name := filepath.Join(out, fmt.Sprintf("%s-%s-%s.%s.rpm", linux.Name, v.Text("^"), revision, architectures[p.Arch]))
	return name, errors.Join(ctx.Err(), os.WriteFile(name, data.Bytes(), 0o644)) //nolint:gosec // it is for everyone
}

// Files returns the files of the package.
func Files(p linux.Package) ([]linux.File, error) {
	files, err := p.Files(linux.Format{
		Environment: "/etc/sysconfig/mayfly", Zsh: "/usr/share/zsh/site-functions", Units: "/usr/lib/systemd/system",
	})
	if err != nil {
		return nil, err
	}
	// rpm removes the directories that a package names.
	for _, dir := range []string{
		"/usr/share/doc/mayfly", "/usr/share/doc/mayfly/examples",
		"/usr/share/licenses/mayfly",
	} {
		files = append(files, linux.File{Path: dir, Mode: fs.ModeDir | 0o755})
	}
	for to, from := range map[string]string{
		"/usr/share/licenses/mayfly/LICENSE": "LICENSE", "/usr/share/doc/mayfly/CHANGELOG.md": "CHANGELOG.md",
	} {
		data, err := os.ReadFile(filepath.Join(p.Repository, from))
		if err != nil {
			return nil, err
		}
		files = append(files, linux.File{Path: to, Mode: 0o644, Data: data, Doc: true})
	}
	return linux.Sort(files), nil
}

// file returns a file as the library takes it: the mode has the bits of stat(2).
func file(f linux.File, p linux.Package) rpmpack.RPMFile {
	const directory, regular = 0o040000, 0o100000
	owner := f.Owner
	if owner == "" {
		owner = "root"
	}
	out := rpmpack.RPMFile{
		Name: f.Path, Body: f.Data, Mode: regular | uint(f.Mode.Perm()), Owner: owner, Group: owner,
		MTime: uint32(p.Time.Unix()), //nolint:gosec // Check refuses times before 1970; the format ends in 2106
	}
	if f.Mode.IsDir() {
		out.Mode = directory | uint(f.Mode.Perm())
	}
	switch {
	case f.Config:
		out.Type = rpmpack.ConfigFile | rpmpack.NoReplaceFile
	case strings.HasPrefix(f.Path, "/usr/share/licenses/"):
		out.Type = rpmpack.LicenceFile
	case f.Doc:
		out.Type = rpmpack.DocFile
	}
	return out
}

// addScripts adds the scripts that run before and after the files change.
func addScripts(r *rpmpack.RPM, p linux.Package) error {
	users, err := os.ReadFile(filepath.Join(p.Repository, "deploy", "systemd", "sysusers.conf"))
	if err != nil {
		return err
	}
	for name, add := range map[string]func(string){
		"pre": r.AddPrein, "post": r.AddPostin, "preun": r.AddPreun, "postun": r.AddPostun,
	} {
		text, err := scripts.ReadFile("scripts/" + name)
		if err != nil {
			return err
		}
		add(strings.ReplaceAll(string(text), "@SYSUSERS@", strings.TrimSuffix(string(users), "\n")))
	}
	return nil
}

// addChangelog adds one entry, for this version, by the tags of the RPM file format (V4, "Header Tags").
func addChangelog(r *rpmpack.RPM, p linux.Package, version string) {
	const times, names, texts = 1080, 1081, 1082
	//nolint:gosec // Check refuses times before 1970; the format ends in 2106
	r.AddCustomTag(times, rpmpack.EntryUint32([]uint32{uint32(p.Time.Unix())}))
	r.AddCustomTag(names, rpmpack.EntryStringSlice([]string{linux.Maintainer + " - " + version}))
	r.AddCustomTag(texts, rpmpack.EntryStringSlice([]string{"- New version; CHANGELOG.md has the changes."}))
}

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
