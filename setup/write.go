package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
)

// Written is what [Plan.Write] has made.
type Written struct {
	// Config is the path of mayfly.yaml.
	Config string
	// Offline is the directory with the keys that the server does not need; "" if there is none.
	Offline string
	// Warnings are about settings that work and that the operator should know of.
	Warnings []config.Warning
}

// Write makes the directory with its files. Errors of the plan are those of [Plan.Check]. After an error, nothing that
// Write made is left.
func (p *Plan) Write(ctx context.Context) (_ *Written, err error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	text, warnings, err := p.render()
	if err != nil {
		return nil, err
	}
	var made []string
	defer func() {
		if err != nil {
			err = errors.Join(err, abandon(made))
		}
	}()
	dirs := []struct{ path, setting string }{{p.Dir, "dir"}}
	if p.State != "" {
		dirs = append(dirs, struct{ path, setting string }{p.State, "state"})
	}
	if p.Private != nil {
		if err := errors.Join(readable(p.Password, "password"),
			readable(p.Private.RootPassword, "root-password")); err != nil {
			return nil, err
		}
		dirs = append(dirs, struct{ path, setting string }{p.offline(), "offline"})
	}
	for _, dir := range dirs {
		if err := claim(dir.path, dir.setting); err != nil {
			return nil, err
		}
		made = append(made, dir.path)
	}
	for _, dir := range []string{filepath.Join(p.Dir, CADir), p.writable(JournalDir), p.writable(StateDir)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if p.Private != nil {
		if err := p.ceremonies(ctx); err != nil {
			return nil, err
		}
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{IssuersFile, text.issuers}, {ConfigFile, text.config}} {
		if err := durable.CreateFile(filepath.Join(p.Dir, f.name), f.data, 0o644); err != nil {
			return nil, err
		}
	}
	w := &Written{Config: filepath.Join(p.Dir, ConfigFile), Warnings: warnings}
	if p.Private == nil {
		return w, nil
	}
	w.Offline = p.offline()
	return w, p.publish(ctx, w.Config)
}

// claim makes a directory, which must be new or empty.
func claim(dir, setting string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fault.BadSetting(fmt.Sprintf("%s is not empty (it has %s)", dir, entries[0].Name()),
			"choose a new directory: existing files are never overwritten", setting)
	}
	return nil
}

// abandon removes what was made in directories that were empty before.
func abandon(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if !errors.Is(err, fs.ErrNotExist) { // below another one
			errs = append(errs, err)
		}
		for _, e := range entries {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
