package ctlog

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

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
)

// LogConfig is one log that precertificates are submitted to over HTTP (RFC 6962 §4).
type LogConfig struct {
	// Name is what messages, metrics and readiness call the log.
	Name string `yaml:"name"`
	// URL is the submission prefix, to which /ct/v1/add-pre-chain is appended.
	URL string `yaml:"url"`
	// Host is the name that the log is asked for, where url is an address that routes by name: the Host of requests
	// and, over TLS, the name that the certificate must have. Default: the host of url; where that is an IP address,
	// requests have the host of origin.
	Host string `yaml:"host"`
	// PublicKey is the path of the log's key, PEM SubjectPublicKeyInfo. It is pinned: no SCT counts that it does not verify.
	PublicKey string `yaml:"public_key"`
	// Origin is the name in the log's checkpoints, for the exported trust material.
	Origin string `yaml:"origin"`
	// Operator is who runs the log, for the trust material and policy.min_operators; of several logs those of different operators are asked first.
	Operator string `yaml:"operator"`
	// NotBefore is when the log begins to take entries, RFC 3339 or a date (00:00 UTC). When omitted: always. See [Member].
	NotBefore string `yaml:"not_before"`
	// NotAfter is when the log ends; shards must overlap by more than ten minutes. When omitted: never.
	NotAfter string `yaml:"not_after"`
	// LogID is the log's ID, the SHA-256 of its key, in hexadecimal or base64. It is compared with public_key: a guard against the wrong file.
	LogID string `yaml:"log_id"`
	// CACert is the path of PEM certificates that the log's TLS certificate must chain to, in place of the system's.
	CACert string `yaml:"ca_cert"`
	// ClientCertificate is for a log that asks for a TLS client certificate.
	ClientCertificate *ClientCertificateConfig `yaml:"client_certificate"`
	// Proxy is the URL of an HTTP or SOCKS5 proxy. When omitted: none; the environment is never asked.
	Proxy string `yaml:"proxy"`
	// Rate is how many submissions a second the log is sent, more than 0. A log over its rate is passed over, or waited for if nobody else is left. When omitted: no limit.
	Rate float64 `yaml:"rate"`
	// Embed says whether SCTs of this log may stand in certificates. false is for a log whose key is not in every client's trusted root yet: it gets each precertificate afterwards, in the background. Default: true.
	Embed *bool `yaml:"embed"`
	// MonitoringURL is where a static-ct log is read from, if apart from url.
	MonitoringURL string `yaml:"monitoring_url"`
	// MaxMergeDelay is how long the log may take to show an entry that it has promised, 1m or more. Default: 24h.
	MaxMergeDelay time.Duration `yaml:"max_merge_delay"`
	// Insecure allows plain http to a host that is not loopback.
	Insecure bool `yaml:"insecure"`
}

// ClientCertificateConfig is a key pair in PEM files.
type ClientCertificateConfig struct {
	// Certificate is the path of the certificate chain.
	Certificate string `yaml:"certificate"`
	// Key is the path of the private key.
	Key string `yaml:"key"`
}

// defaultMergeDelay is what public logs promise (24 hours).
const defaultMergeDelay = 24 * time.Hour

// MergeDelay is MaxMergeDelay, or its default.
func (c LogConfig) MergeDelay() time.Duration {
	if c.MaxMergeDelay == 0 {
		return defaultMergeDelay
	}
	return c.MaxMergeDelay
}

// Embeds reports whether SCTs of this log may stand in certificates.
func (c LogConfig) Embeds() bool { return c.Embed == nil || *c.Embed }

// Check finds what is wrong with c without opening a file or a socket: one [fault.Setting] for each.
func (c LogConfig) Check() error {
	var errs []error
	if strings.ContainsFunc(c.Name, unicode.IsControl) {
		errs = append(errs, fault.BadSetting("the log's name has a control character, which tables and metrics cannot show", "give it a short name of your own", "name"))
	}
	if strings.TrimSpace(c.Name) == "" {
		errs = append(errs, fault.BadSetting("the log has no name", "give it a short name of your own", "name"))
	}
	if problem, fix := c.urlProblem(c.URL); problem != "" {
		errs = append(errs, fault.BadSetting(problem, fix, "url"))
	}
	if c.PublicKey == "" {
		errs = append(errs, fault.BadSetting("the log has no public key, so that its SCTs could not be verified",
			"write the path of its key in PEM", "public_key"))
	}
	if _, _, err := c.Window(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, c.checkID(), c.checkConnection(), c.checkReading())...)
}

