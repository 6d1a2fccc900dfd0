package remote

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/loglist"
)

// Config is one log that precertificates are submitted to over HTTP (RFC 6962 §4).
type Config struct {
	// Name identifies the log in messages, metrics and readiness reports.
	Name string `yaml:"name"`
	// URL is the submission prefix, to which /ct/v1/add-pre-chain is appended.
	URL string `yaml:"url"`
	// Host is the host name of the log, if url has another address that routes requests by name: Host is the Host
	// header of requests and, over TLS, the name that the log's certificate must have. Default: the host of url; if
	// that is an IP address, the Host header is the host of origin.
	Host string `yaml:"host"`
	// PublicKey is the path of the log's key, PEM SubjectPublicKeyInfo. It is pinned: an SCT counts only if this key
	// verifies it.
	PublicKey string `yaml:"public_key" path:"read"`
	// Origin is the log's name in its checkpoints, for the exported trust material.
	Origin string `yaml:"origin"`
	// Operator is the organization that runs the log, for the trust material and policy.min_operators. Logs of
	// different operators are asked first.
	Operator string `yaml:"operator"`
	// NotBefore is when the log begins to accept entries, RFC 3339 or a date (00:00 UTC). When omitted: always.
	NotBefore string `yaml:"not_before"`
	// NotAfter is when the log ends; shards must overlap by more than ten minutes. When omitted: never.
	NotAfter string `yaml:"not_after"`
	// LogID is the log's ID, the SHA-256 of its key, in hexadecimal or base64. It is compared with public_key, which
	// guards against the wrong file.
	LogID string `yaml:"log_id"`
	// CACert is the path of PEM certificates that the log's TLS certificate must chain to, instead of the system's.
	CACert string `yaml:"ca_cert" path:"read"`
	// ClientCertificate is for a log that requires a TLS client certificate.
	ClientCertificate *ClientCertificateConfig `yaml:"client_certificate"`
	// Proxy is the URL of an HTTP or SOCKS5 proxy. When omitted: none; the environment is ignored.
	Proxy string `yaml:"proxy"`
	// Rate limits the submissions per second, more than 0. A log that has reached its rate is passed over; if no other
	// log is left, the submission waits. When omitted: no limit.
	Rate float64 `yaml:"rate"`
	// Embed says whether SCTs of this log may be embedded in certificates. false is for a log whose key is not yet in
	// every client's trusted root: it receives each precertificate afterwards, in the background. Default: true.
	Embed *bool `yaml:"embed"`
	// MonitoringURL is the prefix at which a static-ct log is read, if different from url.
	MonitoringURL string `yaml:"monitoring_url"`
	// MaxMergeDelay is how long the log may take to publish an entry for which it has issued an SCT, 1m or more.
	// Default: 24h.
	MaxMergeDelay time.Duration `yaml:"max_merge_delay"`
	// PropagateTrace says whether requests to the log have the trace context of sampled requests (traceparent, W3C
	// Trace Context), so that the log's spans become a part of the trace. For a log of the same operator. Default:
	// false.
	PropagateTrace bool `yaml:"propagate_trace"`
	// Insecure allows plain http to a host that is not loopback.
	Insecure bool `yaml:"insecure"`
}

// ClientCertificateConfig is a key pair in PEM files.
type ClientCertificateConfig struct {
	// Certificate is the path of the certificate chain.
	Certificate string `yaml:"certificate" path:"read"`
	// Key is the path of the private key.
	Key string `yaml:"key" path:"secret"`
}

// defaultMergeDelay is the maximum merge delay of public logs.
const defaultMergeDelay = 24 * time.Hour

// MergeDelay returns MaxMergeDelay, or its default.
func (c Config) MergeDelay() time.Duration {
	if c.MaxMergeDelay == 0 {
		return defaultMergeDelay
	}
	return c.MaxMergeDelay
}

// Embeds reports whether SCTs of this log may be embedded in certificates.
func (c Config) Embeds() bool { return c.Embed == nil || *c.Embed }

// Slot returns the part of the log's description that a policy uses.
func (c Config) Slot() ctlog.Slot {
	return ctlog.Slot{Name: c.Name, Operator: c.Operator, Embed: c.Embeds()}
}

// Check validates c without opening a file or a socket. It returns one [fault.Setting] for each mistake.
func (c Config) Check() error {
	var errs []error
	if strings.ContainsFunc(c.Name, unicode.IsControl) {
		errs = append(errs, fault.BadSetting("the log's name contains a control character",
			"give the log a short name without control characters", "name"))
	}
	if strings.TrimSpace(c.Name) == "" {
		errs = append(errs, fault.BadSetting("the log has no name", "give the log a short name", "name"))
	}
	if problem, fix := c.urlProblem(c.URL); problem != "" {
		errs = append(errs, fault.BadSetting(problem, fix, "url"))
	}
	if c.PublicKey == "" {
		errs = append(errs, fault.BadSetting("the log has no public key; its SCTs could not be verified",
			"write the path of its key in PEM", "public_key"))
	}
	if _, err := c.Window(); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.pinnedID(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, c.checkConnection(), c.checkMonitoring())...)
}

