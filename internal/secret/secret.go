// Package secret reads a secret from the source that the configuration names: an environment variable or a
// file, never the configuration itself. It MUST NOT print one.
package secret

import (
	"fmt"
	"os"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// Source is the source of a secret: an environment variable or a file. Exactly one is set.
type Source struct {
	// Env is the name of an environment variable.
	Env string `yaml:"env"`
	// File is a path; one trailing line end of the file is not part of the secret.
	File string `yaml:"file" path:"secret"`

	typed *[]byte // a pointer, so that no formatting verb prints the secret
}

// Typed returns a source with a secret that a person typed. It exists in the memory of this process alone.
func Typed(value []byte) *Source { return &Source{typed: &value} }

// Check finds what is wrong with s without looking for the secret. A nil Source is none. Its errors are [fault.Setting]
// values.
func (s *Source) Check() error {
	if s != nil && s.typed == nil && (s.Env == "") == (s.File == "") {
		return fault.BadSetting("exactly one of env and file must be set", "write {env: NAME} or {file: PATH}")
	}
	return nil
}

// Read returns the secret, without one trailing line end of a file. For a nil Source it returns nil. Its errors are
// [fault.Setting] values.
func (s *Source) Read() ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	if s.typed != nil {
		return *s.typed, nil
	}
	if s.File != "" {
		data, err := os.ReadFile(s.File)
		if err != nil {
			return nil, fault.BadFile(s.File, err, "file")
		}
		text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
		if text == "" {
			return nil, fault.BadSetting("is empty", "write the secret into it", "file").In(s.File)
		}
		return []byte(text), nil
	}
	v := os.Getenv(s.Env)
	if v == "" {
		return nil, fault.BadSetting(fmt.Sprintf("the environment variable %s is not set or empty", s.Env),
			"set it for this process", "env")
	}
	return []byte(v), nil
}
