package config

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/oidc"
)

// Change is a setting that differs between two issuer files. "" means that the setting does not exist.
type Change struct {
	Entry    string `json:"entry"` // "oidc-issuers https://…"
	Key      string `json:"key"`   // "client-id"; "" if the whole entry was added or removed
	Old, New string
	// Restart reports whether a running process applies the change only after a restart.
	Restart bool `json:"restart,omitempty"`
}

// Diff lists the settings that differ between two issuer files, sorted by entry and key.
func Diff(before, after oidc.Config) []Change {
	return differences(flatten(reflect.ValueOf(before), ""), flatten(reflect.ValueOf(after), ""), 2)
}

// DiffMain lists the settings that differ between two configurations, without their issuer files. Paths below the
// directory of a configuration file are compared relative to it.
func DiffMain(before, after *Config) []Change {
	out := differences(flatten(reflect.ValueOf(*before), before.dir), flatten(reflect.ValueOf(*after), after.dir), 1)
	for i, c := range out {
		out[i].Restart = needsRestart(strings.Split(c.Entry+"."+c.Key, "."))
	}
	return out
}

// differences compares two sets of settings. The first parts of a path are the entry, the rest is the key.
func differences(old, fresh map[string]string, parts int) []Change {
	seen := map[string]bool{}
	var out []Change
	for _, path := range slices.Concat(sortedKeys(old), sortedKeys(fresh)) {
		if seen[path] || old[path] == fresh[path] {
			continue
		}
		seen[path] = true
		split := strings.SplitN(path, "\x00", parts+1)
		c := Change{Entry: strings.Join(split[:min(parts, len(split))], " "), Old: old[path], New: fresh[path]}
		if len(split) > parts {
			c.Key = strings.ReplaceAll(split[parts], "\x00", ".")
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Entry+"\x00"+a.Key, b.Entry+"\x00"+b.Key) })
	return out
}

// flatten returns every setting by its path, joined by NUL. dir is removed from the start of values.
func flatten(v reflect.Value, dir string) map[string]string {
	out := map[string]string{}
	walkSettings(v, nil, func(path []string, text string) {
		if dir != "" {
			text = strings.TrimPrefix(text, dir+string(filepath.Separator))
		}
		out[pathKey(path)] = text
	})
	return out
}

// walkSettings calls f for every setting that has a value: strings, numbers, and lists of them.
func walkSettings(v reflect.Value, path []string, f func([]string, string)) {
	if !v.IsValid() || v.IsZero() && v.Kind() != reflect.Bool && v.Kind() != reflect.String {
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		switch e := v.Elem(); {
		case e.Kind() == reflect.Struct && e.IsZero():
			f(path, "{}")
		case e.Kind() == reflect.Bool, e.CanInt() && e.IsZero(): // set explicitly, although zero
			f(path, printed(e))
		default:
			walkSettings(e, path, f)
		}
	case reflect.Struct:
		for _, one := range fieldsOf(v.Type()) {
			if field := v.FieldByIndex(one.index); !one.any && !field.IsZero() {
				walkSettings(field, append(slices.Clone(path), one.name), f)
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			if v.MapIndex(k).Kind() == reflect.Struct {
				f(append(slices.Clone(path), k.String()), "present")
			}
			walkSettings(v.MapIndex(k), append(slices.Clone(path), k.String()), f)
		}
	case reflect.Slice:
		if v.Len() == 0 {
			f(path, "[]")
		}
		for i := range v.Len() {
			at := append(slices.Clone(path), printed(reflect.ValueOf(i)))
			if name := v.Index(i); name.Kind() == reflect.Struct && name.FieldByName("Name").IsValid() &&
				name.FieldByName("Name").String() != "" {
				at[len(at)-1] = name.FieldByName("Name").String()
			}
			walkSettings(v.Index(i), at, f)
		}
	case reflect.String:
		f(path, cmp.Or(v.String(), `""`))
	default:
		f(path, printed(v))
	}
}

func printed(v reflect.Value) string {
	if v.Type() == durationType {
		return time.Duration(v.Int()).String()
	}
	return fmt.Sprint(v.Interface())
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
