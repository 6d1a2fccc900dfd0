// Package rotation replaces the issuing chain of a CA step by step, so that verifiers have each chain before they get a
// certificate under it. It implements the states of a chain, the gates between them, and the state file.
//
// A chain is prepared, published, accepted, active, retiring and retired, in this order. It can become compromised in
// every state. Only the active chain signs. [State] is a value: each transition returns another State or an error, and
// reads neither a clock nor a file. Observations of logs and published files are passed as [Facts].
//
// Every State that this package returns or writes MUST have exactly one active chain, or none after the active chain
// was compromised without a successor. A chain MUST NOT become active while a gate is closed, unless an operator gives
// a reason, which the history records. [File] writes a State completely or not at all, under a lock.
package rotation

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/human"
)

// The defaults of the settings.
const (
	DefaultPropagation = 48 * time.Hour
	DefaultKeep        = 24 * time.Hour
)

// Config has the settings of a rotation.
type Config struct {
	// Propagation is how long a new chain must have been in the trust bundle, the trusted root and the TUF repository
	// before it signs: the time within which verifiers fetch trust material. Default: 48h.
	Propagation *time.Duration `yaml:"propagation"`
	// Keep is how long a retiring chain stays in the trust bundle: at least 1h. Within that time, every instance must
	// have changed to the new chain, and the last certificate of the old chain must have expired. Its validity in the
	// trusted root ends after that time. Default: 24h.
	Keep *time.Duration `yaml:"keep"`
}

// minKeep leaves 50 minutes for instances that read the state file late, and 10 minutes for their last certificates.
const minKeep = time.Hour

// Policy is a Config with the defaults filled in.
type Policy struct{ Propagation, Keep time.Duration }

// Policy returns the settings with their defaults.
func (c Config) Policy() Policy {
	p := Policy{DefaultPropagation, DefaultKeep}
	if c.Propagation != nil {
		p.Propagation = *c.Propagation
	}
	if c.Keep != nil {
		p.Keep = *c.Keep
	}
	return p
}

// Check finds what is wrong. Its errors are [fault.Setting] values.
func (c Config) Check() error {
	var errs []error
	p := c.Policy()
	if p.Propagation < 0 || p.Propagation > 365*24*time.Hour {
		errs = append(errs, fault.BadSetting("propagation "+p.Propagation.String()+" is out of range",
			"write 0s to 8760h", "propagation"))
	}
	if p.Keep < minKeep || p.Keep > 365*24*time.Hour {
		errs = append(errs, fault.BadSetting("keep "+p.Keep.String()+" is out of range",
			"write 1h to 8760h", "keep"))
	}
	return errors.Join(errs...)
}

// Warnings returns warnings about settings that are allowed but unwise.
func (c Config) Warnings() []*fault.Setting {
	if p := c.Policy(); p.Propagation < time.Hour {
		return []*fault.Setting{fault.BadSetting(fmt.Sprintf("a new chain may sign %s after it was published, and most "+
			"verifiers fetch trust material once a day", human.Duration(p.Propagation)),
			"write 24h or more for a CA that others rely on", "propagation")}
	}
	return nil
}

// RenewConfig has the settings of the automatic renewal of the issuing certificate.
type RenewConfig struct {
	// Dir is the directory in which the CA keeps the keys and chains that it makes.
	Dir string `yaml:"dir" path:"dir"`
	// At is the share of the validity of the active issuing certificate after which the next one is made: a number from
	// 0.1 to 0.9. Default: 0.66.
	At float64 `yaml:"at"`
	// Life is how long a new issuing certificate is valid. It expires no later than its parent. Default: 8760h.
	Life *time.Duration `yaml:"life"`
}

// The defaults of [RenewConfig].
const (
	defaultAt   = 0.66
	defaultLife = 365 * 24 * time.Hour
	minLife     = 10 * time.Minute
)

// AtOrDefault returns At or its default.
func (c RenewConfig) AtOrDefault() float64 {
	if c.At == 0 {
		return defaultAt
	}
	return c.At
}

// LifeOrDefault returns Life or its default.
func (c RenewConfig) LifeOrDefault() time.Duration {
	if c.Life == nil {
		return defaultLife
	}
	return *c.Life
}

// Check finds what is wrong. Its errors are [fault.Setting] values. p determines the time between the creation of a
// chain and its first certificate.
func (c RenewConfig) Check(p Policy) error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, fault.BadSetting("dir is missing",
			"write a directory for the CA's new keys and chains, accessible to the CA only", "dir"))
	}
	if at := c.AtOrDefault(); at < .1 || at > .9 {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%v is not a fraction of the lifetime", at),
			"write a number from 0.1 to 0.9", "at"))
		return errors.Join(errs...)
	}
	life := c.LifeOrDefault()
	left := time.Duration(float64(life) * (1 - c.AtOrDefault()))
	switch {
	case life < minLife+ca.Validity:
		errs = append(errs, fault.BadSetting("life "+life.String()+" is too short", "write 20m or more", "life"))
	case left <= p.Propagation+ca.Validity:
		errs = append(errs, fault.BadSetting(fmt.Sprintf("a chain is renewed %s before its end, and the next one must "+
			"be published for %s first", human.Duration(left), human.Duration(p.Propagation)),
			"write a longer life or a smaller at", "life"))
	}
	return errors.Join(errs...)
}

// Due reports whether it is time to make the next issuing certificate.
func (c RenewConfig) Due(active Chain, now time.Time) bool {
	cert := active.Certificates()[0]
	life := cert.NotAfter.Sub(cert.NotBefore)
	return !now.Before(cert.NotBefore.Add(time.Duration(float64(life) * c.AtOrDefault())))
}
