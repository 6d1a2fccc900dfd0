package ship

import (
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/otlp"
)

// Config names the receivers of a journal's records.
type Config struct {
	// Stdout says whether each record is also written to standard output.
	Stdout bool `yaml:"stdout"`
	// Syslog sends a copy to a syslog receiver.
	Syslog *SyslogConfig `yaml:"syslog"`
	// OTLP sends a copy to an OpenTelemetry collector.
	OTLP *OTLPConfig `yaml:"otlp"`
}

// SyslogConfig is a syslog receiver (RFC 5424; RFC 6587 octet counting on streams).
type SyslogConfig struct {
	// Address is the address of the receiver: unix:///dev/log, udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT. For
	// other machines only tls is accepted, unless insecure is true.
	Address string `yaml:"address"`
	// Facility is a name of RFC 5424 table 1, for example auth, authpriv, local0. Default: authpriv.
	Facility string `yaml:"facility"`
	// CACert is the path of PEM certificates that the receiver's TLS certificate must chain to, in place of the
	// system's.
	CACert string `yaml:"ca_cert" path:"read"`
	// Insecure allows unencrypted records on a network.
	Insecure bool `yaml:"insecure"`
}

// OTLPConfig is an OpenTelemetry collector (OTLP/HTTP with JSON).
type OTLPConfig struct {
	otlp.Collector `yaml:",inline"`
}

// kinds returns the receivers that are configured, one row for each kind.
func (c Config) kinds() (out []namedKind) {
	if c.Stdout { // a new reader of standard output needs no records of the past
		out = append(out, namedKind{"stdout", stdoutConfig{}, true})
	}
	if c.Syslog != nil {
		out = append(out, namedKind{"syslog", c.Syslog, false})
	}
	if c.OTLP != nil {
		out = append(out, namedKind{"otlp", c.OTLP, false})
	}
	return out
}

// Any reports whether a receiver is configured.
func (c Config) Any() bool { return len(c.kinds()) > 0 }

// Check finds wrong settings without opening a file or a socket: one [fault.Setting] for each. durable means that the
// journal has a file, and that receivers get copies of it.
func (c Config) Check(durable bool) error {
	var errs []error
	for _, k := range c.kinds() {
		errs = append(errs, fault.Under(k.kind.check(durable), k.name))
	}
	return errors.Join(errs...)
}

// Warnings returns a [fault.Setting] for each setting that is valid but may be a mistake.
func (c Config) Warnings() []*fault.Setting {
	var out []*fault.Setting
	if c.Syslog != nil && c.Syslog.Insecure {
		out = append(out, fault.BadSetting("records are sent over a network unencrypted", "use tls://",
			"syslog", "insecure"))
	}
	if c.OTLP != nil && c.OTLP.Insecure {
		out = append(out, fault.BadSetting("records are sent over a network unencrypted", "use https",
			"otlp", "insecure"))
	}
	return out
}

func (c *SyslogConfig) check(durable bool) error {
	var errs []error
	u, err := url.Parse(c.Address)
	fix := "write unix:///dev/log, tls://HOST:PORT, tcp://HOST:PORT or udp://HOST:PORT"
	switch {
	case c.Address == "":
		errs = append(errs, fault.BadSetting("is missing", fix, "address"))
	case err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		!slices.Contains([]string{"unix", "udp", "tcp", "tls"}, u.Scheme):
		errs = append(errs, fault.BadSetting(strconv.Quote(c.Address)+" is not an address", fix, "address"))
	case u.Scheme == "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			errs = append(errs, fault.BadSetting(strconv.Quote(c.Address)+" is not the path of a socket",
				"write unix:///dev/log", "address"))
		}
	case u.Port() == "" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "":
		errs = append(errs, fault.BadSetting(strconv.Quote(c.Address)+" is not HOST:PORT", fix, "address"))
	case u.Scheme != "tls" && !hostname.IsLoopback(u.Hostname()) && !c.Insecure:
		errs = append(errs, fault.BadSetting("records would be sent over a network unencrypted",
			"use tls://, or set insecure: true", "address"))
	case u.Scheme == "udp" && !durable:
		errs = append(errs, fault.BadSetting("a datagram is not acknowledged, so UDP needs a journal with a file",
			"write file:, or use tls:// or tcp://", "address"))
	}
	if c.CACert != "" && !strings.HasPrefix(c.Address, "tls:") {
		errs = append(errs, fault.BadSetting("the address does not use TLS",
			"use tls://, or remove ca_cert", "ca_cert"))
	}
	if _, ok := facilities[c.facility()]; !ok {
		errs = append(errs, fault.BadSetting(strconv.Quote(c.Facility)+" is not a facility",
			"write auth, authpriv, daemon, user or local0 to local7", "facility"))
	}
	return errors.Join(errs...)
}

func (c *SyslogConfig) facility() string {
	if c.Facility == "" {
		return "authpriv"
	}
	return c.Facility
}

func (c *OTLPConfig) check(bool) error { return c.Check("records") }
