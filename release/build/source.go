// Package build compiles the programs of a release from a work tree of git.
//
// The same commit gives the same bytes, in every folder and at every time: the environment and the flags of the
// compiler are fixed here, and nothing is taken from the clock. The compiler gets no network: modules MUST be in the
// module cache ([Modules] fetches them). A modified work tree is not a release, and is refused unless the caller
// accepts it.
package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Source is the commit that is built.
type Source struct {
	Root     string    // folder of the work tree
	Version  string    // as "git describe" names the commit: its tag if it has one
	Commit   string    // 40 hexadecimal digits
	Date     time.Time // of the commit; every time in a release is this one
	Modified bool      // the work tree differs from the commit
}

// Release reports whether the commit has a tag of its own and is unmodified.
func (s Source) Release() bool { return !s.Modified && tag.MatchString(s.Version) }

var tag = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z]+(\.[0-9A-Za-z]+)*)?$`)

// Number is the version without the leading "v".
func (s Source) Number() string { return strings.TrimPrefix(s.Version, "v") }

// Describe asks git for the commit of the work tree at root. Unless modified is accepted, a file that is not committed
// is an error.
func Describe(ctx context.Context, root string, modified bool) (Source, error) {
	s := Source{}
	head, err := git(ctx, root, "log", "-1", "--format=%H %ct")
	if err != nil {
		return s, fmt.Errorf("a release is built from a git repository: %w", err)
	}
	if s.Root, err = git(ctx, root, "rev-parse", "--show-toplevel"); err != nil {
		return s, err
	}
	commit, seconds, _ := strings.Cut(head, " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return s, fmt.Errorf("git log: the date %q of the commit is not a number of seconds", seconds)
	}
	s.Commit, s.Date = commit, time.Unix(unix, 0).UTC()
	changed, err := git(ctx, root, "status", "--porcelain")
	if err != nil {
		return s, err
	}
	if s.Modified = changed != ""; s.Modified && !modified {
		return s, fmt.Errorf("the work tree differs from its commit:\n%s\ncommit or remove these files; "+
			"make release MODIFIED=1 builds them, but not as a release", changed)
	}
	// The number of digits is fixed: by default it depends on the number of objects in the repository.
	s.Version, err = git(ctx, root, "describe", "--tags", "--always", "--abbrev=12", "--match", "v*")
	if s.Modified {
		s.Version += "-dirty"
	}
	return s, err
}

// gitTimeout bounds each call of git, which reads the work tree.
const gitTimeout = time.Minute

func git(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...) //nolint:gosec // the arguments are constants
	cmd.Dir = dir
	return output(cmd)
}

// output returns the standard output of a command, without surrounding space. An error has its standard error.
func output(cmd *exec.Cmd) (string, error) {
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		err = fmt.Errorf("%s %s: %w", cmd.Args[0], cmd.Args[1], err)
		if text := strings.TrimSpace(problems.String()); text != "" {
			err = errors.Join(err, errors.New(text))
		}
		return "", err
	}
	return strings.TrimSpace(out.String()), nil
}
