package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/listen"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/server/shared"
	"github.com/mayfly-ca/mayfly/server/uses"
	"github.com/mayfly-ca/mayfly/status"
)

// ask asks the admin listeners.
func (e *exam) ask(ctx context.Context) {
	e.begin("running CA")
	defer e.end("running CA")
	given := len(e.Admins) > 0
	urls := e.Admins
	if !given {
		urls = slices.DeleteFunc([]string{e.cfg.Listen.AdminURL()}, func(u string) bool { return u == "" })
	}
	for _, u := range urls {
		o, err := e.Client(u)
		var r *status.Report
		if err == nil {
			r, err = status.Ask(ctx, o)
		}
		switch {
		case err == nil:
			e.running = append(e.running, r)
		case given:
			e.silent = append(e.silent, problem("running CA", err.Error(),
				"start the CA, or write the address of listen.admin"))
		}
	}
}

// runningCA returns the state of each running CA.
func (e *exam) runningCA(context.Context) []Row {
	const name = "running CA"
	out := slices.Clone(e.silent)
	for _, r := range e.running {
		for _, c := range r.Causes {
			out = append(out, problem(name, r.URL+" is not ready: "+c, "docs/operations.md, Monitoring"))
		}
		if r.Config != nil && r.Config.Digest != e.cfg.Digest {
			out = append(out, warning(name, fmt.Sprintf("%s runs with another configuration (digest %s)", r.URL,
				r.Config.Digest), "reload it (SIGHUP) or restart it; its log says why a reload failed"))
		}
	}
	if len(out) > 0 || len(e.running) > 0 {
		return otherwise(out, name, fmt.Sprintf("%s ready, with this configuration", human.Count(len(e.running), "CA")))
	}
	return []Row{skipped(name, "no CA answers at the admin listener of this configuration", "")}
}

// version compares this program with the CAs that run.
func (e *exam) version(context.Context) []Row {
	const name = "version"
	mine := version.Read()
	var out []Row
	for _, r := range e.running {
		if r.Build != nil && (r.Build.Version != mine.Version || r.Build.Commit != mine.Commit) {
			out = append(out, warning(name, fmt.Sprintf("%s runs %s %s, and this is %s %s", r.URL, r.Build.Version,
				r.Build.Commit, mine.Version, mine.Commit),
				"restart the CA if it was upgraded, or use the program of its version"))
		}
	}
	return otherwise(out, name, strings.TrimSpace(mine.Version+" "+mine.GoVersion))
}

// ports finds listeners that cannot be opened.
func (e *exam) ports(context.Context) []Row {
	const name = "ports"
	var out []Row
	tried := map[string]bool{}
	for _, one := range []struct{ key, address string }{
		{"http", e.cfg.Listen.HTTP}, {"grpc", e.cfg.Listen.GRPC}, {"admin", e.cfg.Listen.Admin},
	} {
		if strings.HasPrefix(one.address, config.SystemdPrefix) {
			out = append(out, skipped(name, "listen."+one.key+" is opened by systemd", ""))
			continue
		}
		if _, opens := hostPort(one.address); !opens || tried[one.address] || len(e.running) > 0 {
			continue
		}
		tried[one.address] = true
		l, err := listen.Open(one.address)
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			fix := ""
			if at, is := errors.AsType[*listen.Error](err); is {
				fix = at.Fix()
			}
			out = append(out, problem(name, fmt.Sprintf("listen.%s: %v", one.key, err), fix))
		}
	}
	if len(e.running) > 0 {
		return otherwise(out, name, "the running CA uses them")
	}
	return otherwise(out, name, "are free")
}

