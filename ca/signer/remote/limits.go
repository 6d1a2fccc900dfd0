package remote

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Limits are the settings of a guard.
type Limits struct {
	// Timeout bounds one signature, including all attempts and the wait in the queue: 100ms to 10s. An attempt gets at
	// most half of it. Default: 4s.
	Timeout *time.Duration `yaml:"timeout"`
	// Attempts is the maximum number of attempts of a call that fails temporarily: 1 to 10. Default: 3.
	Attempts int `yaml:"attempts"`
	// Concurrent is the maximum number of calls that run at once: 1 to 1024. Default: 64.
	Concurrent int `yaml:"concurrent"`
}

const (
	defaultTimeout    = 4 * time.Second
	minTimeout        = 100 * time.Millisecond
	maxTimeout        = 10 * time.Second
	defaultAttempts   = 3
	maxAttempts       = 10
	defaultConcurrent = 64
	maxConcurrent     = 1024

	queueFactor = 16  // maximum length of the queue, for each call that may run at once
	minQueue    = 256 // minimum length of the queue, for a device that makes one signature at a time
)

// Check finds what is wrong with the limits. Its errors are [fault.Setting] values.
func (l Limits) Check() error {
	var errs []error
	if t := l.Timeout; t != nil && (*t < minTimeout || *t > maxTimeout) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("timeout %s is out of range", *t),
			fmt.Sprintf("write %s to %s", minTimeout, maxTimeout), "timeout"))
	}
	if l.Attempts < 0 || l.Attempts > maxAttempts {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("attempts %d is out of range", l.Attempts),
			fmt.Sprintf("write 1 to %d", maxAttempts), "attempts"))
	}
	if l.Concurrent < 0 || l.Concurrent > maxConcurrent {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("concurrent %d is out of range", l.Concurrent),
			fmt.Sprintf("write 1 to %d", maxConcurrent), "concurrent"))
	}
	return errors.Join(errs...)
}

// settled are limits with the defaults filled in.
type settled struct {
	timeout, attempt     time.Duration
	attempts, concurrent int
	queue                int64
}

func (l Limits) settle() settled {
	s := settled{timeout: defaultTimeout, attempts: l.Attempts, concurrent: l.Concurrent}
	if l.Timeout != nil {
		s.timeout = *l.Timeout
	}
	if s.attempts == 0 {
		s.attempts = defaultAttempts
	}
	if s.concurrent == 0 {
		s.concurrent = defaultConcurrent
	}
	s.attempt = s.timeout / 2
	s.queue = int64(max(minQueue, queueFactor*s.concurrent))
	return s
}
