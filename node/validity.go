package node

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/loglist"
)

// warnAhead is how long before the end of a chain or log there is a warning.
const warnAhead = 90 * 24 * time.Hour

// timely refuses a configuration that cannot issue at a time: a chain for which readiness would fail, or too few logs
// that accept certificates. It warns about chains and logs that end soon. Its errors are settings of cfg.
func (f *loadedFiles) timely(cfg *config.Config, now time.Time) ([]config.Warning, error) {
	var warnings []config.Warning
	if _, backend := cfg.CA.Selected(); !backend.Temporary() {
		switch h := ca.ChainHealth(f.chain, now); {
		case !h.OK:
			return nil, fault.BadSetting(h.Cause+
				"; the CA stops issuing certificates one hour before the chain expires",
				"obtain a new issuing certificate, and write its chain here",
				cfg.CA.At("chain")...).In(backend.ChainFile())
		case h.Warning != "":
			warnings = append(warnings, cfg.Warn(fault.BadSetting(h.Warning, "obtain a new issuing certificate",
				cfg.CA.At("chain")...)))
		}
	}
	ending, err := f.timelyLogs(cfg, now)
	return append(warnings, ending...), err
}

// timelyLogs checks the validity of the logs. It ignores shards of the embedded log, which are followed by other
// shards.
func (f *loadedFiles) timelyLogs(cfg *config.Config, now time.Time) (warnings []config.Warning, err error) {
	if cfg.CT.None != nil || cfg.CT.Embedded != nil || len(f.logs) == 0 {
		return nil, nil
	}
	end := now.Add(ca.Validity)
	usable := func(from, to time.Time) []ctlog.Slot {
		var slots []ctlog.Slot
		for _, l := range f.logs {
			w := l.window()
			slot := l.config.Slot()
			slot.Embed = slot.Embed && w.Contains(from) && w.Contains(to)
			slots = append(slots, slot)
		}
		return slots
	}
	if cfg.CT.Policy.CheckFor(usable(now, end)) != nil {
		var out error
		for i, l := range f.logs {
			if s := l.outside(now, end); l.config.Embeds() && s != nil {
				out = errors.Join(out, fault.Under(s, "ct", "logs", strconv.Itoa(i)))
			}
		}
		return nil, out
	}
	for i, l := range f.logs {
		w := l.window()
		if !l.config.Embeds() || w.NotAfter.IsZero() || !w.Contains(now) || w.NotAfter.Sub(now) > warnAhead {
			continue
		}
		if cfg.CT.Policy.CheckFor(usable(w.NotAfter, w.NotAfter.Add(ca.Validity))) != nil {
			warnings = append(warnings,
				cfg.Warn(fault.BadSetting(fmt.Sprintf("the log %s ends at %s, and too few logs accept "+
					"certificates after that for ct.policy",
					l.config.Name, w.NotAfter.UTC().Format(time.RFC3339)), "add the next log or shard", "ct", "logs",
					strconv.Itoa(i))))
		}
	}
	return warnings, nil
}

// window returns when the log may be used, according to its configuration and the published trusted root.
func (l remoteLog) window() loglist.Window {
	if l.published != nil {
		return l.remote.Window.Intersect(*l.published)
	}
	return l.remote.Window
}

// outside returns why a certificate that is valid from now to end may not have an SCT of the log, or nil if it may.
func (l remoteLog) outside(now, end time.Time) error {
	w := l.window()
	where := ""
	if l.published != nil {
		where = " (by ct.logs and ct.policy.trusted_root)"
	}
	switch {
	case w.NotBefore.After(now):
		return fault.BadSetting(fmt.Sprintf("the log %s accepts no certificates before %s%s, and too few other logs do",
			l.config.Name, w.NotBefore.UTC().Format(time.RFC3339), where),
			"name a log whose validity has begun", "not_before")
	case !w.Contains(end):
		return fault.BadSetting(fmt.Sprintf("the log %s accepts no certificates that end after %s%s, "+
			"and too few other logs do", l.config.Name, w.NotAfter.UTC().Format(time.RFC3339), where),
			"add a log that accepts certificates after that, such as the next shard", "not_after")
	}
	return nil
}
