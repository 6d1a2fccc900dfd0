package config

import (
	"reflect"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// The struct tag restart:"yes" says that a running process applies a setting, or a block of settings, only after a
// restart.

// needsRestart reports whether the setting at path has the tag "restart", or a block around it has.
func needsRestart(path []string) bool {
	for t := reflect.TypeFor[Config](); len(path) > 0; path = path[1:] {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return false
		}
		f := fieldsOf(t).find(path[0])
		if f == nil {
			return false
		}
		field := t.FieldByIndex(f.index)
		if field.Tag.Get("restart") == "yes" {
			return true
		}
		t = field.Type
	}
	return false
}

// KeepUntilRestart gives c the values that the settings with the tag "restart" have in running, the configuration that
// the process was started with.
func (c *Config) KeepUntilRestart(running *Config) {
	keep(reflect.ValueOf(c).Elem(), reflect.ValueOf(running).Elem())
}

func keep(to, from reflect.Value) {
	for _, f := range fieldsOf(to.Type()) {
		switch field := to.FieldByIndex(f.index); {
		case to.Type().FieldByIndex(f.index).Tag.Get("restart") == "yes":
			field.Set(from.FieldByIndex(f.index))
		case field.Kind() == reflect.Struct:
			keep(field, from.FieldByIndex(f.index))
		}
	}
}

// Restart lists the changed settings of next that a process with the configuration c applies only after a restart, with
// their positions in the file of next.
func (c *Config) Restart(next *Config) []Warning {
	old, fresh := flatten(reflect.ValueOf(*c), c.dir), flatten(reflect.ValueOf(*next), next.dir)
	var out []Warning
	keys := slices.Sorted(slices.Values(slices.Concat(sortedKeys(old), sortedKeys(fresh))))
	for _, key := range slices.Compact(keys) {
		path := strings.Split(key, "\x00")
		if old[key] == fresh[key] || !needsRestart(path) {
			continue
		}
		text := old[key] + " → " + fresh[key]
		switch {
		case old[key] == "":
			text = fresh[key] + " is new"
		case fresh[key] == "":
			text = old[key] + " was removed"
		}
		out = append(out, next.Waits(text, path...))
	}
	return out
}

// Waits returns a warning that a setting of c is applied only after a restart.
func (c *Config) Waits(text string, path ...string) Warning {
	return c.Warn(fault.BadSetting(text, "restart to apply it", path...))
}
