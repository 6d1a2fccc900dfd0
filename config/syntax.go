package config

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// The YAML library reports no column, and for an error in the last line of a block mapping it reports the first line of
// the block (go.yaml.in/yaml/v3 v3.0.6). The functions below therefore search for the position: the end of the longest
// prefix of the text that is valid YAML.

// syntax returns a parser's error as a problem at its position.
func (s source) syntax(err error) Problem {
	message, line := splitYAMLError(err)
	if at := s.unknownAnchor(message); at.line > 0 {
		return s.problem(at, message, "define the anchor with & before this line")
	}
	lines := bytes.SplitAfter(s.data, []byte("\n"))
	if found := lastGood(len(lines),
		func(n int) bool { return parses(bytes.Join(lines[:n], nil)) }); found < len(lines) {
		line = found + 1
	}
	text := s.line(line)
	if tab := tabInIndent(text); tab > 0 {
		return s.problem(place{line, tab}, "a tab in the indentation, which YAML does not allow", "indent with spaces")
	}
	head := bytes.Join(lines[:max(line-1, 0)], nil)
	runes := []rune(text)
	good := lastGood(len(runes), func(n int) bool {
		return parses(append(bytes.Clone(head), string(runes[:n])...))
	})
	column := min(good+1, max(len(runes), 1))
	what, fix := plainWords(message, string(runes[min(column-1, len(runes)):]))
	return s.problem(place{line, column}, what, fix)
}

// lastGood returns the length of the longest prefix, of n parts in all, that ok accepts. A prefix that ends within a
// quoted text or a bracket is refused although a longer one is valid, so the binary search tries some more parts before
// it accepts a refusal. That bounds the work for a text of any length.
func lastGood(n int, ok func(int) bool) int {
	const ahead = 40
	if n <= 2*ahead {
		for k := n; k > 0; k-- {
			if ok(k) {
				return k
			}
		}
		return 0
	}
	good, bad := 0, n+1
	for bad-good > 1 {
		mid := (good + bad) / 2
		hit := -1
		for k := mid; k < min(bad, mid+ahead); k++ {
			if ok(k) {
				hit = k
				break
			}
		}
		if hit < 0 {
			bad = mid
		} else {
			good = hit
		}
	}
	return good
}

func parses(data []byte) bool {
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		err := decodeNode(d, &n)
		if err != nil {
			return errors.Is(err, io.EOF) || strings.Contains(err.Error(), "unknown anchor")
		}
	}
}

var yamlErrorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// splitYAMLError returns the message without its prefix, and the line that the library reports, or 1.
func splitYAMLError(err error) (message string, line int) {
	message, line = err.Error(), 1
	if m := yamlErrorLine.FindStringSubmatch(message); m != nil {
		message = message[len(m[0]):]
		if n, convErr := strconv.Atoi(m[1]); convErr == nil {
			line = n
		}
	}
	return message, line
}

// unknownAnchor returns the position of the alias whose anchor is unknown according to message, or the zero value.
func (s source) unknownAnchor(message string) place {
	name, ok := strings.CutPrefix(message, "unknown anchor '")
	if !ok {
		return place{}
	}
	name, _, _ = strings.Cut(name, "'")
	line := 0
	for text := range strings.Lines(string(s.data)) {
		line++
		if before, _, ok := strings.Cut(text, "*"+name); ok && !strings.Contains(before, "#") {
			return place{line, utf8.RuneCountInString(before) + 1}
		}
	}
	return place{}
}

// tabInIndent returns the column of a tab before the first visible character of line, or 0.
func tabInIndent(line string) int {
	for i, c := range line {
		switch c {
		case ' ':
		case '\t':
			return i + 1
		default:
			return 0
		}
	}
	return 0
}

// plainWords returns a description of the library's message for authors of YAML. rest is the text from the error on.
func plainWords(message, rest string) (what, fix string) {
	switch {
	case strings.Contains(message, "escape"):
		return "an unknown escape after a backslash in this text",
			"write two backslashes, or put the text in single quotes"
	case strings.HasPrefix(rest, `"`), strings.HasPrefix(rest, "'"):
		return "this quoted text has no closing quote, or text follows the closing quote",
			"check the quotes; write every text on one line"
	case strings.HasPrefix(rest, "["), strings.HasPrefix(rest, "{"):
		return "this bracket is not closed correctly", "close brackets in the right order, with a comma between entries"
	case strings.HasPrefix(rest, "\t"):
		return "a tab where YAML allows only spaces", "indent with spaces"
	case strings.HasPrefix(rest, "@"), strings.HasPrefix(rest, "`"), strings.HasPrefix(rest, "%"):
		return "a text cannot start with " + strconv.Quote(rest[:1]) + " without quotes", "put the text in quotes"
	case strings.Contains(message, "mapping values are not allowed"):
		return `a second ":" on this line, or the line is indented more than the one it belongs to`,
			"put text that contains a colon in quotes, and check the indentation"
	case strings.Contains(message, "could not find expected ':'"):
		return `this line is not "key: value"`, `write a colon and a space after the key, and check the indentation`
	case strings.Contains(message, "did not find expected"):
		return "this does not fit the lines above it (" + message +
			")", "check the indentation: keys of one block start in the same column"
	}
	return "not YAML: " + message, "check the line and the one above it"
}
