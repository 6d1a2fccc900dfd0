// Package deb makes packages for Debian and the distributions that follow it, with dpkg-deb(1).
//
// A [linux.Package] goes in, a file NAME_VERSION_ARCH.deb comes out. The same input and the same version of dpkg-deb
// MUST give the same bytes: files have the time of the package, and belong to root until postinst has made the user of
// the service. The scripts of the maintainer keep to Debian's policy; what they do to the service and to the state is
// described in docs/packages.md.
package deb

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the format of md5sums in a package; dpkg --verify compares with it
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/release/linux"
)

//go:embed scripts
var scripts embed.FS

// Tool is the program that writes the package.
const Tool = "dpkg-deb"

// limit is the time that the tool may need, on a slow machine.
const limit = 10 * time.Minute

// Version returns the version of the package for a version of mayfly. The package is a native one of Debian's, without
// a revision: it is made in the repository of the program.
func Version(v linux.Version) string { return v.Text("+") }

// Build writes the package to the directory out and returns its path.
func Build(ctx context.Context, p linux.Package, out string) (string, error) {
	tool, err := exec.LookPath(Tool)
	if err != nil {
		return "", fmt.Errorf("packages for Debian need dpkg-deb: install dpkg (%w)", err)
	}
	files, err := Files(p)
	if err != nil {
		return "", err
	}
	v, err := linux.ParseVersion(p.Version)
	if err != nil {
		return "", err
	}
	tree, err := os.MkdirTemp("", "mayfly-deb-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tree) //nolint:errcheck // a copy of what the package has
	if err := unpack(tree, files, p.Time); err != nil {
		return "", err
	}
	name, err := filepath.Abs(filepath.Join(out, fmt.Sprintf("%s_%s_%s.deb", linux.Name, Version(v), p.Arch)))
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// One thread: with several, the bytes depend on their number.
	//nolint:gosec // the program that LookPath found
	cmd := exec.CommandContext(ctx, tool, "--root-owner-group", "-Zxz", "--threads-max=1", "--build", tree, name)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(p.Time.Unix(), 10))
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("dpkg-deb: %w: %s", err, bytes.TrimSpace(text))
	}
	return name, nil
}

// Files returns all files of the package; those below /DEBIAN are its metadata.
func Files(p linux.Package) ([]linux.File, error) {
	files, err := p.Files(linux.Format{
		Environment: "/etc/default/mayfly", Zsh: "/usr/share/zsh/vendor-completions", Units: "/usr/lib/systemd/system",
	})
	if err != nil {
		return nil, err
	}
	v, err := linux.ParseVersion(p.Version)
	if err != nil {
		return nil, err
	}
	changes, err := os.ReadFile(filepath.Join(p.Repository, "CHANGELOG.md"))
	if err != nil {
		return nil, err
	}
	const doc = "/usr/share/doc/mayfly/"
	debian := fmt.Sprintf("mayfly (%s) unstable; urgency=medium\n\n  * New version; "+
		"CHANGELOG.md.gz has the changes.\n\n"+
		" -- %s  %s\n", Version(v), linux.Maintainer, p.Time.UTC().Format(time.RFC1123Z))
	licences, err := scripts.ReadFile("scripts/copyright")
	if err != nil {
		return nil, err
	}
	overrides, err := scripts.ReadFile("scripts/lintian-overrides")
	if err != nil {
		return nil, err
	}
	files = append(files,
		linux.File{Path: doc + "CHANGELOG.md.gz", Mode: 0o644, Data: linux.Compress(changes)},
		linux.File{Path: doc + "changelog.gz", Mode: 0o644, Data: linux.Compress([]byte(debian))},
		linux.File{Path: doc + "copyright", Mode: 0o644, Data: licences},
		linux.File{Path: "/usr/share/lintian/overrides/mayfly", Mode: 0o644, Data: overrides})
	for i, f := range files {
		if f.Owner != "" { // nobody but root, writes there, until postinst has applied tmpfiles.conf
			files[i].Mode |= 0o755
		}
	}
	var conffiles, sums strings.Builder
	size := 0
	for _, f := range linux.Sort(files) {
		if f.Config {
			conffiles.WriteString(f.Path + "\n")
		}
		if !f.Mode.IsDir() {
			fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(f.Data), f.Path[1:]) //nolint:gosec // as above
		}
		size += (len(f.Data) + 1023) / 1024
	}
	meta := []linux.File{
		{Path: "/DEBIAN/control", Mode: 0o644, Data: []byte(control(p, v, size))},
		{Path: "/DEBIAN/conffiles", Mode: 0o644, Data: []byte(conffiles.String())},
		{Path: "/DEBIAN/md5sums", Mode: 0o644, Data: []byte(sums.String())},
	}
	for _, name := range []string{"postinst", "prerm", "postrm"} {
		data, err := scripts.ReadFile("scripts/" + name)
		if err != nil {
			return nil, err
		}
		meta = append(meta, linux.File{Path: "/DEBIAN/" + name, Mode: 0o755, Data: data})
	}
	return linux.Sort(append(files, meta...)), nil
}

// control returns the control file. size is in KiB.
func control(p linux.Package, v linux.Version, size int) string {
	var long strings.Builder
	for line := range strings.Lines(linux.Description) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			line = "."
		}
		long.WriteString(" " + line + "\n")
	}
	return fmt.Sprintf(`Package: %s
Version: %s
Architecture: %s
Maintainer: %s
Installed-Size: %d
Depends: ca-certificates, passwd, systemd | systemd-standalone-sysusers, systemd | systemd-standalone-tmpfiles
Section: net
Priority: optional
Homepage: %s
Description: %s
%s`, linux.Name, Version(v), p.Arch, linux.Maintainer, size, linux.Homepage, linux.Summary, long.String())
}

// unpack writes the files into a directory, with their modes and one time.
func unpack(tree string, files []linux.File, at time.Time) error {
	at = at.UTC().Truncate(time.Second)
	dirs := []string{"/"}
	for _, dir := range linux.Parents(files) {
		//nolint:gosec // the mode that directories of a package have
		if err := os.Mkdir(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
		dirs = append(dirs, dir)
	}
	modes := map[string]fs.FileMode{}
	for _, f := range files {
		name := filepath.Join(tree, f.Path)
		var err error
		if f.Mode.IsDir() {
			err = os.Mkdir(name, 0o755) //nolint:gosec // as above
			dirs = append(dirs, f.Path)
			modes[f.Path] = f.Mode.Perm()
		} else {
			err = errors.Join(os.WriteFile(name, f.Data, 0o600), os.Chmod(name, f.Mode.Perm()),
				os.Chtimes(name, at, at))
		}
		if err != nil {
			return err
		}
	}
	for _, dir := range dirs { // the umask and the time of the last file are those of this machine
		mode, own := modes[dir]
		if !own {
			mode = 0o755
		}
		name := filepath.Join(tree, dir)
		if err := errors.Join(os.Chmod(name, mode), os.Chtimes(name, at, at)); err != nil {
			return err
		}
	}
	return nil
}
