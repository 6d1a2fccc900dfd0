package migrate

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// Write writes the files of the plan. It replaces none: if one of them exists, nothing is written.
func (p *Plan) Write() error {
	for _, f := range p.files {
		name := filepath.Join(p.dir, filepath.FromSlash(f.name))
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s exists, and is not replaced; write --out DIR with another directory", name)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.MkdirAll(p.dir, 0o755); err != nil { //nolint:gosec // the secrets have a directory of their own
		return err
	}
	if err := os.MkdirAll(filepath.Join(p.dir, secrets), 0o700); err != nil {
		return err
	}
	var made []string
	for _, f := range p.files {
		name, mode := filepath.Join(p.dir, filepath.FromSlash(f.name)), fs.FileMode(0o644)
		if isSecret(f.name) {
			mode = 0o600
		}
		if err := durable.CreateFile(name, f.data, mode); err != nil {
			for _, one := range made {
				err = errors.Join(err, os.Remove(one))
			}
			return err
		}
		made = append(made, name)
	}
	return nil
}

// Files returns the names and the contents of the files, mayfly.yaml first. Some of them are secret.
func (p *Plan) Files() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, f := range p.files {
			if !yield(f.name, f.data) {
				return
			}
		}
	}
}
