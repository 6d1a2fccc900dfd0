package config

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// Path is a file or a directory that a configuration names.
type Path struct {
	// Setting is the path of the setting, such as ca.file.key; in the issuer file if Issuers is true.
	Setting string
	Issuers bool
	// Path is absolute.
	Path string
	// Dir says that it is a directory, Made that it is a file that the CA makes.
	Dir, Made bool
}

// Paths lists the files and directories that both files name, the issuer file among them. Patterns are not listed.
func (c *Config) Paths() []Path {
	var out []Path
	add := func(p pathSetting, issuers bool) {
		out = append(out, Path{strings.Join(p.path, "."), issuers, *p.at, p.isDir(), p.kind == pathWrite})
	}
	for _, p := range c.places {
		add(p, false)
	}
	for _, p := range c.issuerPlaces {
		add(p, true)
	}
	return out
}

// Environment lists the environment variables that have secrets of the configuration, sorted.
func (c *Config) Environment() []string {
	names := map[string]bool{}
	collectEnvironment(reflect.ValueOf(c), names)
	collectEnvironment(reflect.ValueOf(&c.Issuers), names)
	return slices.Sorted(maps.Keys(names))
}

func collectEnvironment(v reflect.Value, names map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			collectEnvironment(v.Elem(), names)
		}
	case reflect.Struct:
		if s, is := v.Interface().(secret.Source); is {
			if s.Env != "" {
				names[s.Env] = true
			}
			return
		}
		for _, f := range fieldsOf(v.Type()) {
			collectEnvironment(v.FieldByIndex(f.index), names)
		}
	case reflect.Slice:
		for i := range v.Len() {
			collectEnvironment(v.Index(i), names)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			collectEnvironment(v.MapIndex(k), names)
		}
	}
}

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
