package config

import (
	"cmp"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
)

// The struct tag "path" of a setting says that its value is a path, and what is expected there. Paths are made
// absolute, checked by [Load], and watched as far as the CA reads them.
const (
	pathRead = "read" // a file that the CA reads and watches
	// the same, for the CA alone: its permissions are checked, and LoadPublic does not need it
	pathSecret      = "secret"
	pathWrite       = "write"        // a file that the CA makes; its directory must exist
	pathKept        = "kept"         // a file that mayfly writes and reads; it is watched, and its directory must exist
	pathDir         = "dir"          // a directory; it need not exist
	pathOptionalDir = "optional-dir" // a directory that the CA can do without; it need not exist
	pathLive        = "live"         // a file that its reader watches itself: a change is no reload
	pathLiveSecret  = "live-secret"  // the same for a secret
	pathPattern     = "pattern"      // a pattern of [filepath.Match]; the files that it matches come and go
)

// pathSetting is a setting with the tag "path" and a value.
type pathSetting struct {
	at   *string // the value
	path []string
	kind string // one of the values of the tag
}

// isDir reports whether the setting names a directory.
func (p pathSetting) isDir() bool { return p.kind == pathDir || p.kind == pathOptionalDir }

// isSecret reports whether the file is for the CA alone.
func (p pathSetting) isSecret() bool { return p.kind == pathSecret || p.kind == pathLiveSecret }

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
			entry := reflect.New(v.Type().Elem()) // an entry of a map cannot be changed in its place
			entry.Elem().Set(v.MapIndex(k))
			collectPaths(entry.Elem(), below(k.String()), add)
			v.SetMapIndex(k, entry.Elem())
		}
	}
}

// absolute makes the paths in the struct that v points to absolute and returns them; dir is the directory of the file
// that the struct was read from. Patterns are made absolute, and are not among those returned.
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
