// Package doctor examines everything that a CA depends on: a configuration goes in, and a table comes out that says for
// each part whether it works, why not, and what to do.
//
// The checks are those of other packages, which also run at the start of the CA and by "config check"; this package
// composes them, runs them at the same time, bounds each in time, and puts each cause into the row to which it belongs.
// A check that could not be made, because of another row, is skipped and says so. Nothing is changed, except that a
// file is written to each directory of the CA and removed again, and that the whole path is tried if the caller asks
// for it.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/status"
)

// State is the result of a check. It is a closed set.
type State string

// The states.
const (
	OK      State = "ok"
	Warning State = "warning" // it works, and the operator should know
	Problem State = "problem" // it does not work
	Skipped State = "skipped" // it was not checked
)

// Row is the result of one check.
type Row struct {
	Check string `json:"check"`
	State State  `json:"state"`
	// Cause is what was found, Fix what to do.
	Cause string `json:"cause"`
	Fix   string `json:"fix,omitempty"`
}

// Report is the result of [Run], and what "mayfly doctor --json" prints.
type Report struct {
	File string `json:"file"`
	OK   bool   `json:"ok"` // there is no problem; there may be warnings
	Rows []Row  `json:"rows"`
}

// Options for [Run].
type Options struct {
	Path string // of the configuration
	// Admins are the URLs of the admin listeners of running CAs with this configuration. Empty: that of the
	// configuration, where a CA may run or not.
	Admins []string
	// Client returns how to ask an admin listener.
	Client func(url string) (status.Options, error)
	// Token is an ID token that the CA accepts, to sign once with every service of a running CA. Optional.
	Token string
	// Trial says that the whole path is tried in this process if no CA is running.
	Trial bool
	// Progress is called when the checks that are under way change. Optional.
	Progress func(running []string)
	// Timeout bounds each check. Default: 20 s.
	Timeout time.Duration
}

const (
	defaultTimeout = 20 * time.Second
	trialTimeout   = time.Minute
)

// exam is one run.
type exam struct {
	Options
	cfg     *config.Config
	files   problems         // of the files that the configuration names
	running []*status.Report // the CAs that answer
	silent  []Row            // the CAs that do not, and should

	mu       sync.Mutex
	underWay []string
}

// check is one check with the name that a progress shows, and of the row if it does not end.
type check struct {
	name string
	run  func(context.Context) []Row
}

// Run examines a configuration. A configuration that cannot be loaded is its error, with the messages of "config
// check".
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Progress == nil {
		o.Progress = func([]string) {}
	}
	e := &exam{Options: o}
	cfg, warnings, err := config.Load(o.Path)
	if err != nil {
		return nil, err
	}
	e.cfg = cfg
	e.ask(ctx)
	e.inspect(ctx, warnings)
	rows := e.all(ctx, []check{
		{"configuration", e.configuration},
		{"permissions", e.permissions},
		{"key and chain", e.keyAndChain},
		{"TLS", e.tls},
		{"issuers", e.issuers},
		{"logs", e.logs},
		{signatureLog, e.signatures},
		{stampCheck, e.timestamps},
		{"journal", e.journal},
		{"state_dir", e.stateDir},
		{"shared store", e.sharedStore},
		{"trust material", e.trustMaterial},
		{"ports", e.ports},
		{"file descriptors", e.descriptors},
		{"memory", e.memory},
		{"processors", e.processors},
		{"version", e.version},
		{"running CA", e.runningCA},
	})
	rows = append(clockLast(rows), e.bounded(ctx, check{signatureCheck, e.signature}, 4*e.Timeout)...)
	rows = append(rows, e.wholePath(ctx, rows)...)
	r := &Report{File: o.Path, OK: true, Rows: rows}
	for _, row := range rows {
		r.OK = r.OK && row.State != Problem
	}
	return r, nil
}

