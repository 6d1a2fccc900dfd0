package policy

// Config decides who gets a certificate. A token is refused if a deny rule is true, or if there are allow rules and
// none is true.
type Config struct {
	// Rules, by CEL expressions over claims, issuer, subject, san, san_type and extensions.
	Rules []RuleConfig `yaml:"rules"`
	// Claims with their expected result; the tests run whenever the file is loaded.
	Tests []TestConfig `yaml:"tests"`
}

// RuleConfig is one rule: a name, and allow or deny.
type RuleConfig struct {
	// The name in refusals, metrics and the log: letters, digits, - and _.
	Name string `yaml:"name"`
	// CEL expression; true allows the token.
	Allow string `yaml:"allow"`
	// CEL expression; true refuses the token, and so does an error such as a missing claim.
	Deny string `yaml:"deny"`
	// Shadow mode: reports what the rule would refuse, but refuses nothing.
	Shadow bool `yaml:"shadow"`
}

// TestConfig is a test of the policy.
type TestConfig struct {
	// The name in error messages.
	Name string `yaml:"name"`
	// The claims of a verified token; iss may be omitted if the entry is not a pattern.
	Claims map[string]any `yaml:"claims"`
	// allow or deny.
	Expect string `yaml:"expect"`
	// For deny: the reason of the refusal, such as EMAIL_UNVERIFIED. Default: POLICY_DENIED.
	Reason string `yaml:"reason"`
	// The rule that decides. When omitted: any.
	Rule string `yaml:"rule"`
	// The name in the certificate. When omitted: any.
	SAN string `yaml:"san"`
}
