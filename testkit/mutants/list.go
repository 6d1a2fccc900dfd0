package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// mutant is one planted defect: a small edit of one file that the tests of its package must notice.
type mutant struct {
	area  string   // base name of the list without .txt
	line  int      // where the entry begins in the list
	title string   // what the defect is
	file  string   // slash-separated, from the root of the repository
	test  []string // arguments for "go test"
	old   string
	new   string
}

// name identifies m in the output and in -only.
func (m mutant) name() string { return m.area + ": " + m.title }

// place is the position of m in its list.
func (m mutant) place() string { return fmt.Sprintf("testkit/mutants/%s.txt:%d", m.area, m.line) }

// readLists reads every list (*.txt) in dir, in the order of their names.
func readLists(dir string) ([]mutant, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	var all []mutant
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		list, err := parseList(strings.TrimSuffix(filepath.Base(name), ".txt"), string(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

// parseList reads one list; CONTRIBUTING.md describes the format.
func parseList(area, text string) ([]mutant, error) {
	var list []mutant
	titles := map[string]int{}
	m := mutant{area: area}
	part := "head" // head, old, new
	var lines []string
	for i, line := range strings.Split(text, "\n") {
		fail := func(format string, args ...any) error {
			return fmt.Errorf("line %d: %s", i+1, fmt.Sprintf(format, args...))
		}
		mark := strings.TrimRight(line, " \t\r")
		switch {
		case part == "head" && mark == "":
		case part == "head" && mark == "---":
			part, lines = "old", nil
		case part == "head":
			if m.line == 0 {
				m.line = i + 1
			}
			if title, ok := strings.CutPrefix(mark, "#"); ok {
				m.title = strings.TrimSpace(m.title + " " + strings.TrimSpace(title))
			} else if file, ok := strings.CutPrefix(mark, "file:"); ok {
				m.file = strings.TrimSpace(file)
			} else if test, ok := strings.CutPrefix(mark, "test:"); ok {
				args, err := split(test)
				if err != nil {
					return nil, fail("%v", err)
				}
				m.test = args
			} else {
				return nil, fail("%q is neither a title (#), file:, test: nor ---", mark)
			}
		case part == "old" && mark == "+++":
			m.old = strings.Join(lines, "\n")
			part, lines = "new", nil
		case part == "new" && mark == "===":
			m.new = strings.Join(lines, "\n")
			if m.title == "" || m.file == "" || m.old == "" || m.old == m.new {
				return nil, fail("an entry needs a title, a file, a text and another text in its place")
			}
			if first, ok := titles[m.title]; ok {
				return nil, fail("the title %q is that of line %d as well", m.title, first)
			}
			titles[m.title] = m.line
			if m.test == nil {
				m.test = []string{"./" + path.Dir(m.file)}
			}
			list = append(list, m)
			m, part = mutant{area: area}, "head"
		default:
			lines = append(lines, line)
		}
	}
	if part != "head" || m.line != 0 {
		return nil, fmt.Errorf("line %d: the entry has no end (===)", m.line)
	}
	return list, nil
}

// split cuts text into words; single quotes keep a word with spaces or "|" together.
func split(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	inside, quoted := false, false
	for _, r := range text {
		switch {
		case r == '\'':
			quoted, inside = !quoted, true
		case (r == ' ' || r == '\t') && !quoted:
			if inside {
				words = append(words, word.String())
				word.Reset()
			}
			inside = false
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	if quoted {
		return nil, errors.New("a single quote is not closed")
	}
	if inside {
		words = append(words, word.String())
	}
	return words, nil
}

// apply returns the content of m's file with the defect. It returns an error if the text does not occur exactly once,
// or if the result does not parse: then the list no longer matches the code.
func (m mutant) apply(root string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.file)))
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(data, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("the text occurs %d times in %s, want once", n, m.file)
	}
	data = bytes.Replace(data, []byte(m.old), []byte(m.new), 1)
	if strings.HasSuffix(m.file, ".go") {
		if _, err := parser.ParseFile(token.NewFileSet(), m.file, data, parser.SkipObjectResolution); err != nil {
			return nil, fmt.Errorf("the result is not Go: %w", err)
		}
	}
	return data, nil
}

// chosen reports whether only (comma-separated areas, or "area: words of the title") selects m. An empty only selects
// all.
func (m mutant) chosen(only string) bool {
	for _, want := range strings.Split(only, ",") {
		area, title, _ := strings.Cut(want, ":")
		if only == "" || strings.TrimSpace(area) == m.area && strings.Contains(m.title, strings.TrimSpace(title)) {
			return true
		}
	}
	return false
}
