package config

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mayfly-ca/mayfly/fault"
)

// Places finds directories that this process could not make or write to, of those where a CA that runs has to: its errors are
// [fault.Setting] values for [Config.Locate]. It writes nothing. [Load] does not look, because other users read a configuration too.
func (c *Config) Places() error {
	var errs []error
	for _, p := range c.places {
		switch {
		case p.kind == pathWrite:
			if err := access(filepath.Dir(*p.at)); err != nil {
				errs = append(errs, fault.BadFile(filepath.Dir(*p.at), err, p.path...))
			}
		case p.isDir():
			if err := p.makeable(); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// makeable errs when a directory can neither be written to nor be made.
func (p pathSetting) makeable() error {
	dir := *p.at
	for {
		_, err := os.Stat(dir)
		if err == nil || dir == filepath.Dir(dir) {
			break
		}
		if !os.IsNotExist(err) {
			return fault.BadFile(*p.at, err, p.path...)
		}
		dir = filepath.Dir(dir)
	}
	err := access(dir)
	switch {
	case err == nil, dir == *p.at && p.kind == pathOptionalDir:
		return nil
	case dir == *p.at:
		return fault.BadFile(dir, err, p.path...)
	}
	s := fault.BadFile(dir, err, p.path...)
	s.Problem += ", so that " + *p.at + " cannot be made"
	return s
}

// access errs when this process may not make files in a directory.
func access(dir string) error {
	const write, search = 2, 1 // access(2)
	st, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !st.IsDir():
		return &os.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	if err := syscall.Access(dir, write|search); err != nil {
		return &os.PathError{Op: "write", Path: dir, Err: err}
	}
	return nil
}