// Warnings says what is allowed and should be known. Its paths begin at the log.
func (c LogConfig) Warnings() []*fault.Setting {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || c.MonitoringURL != "" && c.Origin != "" || c.MonitoringURL == "" && hostname.IsLoopback(u.Hostname()):
		return nil
	case c.MonitoringURL != "":
		return []*fault.Setting{fault.BadSetting("the checkpoints there cannot be verified without the name of the "+
			"log, so that neither readiness nor the auditor read them",
			"write origin, as the first line of the log's checkpoint has it", "monitoring_url")}
	}
	return []*fault.Setting{fault.BadSetting("readiness and the auditor read the log at url, as a log of RFC 6962",
		"if it is a static-ct log (TesseraCT, Sunlight), write monitoring_url and origin: without them the "+
			"auditor reads nothing of it", "url")}
}

// checkConnection checks how the log is reached.
func (c LogConfig) checkConnection() error {
	var errs []error
	if pair := c.ClientCertificate; pair != nil && (pair.Certificate == "" || pair.Key == "") {
		errs = append(errs, fault.BadSetting("needs certificate and key", "write both paths", "client_certificate"))
	}
	if _, err := c.proxyURL(); err != nil {
		errs = append(errs, err)
	}
	if c.Host != "" && !hostname.IsDNSName(c.Host) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%q is not the name of a host", c.Host),
			"write a name such as ct.example.com, without scheme and port", "host"))
	}
	if c.Rate < 0 || math.IsInf(c.Rate, 0) || math.IsNaN(c.Rate) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%g submissions a second is not a rate", c.Rate),
			"write a number above 0, or leave it out for no limit", "rate"))
	}
	return errors.Join(errs...)
}

// checkReading checks what auditors use.
func (c LogConfig) checkReading() error {
	var errs []error
	if problem, fix := c.urlProblem(c.MonitoringURL); c.MonitoringURL != "" && problem != "" {
		errs = append(errs, fault.BadSetting(problem, fix, "monitoring_url"))
	}
	if c.MaxMergeDelay != 0 && c.MaxMergeDelay < time.Minute {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%s is shorter than a minute", c.MaxMergeDelay), "write what the log promises, such as 24h", "max_merge_delay"))
	}
	return errors.Join(errs...)
}

// proxyURL is Proxy, parsed; nil is none.
func (c LogConfig) proxyURL() (*url.URL, error) {
	if c.Proxy == "" {
		return nil, nil //nolint:nilnil // nil is no proxy
	}
	u, err := url.Parse(c.Proxy)
	switch {
	case err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme):
		return nil, fault.BadSetting("not the URL of a proxy", "write http://HOST:PORT or socks5://HOST:PORT", "proxy")
	case u.User != nil:
		return nil, fault.BadSetting("a password does not belong into the configuration", "use a proxy that knows this machine", "proxy")
	}
	return u, nil
}

func (c LogConfig) checkID() error {
	if _, err := c.pinnedID(); err != nil {
		return err
	}
	return nil
}

// pinnedID is LogID as bytes; nil is not set.
func (c LogConfig) pinnedID() ([]byte, error) {
	if c.LogID == "" {
		return nil, nil
	}
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString} {
		if id, err := decode(c.LogID); err == nil && len(id) == sha256.Size {
			return id, nil
		}
	}
	return nil, fault.BadSetting(fmt.Sprintf("%q is not a log ID", c.LogID), "write the SHA-256 of the log's key, in hexadecimal or base64", "log_id")
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

// urlProblem returns what is wrong with a URL of the log and what to write instead, or nothing.
func (c LogConfig) urlProblem(text string) (problem, fix string) {
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
		return "the url carries a user name or a password", example
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "the url has a query or a fragment, to which no path can be appended", example
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/ct/v1") || strings.Contains(u.Path, "/ct/v1/"):
		return "the url contains /ct/v1, which is appended to it", example
	case u.Scheme == "http" && !c.Insecure && !hostname.IsLoopback(u.Hostname()):
		return "plain http to a log that is not on this host", "use https, or say insecure: true"
	}
	return "", ""
}

// hostHeader is the Host of requests to url.
func (c LogConfig) hostHeader() string {
	u, err := url.Parse(c.URL)
	switch {
	case c.Host != "":
		return c.Host
	case err != nil:
		return ""
	case net.ParseIP(u.Hostname()) != nil: // no name that a server could route by; an origin is the public prefix (c2sp.org/static-ct-api)
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
