package embedded

import (
	"errors"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// Config says where the log is and what it is called.
type Config struct {
	// Dir is the log's directory. It is made on the first start, with a new key.
	Dir string `yaml:"dir"`
	// Origin is the log's name in its checkpoints: a host name with a path, without scheme. It can never change.
	Origin string `yaml:"origin"`
}

// Check finds what is wrong without looking at the directory. Its errors are [fault.Setting] values.
func (c Config) Check() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, fault.BadSetting("dir is missing", "write the path of the log's directory", "dir"))
	}
	const fix = "write a name such as ca.example.com/ct, without scheme"
	switch {
	case c.Origin == "":
		errs = append(errs, fault.BadSetting("origin is missing", fix, "origin"))
	case strings.Contains(c.Origin, "://"), strings.ContainsAny(c.Origin, " \t\r\n+"), strings.HasSuffix(c.Origin, "/"), len(c.Origin) > 255:
		errs = append(errs, fault.BadSetting("origin is not the name of a log", fix, "origin"))
	}
	return errors.Join(errs...)
}
