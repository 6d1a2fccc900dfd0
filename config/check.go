package config

import (
	"errors"
	"iter"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/pop"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/server/servertls"
)

// checkSettings calls the Check method of each domain package, and checks the settings that no domain package has.
func (l *loader) checkSettings() {
	c := l.config
	l.main.add(c.Listen.check())
	l.main.add(c.Limits.check())
	for key, one := range c.Listen.Secured() {
		if one.SelfSigned && c.StateDir == "" {
			l.setting(fault.BadSetting("the certificate is kept in state_dir, which is missing", "write state_dir",
				"listen", key, "self_signed"))
		}
	}
	if c.Identity.File == "" {
		l.setting(fault.BadSetting("is missing",
			"write the path of the issuer file, which lists who may get certificates", "identity", "file"))
	}
	l.main.add(fault.Under(c.CA.Check(), "ca"))
	if c.CA.PrecertIssuer && c.CT.None != nil {
		l.setting(fault.BadSetting("without a log there are no precertificates", "remove the setting", "ca",
			"precert_issuer"))
	}
	if _, err := pop.New(pop.Config{Algorithms: c.ClientAlgorithms}, pop.Options{}); err != nil {
		l.main.add(fault.Under(err, "client_algorithms"))
	}
	l.main.add(fault.Under(c.Experimental.check(c.ClientAlgorithms), "experimental"))
	l.main.add(fault.Under(c.CT.check(), "ct"))
	l.main.add(fault.Under(c.checkRekor(), "rekor"))
	l.main.add(fault.Under(c.Shared.Check(), "shared"))
	for i := range c.CT.Logs {
		at := func(key string) []string { return []string{"ct", "logs", strconv.Itoa(i), key} }
		if l.main.marks[pathKey(at("rate"))].zero {
			l.setting(fault.BadSetting("invalid rate: 0 submissions a second",
				"write a number above 0, or omit the setting for no limit", at("rate")...))
		}
		if l.main.marks[pathKey(at("max_merge_delay"))].zero {
			l.setting(fault.BadSetting("0s is shorter than a minute",
				"write the maximum merge delay of the log, such as 24h",
				at("max_merge_delay")...))
		}
	}
	l.main.add(fault.Under(c.TSA.Check(), "tsa"))
	if c.Audit != nil {
		l.main.add(fault.Under(c.Audit.Check(), "audit"))
	} else if c.API.IdempotentRetry {
		l.setting(fault.BadSetting("needs a journal, which stores the certificates that are returned again",
			"write audit.file, or remove the setting", "api", "idempotent_retry"))
	}
	l.main.add(fault.Under(c.Canary.Check(c.CT.None != nil), "canary"))
	if c.Find != nil {
		l.main.add(fault.Under(c.Find.Check(), "find"))
		if c.CT.Embedded == nil && c.Rekor == nil {
			l.setting(fault.BadSetting("there is no log in this process to index", "remove the setting", "find"))
		}
	}
	l.main.add(fault.Under(c.Tracing.Check(), "tracing"))
	l.main.add(fault.Under(c.Publish.check(), "publish"))
}

