package tracing

import (
	"errors"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/otlp"
)

// Config says which requests are traced, and where their spans are sent.
type Config struct {
	// OTLP is the OpenTelemetry collector that gets the spans.
	OTLP *OTLPConfig `yaml:"otlp"`
	// Sample is the share of requests that are traced, from 0 to 1. Default: 0.01.
	Sample *float64 `yaml:"sample"`
	// Parent says what the trace context in a request (traceparent, W3C Trace Context) means: ignore, or follow. With
	// follow, a request that its caller samples is traced as a part of the caller's trace, at most ten a second.
	// Default: ignore.
	Parent string `yaml:"parent"`
}

// OTLPConfig is an OpenTelemetry collector (OTLP/HTTP with protobuf).
type OTLPConfig struct {
	otlp.Collector `yaml:",inline"`
	// Timeout bounds one request to the collector: 100ms to 1m. Default: 10s.
	Timeout time.Duration `yaml:"timeout"`
}

// The values of [Config].Parent.
const (
	parentIgnore = "ignore"
	parentFollow = "follow"
)

const (
	defaultSample  = 0.01
	defaultTimeout = 10 * time.Second
	minTimeout     = 100 * time.Millisecond
	maxTimeout     = time.Minute
)

// Check finds wrong settings without opening a file or a socket: one [fault.Setting] for each. A nil Config is valid.
func (c *Config) Check() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.OTLP == nil {
		errs = append(errs, fault.BadSetting("is missing", "write otlp: {url: https://HOST:PORT}", "otlp"))
	} else {
		errs = append(errs, fault.Under(c.OTLP.check(), "otlp"))
	}
	if s := c.Sample; s != nil && !(*s >= 0 && *s <= 1) {
		errs = append(errs, fault.BadSetting(strconv.FormatFloat(*s, 'g', -1, 64)+" is not a share of the requests",
			"write a number from 0 to 1, such as 0.01", "sample"))
	}
	if p := c.Parent; p != "" && p != parentIgnore && p != parentFollow {
		errs = append(errs, fault.BadSetting(strconv.Quote(p)+" is not a known value",
			"write ignore or follow", "parent"))
	}
	return errors.Join(errs...)
}

func (c *OTLPConfig) check() error {
	errs := []error{c.Check("spans")}
	if c.Timeout != 0 && (c.Timeout < minTimeout || c.Timeout > maxTimeout) {
		errs = append(errs, fault.BadSetting(c.Timeout.String()+" is out of range", "write 100ms to 1m, or remove it",
			"timeout"))
	}
	return errors.Join(errs...)
}

// Warnings returns a [fault.Setting] for each setting that is valid but may be a mistake.
func (c *Config) Warnings() []*fault.Setting {
	if c == nil || c.OTLP == nil || !c.OTLP.Insecure {
		return nil
	}
	return []*fault.Setting{fault.BadSetting("spans are sent over a network unencrypted", "use https",
		"otlp", "insecure")}
}
