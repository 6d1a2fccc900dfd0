// Package otlp describes how an OpenTelemetry collector is reached over HTTP ("OTLP/HTTP"), which is
// the same for records of the journal and for spans.
package otlp

import (
	"bytes"
	"crypto/x509"
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// Collector is the address of a collector, and what a client needs to reach it.
type Collector struct {
	// URL is the base address, to which /v1/logs or /v1/traces is appended.
	URL string `yaml:"url"`
	// Headers are sent with each request, by name; their values are secrets.
	Headers map[string]*secret.Source `yaml:"headers"`
	// CACert is the path of PEM certificates that the collector's TLS certificate must chain to, in place of the
	// system's.
	CACert string `yaml:"ca_cert" path:"read"`
	// Insecure allows plain http to a host that is not loopback.
	Insecure bool `yaml:"insecure"`
}

// Check finds wrong settings without opening a file or a socket: one [fault.Setting] for each. what names the data that
// is sent, in the plural, for messages.
func (c *Collector) Check(what string) error {
	var errs []error
	u, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		errs = append(errs, fault.BadSetting("is missing",
			"write the base address of the collector, for example https://collector.example.com:4318", "url"))
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "https" && u.Scheme != "http":
		errs = append(errs, fault.BadSetting(strconv.Quote(c.URL)+" is not a base address",
			"write https://HOST:PORT", "url"))
	case u.Scheme == "http" && !c.Insecure && !hostname.IsLoopback(u.Hostname()):
		errs = append(errs, fault.BadSetting(what+" would be sent over a network unencrypted",
			"use https, or set insecure: true", "url"))
	}
	for name, value := range c.Headers {
		if strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || name == "" {
			errs = append(errs, fault.BadSetting(strconv.Quote(name)+" is not the name of a header",
				"write letters, digits and -", "headers", name))
		}
		if value == nil {
			errs = append(errs, fault.BadSetting("the header has no value",
				"write {env: NAME} or {file: PATH}", "headers", name))
		}
		errs = append(errs, fault.Under(value.Check(), "headers", name))
	}
	return errors.Join(errs...)
}

// Endpoint returns the URL of a path of the protocol, such as /v1/logs.
func (c *Collector) Endpoint(path string) string { return strings.TrimSuffix(c.URL, "/") + path }

// Read reads the values of the headers, and the CA certificates; nil means those of the system. Its errors are
// [fault.Setting] values.
func (c *Collector) Read() (headers map[string]string, roots *x509.CertPool, err error) {
	headers = map[string]string{}
	for name, value := range c.Headers {
		text, err := value.Read()
		if err != nil {
			return nil, nil, fault.Under(err, "headers", name)
		}
		if bytes.ContainsAny(text, "\r\n\x00") {
			return nil, nil, fault.BadSetting("the value contains a line end", "write one line", "headers", name)
		}
		headers[name] = string(text)
	}
	roots, err = pemfile.LoadPool(c.CACert, "ca_cert")
	return headers, roots, err
}