// issuers fetches the keys of every issuer, and compares the clocks of the providers.
func (e *exam) issuers(ctx context.Context) []Row {
	const name = "issuers"
	rows := slices.Clone(e.files[name])
	if slices.ContainsFunc(rows, func(r Row) bool { return r.State == Problem }) {
		return rows
	}
	all, clocks, err := node.ExamineIssuers(ctx, e.cfg)
	if err != nil {
		found := problems{}
		found.addError(err)
		return append(rows, found[name]...)
	}
	for _, one := range all {
		row := ok("issuer "+one.Issuer, "its keys can be fetched")
		if !one.OK {
			row = problem(row.Check, one.Cause, "check the issuer's URL in "+e.cfg.Identity.File+
				", its server and the network to it")
		}
		rows = append(rows, row)
	}
	if len(all) == 0 {
		rows = append(rows, ok(name, "only patterns: the keys are fetched with the first token"))
	}
	return append(rows, clockRow("issuers", clocks))
}

// logs asks every log.
func (e *exam) logs(ctx context.Context) []Row {
	rows := slices.Concat(e.files["logs"], e.files["embedded log"])
	if c := e.cfg.CT.Embedded; c != nil {
		rows = append(rows, e.place("embedded log", c.Dir)...)
		rows = append(rows, e.lock("embedded log", c.Dir+"/lock")...)
	}
	if e.cfg.CT.None != nil {
		return append(rows, skipped("logs", "there are none (ct.none)", ""))
	}
	all, clocks, err := node.ExamineLogs(ctx, e.cfg)
	if err != nil {
		return append(rows, skipped("logs", err.Error(), "fix the problem and run doctor again"))
	}
	for _, one := range all {
		check := "log " + one.Name
		embedded := one.Name == "embedded" || strings.HasPrefix(one.Name, "embedded-")
		if embedded && slices.ContainsFunc(rows, func(r Row) bool {
			return r.Check == "embedded log" && r.State == Problem
		}) {
			continue // the row above has the cause
		}
		for _, p := range one.Problems {
			rows = append(rows, problem(check, p, "docs/operations.md, Logs"))
		}
		for _, w := range one.Warnings {
			rows = append(rows, warning(check, w, ""))
		}
		if len(one.Problems)+len(one.Warnings) == 0 {
			text := "answers, accepts the root and signs with its key"
			if embedded {
				text = "its newest head verifies with its key"
			}
			rows = append(rows, ok(check, text))
		}
	}
	return append(rows, clockRow("logs", clocks))
}

// sharedStore connects to the store that servers share, as a CA does.
func (e *exam) sharedStore(ctx context.Context) []Row {
	const name = "shared store"
	if e.cfg.Shared == nil {
		return []Row{skipped(name, "is not configured: each server counts uses of tokens and rates alone", "")}
	}
	rows := slices.Clone(e.files[name])
	if slices.ContainsFunc(rows, func(r Row) bool { return r.State == Problem }) {
		return rows
	}
	local, err := uses.Open(uses.Options{})
	if err != nil {
		return append(rows, problem(name, err.Error(), ""))
	}
	s, err := shared.Open(*e.cfg.Shared, shared.Options{Local: local})
	if err != nil {
		found := problems{}
		found.addError(e.cfg.Locate(fault.Under(err, "shared")))
		return append(rows, found[name]...)
	}
	defer s.Close()
	s.Start(ctx)
	cause, warn := s.Health()
	if cause != "" {
		rows = append(rows, problem(name, cause, "check shared.valkey, its server and the network to it"))
	}
	if warn != "" {
		rows = append(rows, warning(name, warn, "docs/operations.md"))
	}
	return otherwise(rows, name, "answers, and keeps what is written")
}

// mostOffset is how far a clock may differ from this machine's.
const mostOffset = 5 * time.Second

// clockCheck is the check of the row about clocks. Two checks make such rows, and [clockLast] makes one of them.
const clockCheck = "clock"

// clockRow compares the clocks that were asked with the clock of this machine. from says which clocks those are.
func clockRow(from string, clocks []node.Clock) Row {
	var out []string
	for _, c := range clocks {
		if c.Offset.Abs() > mostOffset {
			word := "ahead of"
			if c.Offset < 0 {
				word = "behind"
			}
			out = append(out, fmt.Sprintf("the clock of %s is %s %s this machine's", c.Name,
				human.Duration(c.Offset.Abs().Round(time.Second)), word))
		}
	}
	if len(out) == 0 {
		return Row{clockCheck, OK, fmt.Sprintf("%d %s agree", len(clocks), from), ""}
	}
	state := Problem
	if len(out) < len(clocks) { // other clocks agree with this machine's: those that differ are wrong
		state = Warning
	}
	return Row{
		clockCheck, state, strings.Join(out, "; "),
		"compare both with a time server, and correct the clock that " +
			"is wrong (chronyd or systemd-timesyncd on this machine)",
	}
}

