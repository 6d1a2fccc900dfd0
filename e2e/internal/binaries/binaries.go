// Package binaries builds the programs that the end-to-end tests run and keeps them by version.
//
// A program of others is built once per version into the cache: $MAYFLY_E2E_CACHE, else mayfly-e2e in the user's cache
// folder. Each has a folder of its own there, so that a folder can stand on PATH. The cache may be shared by clones and
// by concurrent runs: a file lock makes sure that a program is built by one of them.
//
// The version under test is built from the tree each time; the Go build cache makes that cheap.
package binaries

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Tool is one program of others.
type Tool struct {
	Name    string
	Version string // of the module that the program comes from; part of the cache key
	Package string // import path, or path inside Module
	Module  string // folder under e2e/ with a go.mod of its own; "" builds Package at Version
}

// Builder builds programs. The zero value is not usable: see New.
type Builder struct {
	root     string // folder of the e2e module
	cache    string
	progress io.Writer
}

// New returns a builder for the e2e module in folder root that writes one line to progress per build.
func New(root string, progress io.Writer) (*Builder, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	cache := os.Getenv("MAYFLY_E2E_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no cache folder: %w; set MAYFLY_E2E_CACHE", err)
		}
		cache = filepath.Join(user, "mayfly-e2e")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	return &Builder{root: root, cache: cache, progress: progress}, nil
}

// Cache returns the folder of the cache.
func (b *Builder) Cache() string { return b.cache }

// All builds what is missing of the table and returns the folders of the programs, in the order of the table.
func (b *Builder) All(ctx context.Context) ([]string, error) {
	var dirs []string
	for i, t := range Table() {
		dir, err := b.tool(ctx, t, fmt.Sprintf("%d/%d", i+1, len(Table())))
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", t.Name, t.Version, err)
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// Mayfly builds the program under test from the tree and returns its folder.
func (b *Builder) Mayfly(ctx context.Context) (string, error) {
	return filepath.Join(b.root, ".cache", "bin"), b.Own(ctx, "mayfly")
}

// Own builds a program from the tree, named as its folder below cmd, into the folder of [Builder.Mayfly].
func (b *Builder) Own(ctx context.Context, name string) error {
	dir := filepath.Join(b.root, ".cache", "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	return b.goTool(ctx, call{
		dir: filepath.Dir(b.root), args: []string{"build", "-o", filepath.Join(dir, name), "./cmd/" + name},
	})
}

// tool returns the folder of t, building it if it is not there.
func (b *Builder) tool(ctx context.Context, t Tool, place string) (string, error) {
	key, err := b.key(t)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.cache, key)
	if executable(filepath.Join(dir, t.Name)) {
		return dir, nil
	}
	unlock, err := lock(ctx, filepath.Join(b.cache, "."+t.Name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if executable(filepath.Join(dir, t.Name)) { // another run built it meanwhile
		return dir, nil
	}
	fmt.Fprintf(b.progress, "e2e: [%s] building %s %s ...\n", place, t.Name, t.Version)
	start := time.Now()
	if err := b.build(ctx, t, dir); err != nil {
		return "", err
	}
	fmt.Fprintf(b.progress, "e2e: [%s] %s %s built in %s\n", place, t.Name, t.Version,
		time.Since(start).Round(time.Second))
	return dir, nil
}

// build makes the program in a folder beside the final one, then renames: a program in the cache is complete.
func (b *Builder) build(ctx context.Context, t Tool, dir string) error {
	tmp, err := os.MkdirTemp(b.cache, ".build-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	c := call{
		dir: tmp, args: []string{"install", "-trimpath", t.Package + "@" + t.Version},
		env: []string{"GOBIN=" + tmp},
	}
	if t.Module != "" {
		c = call{
			dir:  filepath.Join(b.root, t.Module),
			args: []string{"build", "-mod=mod", "-trimpath", "-o", filepath.Join(tmp, t.Name), t.Package},
		}
	}
	if err := b.goTool(ctx, c); err != nil {
		return err
	}
	made, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	if len(made) != 1 {
		return fmt.Errorf("the build made %d files", len(made))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Rename(filepath.Join(tmp, made[0].Name()), filepath.Join(dir, t.Name))
}

// key names the folder of t: its version, and for a module of ours a digest of its files.
func (b *Builder) key(t Tool) (string, error) {
	key := t.Name + "-" + t.Version
	if t.Module == "" {
		return key, nil
	}
	h := sha256.New()
	root := filepath.Join(b.root, t.Module)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s", strings.TrimPrefix(path, root), len(data), data)
		return err
	})
	return fmt.Sprintf("%s-%x", key, h.Sum(nil)[:6]), err
}

type call struct {
	dir  string
	args []string
	env  []string
}

// goTool runs the go command. Its output is part of the error.
func (b *Builder) goTool(ctx context.Context, c call) error {
	cmd := exec.CommandContext(ctx, "go", c.args...)
	cmd.Dir = c.dir
	cmd.Env = slices.Concat(os.Environ(), []string{"GOWORK=off"}, c.env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(c.args, " "), err, out)
	}
	return nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// lock holds the file lock at path until the returned function is called.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EINTR) || ctx.Err() != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		runtime.Gosched()
	}
}
