package tsa

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Config has the settings of a timestamp authority, without its key.
type Config struct {
	// Policy is the object identifier of the policy that every timestamp names; a request for another policy is
	// refused. Default: 1.3.6.1.4.1.57264.2.
	Policy string `yaml:"policy"`
	// Accuracy is the largest difference between the time in a timestamp, which has whole seconds, and UTC. Timestamps
	// state it. Default: 1s; with clock, 1s more than clock.max_offset.
	Accuracy time.Duration `yaml:"accuracy"`
	// Clock compares this machine's clock with time servers: no timestamps are made unless they agree. When omitted:
	// only the clocks of Certificate Transparency logs that are not in this process are compared.
	Clock *ClockConfig `yaml:"clock"`
}

// DefaultPolicy is the policy of the timestamps of Sigstore's authorities.
const DefaultPolicy = "1.3.6.1.4.1.57264.2"

// The default and the limits of [Config].Accuracy. The time in a timestamp has no fractions of a second, so that a
// smaller accuracy would be false.
const (
	DefaultAccuracy = time.Second
	maxAccuracy     = time.Minute
)

// Check finds what is wrong. Its errors are [fault.Setting] values.
func (c *Config) Check() error {
	var errs []error
	if _, err := parseOID(c.policy()); err != nil {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%q is not an object identifier", c.Policy),
			"write numbers with dots, such as "+DefaultPolicy, "policy"))
	}
	if a := c.accuracy(); a < DefaultAccuracy || a > maxAccuracy || a%time.Millisecond != 0 {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%s is not an accuracy of timestamps", a),
			"write whole milliseconds from 1s to 1m", "accuracy"))
	} else if least := c.leastAccuracy(); a < least {
		errs = append(errs,
			fault.BadSetting(fmt.Sprintf("%s is too small for clock.max_offset: the time has whole seconds, "+
				"and the clock may be wrong by max_offset", a),
				fmt.Sprintf("write %s or more, or remove accuracy", least), "accuracy"))
	}
	errs = append(errs, fault.Under(c.Clock.check(), "clock"))
	return errors.Join(errs...)
}

func (c *Config) policy() string {
	if c.Policy == "" {
		return DefaultPolicy
	}
	return c.Policy
}

func (c *Config) accuracy() time.Duration {
	if c.Accuracy == 0 {
		return c.leastAccuracy()
	}
	return c.Accuracy
}

// leastAccuracy is the accuracy of a time that is rounded down to a second, by a clock with the largest offset.
func (c *Config) leastAccuracy() time.Duration {
	if c.Clock == nil {
		return DefaultAccuracy
	}
	return DefaultAccuracy + c.Clock.maxOffset()
}

// parseOID parses an object identifier in dotted decimal notation whose numbers have at most 31 bits.
func parseOID(text string) (asn1.ObjectIdentifier, error) {
	if _, err := x509.ParseOID(text); err != nil {
		return nil, err
	}
	var out asn1.ObjectIdentifier
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return nil, err
		}
		out = append(out, int(n))
	}
	return out, nil
}
