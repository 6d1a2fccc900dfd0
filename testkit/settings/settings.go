// Package settings reads the configuration errors of a test.
package settings

import (
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// Paths returns the dotted paths of the [fault.Setting] values in err, including joined errors.
func Paths(err error) []string {
	var out []string
	switch e := err.(type) { //nolint:errorlint // walks the tree itself
	case *fault.Setting:
		out = append(out, strings.Join(e.Path, "."))
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			out = append(out, Paths(one)...)
		}
	}
	return out
}
