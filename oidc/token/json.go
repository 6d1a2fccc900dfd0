package token

import (
	"bytes"
	"encoding/json"
	"encoding/json/jsontext"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth is the maximum nesting of objects and lists.
const maxDepth = 16

var errSyntax = errors.New("not JSON")

// parseObject reads one JSON object (RFC 8259) in UTF-8 with nothing after it, at most maxDepth levels deep.
//
// deviation is an error for input that other readers may interpret differently: a name that occurs twice, or two names
// that differ only in case (the last member counts), and an unpaired surrogate (RFC 8259 §8.2), which becomes U+FFFD:
// two subjects that differ only in such an escape would get the same name in certificates (D13).
func parseObject(data []byte) (out Claims, deviation, err error) {
	return new(objectReader).parse(data)
}

// objectReader is the only reader of headers and payloads. It builds values from the tokens of a decoder: decoding into
// `any` would not limit the depth, keep the text of numbers, or report names that differ only in case. It can be reused
// for another object.
type objectReader struct {
	jsontext.Decoder
	text      string // the input; strings without escapes and numbers are substrings of the text
	deviation error
}

func (r *objectReader) parse(data []byte) (out Claims, deviation, err error) {
	if !utf8.Valid(data) {
		return nil, nil, errors.New("not UTF-8")
	}
	out, err = r.decode(data, false)
	deviation = r.deviation
	if errors.Is(err, errSyntax) { // also the error for an unpaired surrogate
		if out, err = r.decode(data, true); err == nil {
			deviation = errors.New("a string is not valid Unicode")
		}
	}
	return out, deviation, err
}

func (r *objectReader) decode(data []byte, allowUnpaired bool) (Claims, error) {
	r.Reset(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(allowUnpaired))
	r.text, r.deviation = string(data), nil
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := r.ReadToken(); err != io.EOF { //nolint:errorlint // documented to be io.EOF itself
		return nil, errors.New("bytes after the object")
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not an object")
	}
	return m, nil
}

// value reads the next value: string, json.Number, bool, nil, []any or map[string]any.
func (r *objectReader) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("the nesting is too deep")
	}
	switch r.PeekKind() {
	case '{':
		return r.object(depth)
	case '[':
		return r.list(depth)
	case '"':
		return r.string()
	case '0':
		text, err := r.literal()
		return json.Number(text), err
	}
	t, err := r.ReadToken() // true, false, null, or no value
	switch {
	case err != nil:
		return nil, errSyntax
	case t.Kind() == jsontext.KindNull:
		return nil, nil
	}
	return t.Bool(), nil
}

// literal reads the text of a string, with its quotation marks, or of a number.
func (r *objectReader) literal() (string, error) {
	raw, err := r.ReadValue()
	if err != nil {
		return "", errSyntax
	}
	end := int(r.InputOffset())
	return r.text[end-len(raw) : end], nil
}

func (r *objectReader) string() (string, error) {
	text, err := r.literal()
	if err != nil {
		return "", err
	}
	if strings.IndexByte(text, '\\') < 0 {
		return text[1 : len(text)-1], nil
	}
	var s string
	if json.Unmarshal([]byte(text), &s) != nil {
		return "", errSyntax
	}
	return s, nil
}

func (r *objectReader) list(depth int) (any, error) {
	if _, err := r.ReadToken(); err != nil {
		return nil, errSyntax
	}
	list := []any{}
	for r.PeekKind() != ']' {
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, r.end()
}

func (r *objectReader) object(depth int) (any, error) {
	if _, err := r.ReadToken(); err != nil {
		return nil, errSyntax
	}
	m := make(map[string]any, 16)
	var seen nameSet
	for r.PeekKind() != '}' {
		if r.PeekKind() != '"' {
			return nil, errSyntax
		}
		name, err := r.string()
		if err != nil {
			return nil, err
		}
		if !seen.add(strings.ToLower(name)) {
			r.deviation = errors.New("a claim occurs twice, or two claims differ only in case")
		}
		if m[name], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return m, r.end()
}

// end reads the end of a list or an object.
func (r *objectReader) end() error {
	if _, err := r.ReadToken(); err != nil {
		return errSyntax
	}
	return nil
}

// nameSet is a set of names: a slice while it is small, because most objects have few members.
type nameSet struct {
	few  []string
	many map[string]bool
}

// add reports whether name is new.
func (s *nameSet) add(name string) bool {
	const few = 32
	if s.many == nil {
		if slices.Contains(s.few, name) {
			return false
		}
		if s.few = append(s.few, name); len(s.few) > few {
			s.many = make(map[string]bool, 2*few)
			for _, n := range s.few {
				s.many[n] = true
			}
		}
		return true
	}
	known := s.many[name]
	s.many[name] = true
	return !known
}
