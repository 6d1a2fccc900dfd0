package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/fault"
)

// Problem is one error in a configuration file. It prints as "FILE:LINE:COL: problem; fix", followed by the line and a
// caret below the column where that helps. Line and Column count from 1, the column in characters; a Line of 0 means
// the whole file.
type Problem struct {
	File         string
	Line, Column int
	What         string
	Fix          string
	excerpt      string
}

// Head returns the first line of the problem, which is for programs.
func (p Problem) Head() string {
	text := p.File
	if p.Line > 0 {
		text = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	text += ": " + p.What
	if p.Fix != "" {
		text += "; " + p.Fix
	}
	return text
}

// Error returns the head and the excerpt.
func (p Problem) Error() string { return p.Head() + p.excerpt }

// Problems are all problems of one load, in the order of files and lines. As an error it is never empty.
type Problems []Problem

// maxPrinted bounds the number of problems that one error prints.
const maxPrinted = 25

// Error returns the texts of the problems.
func (ps Problems) Error() string {
	texts := make([]string, 0, min(len(ps), maxPrinted)+1)
	for i, p := range ps {
		if i == maxPrinted {
			texts = append(texts, fmt.Sprintf("… and %d more", len(ps)-maxPrinted))
			break
		}
		texts = append(texts, p.Error())
	}
	return strings.Join(texts, "\n")
}

// orNil sorts the problems and returns them as an error, or nil if there are none.
func (ps Problems) orNil() error {
	if len(ps) == 0 {
		return nil
	}
	order := map[string]int{} // files keep the order in which they were read
	for _, p := range ps {
		if _, ok := order[p.File]; !ok {
			order[p.File] = len(order)
		}
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(ps, func(a, b Problem) bool { return a.Head() == b.Head() })
}

// Warning is about a setting that is allowed but may not be intended.
type Warning struct {
	File         string
	Line, Column int
	Text         string
}

// String returns the warning as FILE:LINE:COL: text.
func (w Warning) String() string {
	return Problem{File: w.File, Line: w.Line, Column: w.Column, What: w.Text}.Head()
}

// settings walks an error tree and calls f for every leaf: the [fault.Setting] in it, or nil and the leaf itself.
func settings(err error, f func(*fault.Setting, error)) {
	if err == nil {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			settings(one, f)
		}
		return
	}
	var s *fault.Setting
	if errors.As(err, &s) {
		f(s, err)
		return
	}
	f(nil, err)
}

// excerptWidth is how many characters of a line an excerpt shows.
const excerptWidth = 100

// excerpt returns line and below it a caret at the column (from 1, in characters), both indented.
func excerpt(line string, column int) string {
	if !utf8.ValidString(line) {
		line = strings.ToValidUTF8(line, "?")
	}
	runes := []rune(strings.TrimRight(line, "\r\n"))
	if len(runes) == 0 {
		return ""
	}
	at := min(max(column-1, 0), len(runes))
	from := 0
	if at > excerptWidth*3/4 {
		from = at - excerptWidth/2
	}
	to := min(len(runes), from+excerptWidth)
	shown := make([]rune, 0, excerptWidth)
	pad := make([]rune, 0, excerptWidth)
	for i := from; i < to; i++ {
		r := runes[i]
		if r != '\t' && (r < 0x20 || r == 0x7f) {
			r = '?'
		}
		shown = append(shown, r)
		if i < at {
			if r != '\t' {
				r = ' '
			}
			pad = append(pad, r)
		}
	}
	return "\n    " + string(shown) + "\n    " + string(pad) + "^"
}
