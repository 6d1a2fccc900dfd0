package ctlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// Defaults of the policy.
const (
	defaultParallel = 2
	defaultStagger  = 500 * time.Millisecond
	defaultAttempt  = 4 * time.Second
	defaultBudget   = 12 * time.Second
	minStagger      = 10 * time.Millisecond
	minAttempt      = 100 * time.Millisecond
	maxBudget       = 20 * time.Second // of a whole request
)

// PolicyConfig says which SCTs a certificate needs, and how logs are tried.
type PolicyConfig struct {
	// MinSCTs is the number of SCTs that a certificate needs, each of a different log. Default: 1.
	MinSCTs int `yaml:"min_scts"`
	// MinOperators is how many different operators must have issued these SCTs; a log without an operator counts as
	// having one of its own. Default: 1.
	MinOperators int `yaml:"min_operators"`
	// Parallel is how many logs are tried at once; the first answers count. Default: 2, or min_scts if that is more.
	Parallel int `yaml:"parallel"`
	// Stagger is how long to wait for an answer before another log is tried. After an error, another log is tried at
	// once. Default: 500ms.
	Stagger time.Duration `yaml:"stagger"`
	// Attempt bounds one attempt at one log. Default: 4s.
	Attempt time.Duration `yaml:"attempt"`
	// Budget bounds all attempts for one certificate, less than 20s. Default: 12s.
	Budget time.Duration `yaml:"budget"`
	// TrustedRoot is the path of the published trusted_root.json. If it is set, a log that the file does not list may
	// not have embed: true.
	TrustedRoot string `yaml:"trusted_root" path:"read"`
}

// withDefaults returns c with a value in every field but TrustedRoot.
func (c PolicyConfig) withDefaults() PolicyConfig {
	c.MinSCTs, c.MinOperators = max(c.MinSCTs, 1), max(c.MinOperators, 1)
	if c.Parallel == 0 {
		c.Parallel = max(defaultParallel, c.MinSCTs)
	}
	for _, one := range []struct {
		at       *time.Duration
		fallback time.Duration
	}{{&c.Attempt, defaultAttempt}, {&c.Budget, defaultBudget}, {&c.Stagger, defaultStagger}} {
		if *one.at == 0 {
			*one.at = one.fallback
		}
	}
	return c
}

// AttemptOrDefault returns the time limit of one attempt.
func (c PolicyConfig) AttemptOrDefault() time.Duration { return c.withDefaults().Attempt }

// Check validates c on its own; [PolicyConfig.CheckFor] compares it with the logs.
func (c PolicyConfig) Check() error {
	var errs []error
	bad := func(key, fix, problem string, args ...any) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf(problem, args...), fix, key))
	}
	full := c.withDefaults()
	if c.MinSCTs < 0 {
		bad("min_scts", "write 1 or more", "invalid number of SCTs: %d", c.MinSCTs)
	}
	switch {
	case c.MinOperators < 0:
		bad("min_operators", "write 1 or more", "invalid number of operators: %d", c.MinOperators)
	case c.MinOperators > full.MinSCTs:
		bad("min_operators", "lower it, or raise min_scts", "%d SCTs cannot come from %d operators",
			full.MinSCTs, c.MinOperators)
	}
	if c.Parallel < 0 || c.Parallel != 0 && c.Parallel < full.MinSCTs {
		bad("parallel", "write at least min_scts, or omit parallel",
			"%d logs at once cannot return %d SCTs", c.Parallel,
			full.MinSCTs)
	}
	if full.Budget < 0 || full.Budget >= maxBudget {
		bad("budget", "write less than 20s, such as 12s", "%s is not between 0 and %s, the limit of a request",
			c.Budget, maxBudget)
	}
	if full.Attempt < minAttempt || full.Attempt > full.Budget {
		bad("attempt", "write 100ms to budget, such as 4s", "an attempt of %s does not fit into a budget of %s",
			full.Attempt, full.Budget)
	}
	if full.Stagger < minStagger {
		bad("stagger", "write 10ms or more, such as 500ms", "%s is too short", c.Stagger)
	}
	return errors.Join(errs...)
}

// Slot is the part of a log's description that the policy uses.
type Slot struct {
	Name, Operator string
	Embed          bool
}

// operator identifies the operator of the log. A log without one counts as having an operator of its own.
func (s Slot) operator() string {
	if s.Operator == "" {
		return "\x00" + s.Name // cannot be the name of an operator
	}
	return s.Operator
}

// CheckFor returns a [fault.Setting] if the logs can never meet the policy. Check MUST have found no mistake.
func (c PolicyConfig) CheckFor(slots []Slot) error {
	full := c.withDefaults()
	logs, detached, operators := 0, 0, map[string]bool{}
	for _, s := range slots {
		if !s.Embed {
			detached++
			continue
		}
		logs++
		operators[s.operator()] = true
	}
	except := ""
	if detached > 0 {
		except = fmt.Sprintf(" (%d with embed: false not counted)", detached)
	}
	switch {
	case full.MinSCTs > logs:
		if c.MinSCTs <= 1 { // the list of logs is wrong, not the policy
			return fault.BadSetting("no log's SCT may be embedded in a certificate"+except,
				"name a log whose key is published, without embed: false")
		}
		return fault.BadSetting(fmt.Sprintf("%d SCTs are required, each from a different log, but there are %d logs%s",
			c.MinSCTs, logs, except),
			"name more logs, or require fewer SCTs", "min_scts")
	case full.MinOperators > len(operators):
		return fault.BadSetting(fmt.Sprintf("SCTs from %d operators are required, but the logs have %d operators%s",
			c.MinOperators,
			len(operators), except), "name logs of more operators, or require fewer", "min_operators")
	}
	return nil
}
