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

// Defaults and limits of the settings.
const (
	defaultEvery = time.Minute
	minEvery     = time.Second
	maxEvery     = 24 * time.Hour
	defaultLag   = 10 * time.Minute
	maxLag       = 7 * 24 * time.Hour
)

// Off is the value of Config.Every that switches the auditor off.
const Off = "off"

// Config configures the auditor of a running CA.
type Config struct {
	// Every is the interval between two audits: a duration, or off. Default: 1m.
	Every string `yaml:"every"`
	// Journals are the journals of other instances that sign with the same key, as paths or shell patterns. Without
	// them the log entries of those instances are reported as unintended.
	Journals []string `yaml:"journals" path:"pattern"`
	// Lag is how far the journals of other instances may be behind, as copies are. A log entry without an intent is
	// reported after this time. Default: 10m.
	Lag time.Duration `yaml:"lag"`
}

// Check validates the settings without reading a file. Its errors are [fault.Setting] values.
func (c *Config) Check() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.Every != "" && c.Every != Off {
		d, err := time.ParseDuration(c.Every)
		if err != nil || d < minEvery || d > maxEvery {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("%q is not a duration from %s to %s", c.Every,
				minEvery, maxEvery),
				"write 1m, or off", "every"))
		}
	}
	for i, pattern := range c.Journals {
		if _, err := filepath.Match(pattern, ""); err != nil || pattern == "" {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("%q is neither a path nor a pattern", pattern),
				"write a path such as /var/log/mayfly/*.journal", "journals", fmt.Sprint(i)))
		}
	}
	if c.Lag < 0 || c.Lag > maxLag {
		errs = append(errs, fault.BadSetting("is out of range", "write a duration up to 168h", "lag"))
	}
	return errors.Join(errs...)
}

// Period returns the interval between two audits; 0 if the auditor is off.
func (c *Config) Period() time.Duration {
	if c == nil || c.Every == "" {
		return defaultEvery
	}
	d, err := time.ParseDuration(c.Every)
	if err != nil {
		return 0 // off: Check refuses everything else
	}
	return d
}

// LagOrDefault returns how far the journals of other instances may be behind.
func (c *Config) LagOrDefault() time.Duration {
	if c == nil || c.Lag == 0 {
		return defaultLag
	}
	return c.Lag
}

// AlarmConfig configures where alarms are sent, besides the journal, the log and the metrics.
type AlarmConfig struct {
	// Webhook is an HTTP server that receives each alarm once.
	Webhook *WebhookConfig `yaml:"webhook"`
}

// WebhookConfig configures an HTTP server that receives each finding as a JSON object in a POST request.
type WebhookConfig struct {
	// URL is the address of the webhook: https, or http on loopback.
	URL string `yaml:"url"`
	// Bearer is a secret that is sent as a bearer token.
	Bearer *secret.Source `yaml:"bearer"`
	// CACert is the path of PEM certificates that verify the webhook's TLS certificate, in place of the system's.
	CACert string `yaml:"ca_cert" path:"read"`
}

// Check validates the settings without opening a connection. Its errors are [fault.Setting] values.
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
		return fault.BadSetting("the url is neither an https nor an http URL", fix, "webhook", "url")
	case u.User != nil:
		return fault.BadSetting("the url contains a user name or a password",
			"write bearer: with a file or an environment variable",
			"webhook", "url")
	case u.Scheme == "http" && !hostname.IsLoopback(u.Hostname()):
		return fault.BadSetting("plain http is allowed to loopback addresses only", "use https", "webhook", "url")
	}
	return nil
}
