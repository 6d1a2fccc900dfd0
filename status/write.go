package status

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// Write writes the report for people, in colour if w is a terminal.
func (r *Report) Write(w io.Writer) error {
	st := terminal.StyleFor(w)
	var t terminal.Table
	state := st.Green("ready")
	if !r.Ready {
		state = st.Red("not ready")
	}
	t.Add("state", state)
	for _, c := range r.Causes {
		t.Add("", st.Red(terminal.Printable(c)))
	}
	t.Add("asked", r.URL)
	if b := r.Build; b != nil {
		t.Add("version", terminal.Printable(strings.TrimSpace(b.Version+" "+b.Commit)))
	}
	if r.Started != nil {
		t.Add("running", fmt.Sprintf("%s, since %s", human.Duration(time.Duration(r.Uptime)*time.Second),
			r.Started.Format(time.RFC3339)))
	}
	if c := r.Config; c != nil {
		t.Add("configuration", fmt.Sprintf("generation %d, digest %s", c.Generation, terminal.Printable(c.Digest)))
	}
	for _, e := range r.Expiries {
		t.Add("ends", terminal.Printable(strings.TrimSpace(e.Kind+" "+e.Name)+" at "+e.At.Format(time.RFC3339)))
	}
	for _, l := range r.Logs {
		state := st.Green("usable")
		switch {
		case l.Quarantined:
			state = st.Red("in quarantine")
		case !l.Usable:
			state = st.Red("set aside")
		}
		t.Add("log", fmt.Sprintf("%s: %s, %d accepted, %d failed", terminal.Printable(l.Name), state,
			l.Accepted, l.Failed))
	}
	if j := r.Journal; j != nil {
		t.Add("journal", fmt.Sprintf("%s, %d waiting, %s, %s only counted", human.Count(j.Records, "record"), j.Queued,
			human.Count(j.Failures, "failure"), human.Count(j.Dropped, "denial")))
	}
	t.Add("canary", r.canaryText(st))
	t.Add("certificates", fmt.Sprintf("%d issued", r.Certificates.Issued))
	for _, reason := range slices.Sorted(maps.Keys(r.Certificates.Refused)) {
		t.Add("", fmt.Sprintf("%d × %s", r.Certificates.Refused[reason], terminal.Printable(reason)))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Limits.Connections)) {
		u := r.Limits.Connections[name]
		t.Add("connections", fmt.Sprintf("%s: %d of %d", terminal.Printable(name), u.Now, u.Limit))
	}
	if d := r.Limits.Descriptors; d != nil {
		t.Add("descriptors", fmt.Sprintf("%d of %d files", d.Now, d.Limit))
	}
	t.Add("requests", fmt.Sprintf("%d running, %d waiting for a processor", r.Limits.Running, r.Limits.Waiting))
	if err := t.Write(w, st); err != nil {
		return err
	}
	g := terminal.Grid{Head: []string{"dependency", "state", "since", "what"}, Spare: []string{"since"}}
	for _, name := range slices.Sorted(maps.Keys(r.Dependencies)) {
		d := r.Dependencies[name]
		state, text := st.Green("ok"), d.Cause
		switch {
		case !d.OK:
			state = st.Red("no")
		case d.Warning != "":
			state = st.Yellow("warning")
		}
		if d.Warning != "" {
			text = strings.TrimPrefix(text+"; "+d.Warning, "; ")
		}
		g.Add(name, state, d.Since.Format(time.RFC3339), text)
	}
	fmt.Fprintln(w)
	return g.Write(w, st)
}

// canaryText describes the canary in one line.
func (r *Report) canaryText(st terminal.Style) string {
	_, on := r.Dependencies["canary"]
	switch c := r.Canary; {
	case c == nil && on:
		return "no run yet"
	case c == nil:
		return st.Dim("off")
	case c.OK:
		return fmt.Sprintf("%s at %s, in %.3f s", st.Green("succeeded"), c.Began.Format(time.RFC3339), c.Seconds)
	default:
		return fmt.Sprintf("%s at %s, in the stage %s: %s", st.Red("failed"), c.Began.Format(time.RFC3339),
			terminal.Printable(c.Stage), terminal.Printable(c.Cause))
	}
}

// Write writes the service level for people, in colour if w is a terminal.
func (l *Level) Write(w io.Writer) error {
	st := terminal.StyleFor(w)
	var t terminal.Table
	t.Add("asked", strings.Join(l.URLs, ", "))
	t.Add("time", fmt.Sprintf("%s to %s (%s)", l.Since.Format(time.RFC3339), l.Until.Format(time.RFC3339),
		human.Duration(l.Until.Sub(l.Since).Round(time.Second))))
	t.Add("requests", fmt.Sprint(l.Requests))
	t.Add("certificates", fmt.Sprint(l.Good))
	t.Add("fault of the caller", fmt.Sprintf("%d (do not count)", l.Caller))
	for _, party := range slices.Sorted(maps.Keys(l.Bad)) {
		text := fmt.Sprint(l.Bad[party])
		if l.Bad[party] > 0 {
			text = st.Red(text)
		}
		t.Add("fault of: "+party, text)
	}
	if err := t.Write(w, st); err != nil {
		return err
	}
	g := terminal.Grid{Head: []string{"objective", "target", "reached", "budget left", "result"}}
	within := time.Duration(l.Within * float64(time.Second))
	for _, row := range []struct {
		name string
		Share
	}{{"a certificate", l.Success}, {"a certificate within " + within.String(), l.Fast}} {
		result := st.Green("met")
		switch {
		case row.Share.Share == nil:
			result = st.Dim("no requests")
		case !row.Met:
			result = st.Red("missed")
		}
		g.Add(row.name, percent(&row.Objective), percent(row.Share.Share), percent(row.Budget), result)
	}
	fmt.Fprintln(w)
	return g.Write(w, st)
}

// percent formats a share; "–" if there is none. It is rounded down, so that a missed objective does not look as if it
// were met.
func percent(share *float64) string {
	if share == nil {
		return "–"
	}
	const digits = 1e4
	text := fmt.Sprintf("%.4f", math.Floor(*share*100*digits+1e-6)/digits)
	return strings.TrimRight(strings.TrimRight(text, "0"), ".") + " %"
}
