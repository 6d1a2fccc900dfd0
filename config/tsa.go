package config

import (
	"errors"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/tsa"
)

// TSA is a timestamp authority. Exactly one key backend is set; its chain is one of "mayfly ca init --timestamping".
type TSA struct {
	backends.Table `yaml:",inline"`
	tsa.Config     `yaml:",inline"`
	// Trust are the paths of the chains, in PEM, of former timestamp authorities of this CA: verifiers need them as
	// long as signatures with their timestamps are to verify. When omitted: none.
	Trust []string `yaml:"trust" path:"read"`
}

// Check finds what is wrong without reading a file. Its errors are [fault.Setting] values.
func (t *TSA) Check() error {
	if t == nil {
		return nil
	}
	errs := []error{t.Table.Check(), t.Config.Check()}
	if name, backend := t.Selected(); backend != nil && backend.Temporary() {
		errs = append(errs, fault.BadSetting("a timestamp must verify longer than this process runs",
			"use a persistent key with a chain of \"mayfly ca init --timestamping\"", name))
	}
	return errors.Join(errs...)
}

// TSAAt returns the path, in the configuration, of a setting of the key backend of the timestamp authority.
func (c *Config) TSAAt(setting ...string) []string {
	name, _ := c.TSA.Selected()
	return append([]string{"tsa", name}, setting...)
}

// PlaceTSA completes the settings in an error of [tsa.New] with their paths in the configuration.
func (c *Config) PlaceTSA(err error) error {
	if err == nil {
		return nil
	}
	return fault.Under(c.TSA.Place(err), "tsa")
}
