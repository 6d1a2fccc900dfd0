// Command outdated lists the direct dependencies of the modules in the directories of its arguments that are behind the
// newest version which the module system serves.
//
// The exit status is 1 if a dependency is behind and go.mod gives no reason for the version that it requires. A reason
// is a comment at the requirement, or above it:
//
//	// held at v1.3.0: v1.4.0 requires a version of another module that is not served
//
// A reason for another version than the required one does not count. A dependency without releases, which go.mod
// requires by the time of a commit, may be 90 days behind. When the module system cannot be reached, nothing is known
// to be behind: the command says so, and its exit status is 0.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

func main() {
	dirs := os.Args[1:]
	if len(dirs) == 0 {
		dirs = []string{"."}
	}
	os.Exit(run(context.Background(), dirs, os.Stdout))
}

// run checks the module of each directory and returns the exit status.
func run(ctx context.Context, dirs []string, out io.Writer) int {
	status := 0
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MODULE\tDEPENDENCY\tREQUIRED\tNEWEST\tNOTE")
	lines := 0
	for _, dir := range dirs {
		required, err := direct(filepath.Join(dir, "go.mod"))
		if err != nil {
			fmt.Fprintln(out, err)
			return 2
		}
		known, err := newest(ctx, dir, required)
		if err != nil {
			fmt.Fprintf(out, "%s: the newest versions are not known: %v\n", dir, err)
			continue
		}
		for _, d := range required {
			note, fails := d.assess(known[d.path])
			if note == "" {
				continue
			}
			if fails {
				status = 1
			}
			lines++
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", dir, d.path, d.version, known[d.path].newestVersion(), note)
		}
	}
	if lines == 0 {
		fmt.Fprintln(out, "no direct dependency is known to be behind")
		return status
	}
	_ = table.Flush()
	if status != 0 {
		fmt.Fprintln(out,
			"update these dependencies, or write the reason at the requirement in go.mod: // held at VERSION: reason")
	}
	return status
}

// dependency is one direct requirement of a go.mod.
type dependency struct {
	path, version string
	held          string // the version of a reason; "" if there is none
	reason        string
}

// direct reads the requirements of a go.mod that are direct: not marked as indirect, or the module of a tool.
func direct(name string) ([]dependency, error) {
	data, err := os.ReadFile(name) //nolint:gosec // the caller names the module
	if err != nil {
		return nil, err
	}
	f, err := modfile.Parse(name, data, nil)
	if err != nil {
		return nil, err
	}
	var out []dependency
	for _, r := range f.Require {
		local := slices.ContainsFunc(f.Replace, func(one *modfile.Replace) bool {
			return one.Old.Path == r.Mod.Path && one.New.Version == "" // a folder of this repository
		})
		if local || r.Indirect && !providesTool(f, r.Mod.Path) {
			continue
		}
		d := dependency{path: r.Mod.Path, version: r.Mod.Version}
		for _, c := range slices.Concat(r.Syntax.Before, r.Syntax.Suffix) {
			text := strings.TrimSpace(strings.TrimPrefix(c.Token, "//"))
			if rest, ok := strings.CutPrefix(text, "held at "); ok {
				d.held, d.reason, _ = strings.Cut(rest, ":")
			}
		}
		d.reason = strings.TrimSpace(d.reason)
		out = append(out, d)
	}
	return out, nil
}

// providesTool reports whether no module with a longer path contains the package of a tool directive that path
// contains.
func providesTool(f *modfile.File, path string) bool {
	for _, t := range f.Tool {
		owner := ""
		for _, r := range f.Require {
			if (t.Path == r.Mod.Path || strings.HasPrefix(t.Path, r.Mod.Path+"/")) && len(r.Mod.Path) > len(owner) {
				owner = r.Mod.Path
			}
		}
		if owner == path {
			return true
		}
	}
	return false
}

// state is what "go list -m -u -json" says about a module.
type state struct {
	Path, Version string
	Time          *time.Time
	Update        *struct {
		Version string
		Time    *time.Time
	}
	Retracted  []string
	Deprecated string
	Error      *struct{ Err string }
}

func (s state) newestVersion() string {
	if s.Update == nil {
		return s.Version
	}
	return s.Update.Version
}

// newest looks up the dependencies of the module in dir.
func newest(ctx context.Context, dir string, all []dependency) (map[string]state, error) {
	out := map[string]state{}
	if len(all) == 0 {
		return out, nil
	}
	args := []string{"list", "-m", "-u", "-json", "-mod=readonly"}
	for _, d := range all {
		args = append(args, d.path)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // the paths are those of a go.mod
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return nil, errors.New(cmp.Or(first, err.Error()))
	}
	return out, decode(text, out)
}

// decode reads a sequence of JSON objects.
func decode(text []byte, into map[string]state) error {
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var s state
		switch err := d.Decode(&s); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		into[s.Path] = s
	}
}

// snapshotAge is how far a dependency without releases may be behind.
const snapshotAge = 90 * 24 * time.Hour

// assess returns a message about a dependency, and whether it fails the check. "" means that it is up to date.
func (d dependency) assess(s state) (note string, fails bool) {
	switch {
	case s.Error != nil:
		return "not known: " + s.Error.Err, false
	case len(s.Retracted) > 0:
		return "the required version is retracted: " + strings.Join(s.Retracted, "; "), true
	case s.Update == nil && d.held != "":
		return "the newest version is required; remove the reason", true
	case s.Update == nil && s.Deprecated != "":
		return "deprecated: " + s.Deprecated, false
	case s.Update == nil:
		return "", false
	case d.held == d.version && d.reason != "":
		return "held: " + d.reason, false
	case d.held != "":
		return fmt.Sprintf("the reason is for %s", d.held), true
	}
	if module.IsPseudoVersion(s.Update.Version) && s.Time != nil && s.Update.Time != nil &&
		s.Update.Time.Sub(*s.Time) < snapshotAge {
		return "", false
	}
	return "behind", true
}
