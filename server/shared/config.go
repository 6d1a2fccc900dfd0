package shared

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// Config is the store that several servers share.
type Config struct {
	// Valkey is a Valkey or Redis.
	Valkey *ValkeyConfig `yaml:"valkey"`
}

// ValkeyConfig is a Valkey, or a Redis from version 6.
type ValkeyConfig struct {
	// Addresses are the addresses of the server, of the sentinels, or of some nodes of the cluster: HOST:PORT.
	Addresses []string `yaml:"addresses"`
	// Mode is the kind of the store: single (one server), sentinel or cluster. Default: single.
	Mode string `yaml:"mode"`
	// MasterSet is the name under which the sentinels know the servers. The mode sentinel needs it.
	MasterSet string `yaml:"master_set"`
	// Username is the name of the user on the servers. When omitted: the user "default".
	Username string `yaml:"username"`
	// Password is the password of the user on the servers. When omitted: none.
	Password *secret.Source `yaml:"password"`
	// SentinelUsername is the name of the user on the sentinels. When omitted: the user "default".
	SentinelUsername string `yaml:"sentinel_username"`
	// SentinelPassword is the password of the user on the sentinels. When omitted: none.
	SentinelPassword *secret.Source `yaml:"sentinel_password"`
	// TLS is the TLS of all connections. When omitted: plain text, which is allowed on loopback only, unless insecure
	// is true.
	TLS *TLSConfig `yaml:"tls"`
	// Insecure allows plain text on a network.
	Insecure bool `yaml:"insecure"`
	// Database is the number of the database. A cluster has only 0. Default: 0.
	Database *int `yaml:"database"`
	// KeyPrefix is the prefix of all keys. Servers that share counts need the same prefix. Default: "mayfly:".
	KeyPrefix string `yaml:"key_prefix"`
	// Timeout is how long a call may take: 10ms to 5s. Default: 250ms.
	Timeout time.Duration `yaml:"timeout"`
	// WaitReplicas is how many replicas must have a use of a token before it counts as stored: 0 to 9. With 1 or more,
	// a failover loses no use. Default: 0.
	WaitReplicas *int `yaml:"wait_replicas"`
}

// TLSConfig is the TLS of the connections to a store.
type TLSConfig struct {
	// CACert is the path of PEM certificates that the certificates of the store must chain to, in place of the
	// system's.
	CACert string `yaml:"ca_cert" path:"read"`
	// Certificate is the path of this client's certificate and its chain, in PEM. When omitted: none.
	Certificate string `yaml:"certificate" path:"read"`
	// Key is the path of the private key of the certificate, in PEM.
	Key string `yaml:"key" path:"secret"`
	// ServerName is the name in the certificates of the store. When omitted: the host of the address.
	ServerName string `yaml:"server_name"`
}

// The modes.
const (
	single   = "single"
	sentinel = "sentinel"
	cluster  = "cluster"
)

const (
	defaultPrefix  = "mayfly:"
	maxPrefix      = 64
	defaultTimeout = 250 * time.Millisecond
	minTimeout     = 10 * time.Millisecond
	maxTimeout     = 5 * time.Second
	maxWaited      = 9
	maxDatabase    = 1 << 16
)

// Check finds what is wrong with c without opening a file or a socket. Its errors are [fault.Setting] values.
func (c *Config) Check() error {
	if c == nil {
		return nil
	}
	if c.Valkey == nil {
		return fault.BadSetting("is missing", "write the addresses of a Valkey or Redis", "valkey")
	}
	return fault.Under(c.Valkey.check(), "valkey")
}

// Insecurely reports whether the connections are in plain text on a network.
func (c *Config) Insecurely() bool { return c != nil && c.Valkey != nil && c.Valkey.Insecure }

