package canary

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// The interval between runs.
const (
	DefaultInterval = time.Minute
	MinInterval     = 10 * time.Second
	MaxInterval     = 24 * time.Hour
)

// Config says how often the whole path is tried.
type Config struct {
	// Interval is the time between two runs, 10s to 24h; each run is up to a tenth of the interval early or late, so
	// that replicas do not run at the same moment. Each run puts one precertificate into as many logs as ct.policy
	// requires. Default: 1m.
	Interval *time.Duration `yaml:"interval"`
}

// Period returns the interval, or its default; 0 for a nil Config: there are no runs.
func (c *Config) Period() time.Duration {
	switch {
	case c == nil:
		return 0
	case c.Interval == nil:
		return DefaultInterval
	}
	return *c.Interval
}

// Check finds what is wrong with c. withoutLogs says that certificates are issued without logs. Its errors are
// [fault.Setting] values.
func (c *Config) Check(withoutLogs bool) error {
	if c == nil {
		return nil
	}
	var errs []error
	if p := c.Period(); p < MinInterval || p > MaxInterval {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("interval %s is out of range", p),
			"write a duration from 10s to 24h", "interval"))
	}
	if withoutLogs {
		errs = append(errs, fault.BadSetting("a canary needs a transparency log, and ct.none is set",
			"remove canary, or name a log"))
	}
	return errors.Join(errs...)
}