// Warnings returns settings that are valid but may not be intended. Its paths begin at the log.
func (c Config) Warnings() []*fault.Setting {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || c.MonitoringURL != "" && c.Origin != "" ||
		c.MonitoringURL == "" && hostname.IsLoopback(u.Hostname()):
		return nil
	case c.MonitoringURL != "":
		return []*fault.Setting{fault.BadSetting("checkpoints at this URL cannot be verified without the log's "+
			"origin; neither readiness nor the auditor reads them",
			"set origin to the first line of the log's checkpoint", "monitoring_url")}
	}
	return []*fault.Setting{fault.BadSetting("readiness and the auditor read the log at url, as an RFC 6962 log",
		"if it is a static-ct log (TesseraCT, Sunlight), set monitoring_url and origin; without them the "+
			"auditor cannot read the log", "url")}
}

// checkConnection validates the settings of the connection to the log.
func (c Config) checkConnection() error {
	var errs []error
	if pair := c.ClientCertificate; pair != nil && (pair.Certificate == "" || pair.Key == "") {
		errs = append(errs, fault.BadSetting("certificate or key is missing", "write both paths", "client_certificate"))
	}
	if _, err := c.proxyURL(); err != nil {
		errs = append(errs, err)
	}
	if c.Host != "" && !hostname.IsDNSName(c.Host) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("invalid host name %q", c.Host),
			"write a name such as ct.example.com, without scheme and port", "host"))
	}
	if c.Rate < 0 || math.IsInf(c.Rate, 0) || math.IsNaN(c.Rate) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("invalid rate %g", c.Rate),
			"write a number above 0, or omit rate for no limit", "rate"))
	}
	return errors.Join(errs...)
}

// checkMonitoring validates the settings that monitors use.
func (c Config) checkMonitoring() error {
	var errs []error
	if problem, fix := c.urlProblem(c.MonitoringURL); c.MonitoringURL != "" && problem != "" {
		errs = append(errs, fault.BadSetting(problem, fix, "monitoring_url"))
	}
	if c.MaxMergeDelay != 0 && c.MaxMergeDelay < time.Minute {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%s is shorter than a minute", c.MaxMergeDelay),
			"write the log's maximum merge delay, such as 24h", "max_merge_delay"))
	}
	return errors.Join(errs...)
}

// proxyURL returns the parsed Proxy; nil means no proxy.
func (c Config) proxyURL() (*url.URL, error) {
	if c.Proxy == "" {
		return nil, nil //nolint:nilnil // nil means no proxy
	}
	u, err := url.Parse(c.Proxy)
	switch {
	case err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme):
		return nil, fault.BadSetting("invalid proxy URL", "write http://HOST:PORT or socks5://HOST:PORT", "proxy")
	case u.User != nil:
		return nil, fault.BadSetting("the proxy URL contains a user name or a password",
			"use a proxy that needs no password from this machine", "proxy")
	}
	return u, nil
}

// pinnedID returns LogID as bytes; nil means that LogID is not set.
func (c Config) pinnedID() ([]byte, error) {
	if c.LogID == "" {
		return nil, nil
	}
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString} {
		if id, err := decode(c.LogID); err == nil && len(id) == sha256.Size {
			return id, nil
		}
	}
	return nil, fault.BadSetting(fmt.Sprintf("invalid log ID %q", c.LogID),
		"write the SHA-256 of the log's key, in hexadecimal or base64", "log_id")
}

// Window returns the log's validity. Its errors are each a [fault.Setting].
func (c Config) Window() (loglist.Window, error) {
	from, errFrom := parseTime(c.NotBefore, "not_before")
	to, errTo := parseTime(c.NotAfter, "not_after")
	if err := errors.Join(errFrom, errTo); err != nil {
		return loglist.Window{}, err
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return loglist.Window{}, fault.BadSetting("not_after is not after not_before",
			"write a later time", "not_after")
	}
	return loglist.Window{NotBefore: from, NotAfter: to}, nil
}

func parseTime(text, key string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fault.BadSetting(fmt.Sprintf("invalid time %q", text),
		"write a date such as 2026-01-31, or a time such as 2026-01-31T12:00:00Z", key)
}

// urlProblem returns why a URL of the log is invalid and what to write instead. Both are empty for a valid URL.
func (c Config) urlProblem(text string) (problem, fix string) {
	const example = "write the log's submission prefix, for example https://ct.example.com/2026"
	if text == "" {
		return "the log has no url", example
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "the url cannot be parsed", example
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Sprintf("the url has the scheme %q", u.Scheme), example
	case u.Hostname() == "" || u.Opaque != "":
		return "the url has no host", example
	case u.User != nil:
		return "the url contains a user name or a password", example
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "the url has a query or a fragment, to which no path can be appended", example
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/ct/v1") || strings.Contains(u.Path, "/ct/v1/"):
		return "the url contains /ct/v1, which is appended to it", example
	case u.Scheme == "http" && !c.Insecure && !hostname.IsLoopback(u.Hostname()):
		return "plain http to a log that is not on this host", "use https, or set insecure: true"
	}
	return "", ""
}

// hostHeader returns the Host header of requests to URL.
func (c Config) hostHeader() string {
	u, err := url.Parse(c.URL)
	switch {
	case c.Host != "":
		return c.Host
	case err != nil:
		return ""
	case net.ParseIP(u.Hostname()) != nil:
		// A server cannot route by an IP address. An origin begins with the log's public host name
		// (c2sp.org/static-ct-api).
		if host, _, _ := strings.Cut(c.Origin, "/"); isRoutable(host) {
			return host
		}
	}
	return u.Host
}

// isRoutable reports whether host is a DNS name, with or without a port.
func isRoutable(host string) bool {
	u, err := url.Parse("//" + host)
	return err == nil && u.Host == host && hostname.IsDNSName(u.Hostname()) && (host == u.Hostname() || u.Port() != "")
}
