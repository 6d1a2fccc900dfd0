package node

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/loglist"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/reconcile"
)

// JournalsOf are the journal of the configuration and those of other instances.
func JournalsOf(cfg *config.Config, others []string) ([]reconcile.Journal, error) {
	key, err := cfg.Audit.Key.Read()
	if err != nil {
		return nil, fault.Under(err, "audit", "key")
	}
	out := []reconcile.Journal{{Name: cfg.Audit.File, Path: cfg.Audit.File, Live: true, Key: key}}
	for _, path := range others {
		if path != cfg.Audit.File {
			out = append(out, reconcile.Journal{Name: path, Path: path, Key: key})
		}
	}
	return out, nil
}

// IssuersOf are the issuing certificates of the configuration, past and present. The key is not needed.
func IssuersOf(cfg *config.Config) (out []*x509.Certificate, err error) {
	// The issuing key is that of the configuration: were it taken from the journal, whoever forges the journal and the log
	// would decide which key is looked for.
	chain, err := PublicChain(cfg)
	if err != nil {
		return nil, err
	}
	out = append(out, chain[0])
	for i, path := range cfg.CA.Trust {
		chain, err := signer.ReadChain(path)
		if err != nil {
			return nil, fault.Under(err, "ca", "trust", strconv.Itoa(i))
		}
		out = append(out, chain[0])
	}
	return out, nil
}

// embeddedDelay is far longer than the log in this process takes to publish a checkpoint.
const embeddedDelay = 10 * time.Minute

// TargetsOf are the logs of a configuration, as an auditor reads them.
func TargetsOf(cfg *config.Config) (out []reconcile.Log, err error) {
	for i, l := range cfg.CT.Logs {
		o, err := monitorOptions(l)
		if err != nil {
			return nil, fault.Under(err, "ct", "logs", strconv.Itoa(i))
		}
		log, err := monitor.Open(o)
		if err != nil {
			return nil, fmt.Errorf("ct.logs: %w", err)
		}
		out = append(out, reconcile.Log{Log: log, MergeDelay: l.MergeDelay()})
	}
	if cfg.CT.Embedded == nil {
		return out, nil
	}
	shards, err := cfg.CT.Embedded.Shards()
	if err != nil {
		return nil, fault.Under(err, "ct", "embedded")
	}
	for _, s := range shards {
		t, err := shardTarget(*cfg.CT.Embedded, s)
		if err != nil {
			return nil, fault.Under(err, "ct", "embedded")
		}
		out = append(out, t)
	}
	return out, nil
}

func shardTarget(c embedded.Config, s embedded.Shard) (reconcile.Log, error) {
	description, err := c.Describe(s)
	if err != nil {
		return reconcile.Log{}, err
	}
	log, err := monitor.Open(monitor.Options{Log: description, Dir: c.ShardDir(s)})
	return reconcile.Log{Log: log, MergeDelay: embeddedDelay}, err
}

// monitorOptions say how a log is read: like it is submitted to.
func monitorOptions(l remote.Config) (o monitor.Options, err error) {
	o = monitor.Options{
		Log:       loglist.Log{Name: l.Name, Origin: l.Origin, MonitoringURL: l.MonitoringURL, URL: l.URL},
		Transport: monitor.Transport{UserAgent: version.UserAgent()},
	}
	if o.Log.Key, err = LoadLogKey(l.PublicKey); err != nil {
		return o, fault.Under(err, "public_key")
	}
	if o.Transport.Roots, err = loadRoots(l.CACert); err != nil {
		return o, fault.Under(err, "ca_cert")
	}
	if pair := l.ClientCertificate; pair != nil {
		certificate, err := pemfile.LoadKeyPair(pair.Certificate, pair.Key)
		if err != nil {
			return o, fault.BadContent(err, "write the paths of a certificate and its private key in PEM",
				"client_certificate")
		}
		o.Transport.Certificate = &certificate
	}
	if l.Proxy != "" {
		proxy, err := url.Parse(l.Proxy)
		if err != nil {
			return o, fault.BadSetting("not a URL", "write http://HOST:PORT or socks5://HOST:PORT", "proxy")
		}
		o.Transport.Proxy = http.ProxyURL(proxy)
	}
	return o, nil
}

// loadRoots reads CA certificates; "" is the system's. It errs with a setting, whose path is the caller's to say.
func loadRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // nil is the system's pool
	}
	data, err := input.Read(nil, path)
	if err != nil {
		return nil, fault.BadFile(path, err)
	}
	pool, err := pemfile.Pool(data)
	if err != nil {
		return nil, fault.BadContent(err, "write the path of CA certificates in PEM").In(path)
	}
	return pool, nil
}

// LoadLogKey errs with a setting, whose path is the caller's to say.
func LoadLogKey(name string) (any, error) {
	data, err := input.Read(nil, name)
	if err != nil {
		return nil, fault.BadFile(name, err)
	}
	key, err := loglist.ParseKey(data)
	if err != nil {
		return nil, fault.BadSetting(err.Error(), "write the path of the log's public key in PEM").In(name)
	}
	return key, nil
}
