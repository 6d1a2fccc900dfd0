package ca

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// How far before now a certificate begins, for verifiers whose clock is slow.
const (
	DefaultBackdate = 30 * time.Second
	MaxBackdate     = 40 * time.Second
)

// Config has the settings of the certificates that are issued, whichever backend holds the key.
type Config struct {
	// Backdate is how far before now the validity of a certificate begins: whole seconds, 0 to 40. Default: 30s.
	Backdate *time.Duration `yaml:"backdate"`
	// Trust has paths of PEM files with one chain each, which the trust bundle serves after the active chain. A
	// replaced chain stays in the bundle only while it is listed here.
	Trust []string `yaml:"trust" path:"read"`
	// PrecertIssuer signs precertificates with a key in the memory of this process, which the CA's key certifies for
	// that purpose only (RFC 6962 section 3.1): the CA's key signs once for each certificate, not twice. For a key that
	// is slow, or paid for by the call. Default: false.
	PrecertIssuer bool `yaml:"precert_issuer"`
}

// BackdateOrDefault returns Backdate or its default.
func (c Config) BackdateOrDefault() time.Duration {
	if c.Backdate == nil {
		return DefaultBackdate
	}
	return *c.Backdate
}

// Check validates the settings without reading a file. Its errors are [fault.Setting] values.
func (c Config) Check() error {
	var errs []error
	if b := c.BackdateOrDefault(); b < 0 || b > MaxBackdate || b%time.Second != 0 {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("backdate %s is out of range", b),
			"write whole seconds from 0s to 40s", "backdate"))
	}
	for i, path := range c.Trust {
		if path == "" {
			errs = append(errs, fault.BadSetting("empty path", "write the path of a chain in PEM or remove the entry",
				"trust", fmt.Sprint(i)))
		}
	}
	return errors.Join(errs...)
}
