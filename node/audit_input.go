package node

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/reconcile"
)

// AuditInput returns the input of [reconcile.Run] for a configuration file and the journals of other instances: the
// logs, the journals and the issuing certificates. The CA's key is not needed. Errors are [fault.Setting] values.
func AuditInput(path string, cfg *config.Config, journals []string) (in reconcile.Input, err error) {
	in.Lag = cfg.Audit.Reconcile.LagOrDefault()
	in.Commands = findingCommands{path: path, config: cfg}.of
	if in.Journals, err = auditedJournals(cfg, journals); err != nil {
		return in, err
	}
	if in.Issuers, err = auditedIssuers(cfg); err != nil {
		return in, err
	}
	in.Logs, err = auditedLogs(cfg)
	return in, err
}

// auditedJournals returns the journal of a configuration and those of other instances.
func auditedJournals(cfg *config.Config, others []string) ([]reconcile.Journal, error) {
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

// auditedIssuers returns the issuing certificates of a configuration, past and present.
func auditedIssuers(cfg *config.Config) (out []*x509.Certificate, err error) {
	own := *cfg // what signs is chosen in it
	cfg = &own
	// The issuing key MUST come from the configuration. If it came from the journal, an attacker who forges the journal
	// and a log would choose the key that the audit is about.
	state, err := followState(cfg)
	if stopped := (*stoppedError)(nil); errors.As(err, &stopped) {
		state, err = &stopped.state, nil
	}
	switch {
	case err != nil:
		return nil, err
	case state != nil:
		for _, c := range state.Chains {
			out = append(out, c.Certificates()[0])
		}
	default:
		chain, err := PublicChain(cfg)
		if err != nil {
			return nil, err
		}
		out = append(out, chain[0])
	}
	for i, path := range cfg.CA.Trust {
		chain, err := signer.ReadChain(path)
		if err != nil {
			return nil, fault.Under(err, "ca", "trust", strconv.Itoa(i))
		}
		out = append(out, chain[0])
	}
	if t := cfg.Experimental.MLDSAChain; t != nil {
		chain, err := signer.ReadChain(t.ChainFile())
		if err != nil {
			return nil, fault.Under(err, cfg.MLDSAAt("chain")...)
		}
		out = append(out, chain[0])
	}
	return out, nil
}

// embeddedMergeDelay is much longer than the embedded log takes to publish a checkpoint.
const embeddedMergeDelay = 10 * time.Minute

// auditedLogs returns the logs of a configuration and the shards of its embedded log.
func auditedLogs(cfg *config.Config) (out []reconcile.Log, err error) {
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
	for _, own := range processLogs(cfg) {
		shards, err := own.monitors()
		if err != nil {
			return nil, err
		}
		for _, log := range shards {
			out = append(out, reconcile.Log{Log: log, MergeDelay: embeddedMergeDelay})
		}
	}
	return out, nil
}

// monitorOptions returns how a log is read: with the TLS settings and the proxy of submissions.
func monitorOptions(l remote.Config) (o monitor.Options, err error) {
	o = monitor.Options{
		Log:       loglist.Log{Name: l.Name, Origin: l.Origin, MonitoringURL: l.MonitoringURL, URL: l.URL},
		Transport: monitor.Transport{UserAgent: version.UserAgent()},
	}
	if o.Log.Key, err = LoadLogKey(l.PublicKey); err != nil {
		return o, fault.Under(err, "public_key")
	}
	if o.Transport.Roots, err = pemfile.LoadPool(l.CACert, "ca_cert"); err != nil {
		return o, err
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

// LoadLogKey reads the public key of a log. Its errors are [fault.Setting] values without a path.
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
