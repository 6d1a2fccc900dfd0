package backends_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/ca/signer/ephemeral"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
)

// Each row is a backend, or a name that this version refuses.
func TestRows(t *testing.T) {
	t.Parallel()
	table := reflect.TypeFor[backends.Table]()
	for i := range table.NumField() {
		f := table.Field(i)
		if f.Type.Kind() != reflect.Interface &&
			(f.Type.Kind() != reflect.Pointer || !f.Type.Implements(reflect.TypeFor[signer.Backend]())) {
			t.Errorf("%s is not a pointer to settings that implement signer.Backend", f.Name)
		}
		if name := f.Tag.Get("yaml"); name == "" || strings.Contains(name, ",") {
			t.Errorf("%s: the tag yaml is %q", f.Name, name)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	whole := &file.Settings{Chain: "c", Key: "k"}
	for name, c := range map[string]struct {
		table    backends.Table
		selected string
		err      string // a part of it
	}{
		"none": {
			backends.Table{},
			"",
			"the key backend is missing; write one of file, kms, pkcs11, tink, ephemeral",
		},
		"file":      {backends.Table{File: whole}, "file", ""},
		"ephemeral": {backends.Table{Ephemeral: &ephemeral.Settings{}}, "ephemeral", ""},
		"two": {
			backends.Table{File: whole, Ephemeral: &ephemeral.Settings{}},
			"file",
			"more than one key backend",
		},
		"refused": {
			backends.Table{GoogleCAS: map[string]any{}},
			"",
			"googlecas: this version does not have the key backend googlecas",
		},
		"one a refused": {backends.Table{File: whole, GoogleCAS: "x"}, "file", "more than one key backend"},
		"file, empty":   {backends.Table{File: &file.Settings{}}, "file", "file.chain: chain is missing"},
	} {
		err := c.table.Check()
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", name, err)
		}
		if selected, b := c.table.Selected(); selected != c.selected || (b == nil) != (selected == "") {
			t.Errorf("%s: %q, %v", name, selected, b)
		}
	}
}