// all makes the checks at the same time, and returns their rows in the order of the checks.
func (e *exam) all(ctx context.Context, checks []check) (out []Row) {
	results := make([][]Row, len(checks))
	var wait sync.WaitGroup
	for i, c := range checks {
		wait.Go(func() { results[i] = e.bounded(ctx, c, e.Timeout) })
	}
	wait.Wait()
	return slices.Concat(results...)
}

// bounded makes one check. A check that hangs is left behind.
func (e *exam) bounded(ctx context.Context, c check, timeout time.Duration) []Row {
	e.begin(c.name)
	defer e.end(c.name)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan []Row, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- []Row{problem(c.name, fmt.Sprintf("the check panicked: %v", p),
					"report this as a defect of mayfly")}
			}
		}()
		done <- c.run(ctx)
	}()
	grace := time.NewTimer(timeout + time.Second) // a check that heeds ctx says more than this function
	defer grace.Stop()
	select {
	case rows := <-done:
		return rows
	case <-grace.C:
		return []Row{problem(c.name, fmt.Sprintf("no result within %s: the check hangs", timeout),
			"look for a disk, a device or a service that does not answer")}
	}
}

func (e *exam) begin(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.underWay = append(e.underWay, name)
	e.Progress(slices.Clone(e.underWay))
}

func (e *exam) end(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.underWay = slices.DeleteFunc(e.underWay, func(one string) bool { return one == name })
	e.Progress(slices.Clone(e.underWay))
}

func ok(check, text string) Row { return Row{Check: check, State: OK, Cause: text} }

func problem(check, cause, fix string) Row { return Row{check, Problem, cause, fix} }

func warning(check, cause, fix string) Row { return Row{check, Warning, cause, fix} }

func skipped(check, why, fix string) Row { return Row{check, Skipped, why, fix} }

// otherwise returns the rows, or one row that says ok.
func otherwise(rows []Row, check, text string) []Row {
	if len(rows) > 0 {
		return rows
	}
	return []Row{ok(check, text)}
}

// problems are what is wrong with the files that a configuration names, by the row to which it belongs.
type problems map[string][]Row

// The rows of settings, by the beginning of the path of the setting.
var areas = []struct{ prefix, row string }{
	{"audit", "journal"},
	{"ca.rotation", "trust material"},
	{"ca", "key and chain"},
	{"experimental", "key and chain"},
	{"ct.embedded", "embedded log"},
	{"ct.policy.trusted_root", "trust material"},
	{"ct", "logs"},
	{"listen", "TLS"},
	{"identity", "issuers"},
	{"oidc-issuers", "issuers"},
	{"meta-issuers", "issuers"},
	{"ci-issuer-metadata", "issuers"},
	{"publish", "trust material"},
	{"shared", "shared store"},
	{"state_dir", "state_dir"},
	{"rekor", signatureLog},
	{"tsa", stampCheck},
}

// areaOf returns the row of a message that begins with the path of its setting.
func areaOf(message string) string {
	path, _, found := strings.Cut(message, ": ")
	if !found || strings.Contains(path, " ") {
		return "configuration"
	}
	for _, a := range areas {
		if path == a.prefix || strings.HasPrefix(path, a.prefix+".") {
			return a.row
		}
	}
	return "configuration"
}

// add adds what a message says to the row of its setting.
func (p problems) add(state State, message, fix string) {
	row := areaOf(message)
	one := Row{Check: row, State: state, Cause: message, Fix: fix}
	if !slices.Contains(p[row], one) {
		p[row] = append(p[row], one)
	}
}

// addError adds an error of a configuration.
func (p problems) addError(err error) {
	all, located := errors.AsType[config.Problems](err)
	if !located {
		p.add(Problem, err.Error(), "")
		return
	}
	for _, one := range all {
		p.add(Problem, one.What, one.Fix)
	}
}

// broken reports whether any row has a problem, and another check may therefore not have been made.
func (p problems) broken() bool {
	for _, rows := range p {
		if slices.ContainsFunc(rows, func(r Row) bool { return r.State == Problem }) {
			return true
		}
	}
	return false
}
