// Command release makes the files of a release in a directory: programs, archives, packages, the container image, bills
// of materials, provenance, checksums and signatures. docs/releasing.md describes them.
//
// The exit status is 0 for success, 1 for a failure and 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/mayfly-ca/mayfly/release/build"
	"github.com/mayfly-ca/mayfly/release/dist"
	"github.com/mayfly-ca/mayfly/release/sign"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stderr)
	cancel()
	os.Exit(status)
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, errs io.Writer) int {
	fl := flag.NewFlagSet("release", flag.ContinueOnError)
	fl.SetOutput(errs)
	root := fl.String("root", ".", "`directory` of the repository")
	out := fl.String("out", "dist", "`directory` for the release, which is replaced")
	modified := fl.Bool("modified", false, "accept a work tree with files that are not committed")
	unsigned := fl.Bool("unsigned", false, "make no signatures")
	only := fl.String("only", "", "`platforms` to build, such as linux/amd64,darwin/arm64 (default: all)")
	fetch := fl.Bool("fetch", false, "only fetch the modules of all platforms into the module cache")
	var s service
	fl.StringVar(&s.CA, "ca", "", "`URL` of the CA of a running instance that signs (default: a lab in this process)")
	fl.StringVar(&s.TSA, "tsa", "", "`URL` of its timestamp authority")
	fl.StringVar(&s.Rekor, "rekor", "", "`URL` of its log of signatures")
	fl.StringVar(&s.root, "trusted-root", "", "trusted_root.json of the instance, a `file`")
	fl.StringVar(&s.token, "token-file", "", "`file` with the identity token")
	fl.StringVar(&s.Identity, "identity", "", "`name` that the certificates must have")
	fl.StringVar(&s.Issuer, "issuer", "", "`URL` of the issuer that the certificates must have")
	if err := fl.Parse(args); err != nil {
		return 2
	}
	err := func() error {
		if fl.NArg() > 0 {
			return fmt.Errorf("%w: unexpected argument %q", errUsage, fl.Arg(0))
		}
		targets, err := choose(*only)
		if err != nil {
			return err
		}
		if *fetch {
			return build.Modules(ctx, *root, targets)
		}
		service, err := s.read()
		if err != nil {
			return err
		}
		source, err := build.Describe(ctx, *root, *modified)
		if err != nil {
			return err
		}
		fmt.Fprintf(errs, "release: %s, commit %s of %s\n", source.Version, source.Commit, source.Date)
		if !source.Release() {
			fmt.Fprintln(errs, "release: the commit has no tag such as v1.2.3, or is modified: this is no release")
		}
		log := slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelWarn}))
		klog.SetSlogLogger(log) // Tessera, the storage of the logs, logs with klog
		return dist.Make(ctx, dist.Options{
			Source: source, Targets: targets, Out: *out, Service: service, Unsigned: *unsigned,
			Log: log, Progress: errs,
		})
	}()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintf(errs, "release: %v\n", err)
		return 2
	case err != nil:
		fmt.Fprintf(errs, "release: %v\n", err)
		return 1
	}
	return 0
}

var errUsage = errors.New("wrong usage")

// choose returns the targets of the platforms.
func choose(only string) ([]build.Target, error) {
	all := build.Targets()
	if only == "" {
		return all, nil
	}
	var out []build.Target
	for _, platform := range strings.Split(only, ",") {
		i := slices.IndexFunc(all, func(t build.Target) bool { return t.Platform() == platform })
		if i < 0 {
			return nil, fmt.Errorf("%w: -only: %q is not a platform of a release", errUsage, platform)
		}
		out = append(out, all[i])
	}
	return out, nil
}

// service is an instance that signs, as the flags say.
type service struct {
	sign.Service
	root, token string // files
}

// read returns the instance, or nil for the lab.
func (s service) read() (*sign.Service, error) {
	if s.CA == "" {
		if s.TSA+s.Rekor+s.root+s.token+s.Identity+s.Issuer != "" {
			return nil, fmt.Errorf("%w: the flags for a running instance need -ca, the URL of its CA", errUsage)
		}
		return nil, nil
	}
	if s.root == "" || s.token == "" || s.Identity == "" || s.Issuer == "" {
		return nil, fmt.Errorf("%w: -ca needs -trusted-root, -token-file, -identity and -issuer", errUsage)
	}
	if s.TSA == "" {
		return nil, fmt.Errorf("%w: -ca needs -tsa: a signature without a timestamp does not verify", errUsage)
	}
	root, err := os.ReadFile(s.root)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(s.token)
	if err != nil {
		return nil, err
	}
	s.TrustedRoot, s.Token = root, strings.TrimSpace(string(token))
	return &s.Service, nil
}
