// Package backends is the table of key backends. Each field of [Table] is one row: a name in the configuration and the
// settings that implement [signer.Backend]. The configuration is decoded into the table, documentation and schema are
// generated from its comments, and all code gets the configured backend from [Table.Selected].
package backends

import (
	"cmp"
	"errors"
	"reflect"
	"strings"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/ephemeral"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11"
	"github.com/mayfly-ca/mayfly/ca/signer/tink"
	"github.com/mayfly-ca/mayfly/fault"
)

// Table has one field for each key backend. Exactly one field is set.
type Table struct {
	// File is a key in a file.
	File *file.Settings `yaml:"file"`
	// KMS is a key in a key management service: AWS, Google Cloud, Azure, HashiCorp Vault or OpenBao.
	KMS *kms.Settings `yaml:"kms"`
	// PKCS11 is a key in a hardware security module, which mayfly-hsm or another signer process uses for the CA.
	PKCS11 *pkcs11.Settings `yaml:"pkcs11"`
	// Tink is a key in an encrypted Tink keyset, with a key-encryption key in a key management service.
	Tink *tink.Settings `yaml:"tink"`
	// Ephemeral, written as {}, is for trials: root and key are made at start, in memory only.
	Ephemeral *ephemeral.Settings `yaml:"ephemeral"`

	// GoogleCAS is refused: this version does not support it.
	GoogleCAS any `yaml:"googlecas"`
}

// row is one field of the table. Its backend is nil if the configuration does not set it, or this version refuses it.
type row struct {
	name    string
	set     bool
	refused bool
	backend signer.Backend
}

func (t Table) rows() []row {
	v := reflect.ValueOf(t)
	out := make([]row, 0, v.NumField())
	for i := range v.NumField() {
		r := row{
			name: v.Type().Field(i).Tag.Get("yaml"), set: !v.Field(i).IsNil(),
			refused: v.Field(i).Kind() == reflect.Interface,
		}
		if r.set && !r.refused {
			r.backend = v.Field(i).Interface().(signer.Backend) //nolint:forcetypeassert // a test checks every field
		}
		out = append(out, r)
	}
	return out
}

// Selected returns the backend that is set and its name in the configuration. It returns nil if none or more than one
// is set.
func (t Table) Selected() (name string, b signer.Backend) {
	for _, r := range t.rows() {
		if r.backend != nil {
			return r.name, r.backend
		}
	}
	return "", nil
}

// ChainFile returns the path of the chain of the selected backend; see [signer.Backend]. It is empty if no backend is
// selected.
func (t Table) ChainFile() string {
	if _, b := t.Selected(); b != nil {
		return b.ChainFile()
	}
	return ""
}

// Check validates the settings without reading a file. Its errors are [fault.Setting] values.
func (t Table) Check() error {
	var errs []error
	var known []string
	set := 0
	for _, r := range t.rows() {
		if !r.refused {
			known = append(known, r.name)
		}
	}
	for _, r := range t.rows() {
		if !r.set {
			continue
		}
		set++
		if r.refused {
			errs = append(errs, fault.BadSetting("this version does not have the key backend "+r.name, "use one of "+
				strings.Join(known, ", "), r.name))
			continue
		}
		errs = append(errs, fault.Under(r.backend.Check(), r.name))
	}
	switch {
	case set == 0:
		errs = append(errs, fault.BadSetting("the key backend is missing", "write one of "+strings.Join(known, ", ")+
			"; ephemeral: {} is for trials"))
	case set > 1:
		errs = append(errs, fault.BadSetting("more than one key backend is set", "keep one"))
	}
	return errors.Join(errs...)
}

// CheckKey is [Table.Check] for a key that no chain belongs to, such as that of a log. A setting of the chain, and a
// key that is lost when the process ends, are refused.
func (t Table) CheckKey() error {
	var errs []error
	withoutChain(t.Check(), func(err error) { errs = append(errs, err) })
	if name, b := t.Selected(); b != nil && b.Temporary() {
		errs = append(errs, fault.BadSetting("the key is lost when the process ends", "use a persistent key", name))
	} else if t.ChainFile() != "" {
		errs = append(errs, fault.BadSetting("this key has no chain", "remove the setting", name, "chain"))
	}
	return errors.Join(errs...)
}

// withoutChain passes on each error that is not about the setting of the chain.
func withoutChain(err error, each func(error)) {
	var s *fault.Setting
	switch all := err.(type) { //nolint:errorlint // it walks the tree of errors
	case nil:
	case interface{ Unwrap() []error }:
		for _, one := range all.Unwrap() {
			withoutChain(one, each)
		}
	default:
		if !errors.As(err, &s) || len(s.Path) == 0 || s.Path[len(s.Path)-1] != "chain" {
			each(err)
		}
	}
}

// Place prepends the block of the backend to the paths in an error of [ca.New] that concern the key or the chain.
func (t Table) Place(err error) error {
	var s *fault.Setting
	if name, _ := t.Selected(); errors.As(err, &s) && len(s.Path) == 1 && (s.Path[0] == "chain" || s.Path[0] == "key") {
		return fault.Under(s, cmp.Or(name, "file"))
	}
	return err
}
