package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/pop"
)

// checkSettings asks every part what is wrong with its settings.
func (l *loader) checkSettings() {
	c := l.config
	l.main.add(fault.Under(c.Listen.check(), "listen"))
	if c.Identity.File == "" {
		l.setting(fault.BadSetting("no issuer file is named, so that nobody could get a certificate", "write the path of Fulcio's issuer file", "identity", "file"))
	}
	l.main.add(fault.Under(c.CA.Check(), "ca"))
	if _, err := pop.New(pop.Config{Algorithms: c.ClientAlgorithms}, pop.Options{}); err != nil {
		l.main.add(fault.Under(err, "client_algorithms"))
	}
	l.main.add(fault.Under(c.CT.check(), "ct"))
	if c.Audit != nil {
		l.setting(fault.BadSetting("the audit journal is not in this version", "remove the block; every decision is one line of the log", "audit"))
	}
}

func (c Listen) check() error {
	var errs []error
	for _, one := range []struct{ key, address string }{{"http", c.HTTP}, {"grpc", c.GRPC}, {"admin", c.Admin}} {
		if problem := addressProblem(one.address); problem != "" {
			errs = append(errs, fault.BadSetting(problem, "write HOST:PORT, such as "+strconv.Quote(DefaultHTTP)+", or \"off\"", one.key))
		}
	}
	if c.HTTP == Off && c.GRPC == Off {
		errs = append(errs, fault.BadSetting("REST and gRPC are both off, so that nobody could get a certificate", "give one of them an address", "http"))
	}
	if c.Admin != Off && (c.Admin == c.HTTP || c.Admin == c.GRPC) {
		errs = append(errs, fault.BadSetting("the admin listener has the address of another one, which signers reach", "give it another port", "admin"))
	}
	return errors.Join(errs...)
}

// addressProblem says what is wrong with the address of a listener.
func addressProblem(address string) string {
	if address == Off {
		return ""
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Sprintf("%s is no HOST:PORT", quoteShort(address))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Sprintf("%s is no port", quoteShort(port))
	}
	if strings.ContainsAny(host, " /\\@\"'") {
		return fmt.Sprintf("%s is no host", quoteShort(host))
	}
	return ""
}

// embeddedName is what metrics and readiness call the embedded log.
const embeddedName = "embedded"

func (c CT) check() error {
	const choose = "choose logs, embedded, both of them, or none: {reason: \"...\"}"
	var errs []error
	logs := len(c.Logs)
	if c.Embedded != nil {
		logs++
		errs = append(errs, fault.Under(c.Embedded.Check(), "embedded"))
	}
	switch {
	case c.None == nil && logs == 0:
		errs = append(errs, fault.BadSetting("no transparency log is named", choose))
	case c.None != nil && logs > 0:
		errs = append(errs, fault.BadSetting("none stands beside a log", choose, "none"))
	case c.None != nil && strings.TrimSpace(c.None.Reason) == "":
		errs = append(errs, fault.BadSetting("issuing without a log needs a reason", "write why, for those who will ask", "none", "reason"))
	}
	seen := map[string]int{}
	for i, log := range c.Logs {
		errs = append(errs, fault.Under(log.Check(), "logs", strconv.Itoa(i)))
		if log.Name == embeddedName {
			errs = append(errs, fault.BadSetting("the name "+embeddedName+" belongs to the embedded log", "write another", "logs", strconv.Itoa(i), "name"))
		}
		if first, dup := seen[log.Name]; dup && log.Name != "" {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("%s is also the name of log %d of the list, counted from 0", quoteShort(log.Name), first),
				"give every log a name of its own", "logs", strconv.Itoa(i), "name"))
		} else {
			seen[log.Name] = i
		}
	}
	errs = append(errs, fault.Under(c.Policy.Check(), "policy"))
	if c.None != nil && c.Policy.MinSCTs > 0 {
		errs = append(errs, fault.BadSetting("SCTs are asked for, and there is no log", "remove the policy", "policy", "min_scts"))
	} else if logs > 0 && c.Policy.MinSCTs > logs {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%d SCTs are asked for, and the number of logs is %d", c.Policy.MinSCTs, logs),
			"write a smaller number or add logs", "policy", "min_scts"))
	}
	return errors.Join(errs...)
}

// checkProduction refuses what has no place in production: keys that do not last, no log, every insecure.
func (l *loader) checkProduction() {
	c := l.config
	if !c.Production {
		return
	}
	const fix = "change it, or say production: false"
	if c.CA.Ephemeral != nil {
		l.setting(fault.BadSetting("an ephemeral key is gone after a restart, which production: true refuses", fix, "ca", "ephemeral"))
	}
	if c.CT.None != nil {
		l.setting(fault.BadSetting("certificates that no log knows, which production: true refuses", fix, "ct", "none"))
	}
	l.eachInsecure(func(t *tree, path []string) {
		t.add(fault.BadSetting("production: true refuses this", fix, path...))
	})
}

// eachInsecure calls f for every switch named insecure that is on, in both files.
func (l *loader) eachInsecure(f func(*tree, []string)) {
	for _, t := range []*tree{l.main, l.issuers} {
		if t == nil {
			continue
		}
		for _, k := range slices.Clone(t.order) {
			if path := strings.Split(k, "\x00"); t.marks[k].on && last(path) == "insecure" {
				f(t, path)
			}
		}
	}
}

// warn collects what works and what the operator should know.
func (l *loader) warn() {
	c := l.config
	if c.Production {
		return // refused
	}
	if c.CA.Ephemeral != nil {
		l.warning(l.main, "the certificates of this run verify no longer after a restart: their root is gone", "ca", "ephemeral")
	}
	if c.CT.None != nil {
		l.warning(l.main, "no log will know the certificates ("+quoteShort(c.CT.None.Reason)+")", "ct", "none")
	}
	l.eachInsecure(func(t *tree, path []string) {
		l.warning(t, "the connection can be read and changed on the way", path...)
	})
}