func (l Listen) check() error {
	var errs []error
	on := 0
	seen := map[string]string{}
	for _, one := range []struct{ key, address string }{{"http", l.HTTP}, {"grpc", l.GRPC}, {"admin", l.Admin}} {
		if one.address == Off {
			continue
		}
		host, port, err := net.SplitHostPort(one.address)
		n, perr := strconv.ParseUint(port, 10, 16)
		if name, passed := strings.CutPrefix(one.address, SystemdPrefix); passed && name != "" {
			host, n, err, perr = "", 1, nil, nil
		}
		if err != nil || perr != nil || strings.ContainsAny(host, "/ ") {
			errs = append(errs, fault.BadSetting(strconv.Quote(one.address)+" is not an address",
				"write HOST:PORT, off, or systemd:NAME", "listen", one.key))
			continue
		}
		if one.key != "admin" {
			on++
		}
		if other, taken := seen[one.address]; taken && n != 0 && one.key == "admin" {
			errs = append(errs, fault.BadSetting("is the address of "+other+
				" as well: the operator's pages would be public",
				"write another address", "listen", one.key))
		}
		seen[one.address] = one.key
	}
	for key, one := range l.Secured() {
		if err := one.Check(); err != nil {
			errs = append(errs, fault.Under(err, "listen", key))
		}
	}
	for i, one := range l.TrustedProxies {
		if _, err := parseProxy(one); err != nil {
			errs = append(errs, fault.BadSetting(strconv.Quote(one)+" is not a CIDR prefix or an IP address",
				"write for example 10.0.0.0/8 or 192.0.2.7",
				"listen", "trusted_proxies", strconv.Itoa(i)))
		}
	}
	if l.ProxyProtocol && len(l.TrustedProxies) == 0 {
		errs = append(errs, fault.BadSetting("no proxy is trusted to send a header",
			"write the addresses of the proxies below listen.trusted_proxies", "listen", "proxy_protocol"))
	}
	if h := l.ProxyHeader; h != "" && h != headerXForwardedFor && h != headerForwarded {
		errs = append(errs, fault.BadSetting(strconv.Quote(h)+" is not a header that is read",
			"write "+headerXForwardedFor+" or "+headerForwarded, "listen", "proxy_header"))
	}
	if l.DrainDelay < 0 || l.DrainDelay > longestDrainDelay {
		errs = append(errs, fault.BadSetting("is out of range", "write a duration up to 5m, or remove it",
			"listen", "drain_delay"))
	}
	if a := l.MaxConnectionAge; a != 0 && (a < shortestAge || a > longestAge) {
		errs = append(errs, fault.BadSetting("is out of range", "write a duration from 1s to 24h, or remove it",
			"listen", "max_connection_age"))
	}
	if on == 0 && len(errs) == 0 {
		errs = append(errs, fault.BadSetting("http and grpc are both off, so certificates cannot be requested",
			"enable one of them", "listen"))
	}
	return errors.Join(errs...)
}

// Limits of the times of [Listen].
const (
	longestDrainDelay = 5 * time.Minute
	shortestAge       = time.Second
	longestAge        = 24 * time.Hour
)

// Secured returns the blocks of TLS that exist, by their keys.
func (l Listen) Secured() iter.Seq2[string, *servertls.Config] {
	return func(yield func(string, *servertls.Config) bool) {
		if l.TLS != nil && !yield("tls", l.TLS) {
			return
		}
		if l.AdminTLS != nil {
			yield("admin_tls", l.AdminTLS)
		}
	}
}

