package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/rotation"
)

// CA says where the CA's key is and which chains verifiers may need. Exactly one key backend is set, or Chains.
type CA struct {
	backends.Table `yaml:",inline"`
	ca.Config      `yaml:",inline"`
	// Chains are the chains of a CA that replaces its chain step by step (docs/rotation.md), instead of one key
	// backend. The state file says which one signs.
	Chains []Chain `yaml:"chains"`
	// State is the path of the state file of chains, which "mayfly ca rotate" and the CA write. Instances of one CA
	// share it. With one chain it is made at the first start.
	State string `yaml:"state" path:"kept"`
	// Rotation has the settings of the replacement of chains.
	Rotation Rotation `yaml:"rotation"`

	selected *Chain // nil: the first of Chains, or the table
}

// Chain is one of several chains: a name, and exactly one key backend.
type Chain struct {
	// Name identifies the chain in the state file, in commands and in messages. It is not changed later.
	Name string `yaml:"name"`

	backends.Table `yaml:",inline"`
}

// Rotation has the settings of the replacement of chains.
type Rotation struct {
	rotation.Config `yaml:",inline"`
	// Renew is for a CA that makes its next issuing certificate by itself. When omitted: an operator makes it.
	Renew *Renew `yaml:"renew"`
}

// Renew has the settings of issuing certificates that the CA makes by itself.
type Renew struct {
	// Parent is the key that signs new issuing certificates, with its chain. Exactly one key backend is set.
	Parent backends.Table `yaml:"parent"`

	rotation.RenewConfig `yaml:",inline"`
	// Password encrypts the keys that are made. When omitted: they are not encrypted.
	Password *secret.Source `yaml:"password"`
}

// Check finds what is wrong without reading a file. Its errors are [fault.Setting] values.
func (c CA) Check() error {
	errs := []error{c.Config.Check(), fault.Under(c.Rotation.check(), "rotation")}
	if len(c.Chains) == 0 {
		errs = append(errs, c.Table.Check())
		if c.State != "" {
			errs = append(errs, fault.BadSetting("state is set, but chains is not",
				"write chains, each with a name and a key backend, or remove state", "state"))
		}
		if c.Rotation.Renew != nil {
			errs = append(errs, fault.BadSetting("automatic rotation needs named chains",
				"write chains and state", "rotation", "renew"))
		}
		return errors.Join(errs...)
	}
	if name, backend := c.Table.Selected(); backend != nil {
		errs = append(errs, c.Table.Check(),
			fault.BadSetting("both a key backend and chains are set",
				"move the key backend into chains, with a name", name))
	}
	for i, one := range c.Chains {
		errs = append(errs, fault.Under(c.checkChain(i, one), "chains", strconv.Itoa(i)))
		if name, backend := one.Selected(); c.Rotation.Renew != nil && backend != nil && name != fileBackend {
			errs = append(errs,
				fault.BadSetting(fmt.Sprintf("the key of chain %q is in ca.%s, and new keys are made in "+
					"files only", one.Name, name), "remove renew, make each new key in ca."+name+" and follow "+
					"docs/rotation.md; or rotate to a chain with ca.file first", "rotation", "renew"))
		}
	}
	if c.State == "" && (len(c.Chains) > 1 || c.Rotation.Renew != nil) {
		errs = append(errs, fault.BadSetting("state is missing, so the chain that signs is unknown",
			"write the path of a state file in ca.state", "chains"))
	}
	return errors.Join(errs...)
}

// fileBackend is the name of the one key backend in which the CA makes keys: with a KMS or a hardware module, the
// credential of the CA would have to allow the making of keys.
const fileBackend = "file"

func (c CA) checkChain(i int, one Chain) error {
	var errs []error
	if err := rotation.CheckName(one.Name); err != nil {
		errs = append(errs, fault.BadSetting(err.Error(), "", "name"))
	}
	if slices.ContainsFunc(c.Chains[:i], func(o Chain) bool { return o.Name == one.Name }) {
		errs = append(errs, fault.BadSetting(strconv.Quote(one.Name)+" is also the name of another chain",
			"write another name", "name"))
	}
	errs = append(errs, one.Table.Check())
	if name, backend := one.Selected(); backend != nil && backend.Temporary() {
		errs = append(errs, fault.BadSetting("a key that is lost when the process ends cannot be rotated",
			"use a persistent key", name))
	}
	return errors.Join(errs...)
}

