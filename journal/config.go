package journal

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// Config says where the journal is written. A file is the durable place, everything else is a copy of it; without a file, each
// of the others has to take a record before it counts.
type Config struct {
	// File is the path of the journal. Its directory belongs to the CA alone.
	File string `yaml:"file"`
	// MaxSize is how large the file grows before it is closed and another one is begun: a whole number of KiB, MiB or GiB. Default: 128MiB.
	MaxSize string `yaml:"max_size"`
	// Key makes the sums HMAC-SHA256 under this secret, so that nobody without it can rewrite the end of the journal. When omitted: SHA-256.
	Key *secret.Source `yaml:"key"`
	// Subjects is "plain", or "digest": subjects and SANs are written as HMAC-SHA256 under the salt. Default: plain.
	Subjects string `yaml:"subjects"`
	// Salt is the secret for digests of subjects. When omitted: one is made at FILE.salt.
	Salt *secret.Source `yaml:"salt"`
	// Stdout says whether each record is written to standard output as well.
	Stdout bool `yaml:"stdout"`
	// Syslog sends a copy to a syslog receiver.
	Syslog *SyslogConfig `yaml:"syslog"`
	// OTLP sends a copy to an OpenTelemetry collector.
	OTLP *OTLPConfig `yaml:"otlp"`
}

// SyslogConfig is a syslog receiver (RFC 5424; RFC 6587 octet counting on streams).
type SyslogConfig struct {
	// Address is where the receiver listens: unix:///dev/log, udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT. All but tls are for this machine, unless insecure is true.
	Address string `yaml:"address"`
	// Facility is a name of RFC 5424 table 1, for example auth, authpriv, local0. Default: authpriv.
	Facility string `yaml:"facility"`
	// CACert is the path of PEM certificates that the receiver's TLS certificate must chain to, in place of the system's.
	CACert string `yaml:"ca_cert"`
	// Insecure allows records to go over a network in the clear.
	Insecure bool `yaml:"insecure"`
}

// OTLPConfig is an OpenTelemetry collector (OTLP/HTTP with JSON).
type OTLPConfig struct {
	// URL is the base address, to which /v1/logs is appended.
	URL string `yaml:"url"`
	// Headers are sent with each request, by name; their values are secrets.
	Headers map[string]*secret.Source `yaml:"headers"`
	// CACert is the path of PEM certificates that the collector's TLS certificate must chain to, in place of the system's.
	CACert string `yaml:"ca_cert"`
	// Insecure allows plain http to a host that is not loopback.
	Insecure bool `yaml:"insecure"`
}

// The values of Config.Subjects.
const (
	SubjectsPlain  = "plain"
	SubjectsDigest = "digest"
)

const (
	defaultMaxSize = 128 << 20
	minMaxSize     = 64 << 10
)

// Check finds what is wrong with c without opening a file or a socket: one [fault.Setting] for each.
func (c Config) Check() error {
	var errs []error
	if c.File == "" && !c.Stdout && c.Syslog == nil && c.OTLP == nil {
		errs = append(errs, fault.BadSetting("the journal has no destination",
			"write file: with the path of the journal"))
	}
	if _, err := c.maxSize(); err != nil {
		errs = append(errs, fault.BadSetting(err.Error(), "write a size like 128MiB, at least 64KiB", "max_size"))
	}
	if c.File == "" && c.MaxSize != "" {
		errs = append(errs, fault.BadSetting("there is no file", "write file:, or remove it", "max_size"))
	}
	errs = append(errs, fault.Under(c.Key.Check(), "key"), fault.Under(c.Salt.Check(), "salt"))
	switch c.Subjects {
	case "", SubjectsPlain:
		if c.Salt != nil {
			errs = append(errs, fault.BadSetting("a salt without digests", "write subjects: digest, or remove it", "salt"))
		}
	case SubjectsDigest:
		if c.File == "" && c.Salt == nil {
			errs = append(errs, fault.BadSetting("without a file there is no place for a salt", "write {env: NAME} or {file: PATH}", "salt"))
		}
	default:
		errs = append(errs, fault.BadSetting(strconv.Quote(c.Subjects)+" is neither plain nor digest", "write one of them", "subjects"))
	}
	if c.Syslog != nil {
		errs = append(errs, fault.Under(c.Syslog.check(c.File != ""), "syslog"))
	}
	if c.OTLP != nil {
		errs = append(errs, fault.Under(c.OTLP.check(), "otlp"))
	}
	return errors.Join(errs...)
}

