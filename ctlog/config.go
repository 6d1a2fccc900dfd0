package ctlog

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// LogConfig is one log that precertificates are submitted to over HTTP (RFC 6962 §4).
type LogConfig struct {
	// Name is what messages, metrics and readiness call the log.
	Name string `yaml:"name"`
	// URL is the submission prefix, to which /ct/v1/add-pre-chain is appended.
	URL string `yaml:"url"`
	// PublicKey is the path of the log's key, PEM SubjectPublicKeyInfo. It is pinned: no SCT counts that it does not verify.
	PublicKey string `yaml:"public_key"`
	// Origin is the name in the log's checkpoints, for the exported trust material.
	Origin string `yaml:"origin"`
	// Operator is who runs the log, for the trust material; of several logs those of different operators are asked first.
	Operator string `yaml:"operator"`
	// NotBefore is when the log begins to take entries, RFC 3339 or a date (00:00 UTC). When omitted: always. See [Member].
	NotBefore string `yaml:"not_before"`
	// NotAfter is when the log ends; shards must overlap by more than ten minutes. When omitted: never.
	NotAfter string `yaml:"not_after"`
	// CACert is the path of PEM certificates that the log's TLS certificate must chain to, in place of the system's.
	CACert string `yaml:"ca_cert"`
	// Insecure allows plain http to a host that is not loopback.
	Insecure bool `yaml:"insecure"`
}

// PolicyConfig says how many SCTs make a certificate.
type PolicyConfig struct {
	// MinSCTs is the number of SCTs that a certificate needs, each of another log. Default: 1.
	MinSCTs int `yaml:"min_scts"`
}

// Check finds what is wrong with c without opening a file or a socket: one [fault.Setting] for each.
func (c LogConfig) Check() error {
	var errs []error
	if strings.TrimSpace(c.Name) == "" {
		errs = append(errs, fault.BadSetting("the log has no name", "give it a short name of your own", "name"))
	}
	if problem, fix := c.urlProblem(); problem != "" {
		errs = append(errs, fault.BadSetting(problem, fix, "url"))
	}
	if c.PublicKey == "" {
		errs = append(errs, fault.BadSetting("the log has no public key, so that its SCTs could not be verified",
			"write the path of its key in PEM", "public_key"))
	}
	if _, _, err := c.Window(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Window returns the log's validity; a zero time is unbounded. Its errors are of the kind that Check returns.
func (c LogConfig) Window() (from, to time.Time, err error) {
	from, errFrom := parseMoment(c.NotBefore, "not_before")
	to, errTo := parseMoment(c.NotAfter, "not_after")
	if err := errors.Join(errFrom, errTo); err != nil {
		return time.Time{}, time.Time{}, err
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return time.Time{}, time.Time{}, fault.BadSetting("not_after is not after not_before", "write a later moment", "not_after")
	}
	return from, to, nil
}

// Check finds what is wrong with c on its own; [New] compares it with the number of logs.
func (c PolicyConfig) Check() error {
	if c.MinSCTs < 0 {
		return fault.BadSetting(fmt.Sprintf("%d SCTs cannot be asked for", c.MinSCTs), "write 1 or more", "min_scts")
	}
	return nil
}

func parseMoment(text, key string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fault.BadSetting(fmt.Sprintf("%q is not a moment", text),
		"write a date such as 2026-01-31, or a time such as 2026-01-31T12:00:00Z", key)
}

// urlProblem returns what is wrong with the URL and what to write instead, or nothing.
func (c LogConfig) urlProblem() (problem, fix string) {
	const example = "write the log's submission prefix, for example https://ct.example.com/2026"
	if c.URL == "" {
		return "the log has no url", example
	}
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return "the url cannot be parsed", example
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Sprintf("the url has the scheme %q", u.Scheme), example
	case u.Hostname() == "" || u.Opaque != "":
		return "the url has no host", example
	case u.User != nil:
		return "the url carries a user name or a password", example
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "the url has a query or a fragment, to which no path can be appended", example
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/ct/v1") || strings.Contains(u.Path, "/ct/v1/"):
		return "the url contains /ct/v1, which is appended to it", example
	case u.Scheme == "http" && !c.Insecure && !isLoopback(u.Hostname()):
		return "plain http to a log that is not on this host", "use https, or say insecure: true"
	}
	return "", ""
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
