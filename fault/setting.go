package fault

import "strings"

// Setting is a wrong setting in a configuration: where, what is wrong, what to write. Domain packages return it (several
// joined with errors.Join); the configuration loader knows the file and turns Path into a line and a column.
type Setting struct {
	// Path leads from the package's own Config to the value, by the names that stand in the file; a list index is a number.
	Path []string
	// Problem is what is wrong.
	Problem string
	// Fix is what to write instead. It may be empty.
	Fix string
	// File is the path of the file whose content is wrong, where the setting is a path; it may be empty.
	File string
}

// BadSetting returns a [Setting].
func BadSetting(problem, fix string, path ...string) *Setting {
	return &Setting{Path: path, Problem: problem, Fix: fix}
}

// In names the file whose content is wrong, and returns s.
func (s *Setting) In(file string) *Setting {
	s.File = file
	return s
}

// Error gives path, file, problem and fix on one line.
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

// Under returns err with prefix put before the path of every [Setting] in it, joined errors included. Other errors stay.
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

// joined is errors.Join without its dependence on formatting: it keeps the parts for the loader to walk.
type joined []error

func (j joined) Error() string {
	texts := make([]string, len(j))
	for i, e := range j {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "\n")
}

func (j joined) Unwrap() []error { return j }