func (r Rotation) check() error {
	errs := []error{r.Config.Check()}
	if r.Renew == nil {
		return errors.Join(errs...)
	}
	errs = append(errs, fault.Under(r.Renew.RenewConfig.Check(r.Policy()), "renew"),
		fault.Under(r.Renew.Parent.Check(), "renew", "parent"),
		fault.Under(r.Renew.Password.Check(), "renew", "password"))
	if name, backend := r.Renew.Parent.Selected(); backend != nil && backend.Temporary() {
		errs = append(errs, fault.BadSetting("a key that is lost when the process ends cannot be a parent",
			"use a persistent key", "renew", "parent", name))
	}
	return errors.Join(errs...)
}

// Named returns the chain of a name: one of Chains, or one that the CA made itself, if managed.
func (c *CA) Named(name string, managed bool) (Chain, bool) {
	if managed {
		r := c.Rotation.Renew
		if r == nil {
			return Chain{}, false
		}
		dir := filepath.Join(r.Dir, name)
		return Chain{Name: name, Table: backends.Table{File: &file.Settings{
			Chain: filepath.Join(dir, "chain.pem"), Key: filepath.Join(dir, "ca-key.pem"), Password: r.Password,
		}}}, true
	}
	i := slices.IndexFunc(c.Chains, func(o Chain) bool { return o.Name == name })
	if i < 0 {
		return Chain{}, false
	}
	return c.Chains[i], true
}

// PlaceOf returns the path, in the configuration, of a setting of the backend of a chain.
func (c *CA) PlaceOf(chain Chain, setting ...string) []string {
	at := []string{"ca"}
	backend, _ := chain.Selected()
	if i := slices.IndexFunc(c.Chains, func(o Chain) bool { return o.Name == chain.Name }); i >= 0 {
		at = append(at, "chains", strconv.Itoa(i), backend)
	} else if len(c.Chains) > 0 {
		return append(at, "rotation", "renew", "dir")
	} else {
		at = append(at, backend)
	}
	return append(at, setting...)
}

// Select makes one the chain that signs.
func (c *CA) Select(one Chain) { c.selected = &one }

// Signing returns the chain that signs: that of [CA.Select]; before a call of it, the first of Chains, or the one key
// backend, with an empty name.
func (c *CA) Signing() Chain {
	switch {
	case c.selected != nil:
		return *c.selected
	case len(c.Chains) > 0:
		return c.Chains[0]
	}
	return Chain{Table: c.Table}
}

// Selected returns the backend of the chain that signs, and its name in the configuration. It returns nil if there is
// none, which [CA.Check] refuses.
func (c *CA) Selected() (name string, b signer.Backend) { return c.Signing().Selected() }

// At returns the path, in the configuration, of a setting of the backend of the chain that signs.
func (c *CA) At(setting ...string) []string { return c.PlaceOf(c.Signing(), setting...) }

// Place completes the settings in an error of [ca.New] with their paths in the configuration and the names of the
// files.
func (c *CA) Place(err error) error {
	one, prefix := c.Signing(), []string{"ca"}
	if i := slices.IndexFunc(c.Chains, func(o Chain) bool { return o.Name == one.Name }); i >= 0 {
		prefix = append(prefix, "chains", strconv.Itoa(i))
	}
	if placed := one.Table.Place(err); placed != err { //nolint:errorlint // whether it is about the key or the chain
		err = fault.Under(placed, prefix...)
	} else {
		err = fault.Under(err, "ca")
	}
	var s *fault.Setting
	if !errors.As(err, &s) || s.File != "" {
		return err
	}
	named := *s
	for _, p := range pathsIn(reflect.ValueOf(c), "ca") {
		if slices.Equal(p.path, s.Path) {
			named.File = *p.at
		}
	}
	return &named
}
