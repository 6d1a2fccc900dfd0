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
	maxBudget       = 20 * time.Second // what a whole request may take
)

// PolicyConfig says which SCTs make a certificate, and how logs are asked for them.
type PolicyConfig struct {
	// MinSCTs is the number of SCTs that a certificate needs, each of another log. Default: 1.
	MinSCTs int `yaml:"min_scts"`
	// MinOperators is how many different operators these SCTs must be of; a log without operator is one of its own. Default: 1.
	MinOperators int `yaml:"min_operators"`
	// Parallel is how many logs are asked at once; the first answers count. Default: 2, or min_scts if that is more.
	Parallel int `yaml:"parallel"`
	// Stagger is how long no answer comes before one more log is asked; after an error that happens at once. Default: 500ms.
	Stagger time.Duration `yaml:"stagger"`
	// Attempt bounds one attempt at one log. Default: 4s.
	Attempt time.Duration `yaml:"attempt"`
	// Budget bounds all attempts for one certificate, less than 20s. Default: 12s.
	Budget time.Duration `yaml:"budget"`
	// TrustedRoot is the path of trusted_root.json as it is published. With it, a log that is not in it may not have embed: true.
	TrustedRoot string `yaml:"trusted_root"`
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

// AttemptOrDefault is what one attempt may take.
func (c PolicyConfig) AttemptOrDefault() time.Duration { return c.withDefaults().Attempt }

// Check finds what is wrong with c on its own; [PolicyConfig.CheckFor] compares it with the logs.
func (c PolicyConfig) Check() error {
	var errs []error
	bad := func(key, fix, problem string, args ...any) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf(problem, args...), fix, key))
	}
	full := c.withDefaults()
	if c.MinSCTs < 0 {
		bad("min_scts", "write 1 or more", "%d SCTs cannot be asked for", c.MinSCTs)
	}
	switch {
	case c.MinOperators < 0:
		bad("min_operators", "write 1 or more", "%d operators cannot be asked for", c.MinOperators)
	case c.MinOperators > full.MinSCTs:
		bad("min_operators", "lower it, or raise min_scts", "%d SCTs cannot be of %d operators", full.MinSCTs, c.MinOperators)
	}
	if c.Parallel < 0 || c.Parallel != 0 && c.Parallel < full.MinSCTs {
		bad("parallel", "write at least min_scts, or leave it out", "%d logs at once cannot give %d SCTs", c.Parallel, full.MinSCTs)
	}
	if full.Budget < 0 || full.Budget >= maxBudget {
		bad("budget", "write less than 20s, such as 12s", "%s is not between 0 and the %s that a request may take", c.Budget, maxBudget)
	}
	if full.Attempt < minAttempt || full.Attempt > full.Budget {
		bad("attempt", "write 100ms to budget, such as 4s", "an attempt of %s does not fit into a budget of %s", full.Attempt, full.Budget)
	}
	if full.Stagger < minStagger {
		bad("stagger", "write 10ms or more, such as 500ms", "%s is too short", c.Stagger)
	}
	return errors.Join(errs...)
}

// Seat is a log as a policy sees it.
type Seat struct {
	Name, Operator string
	Embed          bool
}

// operator is who answers for the log: one without operator answers for itself.
func (s Seat) operator() string {
	if s.Operator == "" {
		return "\x00" + s.Name // no operator is called like this
	}
	return s.Operator
}

// Seat returns the log as a policy sees it.
func (c LogConfig) Seat() Seat { return Seat{Name: c.Name, Operator: c.Operator, Embed: c.Embeds()} }

// CheckFor says whether the logs can meet the policy at all; it errs with a [fault.Setting]. It presumes that Check found nothing.
func (c PolicyConfig) CheckFor(seats []Seat) error {
	full := c.withDefaults()
	logs, aside, operators := 0, 0, map[string]bool{}
	for _, s := range seats {
		if !s.Embed {
			aside++
			continue
		}
		logs++
		operators[s.operator()] = true
	}
	except := ""
	if aside > 0 {
		except = fmt.Sprintf(" (%d with embed: false not counted)", aside)
	}
	switch {
	case full.MinSCTs > logs:
		if c.MinSCTs <= 1 { // it is the logs that are wrong
			return fault.BadSetting("no log's SCT may stand in a certificate"+except, "name a log whose key is published, without embed: false")
		}
		return fault.BadSetting(fmt.Sprintf("%d SCTs of %d logs%s: each must be of another log", c.MinSCTs, logs, except), "name more logs, or ask for fewer SCTs", "min_scts")
	case full.MinOperators > len(operators):
		return fault.BadSetting(fmt.Sprintf("SCTs of %d operators, but the logs are of %d%s", c.MinOperators, len(operators), except),
			"name logs of more operators, or ask for fewer", "min_operators")
	}
	return nil
}