// AdminURL returns the URL of the admin listener, as this machine reaches it; "" if there is none whose address is
// known.
func (l Listen) AdminURL() string {
	host, port, err := net.SplitHostPort(l.Admin)
	if err != nil || l.Admin == Off || strings.HasPrefix(l.Admin, SystemdPrefix) || port == "0" {
		return ""
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	scheme := "http://"
	if l.AdminTLS != nil {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port)
}

// The values of [Listen].ProxyHeader.
const (
	headerXForwardedFor = "X-Forwarded-For"
	headerForwarded     = "Forwarded"
)

// StandardHeader reports whether proxies report the client in Forwarded (RFC 7239).
func (l Listen) StandardHeader() bool { return l.ProxyHeader == headerForwarded }

// Hosts are the host names and addresses of the listeners, for a certificate that the CA makes itself.
func (l Listen) Hosts() []string {
	var out []string
	for _, address := range []string{l.HTTP, l.GRPC, l.Admin} {
		host, _, err := net.SplitHostPort(address)
		if strings.HasPrefix(address, SystemdPrefix) {
			continue
		}
		if ip, e := netip.ParseAddr(host); err == nil && host != "" && (e != nil || !ip.IsUnspecified()) &&
			!slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out
}

// Proxies returns the trusted proxies. It panics on a value that the check refuses.
func (l Listen) Proxies() []netip.Prefix {
	out := make([]netip.Prefix, 0, len(l.TrustedProxies))
	for _, one := range l.TrustedProxies {
		p, err := parseProxy(one)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

// parseProxy reads a CIDR prefix or an address. A prefix with bits after its length is refused: it is a typing error.
func parseProxy(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, err
	case p.Masked() != p:
		return netip.Prefix{}, errors.New("the address has bits after the length of the prefix")
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("write the prefix in IPv4 notation")
	}
	return p, nil
}

// warnings returns warnings about settings of the listeners that are allowed.
func (l Listen) warnings() (out []*fault.Setting) {
	warn := func(problem, fix string, path ...string) {
		out = append(out, fault.BadSetting(problem, fix, append([]string{"listen"}, path...)...))
	}
	if host, _, err := net.SplitHostPort(l.Admin); err == nil && l.Admin != Off &&
		!strings.HasPrefix(l.Admin, SystemdPrefix) && !hostname.IsLoopback(host) {
		problem := "metrics and readiness can be read by everybody who can reach " + l.Admin
		if l.Profiling {
			problem += ", and profiles (pprof)"
		}
		warn(problem, "listen on 127.0.0.1, or keep the address on a network of your own", "admin")
	}
	for i, p := range l.Proxies() {
		if p.Bits() == 0 {
			warn("every client is believed what it says of its address", "write the addresses of the proxies",
				"trusted_proxies", strconv.Itoa(i))
		}
	}
	return out
}

func (c CT) check() error {
	var errs []error
	somewhere := len(c.Logs) > 0 || c.Embedded != nil
	switch {
	case c.None != nil && somewhere:
		errs = append(errs, fault.BadSetting("none and a log are both set", "remove one of them"))
	case c.None == nil && !somewhere:
		errs = append(errs, fault.BadSetting("no log", "write logs: or embedded: (or none: with a reason)"))
	case c.None != nil && strings.TrimSpace(c.None.Reason) == "":
		errs = append(errs, fault.BadSetting("is missing", "write why certificates are not logged", "none", "reason"))
	case c.None != nil && c.Policy.MinSCTs > 0:
		errs = append(errs, fault.BadSetting("requires SCTs, but no log is configured", "remove it",
			"policy", "min_scts"))
	}
	names := map[string]bool{}
	if c.Embedded != nil {
		names["embedded"] = true
		errs = append(errs, fault.Under(c.Embedded.Check(), "embedded"))
	}
	for i, one := range c.Logs {
		at := strconv.Itoa(i)
		errs = append(errs, fault.Under(one.Check(), "logs", at))
		if one.Name != "" && names[one.Name] {
			errs = append(errs, fault.BadSetting("the name "+strconv.Quote(one.Name)+" is used twice",
				"give each log its own name", "logs", at, "name"))
		}
		if c.Embedded != nil && strings.HasPrefix(one.Name, "embedded-") {
			errs = append(errs, fault.BadSetting("the name "+strconv.Quote(one.Name)+
				" is that of a shard of the embedded log", "give the log another name", "logs", at, "name"))
		}
		names[one.Name] = true
	}
	policy := c.Policy.Check()
	if policy == nil && somewhere {
		policy = c.Policy.CheckFor(c.slots())
	}
	errs = append(errs, fault.Under(policy, "policy"))
	return errors.Join(errs...)
}

// slots returns the logs as the policy counts them.
func (c CT) slots() []ctlog.Slot {
	var all []ctlog.Slot
	for _, one := range c.Logs {
		all = append(all, one.Slot())
	}
	if c.Embedded != nil {
		all = append(all, ctlog.Slot{Name: "embedded", Embed: true})
	}
	return all
}

// checkPaths checks that the files and directories that settings name exist.
func (l *loader) checkPaths() {
	l.checkPathSettings(l.main, slices.DeleteFunc(slices.Clone(l.paths), func(p pathSetting) bool {
		return slices.Equal(p.path, []string{"identity", "file"}) // reported by loadIssuers
	}))
}

func (l *loader) checkPathSettings(t *tree, paths []pathSetting) {
	for _, p := range paths {
		if p.isSecret() && l.public {
			continue
		}
		st, err := os.Stat(*p.at)
		name := shown(l.path, *p.at)
		if (p.kind == pathWrite || p.kind == pathKept) && os.IsNotExist(err) {
			if parent, e := os.Stat(filepath.Dir(*p.at)); e != nil || !parent.IsDir() {
				t.add(fault.BadSetting("the directory of "+name+" does not exist",
					"create it, accessible to the CA only", p.path...))
			}
			continue
		}
		switch {
		case p.isDir() && os.IsNotExist(err):
		case os.IsNotExist(err):
			t.add(fault.BadSetting(name+": "+cause(err), "write the path of a file, relative to this file", p.path...))
		case err != nil:
			t.add(fault.BadFile(*p.at, err, p.path...))
		case p.isDir() && !st.IsDir():
			t.add(fault.BadSetting(name+" is not a directory", "write the path of a directory", p.path...))
		case !p.isDir() && st.IsDir():
			t.add(fault.BadSetting(name+" is a directory", "write the path of a file", p.path...))
		case p.isSecret() && st.Mode().Perm()&0o004 != 0:
			l.warning(t, name+" can be read by every user of this machine; run chmod 600 on it", p.path...)
		case p.kind == pathOptionalDir && access(*p.at) != nil:
			l.warning(t, name+" is not writable, so nothing can be stored in it; "+
				fault.Advice(access(*p.at)), p.path...)
		}
	}
}

// checkKeyAlgorithms checks names that are defined by package pop.
func (l *loader) checkKeyAlgorithms() error {
	var errs []error
	for section, rows := range map[string]map[string]oidc.IssuerConfig{
		"oidc-issuers": l.config.Issuers.Issuers,
		"meta-issuers": l.config.Issuers.MetaIssuers,
	} {
		for key, row := range rows {
			if row.KeyAlgorithms == nil {
				continue
			}
			if _, err := pop.New(pop.Config{Algorithms: row.KeyAlgorithms}, pop.Options{}); err != nil {
				errs = append(errs, fault.Under(err, section, key, "key-algorithms"))
			}
		}
	}
	return errors.Join(errs...)
}

// checkProduction refuses settings that are meant for experiments.
func (l *loader) checkProduction() {
	c := l.config
	if !c.Production {
		return
	}
	const fix = "remove it, or set production: false"
	if name, backend := c.CA.Selected(); backend != nil && backend.Temporary() {
		l.setting(fault.BadSetting("a key that is lost when the process ends is not for production", fix, "ca", name))
	}
	for key, one := range c.Listen.Secured() {
		if one.SelfSigned {
			l.setting(fault.BadSetting("a self-signed certificate is not for production", fix, "listen", key,
				"self_signed"))
		}
	}
	if c.CT.None != nil {
		l.setting(fault.BadSetting("certificates without a log are not for production", fix, "ct", "none"))
	}
	for i, log := range c.CT.Logs {
		if log.Insecure {
			l.setting(fault.BadSetting("plain http is not for production", fix, "ct", "logs",
				strconv.Itoa(i), "insecure"))
		}
	}
	if a := c.Audit; a != nil && a.Syslog != nil && a.Syslog.Insecure {
		l.setting(fault.BadSetting("unencrypted records are not for production", fix, "audit", "syslog", "insecure"))
	}
	if t := c.Tracing; t != nil && t.OTLP != nil && t.OTLP.Insecure {
		l.setting(fault.BadSetting("unencrypted spans are not for production", fix, "tracing", "otlp", "insecure"))
	}
	if c.Shared.Insecurely() {
		l.setting(fault.BadSetting("plain text is not for production", fix, "shared", "valkey", "insecure"))
	}
	if a := c.Audit; a != nil && a.OTLP != nil && a.OTLP.Insecure {
		l.setting(fault.BadSetting("unencrypted records are not for production", fix, "audit", "otlp", "insecure"))
	}
	if l.issuers == nil {
		return
	}
	for key, row := range c.Issuers.Issuers {
		if row.Insecure {
			l.issuers.add(fault.BadSetting("plain http is not for production", fix, "oidc-issuers", key, "insecure"))
		}
	}
}

// warnUnaudited warns if a CA in production has no auditor, or an auditor without a journal.
func (l *loader) warnUnaudited() {
	c := l.config
	if !c.Production || c.CT.None != nil {
		return
	}
	var settings *reconcile.Config
	if c.Audit != nil {
		settings = c.Audit.Reconcile
	}
	switch {
	case settings.Period() == 0:
		l.warning(l.main,
			"the auditor is off, so that certificates that this CA did not issue are not detected; remove every: off, "+
				"or run mayfly audit reconcile elsewhere", "audit", "reconcile")
	case c.Audit == nil || c.Audit.File == "":
		l.warning(l.main,
			"without a journal the auditor cannot tell which log entries are certificates of this CA; write audit.file",
			"audit")
	}
}

// warnForgetful warns if uses of tokens are counted in memory only.
func (l *loader) warnForgetful() {
	if l.config.Issuers.CountsUses() && l.config.StateDir == "" && l.config.Shared == nil {
		l.warning(l.main, "the counts of uses of tokens are lost at a restart, after which tokens that were issued "+
			"before it get no certificate; write state_dir or shared", "state_dir")
	}
}

// warnZeros warns about settings of t with a value of 0, which has no effect: an operator could expect it to turn off
// the limit, or the feature.
func (l *loader) warnZeros(t *tree) {
	for _, k := range t.order {
		if t.marks[k].zero {
			l.warning(t, "0 means the default, as if the setting were absent; remove it, or write a value above 0",
				strings.Split(k, "\x00")...)
		}
	}
}

// warn collects warnings about settings that are allowed.
func (l *loader) warn() {
	c := l.config
	if c.Audit == nil {
		l.warning(l.main, "the journal is missing: decisions are recorded in the log only", "audit")
	} else {
		for _, w := range c.Audit.Warnings() {
			l.warning(l.main, w.Problem+"; "+w.Fix, append([]string{"audit"}, w.Path...)...)
		}
	}
	for _, w := range c.Tracing.Warnings() {
		l.warning(l.main, w.Problem+"; "+w.Fix, append([]string{"tracing"}, w.Path...)...)
	}
	if len(l.main.problems) == 0 {
		for _, w := range c.Listen.warnings() {
			l.warning(l.main, w.Problem+"; "+w.Fix, w.Path...)
		}
	}
	if w := c.warnRekor(); w != nil {
		l.warning(l.main, w.Problem+"; "+w.Fix, w.Path...)
	}
	if c.Shared.Insecurely() {
		l.warning(l.main, "hashes of tokens and the password are sent over a network unencrypted; write tls",
			"shared", "valkey", "insecure")
	}
	if c.Experimental.MLDSACA {
		l.warning(l.main, "chains with ML-DSA keys are experimental: few verifiers accept their certificates",
			"experimental", "mldsa_ca")
	}
	for _, w := range c.CA.Rotation.Warnings() {
		l.warning(l.main, w.Problem+"; "+w.Fix, append([]string{"ca", "rotation"}, w.Path...)...)
	}
	if c.Production && c.TSA != nil && c.TSA.Clock == nil {
		l.warning(l.main, "timestamps have the time of this machine, which is not compared with time servers; write "+
			"tsa.clock.servers", "tsa")
	}
	if c.CT.None != nil {
		l.warning(l.main, "certificates are not logged, so that what this CA signs cannot be seen; the reason given: "+
			c.CT.None.Reason, "ct", "none")
	}
	if name, backend := c.CA.Selected(); backend != nil && backend.Temporary() {
		l.warning(l.main,
			"the CA's key is created at each start: certificates issued before a restart cannot be verified after it",
			"ca", name)
	}
	for i, log := range c.CT.Logs {
		if log.Insecure {
			l.warning(l.main, "SCTs are fetched over plain http", "ct", "logs", strconv.Itoa(i), "insecure")
		}
		for _, w := range log.Warnings() {
			l.warning(l.main, w.Problem+"; "+w.Fix, append([]string{"ct", "logs", strconv.Itoa(i)}, w.Path...)...)
		}
	}
	l.warnUnaudited()
	l.warnZeros(l.main)
	if l.issuers == nil || len(l.issuers.problems) > 0 {
		return
	}
	l.warnZeros(l.issuers)
	l.warnForgetful()
	for _, w := range c.Issuers.Warnings() {
		text := w.Problem
		if w.Fix != "" {
			text += "; " + w.Fix
		}
		l.warning(l.issuers, text, w.Path...)
	}
}
