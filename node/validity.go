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

// warnAhead is how long before the end of a log's validity there is a warning.
const warnAhead = 30 * 24 * time.Hour

// checkValidity refuses a chain or logs with which no certificate can be issued at the time now: a chain that /readyz
// would report as invalid, or too few logs whose validity includes now. It warns about validities that end soon. Its
// errors are [fault.Setting] values.
func (f *loadedFiles) checkValidity(cfg *config.Config, now time.Time) ([]config.Warning, error) {
	var warnings []config.Warning
	if _, backend := cfg.CA.Selected(); !backend.Temporary() {
		switch h := ca.ChainHealth(f.chain, now); {
		case !h.OK:
			return nil, fault.BadSetting(h.Cause+
				"; certificates are issued while it is valid, up to an hour before its end",
				"get a new issuing certificate, and write the path of its chain here", "ca", name,
				"chain").In(backend.ChainFile())
		case h.Warning != "":
			warnings = append(warnings, cfg.Warn(fault.BadSetting(h.Warning, "get a new issuing certificate",
				"ca", name, "chain")))
		}
	}
	ending, err := f.checkLogValidity(cfg, now)
	return append(warnings, ending...), err
}

// checkLogValidity checks the validity of the remote logs. With an embedded log nothing is checked, because a new shard
// follows each one.
func (f *loadedFiles) checkLogValidity(cfg *config.Config, now time.Time) (warnings []config.Warning, err error) {
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
				cfg.Warn(fault.BadSetting(fmt.Sprintf("the log %s ends at %s, and the remaining logs are "+
					"too few for ct.policy",
					l.config.Name, w.NotAfter.UTC().Format(time.RFC3339)), "add the next log", "ct", "logs",
					strconv.Itoa(i))))
		}
	}
	return warnings, nil
}

// window returns the validity of the log: that of its configuration, limited to that of the published trusted root.
func (l remoteLog) window() loglist.Window {
	if l.published != nil {
		return l.remote.Window.Intersect(*l.published)
	}
	return l.remote.Window
}

// outside returns why the log cannot be used for a certificate that is valid from now to end, or nil if it can.
func (l remoteLog) outside(now, end time.Time) error {
	w := l.window()
	where := ""
	if l.published != nil {
		where = " (by ct.logs and ct.policy.trusted_root)"
	}
	switch {
	case w.NotBefore.After(now):
		return fault.BadSetting(fmt.Sprintf("the log %s accepts no certificates before %s%s, and the other logs are too few",
			l.config.Name, w.NotBefore.UTC().Format(time.RFC3339), where),
			"use a log whose validity has begun", "not_before")
	case !w.Contains(end):
		return fault.BadSetting(fmt.Sprintf("the log %s accepts no certificates that end after %s%s, "+
			"and the other logs are too few", l.config.Name, w.NotAfter.UTC().Format(time.RFC3339), where),
			"use a log with a later not_after, such as the next shard", "not_after")
	}
	return nil
}
