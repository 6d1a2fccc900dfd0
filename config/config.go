// Package config reads mayfly.yaml and the issuer file that it names, and returns the configurations of the domain
// packages. Only this package reads the YAML of mayfly; package migrate reads that of other programs.
//
// [Load] MUST refuse a file that it does not fully understand: an unknown key, a key that is set twice, a value of the
// wrong type, an empty value, a contradiction. It MUST NOT use a default because a file is missing or damaged. Each
// error is a [Problem] with file, line and column; all problems of a load are returned at once. Load MUST NOT open a
// socket or write a file, and MUST NOT print the value of a secret.
//
// The domain packages define what a setting means: each Config type has a Check method that returns [fault.Setting]
// errors, and this package finds the position of each one. The content of the files that settings name (keys,
// certificates) is not checked here; a package that reads such a file passes its errors to [Config.Locate].
package config

import (
	"errors"
	"time"

	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/find"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/server/servertls"
	"github.com/mayfly-ca/mayfly/server/shared"
	"github.com/mayfly-ca/mayfly/tracing"
)

// Config is a loaded configuration. All paths in it are absolute; a relative one in the file is relative to the folder
// of that file, as the path given to [Load] names it (a symbolic link to the file is not followed for that).
type Config struct {
	// Listen has the addresses of the listeners.
	Listen Listen `yaml:"listen" restart:"yes"`
	// Limits says how much work is taken on before requests are refused.
	Limits Limits `yaml:"limits"`
	// API says which versions of the API are served.
	API API `yaml:"api"`
	// Identity says which identities may get certificates.
	Identity Identity `yaml:"identity"`
	// CA has the CA's key and chain, and further chains for verifiers. Exactly one key backend is set, or chains.
	CA CA `yaml:"ca"`
	// ClientAlgorithms are the algorithms of the keys that may be certified. Default: rsa-sign-pkcs1-2048-sha256,
	// rsa-sign-pkcs1-3072-sha256, rsa-sign-pkcs1-4096-sha256, ecdsa-sha2-256-nistp256, ecdsa-sha2-384-nistp384,
	// ecdsa-sha2-512-nistp521, ed25519.
	ClientAlgorithms []string `yaml:"client_algorithms"`
	// CT says which transparency logs get precertificates: logs, embedded or both, or none.
	CT CT `yaml:"ct"`
	// Rekor is a log of signatures in this process, as Rekor v2: clients write the signatures to it that they make with
	// certificates of this CA. When omitted: there is none.
	Rekor *Rekor `yaml:"rekor" restart:"yes"`
	// TSA is a timestamp authority (RFC 3161) at /api/v1/timestamp. With a timestamp, a signature still verifies after
	// its certificate has expired. When omitted: there is none.
	TSA *TSA `yaml:"tsa" restart:"yes"`
	// Audit is the journal of decisions: no certificate is released without a record. When omitted: there is no
	// journal, and decisions are in the log only.
	Audit *Audit `yaml:"audit" restart:"yes"`
	// Canary tries the whole path at intervals, from a token to the SCTs of a precertificate, without making a
	// certificate. When omitted: there is no canary.
	Canary *canary.Config `yaml:"canary"`
	// Find is an index of the logs in this process, for "mayfly find" and GET /api/v1/find: who signed an artifact, and
	// what an identity signed. When omitted: there is none.
	Find *find.Config `yaml:"find" restart:"yes"`
	// Tracing sends traces of a share of the requests to an OpenTelemetry collector. When omitted: nothing is traced.
	Tracing *tracing.Config `yaml:"tracing" restart:"yes"`
	// Publish says where verifiers get the trust material of this CA.
	Publish Publish `yaml:"publish"`
	// StateDir is the directory in which the last good keys of identity providers, and the counts of uses of tokens
	// (certificates-per-token in the issuer file), survive a restart; only the CA may write to it, and each CA needs
	// its own. When omitted: nothing is kept.
	StateDir string `yaml:"state_dir" path:"optional-dir" restart:"yes"`
	// Shared is a store in which several servers count together: how often tokens were used, and limits.issuer and
	// limits.identity. When omitted: each server counts alone.
	Shared *shared.Config `yaml:"shared" restart:"yes"`
	// Production says whether to refuse ephemeral keys, ct.none and every setting insecure: true.
	Production bool `yaml:"production"`

	// Experimental has settings that may change or go away in every version.
	Experimental Experimental `yaml:"experimental"`

	// Issuers is the content of the issuer file.
	Issuers oidc.Config `yaml:"-"`
	dir     string      // of the file

	main, issuers *tree // positions of the settings
	places        []pathSetting
	issuerPlaces  []pathSetting // of the issuer file

	// Files are the files that the configuration was read from or names, absolute: what to watch for changes.
	Files []string `yaml:"-"`
	// Digest is the SHA-256 over the SHA-256 of mayfly.yaml and that of the issuer file, in hexadecimal.
	Digest string `yaml:"-"`
}

// Off is the address of a disabled listener.
const Off = "off"

// SystemdPrefix begins the address of a listener that systemd passes; the name of the socket follows.
const SystemdPrefix = "systemd:"

// The addresses of listeners that the file does not name.
const (
	DefaultHTTP  = "127.0.0.1:5555"
	DefaultGRPC  = "127.0.0.1:5554"
	DefaultAdmin = "127.0.0.1:2112"
)