// clockLast makes one row of the rows about clocks, the last one. A log whose clock differs has a row of its own.
func clockLast(rows []Row) []Row {
	var mine []Row
	rest := slices.DeleteFunc(slices.Clone(rows), func(r Row) bool {
		if r.Check == clockCheck {
			mine = append(mine, r)
		}
		return r.Check == clockCheck
	})
	if len(mine) == 0 {
		return append(rest, skipped(clockCheck, "no other clock was asked", ""))
	}
	worst := mine[0]
	for _, r := range mine[1:] {
		if worst.State == OK && r.State != OK {
			worst = r
		} else if worst.State == OK && !strings.HasPrefix(r.Cause, "0 ") {
			worst.Cause = strings.Join(slices.DeleteFunc([]string{worst.Cause, r.Cause}, func(s string) bool {
				return strings.HasPrefix(s, "0 ")
			}), ", ")
		}
	}
	if worst.State == OK && strings.HasPrefix(worst.Cause, "0 ") {
		worst = skipped(clockCheck, "no other clock was asked", "")
	}
	return append(rest, worst)
}

// wholePath tries the whole path: at the CA that runs, or in this process.
func (e *exam) wholePath(ctx context.Context, rows []Row) []Row {
	const name = "whole path"
	if e.cfg.CT.None != nil {
		return []Row{skipped(name, "certificates are issued without logs (ct.none)", "")}
	}
	if len(e.running) > 0 {
		return e.bounded(ctx, check{name, e.runningPath}, e.Timeout+10*time.Second)
	}
	switch {
	case !e.Trial:
		return []Row{skipped(name, "no CA is running",
			"write --trial to try it in this process: one entry in the logs, and the "+
				"records of a start in the journal")}
	case len(e.Admins) > 0:
		return []Row{skipped(name, "the CA named by --admin does not answer", "")}
	case slices.ContainsFunc(rows, func(r Row) bool { return r.State == Problem }):
		return []Row{skipped(name, "not tried, because of the problems above", "fix them and run doctor again")}
	}
	return e.bounded(ctx, check{name, func(ctx context.Context) []Row {
		run, err := node.Trial(ctx, e.Path, nil)
		if err != nil {
			return []Row{problem(name, err.Error(), "")}
		}
		return []Row{pathRow(run)}
	}}, trialTimeout)
}

// runningPath makes the running CAs try the whole path.
func (e *exam) runningPath(ctx context.Context) (out []Row) {
	const name = "whole path"
	for _, r := range e.running {
		o, err := e.Client(r.URL)
		var run *canary.Run
		if err == nil {
			o.Client.Timeout = e.Timeout
			run, err = status.RunCanary(ctx, o)
		}
		switch {
		case err != nil:
			out = append(out, problem(name, err.Error(), ""))
		case run == nil:
			out = append(out, skipped(name, "the canary of "+r.URL+" is off", "write canary: {interval: 1m}"))
		default:
			out = append(out, pathRow(run))
		}
	}
	return out
}

// pathRow is the row of a run.
func pathRow(run *canary.Run) Row {
	const name = "whole path"
	if run.OK {
		return ok(name, fmt.Sprintf("token to %s in %.3f s; no certificate was made",
			human.Count(run.SCTs, "SCT"), run.Seconds))
	}
	return problem(name, fmt.Sprintf("the stage %s failed: %s", run.Stage, run.Cause), map[string]string{
		"log":     "see the rows of the logs",
		"sign":    "see the row of the key",
		"intent":  "see the row of the journal",
		"outcome": "see the row of the journal",
	}[run.Stage])
}
