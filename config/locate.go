package config

import (
	"path/filepath"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// Locate gives every [fault.Setting] in err the place where the setting stands: what was found in the files behind the settings,
// after the configuration was loaded. It returns [Problems]; or err itself, where no setting is in it or c was not loaded from a file.
func (c *Config) Locate(err error) error {
	if err == nil || c.main == nil {
		return err
	}
	var all Problems
	known := false
	settings(err, func(s *fault.Setting, leaf error) {
		if s == nil {
			all = append(all, Problem{File: c.main.src.name, What: leaf.Error()})
			return
		}
		known = true
		all = append(all, c.treeOf(s.Path).problem(s))
	})
	if !known {
		return err
	}
	return all.orNil()
}

// Warn makes a warning of a setting that works, at the place where it stands.
func (c *Config) Warn(s *fault.Setting) Warning {
	w := Warning{Text: strings.Join(s.Path, ".") + ": "}
	if s.File != "" {
		w.Text += shown(c.path(), s.File) + ": "
	}
	w.Text += s.Problem
	if s.Fix != "" {
		w.Text += "; " + s.Fix
	}
	if t := c.treeOf(s.Path); t != nil {
		at := t.position(s.Path)
		w.File, w.Line, w.Column = t.src.name, at.line, at.column
	}
	return w
}

// path is the configuration file as the operator wrote it; "" for a configuration that was not loaded from a file.
func (c *Config) path() string {
	if c.main == nil {
		return ""
	}
	return c.main.src.name
}

// treeOf is the file in which a setting stands.
func (c *Config) treeOf(path []string) *tree {
	if len(path) > 0 && (path[0] == "oidc-issuers" || path[0] == "meta-issuers" || path[0] == "ci-issuer-metadata") && c.issuers != nil {
		return c.issuers
	}
	return c.main
}

// shown is how messages call the file at path, absolute: as the operator would write it from where the command was started, as the
// name of the configuration file tells.
func shown(base, path string) string {
	if filepath.IsAbs(base) {
		return path
	}
	dir, err := filepath.Abs(filepath.Dir(base))
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return filepath.Join(filepath.Dir(base), rel)
}