// Warnings are what is allowed and should be known: a [fault.Setting] for each.
func (c Config) Warnings() []*fault.Setting {
	var out []*fault.Setting
	if c.File == "" {
		out = append(out,
			fault.BadSetting("without a file each start begins a new chain, and only the receivers have the records",
				"write file:"))
	}
	if c.Syslog != nil && c.Syslog.Insecure {
		out = append(out, fault.BadSetting("records cross a network in the clear", "use tls://", "syslog", "insecure"))
	}
	if c.OTLP != nil && c.OTLP.Insecure {
		out = append(out, fault.BadSetting("records cross a network in the clear", "use https", "otlp", "insecure"))
	}
	return out
}

// maxSize is MaxSize in bytes.
func (c Config) maxSize() (int64, error) {
	if c.MaxSize == "" {
		return defaultMaxSize, nil
	}
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		digits, ok := strings.CutSuffix(c.MaxSize, unit)
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		shift := 10 * (i + 1)
		if !ok || err != nil || n < 0 || n > math.MaxInt64>>shift {
			continue
		}
		if n <<= shift; n < minMaxSize {
			break
		}
		return n, nil
	}
	return 0, fmt.Errorf("%q is not a size that a file can have", c.MaxSize)
}

func (c *SyslogConfig) check(durable bool) error {
	var errs []error
	u, err := url.Parse(c.Address)
	fix := "write unix:///dev/log, tls://HOST:PORT, tcp://HOST:PORT or udp://HOST:PORT"
	switch {
	case c.Address == "":
		errs = append(errs, fault.BadSetting("is missing", fix, "address"))
	case err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !slices.Contains([]string{"unix", "udp", "tcp", "tls"}, u.Scheme):
		errs = append(errs, fault.BadSetting(strconv.Quote(c.Address)+" is not an address", fix, "address"))
	case u.Scheme == "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			errs = append(errs, fault.BadSetting(strconv.Quote(c.Address)+" is not the path of a socket", "write unix:///dev/log", "address"))
		}
	case u.Port() == "" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "":
		errs = append(errs, fault.BadSetting(strconv.Quote(c.Address)+" is not HOST:PORT", fix, "address"))
	case u.Scheme != "tls" && !hostname.IsLoopback(u.Hostname()) && !c.Insecure:
		errs = append(errs, fault.BadSetting("records would cross a network in the clear", "use tls://, or say insecure: true", "address"))
	case u.Scheme == "udp" && !durable:
		errs = append(errs, fault.BadSetting("a datagram is not acknowledged, and there is no file",
			"write file:, or use tls:// or tcp://", "address"))
	}
	if c.CACert != "" && !strings.HasPrefix(c.Address, "tls:") {
		errs = append(errs, fault.BadSetting("there is no TLS", "use tls://, or remove it", "ca_cert"))
	}
	if _, ok := facilities[c.facility()]; !ok {
		errs = append(errs, fault.BadSetting(strconv.Quote(c.Facility)+" is not a facility", "write auth, authpriv, daemon, user or local0 to local7", "facility"))
	}
	return errors.Join(errs...)
}

func (c *SyslogConfig) facility() string {
	if c.Facility == "" {
		return "authpriv"
	}
	return c.Facility
}

func (c *OTLPConfig) check() error {
	var errs []error
	u, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		errs = append(errs, fault.BadSetting("is missing", "write the base address of the collector, for example https://collector.example.com:4318", "url"))
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		errs = append(errs, fault.BadSetting(strconv.Quote(c.URL)+" is not a base address", "write https://HOST:PORT", "url"))
	case u.Scheme == "http" && !c.Insecure && !hostname.IsLoopback(u.Hostname()):
		errs = append(errs, fault.BadSetting("records would cross a network in the clear", "use https, or say insecure: true", "url"))
	}
	for name, value := range c.Headers {
		if strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || name == "" {
			errs = append(errs, fault.BadSetting(strconv.Quote(name)+" is not the name of a header", "write letters, digits and -", "headers", name))
		}
		if value == nil {
			errs = append(errs, fault.BadSetting("has no value", "write {env: NAME} or {file: PATH}", "headers", name))
		}
		errs = append(errs, fault.Under(value.Check(), "headers", name))
	}
	return errors.Join(errs...)
}