func (c *ValkeyConfig) check() error {
	var errs []error
	add := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	if len(c.Addresses) == 0 {
		add("is missing", "write the addresses of the servers, HOST:PORT", "addresses")
	}
	for i, a := range c.Addresses {
		host, port, err := net.SplitHostPort(a)
		if n, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || n == 0 || host == "" {
			add(strconv.Quote(a)+" is not an address", "write HOST:PORT", "addresses", strconv.Itoa(i))
		} else if c.TLS == nil && !c.Insecure && !hostname.IsLoopback(host) {
			add("hashes and the password would be sent over a network unencrypted", "write tls, or set insecure: true",
				"addresses", strconv.Itoa(i))
		}
	}
	if c.TLS != nil && c.Insecure {
		add("tls is also set", "remove one of them", "insecure")
	}
	if !slices.Contains([]string{"", single, sentinel, cluster}, c.Mode) {
		add(strconv.Quote(c.Mode)+" is not a mode", "write single, sentinel or cluster", "mode")
	}
	if c.mode() == single && len(c.Addresses) > 1 {
		add("a single server has one address", "write one address, or mode: sentinel or mode: cluster", "addresses")
	}
	if (c.MasterSet != "") != (c.Mode == sentinel) {
		add("the mode sentinel has a master_set, and other modes have none",
			"write mode: sentinel and the name in the configuration of the sentinels", "master_set")
	}
	if c.Mode != sentinel && (c.SentinelUsername != "" || c.SentinelPassword != nil) {
		add("there are no sentinels", "write mode: sentinel, or remove sentinel_username and sentinel_password", "mode")
	}
	if n := number(c.Database); c.Mode == cluster && n != 0 || n < 0 || n > maxDatabase {
		add("is not a database", "write 0, or another number without mode: cluster", "database")
	}
	if len(c.KeyPrefix) > maxPrefix || slices.ContainsFunc([]byte(c.KeyPrefix), func(b byte) bool {
		return b <= ' ' || b > '~' || b == '{' || b == '}'
	}) {
		add("is not a prefix", fmt.Sprintf("write up to %d characters of ASCII without spaces and braces", maxPrefix),
			"key_prefix")
	}
	if c.Timeout != 0 && (c.Timeout < minTimeout || c.Timeout > maxTimeout) {
		add("is out of range", fmt.Sprintf("write %s to %s, or remove it", minTimeout, maxTimeout), "timeout")
	}
	if n := number(c.WaitReplicas); n < 0 || n > maxWaited {
		add("is not a number of replicas", fmt.Sprintf("write 0 to %d", maxWaited), "wait_replicas")
	}
	return errors.Join(append(errs, fault.Under(c.Password.Check(), "password"),
		fault.Under(c.SentinelPassword.Check(), "sentinel_password"), c.TLS.check())...)
}

func (c *TLSConfig) check() error {
	if c != nil && (c.Certificate == "") != (c.Key == "") {
		return fault.BadSetting("certificate and key belong together", "write both, or neither", "tls", "certificate")
	}
	return nil
}

func (c *ValkeyConfig) mode() string {
	if c.Mode == "" {
		return single
	}
	return c.Mode
}

// number returns a number that may be omitted.
func number(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}

func (c *ValkeyConfig) prefix() string {
	if c.KeyPrefix == "" {
		return defaultPrefix
	}
	return c.KeyPrefix
}

func (c *ValkeyConfig) timeout() time.Duration {
	if c.Timeout == 0 {
		return defaultTimeout
	}
	return c.Timeout
}

// load returns the TLS configuration; nil for plain text. The certificate of this client is read again for each
// connection, so that it can be replaced.
func (c *TLSConfig) load() (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CACert != "" {
		data, err := input.Read(nil, c.CACert)
		if err != nil {
			return nil, fault.BadFile(c.CACert, err, "tls", "ca_cert")
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(data) {
			return nil, fault.BadSetting("contains no certificate in PEM", "write the path of CA certificates", "tls",
				"ca_cert").In(c.CACert)
		}
	}
	if c.Certificate == "" {
		return out, nil
	}
	if _, err := tls.LoadX509KeyPair(c.Certificate, c.Key); err != nil {
		return nil, fault.BadFile(c.Certificate, err, "tls", "certificate")
	}
	out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		return &pair, err
	}
	return out, nil
}
