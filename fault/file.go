package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// BadFile returns a [Setting] for a file or directory that cannot be used, with the cause from the operating system and
// the cure.
func BadFile(file string, err error, path ...string) *Setting {
	s := &Setting{Path: path, Problem: err.Error(), Fix: Advice(err), File: file}
	var at *fs.PathError
	if errors.As(err, &at) {
		if s.Problem = at.Err.Error(); at.Path != file {
			s.Problem = at.Path + ": " + s.Problem
		}
	}
	return s
}

// BadContent returns a [Setting] for a file that can be read but has invalid content. If err has the methods What and
// Remedy, as the errors of internal/pemfile do, the remedy replaces fix.
func BadContent(err error, fix string, path ...string) *Setting {
	s := BadSetting(err.Error(), fix, path...)
	var knows interface {
		What() string
		Remedy() string
	}
	if errors.As(err, &knows) {
		s.Problem, s.Fix = strings.Replace(s.Problem, fmt.Sprint(knows), knows.What(), 1), knows.Remedy()
	}
	return s
}

// Advice returns the cure for an error of the operating system, or "" if err is no such error or needs no explanation.
func Advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("give the user that this process runs as (ID %d) access to it, with chown or chmod",
			os.Geteuid())
	case errors.Is(err, syscall.EROFS):
		return "write a path on a writable file system"
	case errors.Is(err, syscall.ENOTDIR):
		return "a part of the path is a file, not a directory: write another path"
	case errors.Is(err, syscall.EISDIR):
		return "write the path of a file"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on the disk"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "allow more open files (ulimit -n, LimitNOFILE)"
	case errors.Is(err, fs.ErrNotExist):
		return "write a path that exists"
	}
	return ""
}

// Cured is an error with what to do about it. It wraps Err.
type Cured struct {
	Err error
	Fix string
}

// Cure returns err with what to do about it, as a [Cured].
func Cure(err error, fix string) error { return &Cured{err, fix} }

// Error returns the error and the cure, separated by a semicolon.
func (c *Cured) Error() string { return c.Err.Error() + "; " + c.Fix }

// Unwrap returns the error without the cure.
func (c *Cured) Unwrap() error { return c.Err }
