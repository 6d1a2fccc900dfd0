package config

import (
	"path/filepath"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// Locate adds to every [fault.Setting] in err its position in the configuration. It is for errors that are found after
// the configuration was loaded, such as errors in the files that it names. It returns [Problems], or err itself if err
// contains no setting or c was not loaded from a file.
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

// Warn returns a warning about an allowed setting, at its position.
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

// path returns the configuration file as the operator wrote it, or "" if c was not loaded from a file.
func (c *Config) path() string {
	if c.main == nil {
		return ""
	}
	return c.main.src.name
}

// treeOf returns the file that contains a setting.
func (c *Config) treeOf(path []string) *tree {
	if len(path) > 0 && (path[0] == "oidc-issuers" || path[0] == "meta-issuers" || path[0] == "ci-issuer-metadata") &&
		c.issuers != nil {
		return c.issuers
	}
	return c.main
}

// shown returns the absolute path as messages print it: relative to the working directory, if base, the path of the
// configuration file, is relative.
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
