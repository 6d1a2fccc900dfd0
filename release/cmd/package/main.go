// Command package makes the packages for Linux distributions from one binary for this machine: mayfly_VERSION_ARCH.deb
// and mayfly-VERSION.ARCH.rpm. "make release" makes those of a release, for all architectures.
//
// The exit status is 0 for success, 1 for a failure, and 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/release/deb"
	"github.com/mayfly-ca/mayfly/release/linux"
	"github.com/mayfly-ca/mayfly/release/pages"
	"github.com/mayfly-ca/mayfly/release/rpm"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := linux.Package{Arch: runtime.GOARCH}
	var out, at string
	flag.StringVar(&p.Binary, "binary", "bin/mayfly", "static binary for this machine")
	flag.StringVar(&p.Version, "version", "", "version, as git describe --tags --always --dirty prints it")
	flag.StringVar(&at, "time", "", "time of all files, RFC 3339: that of the commit")
	flag.StringVar(&p.Repository, "repository", ".", "root of the repository")
	flag.StringVar(&out, "out", "dist", "directory for the packages")
	flag.Parse()
	var err error
	if p.Time, err = time.Parse(time.RFC3339, at); err != nil || flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "package: -time %q: write a time such as 2026-11-30T23:00:00Z\n", at)
		flag.Usage()
		os.Exit(2)
	}
	err = build(ctx, p, out)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

// build makes the pages and both packages.
func build(ctx context.Context, p linux.Package, out string) (err error) {
	made, err := os.MkdirTemp("", "mayfly-pages-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(made)) }()
	binary, err := filepath.Abs(p.Binary)
	if err != nil {
		return err
	}
	if err := pages.Write(ctx, binary, p.Time, made); err != nil {
		return err
	}
	p.Manuals, p.Completions = filepath.Join(made, pages.Manuals), filepath.Join(made, pages.Completions)
	if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // for everyone
		return err
	}
	for _, format := range []func(context.Context, linux.Package, string) (string, error){deb.Build, rpm.Build} {
		name, err := format(ctx, p, out)
		if err != nil {
			return err
		}
		fmt.Println(name)
	}
	return nil
}
