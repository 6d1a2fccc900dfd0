package servertls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// Config is the TLS of a listener. Its certificate comes from one place: Certificate and Key, SelfSigned, or ACME.
type Config struct {
	// Certificate is the path of the certificate chain, in PEM, the certificate of the server first. A change of
	// the file is applied at once, together with that of key.
	Certificate string `yaml:"certificate" path:"live"`
	// Key is the path of the private key, in PEM, without encryption.
	Key string `yaml:"key" path:"live-secret"`
	// SelfSigned says whether to make a key and a certificate for the loopback addresses, which clients are given as
	// their CA certificate: state_dir/tls/certificate.pem. It is for development.
	SelfSigned bool `yaml:"self_signed"`
	// ACME obtains the certificate from a CA of TLS certificates.
	ACME *ACME `yaml:"acme"`
	// MinVersion is the lowest version of TLS that is accepted: 1.2 or 1.3. Default: 1.2.
	MinVersion string `yaml:"min_version"`
	// KeyExchange are the key exchanges that are accepted: X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024
	// (these three are hybrid: they resist a quantum computer), X25519, P-256, P-384, P-521. Default: all of them
	// but P-521.
	KeyExchange []string `yaml:"key_exchange"`
	// ClientCA is the path of CA certificates, in PEM. A client must then present a certificate that one of these
	// issued, with the extended key usage clientAuth. When omitted: clients present none. A change of the file is
	// applied at once.
	ClientCA string `yaml:"client_ca" path:"live"`
}

// ACME is how a certificate is obtained by the protocol of RFC 8555, with the challenge tls-alpn-01 (RFC 8737): the CA
// connects to port 443 of each domain, which must lead to a listener with this block. To write the block is to agree to
// the terms of service of that CA.
type ACME struct {
	// Directory is the URL of the CA's directory. Default: that of Let's Encrypt.
	Directory string `yaml:"directory"`
	// Domains are the names of the certificate.
	Domains []string `yaml:"domains"`
	// Email is where the CA sends warnings. Optional.
	Email string `yaml:"email"`
	// Dir is the directory in which account, keys and certificates outlast a restart; it is for the CA alone.
	Dir string `yaml:"dir" path:"dir"`
	// CABundle is the path of the CA certificates, in PEM, with which the TLS of the directory is verified. When
	// omitted: those of the system.
	CABundle string `yaml:"ca_bundle" path:"live"`
}

// maxDomains bounds the names of an ACME certificate.
const maxDomains = 20

var keyExchanges = map[string]tls.CurveID{
	"X25519MLKEM768": tls.X25519MLKEM768, "SecP256r1MLKEM768": tls.SecP256r1MLKEM768,
	"SecP384r1MLKEM1024": tls.SecP384r1MLKEM1024, "X25519": tls.X25519,
	"P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521,
}

var versions = map[string]uint16{"": tls.VersionTLS12, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// Check finds what is wrong with the settings. A nil Config is none. Its errors are [fault.Setting] values.
func (c *Config) Check() error {
	if c == nil {
		return nil
	}
	var errs []error
	bad := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	sources := 0
	for _, set := range []bool{c.Certificate != "" || c.Key != "", c.SelfSigned, c.ACME != nil} {
		if set {
			sources++
		}
	}
	switch {
	case sources == 0:
		bad("the certificate is missing", "write certificate: and key:, or acme:")
	case sources > 1:
		bad("a certificate comes from one place", "keep certificate: and key:, or self_signed:, or acme:")
	case c.Certificate == "" && c.Key != "":
		bad("certificate is missing", "write the path of the certificate chain", "certificate")
	case c.Certificate != "" && c.Key == "":
		bad("key is missing", "write the path of the private key", "key")
	}
	if _, ok := versions[c.MinVersion]; !ok {
		bad(strconv.Quote(c.MinVersion)+" is not a version of TLS that is supported", `write "1.2" or "1.3"`,
			"min_version")
	}
	for i, name := range c.KeyExchange {
		if _, ok := keyExchanges[name]; !ok {
			bad(strconv.Quote(name)+" is not a known key exchange",
				"write one of "+strings.Join(slices.Sorted(maps.Keys(keyExchanges)), ", "),
				"key_exchange", strconv.Itoa(i))
		}
	}
	return errors.Join(append(errs, fault.Under(c.ACME.check(), "acme"))...)
}

func (a *ACME) check() error {
	if a == nil {
		return nil
	}
	var errs []error
	bad := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	if a.Directory != "" {
		if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
			bad(strconv.Quote(a.Directory)+" is not an https URL", "write the URL of the directory of the CA",
				"directory")
		}
	}
	switch {
	case len(a.Domains) == 0:
		bad("domains is missing", "write the names of this server", "domains")
	case len(a.Domains) > maxDomains:
		bad(fmt.Sprintf("domains has %d names", len(a.Domains)), fmt.Sprintf("write at most %d", maxDomains),
			"domains")
	}
	for i, name := range a.Domains {
		if !isDomain(name) {
			bad(strconv.Quote(name)+" is not a domain name", "write a name in lower case, such as ca.example.com",
				"domains", strconv.Itoa(i))
		}
	}
	if a.Dir == "" {
		bad("dir is missing", "write a directory for account, keys and certificates", "dir")
	}
	return errors.Join(errs...)
}

// isDomain reports whether name is a host name (RFC 1123 §2.1) in lower case with at least two labels.
func isDomain(name string) bool {
	labels := strings.Split(name, ".")
	if len(labels) < 2 || len(name) > 253 {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' ||
			strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != "" // not an IPv4 address
}
