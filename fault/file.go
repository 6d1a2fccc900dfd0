package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// BadFile returns a [Setting] whose file or directory cannot be used: the cause that the operating system gave, and what to do.
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

// BadContent returns a [Setting] whose file can be read, but holds something wrong. Where err knows what to do (methods
// What and Remedy, as the errors of internal/pemfile have), that takes the place of fix.
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

// Advice is what to do about an error of the operating system; "" where the error is none, or says enough.
func Advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("chown or chmod it, or a directory above it, for the user that this runs as (id %d)", os.Geteuid())
	case errors.Is(err, syscall.EROFS):
		return "name a place on a file system that can be written"
	case errors.Is(err, syscall.ENOTDIR):
		return "a part of the path is a file, not a directory: write another path"
	case errors.Is(err, syscall.EISDIR):
		return "write the path of a file"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on the disk"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "allow more open files (ulimit -n, LimitNOFILE)"
	case errors.Is(err, fs.ErrNotExist):
		return "write a path that is there"
	}
	return ""
}
