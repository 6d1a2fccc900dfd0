package config

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mayfly-ca/mayfly/fault"
)

// Places finds directories that the CA must create or write to, and that this process cannot. Its errors are
// [fault.Setting] values for [Config.Locate]. It writes nothing. [Load] does not check this, because other users load a
// configuration too.
func (c *Config) Places() error {
	var errs []error
	for _, p := range c.places {
		switch {
		case p.kind == pathWrite:
			if err := access(filepath.Dir(*p.at)); err != nil {
				errs = append(errs, fault.BadFile(filepath.Dir(*p.at), err, p.path...))
			}
		case p.isDir():
			if err := p.checkDir(); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// checkDir returns an error if a directory can neither be written to nor be created.
func (p pathSetting) checkDir() error {
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
	s.Problem += ", so " + *p.at + " cannot be created"
	return s
}

// access returns an error if this process may not create files in a directory.
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
