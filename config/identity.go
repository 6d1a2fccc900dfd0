package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/oidc"
)

// LoadIdentity reads an issuer file: the file at path, or the one that it names if it is a configuration. main is nil where
// path is the issuer file itself. The rest of a configuration is decoded and not checked: keys and chains need not be there.
func LoadIdentity(path string) (issuers *oidc.Config, main *Config, err error) {
	l := &loader{config: &Config{}, path: path}
	src, p := readSource(path, path, "name a configuration or an issuer file")
	if p != nil {
		return nil, nil, Problems{*p}
	}
	if !isIssuerFile(src) {
		l.main = decode(src, l.config, false)
		if len(l.main.problems) > 0 {
			return nil, nil, l.result()
		}
		dir, err := filepath.Abs(filepath.Dir(path))
		if err != nil {
			return nil, nil, err
		}
		l.absolute(dir)
		main = l.config
		l.loadIssuers()
	} else {
		l.issuers = decode(src, &l.config.Issuers, true)
		file, err := filepath.Abs(path)
		if err != nil {
			return nil, nil, err
		}
		l.checkIssuers(filepath.Dir(file))
	}
	if err := l.result(); err != nil {
		return nil, nil, err
	}
	return &l.config.Issuers, main, nil
}

// isIssuerFile looks at the keys of the document. What cannot be read at all is taken for a configuration.
func isIssuerFile(src source) bool {
	root, p := src.parse()
	if p != nil || root.Kind != yaml.MappingNode {
		return false
	}
	known := fieldsOf(reflect.TypeFor[oidc.Config]())
	for i := 0; i < len(root.Content); i += 2 {
		if known.find(target(root.Content[i]).Value) != nil {
			return true
		}
	}
	return false
}

// Change is one setting that differs between two issuer files. "" means that the setting is not there.
type Change struct {
	Entry    string `json:"entry"` // "oidc-issuers https://…"
	Key      string `json:"key"`   // "client-id"; "" where the whole entry comes or goes
	Old, New string
}

// Diff lists the settings that differ between two issuer files, sorted by entry and key.
func Diff(before, after oidc.Config) []Change {
	old, fresh := flatten(before), flatten(after)
	seen := map[string]bool{}
	var out []Change
	for _, path := range slices.Concat(sortedKeys(old), sortedKeys(fresh)) {
		if seen[path] || old[path] == fresh[path] {
			continue
		}
		seen[path] = true
		parts := strings.SplitN(path, "\x00", 3)
		c := Change{Entry: strings.Join(parts[:min(2, len(parts))], " "), Old: old[path], New: fresh[path]}
		if len(parts) == 3 {
			c.Key = strings.ReplaceAll(parts[2], "\x00", ".")
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Entry+"\x00"+a.Key, b.Entry+"\x00"+b.Key) })
	return out
}

// flatten lists every setting of c by its path, joined by NUL.
func flatten(c oidc.Config) map[string]string {
	out := map[string]string{}
	walkSettings(reflect.ValueOf(c), nil, func(path []string, text string) { out[pathKey(path)] = text })
	return out
}

// walkSettings calls f for every setting that is set: texts, numbers, lists of them.
func walkSettings(v reflect.Value, path []string, f func([]string, string)) {
	if !v.IsValid() || v.IsZero() && v.Kind() != reflect.Bool {
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.Elem().Kind() == reflect.Bool {
			f(path, printed(v.Elem()))
			return
		}
		walkSettings(v.Elem(), path, f)
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
		for i := range v.Len() {
			at := append(slices.Clone(path), printed(reflect.ValueOf(i)))
			if name := v.Index(i); name.Kind() == reflect.Struct && name.FieldByName("Name").IsValid() && name.FieldByName("Name").String() != "" {
				at[len(at)-1] = name.FieldByName("Name").String()
			}
			walkSettings(v.Index(i), at, f)
		}
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
