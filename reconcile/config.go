package reconcile

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// The cadence of the auditor.
const (
	defaultEvery = time.Minute
	leastEvery   = time.Second
	mostEvery    = 24 * time.Hour
	defaultLag   = 10 * time.Minute
)

// Off is the value of every that switches the auditor off.
const Off = "off"

// Config says how journals and logs are held against each other while the CA runs.
type Config struct {
	// Every is how often, a duration, or off. Default: 1m.
	Every string `yaml:"every"`
	// Journals are the journals of other instances that sign with the same key, as paths or patterns of the shell. An entry of theirs looks unintended without them.
	Journals []string `yaml:"journals"`
	// Lag is how far those journals may be behind, as copies are. An entry has that long to be explained by one of them. Default: 10m.
	Lag time.Duration `yaml:"lag"`
}

// Check finds what is wrong without looking at a file. Its errors are [fault.Setting] values.
func (c *Config) Check() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.Every != "" && c.Every != Off {
		d, err := time.ParseDuration(c.Every)
		if err != nil || d < leastEvery || d > mostEvery {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("%q is not a duration from %s to %s", c.Every, leastEvery, mostEvery), "write 1m, or off", "every"))
		}
	}
	for i, pattern := range c.Journals {
		if _, err := filepath.Match(pattern, ""); err != nil || pattern == "" {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("%q is neither a path nor a pattern", pattern),
				"write a path such as /var/log/mayfly/*.journal", "journals", fmt.Sprint(i)))
		}
	}
	if c.Lag < 0 || c.Lag > 7*mostEvery {
		errs = append(errs, fault.BadSetting("is out of range", "write a duration up to 168h", "lag"))
	}
	return errors.Join(errs...)
}

// Period is how often the auditor runs; 0 is never.
func (c *Config) Period() time.Duration {
	if c == nil || c.Every == "" {
		return defaultEvery
	}
	d, err := time.ParseDuration(c.Every)
	if err != nil {
		return 0 // off; Check has seen the rest
	}
	return d
}

// LagOrDefault is how far journals of others may be behind.
func (c *Config) LagOrDefault() time.Duration {
	if c == nil || c.Lag == 0 {
		return defaultLag
	}
	return c.Lag
}

// AlarmConfig says who is told when something is found.
type AlarmConfig struct {
	// Webhook is an HTTP server that is told of each finding once.
	Webhook *WebhookConfig `yaml:"webhook"`
}

// WebhookConfig is an HTTP server that takes a finding as a JSON object in a POST.
type WebhookConfig struct {
	// URL is where, https, or http on loopback.
	URL string `yaml:"url"`
	// Bearer is a secret that is sent as a bearer token.
	Bearer *secret.Source `yaml:"bearer"`
	// CACert is the path of PEM certificates that its TLS certificate must chain to, in place of the system's.
	CACert string `yaml:"ca_cert"`
}

// Check finds what is wrong without opening a socket. Its errors are [fault.Setting] values.
func (c *AlarmConfig) Check() error {
	if c == nil || c.Webhook == nil {
		return nil
	}
	w := c.Webhook
	const fix = "write a URL such as https://alerts.example.com/mayfly"
	u, err := url.Parse(w.URL)
	if err := w.Bearer.Check(); err != nil {
		return fault.Under(err, "webhook", "bearer")
	}
	switch {
	case w.URL == "":
		return fault.BadSetting("the webhook has no url", fix, "webhook", "url")
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fault.BadSetting("the url cannot be used", fix, "webhook", "url")
	case u.User != nil:
		return fault.BadSetting("the url carries a user name or a password", "write bearer: with a file or an environment variable", "webhook", "url")
	case u.Scheme == "http" && !hostname.IsLoopback(u.Hostname()):
		return fault.BadSetting("plain http to a host that is not this one", "use https", "webhook", "url")
	}
	return nil
}
