package node

import (
	"cmp"
	"net/url"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/trust"
	"github.com/mayfly-ca/mayfly/tsa"
)

// elsewhere returns the services that other servers run, for verifiers: publish.rekor and publish.tsa. A log without a
// beginning is trusted from first. Its errors are settings.
func elsewhere(cfg *config.Config, first time.Time) (logs []trust.Log, stamps []trust.Authority, err error) {
	for i, l := range cfg.Publish.Rekor {
		at := func(err error) error { return fault.Under(err, "publish", "rekor", strconv.Itoa(i)) }
		w, err := l.Window()
		if err != nil {
			return nil, nil, at(err)
		}
		if w.NotBefore.IsZero() {
			w.NotBefore = first
		}
		data, err := input.Read(nil, l.PublicKey)
		if err != nil {
			return nil, nil, at(fault.BadFile(l.PublicKey, err, "public_key"))
		}
		key, err := pemfile.PublicKey(data)
		if err != nil {
			return nil, nil, at(fault.BadFile(l.PublicKey, err, "public_key"))
		}
		u, err := url.Parse(l.URL)
		if err != nil {
			return nil, nil, at(fault.BadSetting(err.Error(), "write https://HOST", "url"))
		}
		logs = append(logs, trust.Log{Log: loglist.Log{
			URL: l.URL, Origin: cmp.Or(l.Origin, u.Hostname()), Operator: cfg.Publish.OperatorOrDefault(), Key: key,
			Window: w,
		}})
	}
	for i, t := range cfg.Publish.TSA {
		at := func(err error) error { return fault.Under(err, "publish", "tsa", strconv.Itoa(i)) }
		w, err := t.Window()
		if err != nil {
			return nil, nil, at(err)
		}
		chain, err := signer.ReadChain(t.Chain)
		if err != nil {
			return nil, nil, at(err)
		}
		if w.NotBefore.IsZero() {
			w.NotBefore = chain[0].NotBefore
		}
		if w.NotAfter.IsZero() {
			w.NotAfter = chain[0].NotAfter
		}
		stamps = append(stamps, trust.Authority{URL: t.URL, Chain: chain, From: w.NotBefore, To: w.NotAfter})
	}
	return logs, stamps, nil
}

// tryElsewhere reads the keys and chains of the services that other servers run.
func (f *loadedFiles) tryElsewhere(cfg *config.Config) error {
	_, _, err := elsewhere(cfg, time.Time{})
	return err
}

// clients says for whom files are made: for clients of a configuration that reach the CA at a URL, at a time.
type clients struct {
	cfg *config.Config
	url string
	now time.Time
}

// services returns the services that signers use at a time. Of several logs of signatures, and of several timestamp
// authorities, only the newest is listed: some clients ignore when a service begins, and others prefer the last one.
func (c clients) services(m trust.Material) trust.Services {
	cfg, now := c.cfg, c.now
	out := trust.Services{
		CA: c.url, OIDC: cfg.SignInIssuer(), Operator: cfg.Publish.OperatorOrDefault(),
		From: firstTrusted(m.Authorities),
	}
	var stamper, log newest
	if cfg.TSA != nil {
		stamper.offer(c.url+tsa.Path, loglist.Window{}, now)
	}
	for _, t := range cfg.Publish.TSA {
		if w, err := t.Window(); err == nil {
			stamper.offer(t.URL, w, now)
		}
	}
	if cfg.Rekor != nil {
		log.offer(c.url, loglist.Window{}, now)
	}
	for _, l := range cfg.Publish.Rekor {
		if w, err := l.Window(); err == nil {
			log.offer(l.URL, w, now)
		}
	}
	out.TSA, out.Rekor = stamper.service(), log.service()
	if cfg.Rekor != nil && cfg.Rekor.V1 && log.url == c.url {
		out.RekorV1 = out.Rekor
	}
	return out
}

// newest is the service that began last.
type newest struct {
	url    string
	window loglist.Window
}

// offer takes a service that is in use now, unless a newer one was offered. Of two that began at the same time, it
// takes the later one.
func (n *newest) offer(url string, w loglist.Window, now time.Time) {
	if w.Contains(now) && (n.url == "" || !w.NotBefore.Before(n.window.NotBefore)) {
		*n = newest{url, w}
	}
}

func (n *newest) service() []trust.Service {
	if n.url == "" {
		return nil
	}
	return []trust.Service{{URL: n.url, From: n.window.NotBefore, To: n.window.NotAfter}}
}

// TrustFiles returns what the files for clients contain: the trust material of the CA of a configuration, and the
// services that signers use at a time. caURL is the URL of the CA for clients. It needs no private key and no password.
func TrustFiles(cfg *config.Config, caURL string, now time.Time) (trust.Material, trust.Services, error) {
	f, err := loadPublic(cfg)
	if err != nil {
		return trust.Material{}, trust.Services{}, err
	}
	m, err := f.trustMaterial(cfg, caURL)
	if err != nil {
		return trust.Material{}, trust.Services{}, cfg.Locate(err)
	}
	return m, clients{cfg, caURL, now}.services(m), nil
}
