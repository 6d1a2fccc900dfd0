package oidc

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// parseObject reads one JSON object (RFC 8259) strictly: UTF-8, no bytes after it, at most maxDepth levels. unclean says that a
// name stands twice, or two names differ in case only; the last one then counts; or that a text has half of a surrogate pair (§8.2),
// for which U+FFFD stands then. It is the only reading of a header or payload.
func parseObject(data []byte) (out claims, unclean, err error) {
	if !utf8.Valid(data) {
		return nil, nil, errors.New("not UTF-8")
	}
	r := &reader{text: string(data)}
	v, err := r.value(0)
	if err != nil {
		return nil, nil, err
	}
	if r.space(); r.at < len(r.text) {
		return nil, nil, errors.New("bytes after the object")
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, nil, errors.New("not an object")
	}
	return m, r.unclean, nil
}

// reader reads JSON from front to back. Strings and numbers are parts of text where they stand there as they are.
type reader struct {
	text    string
	at      int
	unclean error
}

var errJSON = errors.New("not JSON")

// space skips white space.
func (r *reader) space() {
	for r.at < len(r.text) && (r.text[r.at] == ' ' || r.text[r.at] == '\t' || r.text[r.at] == '\n' || r.text[r.at] == '\r') {
		r.at++
	}
}

// next skips white space and takes c if it comes next.
func (r *reader) next(c byte) bool {
	if r.space(); r.at < len(r.text) && r.text[r.at] == c {
		r.at++
		return true
	}
	return false
}

// value reads what comes next: string, json.Number, bool, nil, []any or map[string]any.
func (r *reader) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	if r.space(); r.at == len(r.text) {
		return nil, errJSON
	}
	switch c := r.text[r.at]; c {
	case '{':
		return r.object(depth)
	case '[':
		return r.list(depth)
	case '"':
		return r.string()
	case 't':
		return true, r.word("true")
	case 'f':
		return false, r.word("false")
	case 'n':
		return nil, r.word("null")
	}
	return r.number()
}

func (r *reader) word(w string) error {
	if !strings.HasPrefix(r.text[r.at:], w) {
		return errJSON
	}
	r.at += len(w)
	return nil
}

func (r *reader) list(depth int) (any, error) {
	r.at++
	list := []any{}
	if r.next(']') {
		return list, nil
	}
	for {
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		switch {
		case r.next(']'):
			return list, nil
		case !r.next(','):
			return nil, errJSON
		}
	}
}

func (r *reader) object(depth int) (any, error) {
	r.at++
	m := make(map[string]any, 16)
	var seen folded
	if r.next('}') {
		return m, nil
	}
	for {
		if r.space(); r.at == len(r.text) || r.text[r.at] != '"' {
			return nil, errJSON
		}
		name, err := r.string()
		if err != nil {
			return nil, err
		}
		if !r.next(':') {
			return nil, errJSON
		}
		if !seen.add(strings.ToLower(name)) {
			r.unclean = errors.New("a claim is there twice, or two claims differ in case only")
		}
		if m[name], err = r.value(depth + 1); err != nil {
			return nil, err
		}
		switch {
		case r.next('}'):
			return m, nil
		case !r.next(','):
			return nil, errJSON
		}
	}
}

// folded is a set of names: a list while it is short, as it nearly always is.
type folded struct {
	few  []string
	many map[string]bool
}

// add reports whether name is new.
func (f *folded) add(name string) bool {
	const short = 32
	if f.many == nil {
		if slices.Contains(f.few, name) {
			return false
		}
		if f.few = append(f.few, name); len(f.few) > short {
			f.many = make(map[string]bool, 2*short)
			for _, n := range f.few {
				f.many[n] = true
			}
		}
		return true
	}
	old := f.many[name]
	f.many[name] = true
	return !old
}

// string reads a string. One with an escape in it is left to the standard library.
func (r *reader) string() (string, error) {
	start := r.at
	escaped := false
	for r.at++; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; {
		case c == '"':
			r.at++
			if !escaped {
				return r.text[start+1 : r.at-1], nil
			}
			var s string
			if json.Unmarshal([]byte(r.text[start:r.at]), &s) != nil {
				return "", errJSON
			}
			if halved(r.text[start:r.at]) { // two such texts that differ would be one name in certificates (D13)
				r.unclean = errors.New("a text is not Unicode")
			}
			return s, nil
		case c < 0x20:
			return "", errJSON
		case c == '\\':
			escaped = true
			r.at++
		}
	}
	return "", errJSON
}

// halved reports whether an escape of a string (RFC 8259 §7) is one half of a surrogate pair, and the other half is not beside it. text is
// a string as JSON has it.
func halved(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		if i++; text[i] != 'u' {
			continue
		}
		first := unit(text[i-1:])
		i += 4
		if !utf16.IsSurrogate(first) {
			continue
		}
		if utf16.DecodeRune(first, unit(text[i+1:])) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// unit is the UTF-16 code unit of the escape that text begins with; 0 if it begins with another thing.
func unit(text string) rune {
	if len(text) < 6 || text[:2] != `\u` {
		return 0
	}
	n, err := strconv.ParseUint(text[2:6], 16, 16)
	if err != nil {
		return 0
	}
	return rune(n) //nolint:gosec // 16 bits
}

// number reads a number (RFC 8259 §6) as its text.
func (r *reader) number() (any, error) {
	start := r.at
	if r.at < len(r.text) && r.text[r.at] == '-' {
		r.at++
	}
	whole := r.digits()
	if whole == 0 || whole > 1 && r.text[r.at-whole] == '0' {
		return nil, errJSON
	}
	if r.at < len(r.text) && r.text[r.at] == '.' {
		r.at++
		if r.digits() == 0 {
			return nil, errJSON
		}
	}
	if r.at < len(r.text) && (r.text[r.at] == 'e' || r.text[r.at] == 'E') {
		r.at++
		if r.at < len(r.text) && (r.text[r.at] == '+' || r.text[r.at] == '-') {
			r.at++
		}
		if r.digits() == 0 {
			return nil, errJSON
		}
	}
	return json.Number(r.text[start:r.at]), nil
}

// digits skips decimal digits and counts them.
func (r *reader) digits() int {
	start := r.at
	for r.at < len(r.text) && r.text[r.at] >= '0' && r.text[r.at] <= '9' {
		r.at++
	}
	return r.at - start
}
