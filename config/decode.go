package config

import (
	"path/filepath"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/fault"
)

// File is a YAML file other than a configuration, such as the plan of a ceremony.
type File struct {
	// Path is the file as its author wrote it: messages begin with it, and paths in the file are relative to its
	// folder.
	Path string
	// Data is the content. Nil: it is read from Path.
	Data []byte
}

// Decode decodes f into the struct that into points to, as strictly as [Load], makes its paths absolute and calls
// check, whose errors are [fault.Setting] values. It returns the content of the file, and [Problems] as its error.
// Files that the settings name need not exist.
func Decode(f File, into any, check func() error) ([]byte, error) {
	src := source{name: f.Path, data: f.Data}
	if f.Data == nil {
		var p *Problem
		if src, p = readSource(f.Path, f.Path, "write the path of a file that is there"); p != nil {
			return nil, Problems{*p}
		}
	}
	t := decode(src, into, false)
	if len(t.problems) > 0 {
		return nil, t.problems.orNil()
	}
	dir, err := filepath.Abs(filepath.Dir(f.Path))
	if err != nil {
		return nil, err
	}
	absolute(into, dir)
	t.add(check())
	return src.data, t.problems.orNil()
}

// LoadKeyBackend reads the key backend of the configuration at path. Its other settings are decoded, but need be
// neither complete nor correct: a file with the block ca alone will do, and the chain need not exist.
func LoadKeyBackend(path string) (backends.Table, error) {
	c := &Config{}
	_, err := Decode(File{Path: path}, c, func() error { return fault.Under(c.CA.Table.Check(), "ca") })
	return c.CA.Table, err
}

// LocateIn gives every [fault.Setting] in err its position in the file that into was decoded from.
func LocateIn(f File, into any, err error) error {
	if err == nil {
		return nil
	}
	known := false
	settings(err, func(s *fault.Setting, _ error) { known = known || s != nil })
	src := source{name: f.Path, data: f.Data}
	if f.Data == nil {
		var p *Problem
		if src, p = readSource(f.Path, f.Path, ""); p != nil {
			return err
		}
	}
	t := decode(src, into, false)
	if !known || len(t.problems) > 0 {
		return err
	}
	t.add(err)
	return t.problems.orNil()
}
