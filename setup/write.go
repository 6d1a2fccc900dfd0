package setup

import (
	"errors"
	"fmt"
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
	// Warnings are about settings that work and that the operator should know of.
	Warnings []config.Warning
}

// Write makes the directory with its files. Errors of the plan are those of [Plan.Check]. After an error, nothing that
// Write made is left.
func (p *Plan) Write() (_ *Written, err error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	text, warnings, err := p.render()
	if err != nil {
		return nil, err
	}
	if err := p.claim(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.abandon())
		}
	}()
	for _, name := range []string{CADir, JournalDir, StateDir} {
		if err := os.Mkdir(filepath.Join(p.Dir, name), 0o700); err != nil {
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
	return &Written{Config: filepath.Join(p.Dir, ConfigFile), Warnings: warnings}, nil
}

// claim makes the directory, which must be new or empty.
func (p *Plan) claim() error {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fault.BadSetting(fmt.Sprintf("%s is not empty (it has %s)", p.Dir, entries[0].Name()),
			"choose a new directory: existing files are never overwritten", "dir")
	}
	return nil
}

// abandon removes what was made in the directory, which was empty before.
func (p *Plan) abandon() error {
	entries, err := os.ReadDir(p.Dir)
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(p.Dir, e.Name())))
	}
	return errors.Join(errs...)
}
