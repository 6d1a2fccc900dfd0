package fault

import "strings"

// Setting is an error in a configuration: place, problem and cure. Domain packages return it, several joined with
// errors.Join; the configuration loader knows the file and converts Path to a line and a column.
type Setting struct {
	// Path leads from the package's Config to the value, in the names of the configuration file. A list index is a
	// number.
	Path []string
	// Problem says what is wrong.
	Problem string
	// Fix says what to write instead. It may be empty.
	Fix string
	// File is the file with the invalid content if the value is a path. It may be empty.
	File string
}

// BadSetting returns a [Setting].
func BadSetting(problem, fix string, path ...string) *Setting {
	return &Setting{Path: path, Problem: problem, Fix: fix}
}

// In sets the file with the invalid content, and returns s.
func (s *Setting) In(file string) *Setting {
	s.File = file
	return s
}

// Error returns path, file, problem and fix on one line.
func (s *Setting) Error() string {
	text := s.Problem
	if s.File != "" {
		text = s.File + ": " + text
	}
	if len(s.Path) > 0 {
		text = strings.Join(s.Path, ".") + ": " + text
	}
	if s.Fix != "" {
		text += "; " + s.Fix
	}
	return text
}

// Under returns err with prefix prepended to the path of every [Setting] in it, including joined errors. Other errors
// are unchanged.
func Under(err error, prefix ...string) error {
	switch e := err.(type) {
	case nil:
		return nil
	case *Setting:
		moved := *e
		moved.Path = append(append([]string(nil), prefix...), e.Path...)
		return &moved
	case interface{ Unwrap() []error }:
		all := e.Unwrap()
		out := make([]error, len(all))
		for i, one := range all {
			out[i] = Under(one, prefix...)
		}
		return joined(out)
	}
	return err
}

// joined is a list of errors that the loader can walk, like the result of errors.Join.
type joined []error

func (j joined) Error() string {
	texts := make([]string, len(j))
	for i, e := range j {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "\n")
}

func (j joined) Unwrap() []error { return j }
