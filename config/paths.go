package config

import (
	"cmp"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
)

// The struct tag "path" says that the value of a setting is a path, and what the path must name. [Load] makes such
// paths absolute and checks them. Files that the CA reads are watched for changes.
const (
	pathRead = "read" // a file that the CA reads and watches
	// a secret file that the CA reads and watches: its permissions are checked, and LoadPublic does not need it
	pathSecret      = "secret"
	pathWrite       = "write"        // a file that the CA creates; its directory must exist
	pathDir         = "dir"          // a directory; it need not exist
	pathOptionalDir = "optional-dir" // a directory that the CA does not require; it need not exist
	pathPattern     = "pattern"      // a pattern of [filepath.Match]; it need not match a file
)

// pathSetting is a setting with the tag "path" and a value.
type pathSetting struct {
	at   *string // the value
	path []string
	kind string // one of the values of the tag
}

// isDir reports whether the setting names a directory.
func (p pathSetting) isDir() bool { return p.kind == pathDir || p.kind == pathOptionalDir }

// isWatched reports whether a change of the content matters: neither directories nor the journal are watched.
func (p pathSetting) isWatched() bool {
	return p.kind == pathRead || p.kind == pathSecret || p.kind == pathKept
}

// pathsIn lists the settings with the tag "path" that have a value, below v, a pointer to a struct. path is the path of
// the struct in the file.
func pathsIn(v reflect.Value, path ...string) []pathSetting {
	var out []pathSetting
	collectPaths(v, path, func(p pathSetting) {
		if *p.at != "" {
			out = append(out, p)
		}
	})
	return out
}

func collectPaths(v reflect.Value, path []string, add func(pathSetting)) {
	below := func(part string) []string { return append(slices.Clone(path), part) }
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			collectPaths(v.Elem(), path, add)
		}
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			field := v.FieldByIndex(f.index)
			switch kind := v.Type().FieldByIndex(f.index).Tag.Get("path"); {
			case kind == "":
				collectPaths(field, below(f.name), add)
			case field.Kind() == reflect.String:
				add(pathSetting{field.Addr().Interface().(*string), below(f.name), kind}) //nolint:forcetypeassert // the kind
			case field.Kind() == reflect.Slice:
				for i := range field.Len() {
					at := field.Index(i).Addr().Interface().(*string) //nolint:forcetypeassert // a list of texts
					add(pathSetting{at, append(below(f.name), strconv.Itoa(i)), kind})
				}
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			collectPaths(v.Index(i), below(strconv.Itoa(i)), add)
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
		for _, k := range keys {
			entry := reflect.New(v.Type().Elem()) // an entry of a map cannot be changed in place
			entry.Elem().Set(v.MapIndex(k))
			collectPaths(entry.Elem(), below(k.String()), add)
			v.SetMapIndex(k, entry.Elem())
		}
	}
}

// absolute makes the paths in the struct that v points to absolute and returns them; dir is the directory of the file
// that the struct was read from. Patterns are made absolute, but are not returned.
func absolute(v any, dir string) []pathSetting {
	var out []pathSetting
	collectPaths(reflect.ValueOf(v), nil, func(p pathSetting) {
		if *p.at == "" {
			return
		}
		if !filepath.IsAbs(*p.at) {
			*p.at = filepath.Join(dir, *p.at)
		}
		if p.kind != pathPattern {
			out = append(out, p)
		}
	})
	return out
}
