package build

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Target is one program for one platform.
type Target struct {
	OS, Arch string // as in GOOS and GOARCH
	Package  string // of the program, such as ./cmd/mayfly
	// Profile says that the compiler optimises with the profile that is committed beside the program.
	Profile bool
	// Client says that the program has the commands of those who sign and verify only.
	Client bool
}

// Targets are the programs of a release. The CA does not build for Windows, because Tessera, the library of its logs,
// does not; the program there has the commands of those who sign and verify. macOS has the whole program, for signers
// and for trials ("mayfly dev"); the profile was recorded on Linux and only used there.
func Targets() []Target {
	const whole, client = "./cmd/mayfly", "./cmd/mayfly-client"
	return []Target{
		{OS: "linux", Arch: "amd64", Package: whole, Profile: true},
		{OS: "linux", Arch: "arm64", Package: whole, Profile: true},
		{OS: "darwin", Arch: "amd64", Package: whole},
		{OS: "darwin", Arch: "arm64", Package: whole},
		{OS: "windows", Arch: "amd64", Package: client, Client: true},
	}
}

// Platform returns OS and architecture, such as "linux/arm64".
func (t Target) Platform() string { return t.OS + "/" + t.Arch }

// Command is the file name of the program where it is installed.
func (t Target) Command() string {
	if t.OS == "windows" {
		return "mayfly.exe"
	}
	return "mayfly"
}

// Name is the name of the files of a target in a release: mayfly_1.2.3_linux_amd64.
func (t Target) Name(s Source) string { return "mayfly_" + s.Number() + "_" + t.OS + "_" + t.Arch }

// Binary is a program that was built.
type Binary struct {
	Target
	Path string
}

// flags are the flags of "go build". The build information in the program records them all.
func (t Target) flags(s Source) []string {
	profile := "off"
	if t.Profile {
		profile = filepath.Join(s.Root, filepath.FromSlash(t.Package), "default.pgo")
	}
	// The build ID would differ by the machine of the compiler; symbol tables and DWARF are two fifths of the file.
	return []string{
		"build", "-trimpath", "-buildvcs=true", "-mod=readonly", "-pgo=" + profile,
		"-ldflags", "-s -w -buildid= -X github.com/mayfly-ca/mayfly/internal/version.release=" + s.Version,
	}
}

// environment returns the environment of the go command. Of the caller's, only what locates files stays: any other
// variable could change the result.
func environment(t Target) []string {
	var out []string
	for _, name := range []string{
		"PATH", "HOME", "TMPDIR", "GOPATH", "GOMODCACHE", "GOCACHE", "XDG_CACHE_HOME", "GOTOOLCHAIN", "GOROOT",
	} {
		if value, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+value)
		}
	}
	return append(out,
		"GOOS="+t.OS, "GOARCH="+t.Arch, "CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off", "GOEXPERIMENT=",
		"GOFLAGS=", "GOENV=off", "GOWORK=off", "GODEBUG=", "GOPROXY=off", "LC_ALL=C",
	)
}

// buildTimeout bounds the compilation of one target with an empty cache on a slow machine.
const buildTimeout = 2 * time.Hour

// Build compiles a target into the file path.
func Build(ctx context.Context, s Source, t Target, path string) (Binary, error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	path, err := filepath.Abs(path)
	if err != nil {
		return Binary{}, err
	}
	//nolint:gosec // the arguments are those of a release
	cmd := exec.CommandContext(ctx, "go", append(t.flags(s), "-o", path, t.Package)...)
	cmd.Dir, cmd.Env = s.Root, environment(t)
	if _, err := output(cmd); err != nil {
		if strings.Contains(err.Error(), "GOPROXY=off") {
			err = fmt.Errorf("%w\na module is not in the module cache; make release-modules fetches them", err)
		}
		return Binary{}, fmt.Errorf("%s for %s: %w", t.Package, t.Platform(), err)
	}
	return Binary{Target: t, Path: path}, nil
}

// modulesTimeout bounds the download of the modules of one target.
const modulesTimeout = 20 * time.Minute

// Modules fetches the modules of the targets into the module cache, with the caller's settings of the go command.
// Modules that are there already need no network.
func Modules(ctx context.Context, root string, targets []Target) error {
	for _, t := range targets {
		ctx, cancel := context.WithTimeout(ctx, modulesTimeout)
		cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-mod=readonly", t.Package) //nolint:gosec // as in Build
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOOS="+t.OS, "GOARCH="+t.Arch, "CGO_ENABLED=0", "GOWORK=off")
		_, err := output(cmd)
		cancel()
		if err != nil {
			return fmt.Errorf("modules of %s for %s: %w", t.Package, t.Platform(), err)
		}
	}
	return nil
}
