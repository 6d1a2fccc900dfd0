package reconcile

import (
	"context"
	"fmt"
	"maps"
	"time"
)

// Alarm is a finding that no operator has cleared.
type Alarm struct {
	Finding
	Raised time.Time `json:"raised"`
}

// alarmList has the open alarms and the quarantined logs.
type alarmList struct {
	open        []Alarm           // the oldest first
	byID        map[string]int    // finding ID to place in open
	perClass    map[string]int    // number of open alarms of each class, see [Finding.class]
	quarantined map[string]string // name of the log to cause
}

func newAlarmList() alarmList {
	return alarmList{byID: map[string]int{}, perClass: map[string]int{}, quarantined: map[string]string{}}
}

// rebuildIndex rebuilds byID and perClass.
func (l *alarmList) rebuildIndex() {
	clear(l.byID)
	clear(l.perClass)
	for i := range l.open {
		l.byID[l.open[i].ID] = i
		l.perClass[l.open[i].class()]++
	}
}

func (l *alarmList) add(alarm Alarm) {
	l.byID[alarm.ID] = len(l.open)
	l.perClass[alarm.class()]++
	l.open = append(l.open, alarm)
}

// addFinding raises an alarm for a finding, unless it is open, and quarantines the log if it violated its obligations.
func (a *Auditor) addFinding(f Finding) {
	if _, open := a.alarms.byID[f.ID]; open {
		return
	}
	a.metrics.alarms.WithLabelValues(string(f.Kind)).Inc()
	if f.Kind.LogViolation() && a.alarms.quarantined[f.Log] == "" {
		a.alarms.quarantined[f.Log] = f.Text
		a.publishQuarantined() // before the alarm is raised: a set of logs that is created now asks for the quarantine
		a.quarantine(f.Log, f.Text)
	}
	if f.Bounded() {
		most := maxAlarmsPerClass
		if f.Signature == SignatureUnverified {
			most = maxUnverifiedAlarms
		}
		if a.alarms.perClass[f.class()] >= most {
			a.countFinding(f, most)
			return
		}
	}
	a.raise(f)
}

// raise opens an alarm.
func (a *Auditor) raise(f Finding) {
	if a.o.Commands != nil {
		f.Commands = a.o.Commands(f)
	}
	attrs := []any{
		"kind", string(f.Kind), "severity", string(f.Severity), "log", f.Log, "journal", f.Journal, "serial", f.Serial,
		"identity", f.Identity,
		"issuer", f.Issuer, "issued_by", f.IssuedBy, "finding_id", f.ID, "text", f.Text, "action", f.Action,
		"commands", f.Commands,
	}
	if f.Index != nil {
		attrs = append(attrs, "index", *f.Index)
	}
	a.o.Logger.Error("audit alarm", attrs...)
	a.alarms.add(Alarm{Finding: f, Raised: a.o.Now().UTC()})
	if a.o.Raise != nil {
		a.o.Raise(context.Background(), f) //nolint:contextcheck // an alarm is delivered even while the process stops
	}
}

// countFinding counts a finding in the alarm that represents all findings of its class beyond the limit.
func (a *Auditor) countFinding(f Finding, limit int) {
	all := newFinding(Finding{
		Kind: f.Kind, Log: f.Log, Journal: f.Journal, Time: f.Time, Signature: f.Signature, Count: 1,
		Text: fmt.Sprintf("more than %d alarms of the kind %s are open for %s: further ones are counted here; "+
			"mayfly audit reconcile lists all", limit, f.Kind, f.subject()),
	}, "more "+f.Signature)
	if at, open := a.alarms.byID[all.ID]; open {
		a.alarms.open[at].Count++
		return
	}
	a.raise(all)
}

func (a *Auditor) quarantine(log, cause string) {
	if a.o.Quarantine != nil {
		a.o.Quarantine(log, cause)
	}
}

func (a *Auditor) publishQuarantined() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.published.quarantined = maps.Clone(a.alarms.quarantined)
}
