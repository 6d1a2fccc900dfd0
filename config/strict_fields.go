package config

import (
	"reflect"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/spelling"
)

// field is one key of a block.
type field struct {
	name  string // the tag yaml
	alias string // the tag alias, a second spelling; may be empty
	any   bool   // accepted and ignored
	gap   bool   // an empty value is allowed
	index []int
}

// fields are the keys of a block in the order of the struct.
type fields []field

// fieldsOf reads the struct tags of type t. A field without the tag yaml cannot be set in a file.
func fieldsOf(t reflect.Type) fields {
	var out fields
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" {
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				out = append(out, inner)
			}
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		out = append(out, field{
			name: name, alias: f.Tag.Get("alias"), any: options == "any",
			gap: options == "gap", index: []int{i},
		})
	}
	return out
}

// find returns the field of a key, or nil.
func (fs fields) find(key string) *field {
	for i := range fs {
		if fs[i].name == key || fs[i].alias != "" && strings.EqualFold(fs[i].alias, key) {
			return &fs[i]
		}
	}
	return nil
}

func (fs fields) names() []string {
	out := make([]string, 0, len(fs))
	for _, f := range fs {
		if !f.any {
			out = append(out, f.name)
		}
	}
	return out
}

// nearest returns the known key that is most similar to key, or "".
func (fs fields) nearest(key string) string {
	best, distance := "", max(2, len(key)/3)+1
	for _, f := range fs {
		if f.any {
			continue
		}
		for _, name := range []string{f.name, f.alias} {
			if name == "" {
				continue
			}
			if d := spelling.Distance(plainKey(key), plainKey(name)); d < distance && d < len(name) {
				best, distance = f.name, d
			}
		}
	}
	return best
}

// plainKey removes the differences between spellings of one key.
func plainKey(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "", " ", "", ".", "").Replace(s))
}