// Listen has the addresses of the listeners: HOST:PORT, [Off], or [SystemdPrefix] with the name of a socket that
// systemd passes. The same text for HTTP and GRPC means one port for both.
type Listen struct {
	// HTTP is the address of the REST API; port 0 takes a free one, and systemd:NAME is a socket that systemd passes.
	// Default: 127.0.0.1:5555.
	HTTP string `yaml:"http"`
	// GRPC is the address of the gRPC API; the same as http puts both on one port. Default: 127.0.0.1:5554.
	GRPC string `yaml:"grpc"`
	// Admin is the address of readiness, metrics and profiling. Default: 127.0.0.1:2112.
	Admin string `yaml:"admin"`
	// TLS is the TLS of the listeners http and grpc. When omitted: plain text.
	TLS *servertls.Config `yaml:"tls"`
	// AdminTLS is the TLS of the listener admin. When omitted: plain text.
	AdminTLS *servertls.Config `yaml:"admin_tls"`
	// TrustedProxies are the addresses of the proxies in front of the CA, as CIDR prefixes or single addresses.
	// For connections from these, the source of a request is the last address in X-Forwarded-For that is not a
	// trusted proxy: in the log, in the journal and in the limits by source. When omitted: none; the source is the
	// address of the connection.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// ProxyProtocol says whether the proxies begin each connection to http and grpc with a header of the PROXY
	// protocol, version 1 or 2. The source of a request is then the address in it. It needs trusted_proxies; other
	// addresses connect without a header. Default: false.
	ProxyProtocol bool `yaml:"proxy_protocol"`
	// ProxyHeader is the header to which the proxies append: X-Forwarded-For, or Forwarded (RFC 7239). The other
	// one is not read, because proxies pass it on as the client wrote it. Default: X-Forwarded-For.
	ProxyHeader string `yaml:"proxy_header"`
	// DrainDelay is how long a server that is being stopped still accepts connections and requests. Meanwhile /readyz
	// and gRPC health say that the server is not ready, so that balancers send their requests elsewhere: write more
	// than the time that your balancer takes to notice. Default: 0s.
	DrainDelay time.Duration `yaml:"drain_delay"`
	// MaxConnectionAge is the time, plus or minus a tenth, after which the client of a connection to http or grpc is
	// asked for a new one, so that connections are balanced over servers that were added. Default: 30m.
	MaxConnectionAge time.Duration `yaml:"max_connection_age"`
	// Profiling says whether to serve profiles (/debug/pprof/) also on an admin listener that is not on loopback,
	// and for every Host header. Profiles show the internals of the process and slow it down. Default: false.
	Profiling bool `yaml:"profiling"`
	// FulcioMetrics says whether /metrics also has the metrics of Fulcio under their names, for existing dashboards.
	// Default: false.
	FulcioMetrics bool `yaml:"fulcio_metrics"`
}

// API says which versions of the API are served, and how. The current one always is.
type API struct {
	// V1 says whether the older API, /api/v1/ over REST, is served; gitsign needs it. Default: true.
	V1 *bool `yaml:"v1"`
	// IdempotentRetry says whether a request that is repeated with the same token and the same key within five minutes
	// gets the same certificate again. A repeated request costs no signature, no log entry, and no use of a token with
	// a budget. The journal then stores the certificates, so that they are found again after a restart, unless
	// audit.subjects is digest. The setting needs audit.file. Default: false.
	IdempotentRetry bool `yaml:"idempotent_retry"`
}

// Identity says who may get certificates.
type Identity struct {
	// File is the path of the issuer file.
	File string `yaml:"file" path:"read"`
}

// CT says which transparency logs precertificates go to: Logs and Embedded, one of them or both, or None.
type CT struct {
	// Logs are logs that get precertificates over HTTP.
	Logs []remote.Config `yaml:"logs"`
	// Embedded is a log in this process, on the local disk.
	Embedded *embedded.Config `yaml:"embedded" restart:"yes"`
	// None is the decision to issue certificates without a log.
	None *NoneConfig `yaml:"none"`
	// Policy says how many SCTs a certificate needs, and how precertificates are submitted.
	Policy ctlog.PolicyConfig `yaml:"policy"`
}

// NoneConfig is the decision to issue certificates that no log knows.
type NoneConfig struct {
	// Reason is a text for people who read the configuration, the log and the readiness page. It must not be
	// empty.
	Reason string `yaml:"reason"`
}

// Audit is the journal of decisions and what is done with it.
type Audit struct {
	journal.Config `yaml:",inline"`
	// Reconcile says how journals and logs are compared while the CA runs; it needs file. When omitted: every
	// minute.
	Reconcile *reconcile.Config `yaml:"reconcile"`
	// Alarm says where alarms are sent.
	Alarm *reconcile.AlarmConfig `yaml:"alarm"`
}

// Check finds what is wrong with it. Its errors are [fault.Setting] values.
func (a *Audit) Check() error {
	errs := []error{
		a.Config.Check(), fault.Under(a.Reconcile.Check(), "reconcile"),
		fault.Under(a.Alarm.Check(), "alarm"),
	}
	if a.File == "" && a.Reconcile != nil && len(a.Reconcile.Journals) > 0 {
		errs = append(errs,
			fault.BadSetting("the journals of other instances are set, but the journal of this instance is not",
				"write audit.file", "reconcile", "journals"))
	}
	return errors.Join(errs...)
}
