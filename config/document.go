package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/bounded"
)

// maxFile is the size limit of one configuration file in bytes.
const maxFile = 1 << 20

// source is the text of one file. name is the path as the operator wrote it.
type source struct {
	name string
	data []byte
}

// readSource reads the file at path, which messages call name. missing is the fix if the file does not exist.
func readSource(path, name, missing string) (source, *Problem) {
	s := source{name: name}
	f, err := os.Open(path)
	if err != nil {
		p := Problem{File: name, What: "cannot be read: " + cause(err), Fix: missing}
		if !os.IsNotExist(err) {
			p.Fix = fault.Advice(err)
		}
		return s, &p
	}
	defer f.Close() //nolint:errcheck // nothing was written
	s.data, err = bounded.ReadAll(f, maxFile)
	if _, ok := errors.AsType[*bounded.TooLargeError](err); ok {
		return s, &Problem{File: name, What: "is larger than 1 MiB, the limit for a configuration", Fix: missing}
	}
	if err != nil {
		return s, &Problem{File: name, What: "cannot be read: " + cause(err), Fix: missing}
	}
	return s, nil
}

// cause returns the cause of a file system error without the path, which the message already contains.
func cause(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// line returns line n, counted from 1, without its end.
func (s source) line(n int) string {
	rest := s.data
	for ; n > 1; n-- {
		_, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			return ""
		}
		rest = after
	}
	text, _, _ := bytes.Cut(rest, []byte("\n"))
	return strings.TrimSuffix(string(text), "\r")
}

// secretWords mark lines that are never printed and settings whose value is never quoted.
var secretWords = []string{"password", "passwd", "passphrase", "secret", "token", "private"}

// credentials are a user and a password inside a URL.
var credentials = regexp.MustCompile(`://[^/\s@]*:[^/\s@]*@`)

func looksSecret(s string) bool {
	s = strings.ToLower(s)
	if credentials.MatchString(s) {
		return true
	}
	for _, w := range secretWords {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// place is a position in a file, both numbers from 1, the column in characters.
type place struct{ line, column int }

// problem returns a problem at a position of s, with an excerpt unless the line may contain a secret.
func (s source) problem(at place, what, fix string) Problem {
	p := Problem{File: s.name, Line: at.line, Column: at.column, What: what, Fix: fix}
	if text := s.line(at.line); at.line > 0 && !looksSecret(text) {
		p.excerpt = excerpt(text, at.column)
	}
	return p
}

// parse returns the only document of the text. An error of the text itself (encoding, syntax, more than one document,
// no document) is a problem with its position.
func (s source) parse() (*yaml.Node, *Problem) {
	if p := s.encoding(); p != nil {
		return nil, p
	}
	d := yaml.NewDecoder(bytes.NewReader(s.text()))
	var doc yaml.Node
	switch err := decodeNode(d, &doc); {
	case errors.Is(err, io.EOF):
		p := Problem{
			File: s.name, Line: 1, Column: 1, What: "the file is empty",
			Fix: "write a configuration; docs/config.md has an example",
		}
		return nil, &p
	case err != nil:
		p := s.syntax(err)
		return nil, &p
	}
	if len(doc.Content) != 1 {
		p := s.problem(place{1, 1}, "the file has no content", "write a configuration; docs/config.md has an example")
		return nil, &p
	}
	var second yaml.Node
	switch err := decodeNode(d, &second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		p := s.syntax(err)
		return nil, &p
	default:
		p := s.problem(place{second.Line, second.Column},
			"a second document starts here, but a configuration has only one", `remove the "---" or what follows it`)
		return nil, &p
	}
	return doc.Content[0], nil
}

// text returns the data for a YAML parser. JSON has two escapes that YAML does not have: \/ and surrogate pairs.
func (s source) text() []byte {
	if !bytes.HasPrefix(bytes.TrimSpace(s.data), []byte("{")) || !json.Valid(s.data) {
		return s.data
	}
	return jsonEscapes.ReplaceAllFunc(s.data, func(m []byte) []byte {
		switch {
		case string(m) == `\/`:
			return []byte("/")
		case len(m) == 12:
			var text string
			if json.Unmarshal([]byte(`"`+string(m)+`"`), &text) == nil {
				return []byte(text)
			}
		}
		return m
	})
}

// jsonEscapes matches every escape, so that the second part of one escape is not matched as the start of another.
var jsonEscapes = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.`)

// decodeNode is d.Decode, but returns a panic of the library as an error: a configuration must never crash the process.
func decodeNode(d *yaml.Decoder, n *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	return d.Decode(n)
}

// encoding checks that the text is UTF-8 without control characters. A UTF-8 byte order mark is allowed.
func (s *source) encoding() *Problem {
	switch {
	case bytes.HasPrefix(s.data, []byte{0xff, 0xfe}), bytes.HasPrefix(s.data, []byte{0xfe, 0xff}):
		return &Problem{File: s.name, Line: 1, Column: 1, What: "the file is UTF-16", Fix: "save it as UTF-8"}
	case bytes.HasPrefix(s.data, []byte("\xef\xbb\xbf")):
		s.data = s.data[3:]
	}
	line, column := 1, 1
	for rest := s.data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			p := s.problem(place{line, column}, fmt.Sprintf("byte 0x%02x is not UTF-8", rest[0]),
				"save the file as UTF-8")
			return &p
		case r == '\n':
			line, column = line+1, 0
		case r < 0x20 && r != '\t' && r != '\r', r == 0x7f:
			p := s.problem(place{line, column}, fmt.Sprintf("control character U+%04X", r), "remove it")
			return &p
		}
		rest, column = rest[size:], column+1
	}
	return nil
}
