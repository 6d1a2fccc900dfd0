package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/monitor"
)

// takeOver puts the last Setup into force. Logs go on where they were, also after a while out of the configuration.
func (a *Auditor) takeOver() {
	a.mu.Lock()
	s := a.setup
	a.setup = nil
	a.mu.Unlock()
	if s == nil {
		return
	}
	fresh := a.keys.configure(s.Issuers)
	old := a.followers
	a.followers = nil
	for _, w := range a.logs {
		w.away = true
	}
	for _, t := range s.Targets {
		number, ok := a.numberOf(t.Log.ID())
		if !ok {
			a.watch(t.Log.Name(), t.Log.ID(), t.Delay)
			number, _ = a.numberOf(t.Log.ID())
		}
		w := a.logs[number]
		w.name, w.delay, w.away = t.Log.Name(), t.Delay, false
		f := &follower{watched: w, number: number}
		for _, have := range old {
			if have.number == number {
				w.state = have.State()
			}
		}
		next, err := monitor.Follow(t.Log, monitor.FollowerOptions{State: w.state, Step: a.o.Step})
		if err != nil {
			continue // the state is found by the log's ID
		}
		f.Follower = next
		a.told = a.told || fresh && w.state.Size > 0
		a.followers = append(a.followers, f)
	}
}

// numberOf finds a log by its ID.
func (a *account) numberOf(id [32]byte) (uint16, bool) {
	n, ok := a.byID[fmt.Sprintf("%x", id)]
	return n, ok
}

// obey carries out the operator's orders. The error is about those that are not carried out.
func (a *Auditor) obey(ctx context.Context) error {
	if a.o.Orders == nil {
		return nil
	}
	orders, err := a.o.Orders()
	for _, o := range orders {
		a.clear(ctx, o)
	}
	return err
}

// clear closes alarms. A log that is cleared is read from its beginning again, as if it was seen for the first time.
func (a *Auditor) clear(ctx context.Context, o Order) {
	var closed []Finding
	left := a.open[:0]
	for _, one := range a.open {
		if o.Concerns(one.Finding) {
			closed = append(closed, one.Finding)
			continue
		}
		left = append(left, one)
	}
	a.open = left
	a.count()
	for _, f := range a.followers {
		if o.Log == "" || f.watched.name != o.Log {
			continue
		}
		if !f.trusted {
			f.Restore(monitor.State{Log: f.id})
			f.size, f.watched.head, f.scrub, f.trusted = 0, monitor.Head{}, nil, true
		}
	}
	if _, was := a.benched[o.Log]; was && o.Log != "" {
		delete(a.benched, o.Log)
		a.mu.Lock()
		a.out = maps.Clone(a.benched)
		a.mu.Unlock()
		if a.o.Unbench != nil {
			a.o.Unbench(o.Log)
		}
	}
	if a.o.Cleared != nil {
		a.o.Cleared(ctx, o, closed)
	}
}

// found is told of each finding by the account.
func (a *Auditor) found(f Finding) {
	if _, open := a.known[f.ID]; open {
		return
	}
	a.metrics.alarms.WithLabelValues(string(f.Kind)).Inc()
	if f.Kind.Breaks() && a.benched[f.Log] == "" {
		a.benched[f.Log] = f.Text
		a.mu.Lock()
		a.out = maps.Clone(a.benched) // before: a set that is made meanwhile asks for them
		a.mu.Unlock()
		a.bench(f.Log, f.Text)
	}
	if f.Bounded() {
		most := mostAlike
		if f.Signature == SignatureUnverified {
			most = mostUnverified
		}
		if a.alike[f.class()] >= most {
			a.sumUp(f, most)
			return
		}
	}
	a.raise(f)
}

// raise opens an alarm and tells of it.
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
	a.known[f.ID] = len(a.open)
	a.alike[f.class()]++
	a.open = append(a.open, Alarm{Finding: f, Raised: a.o.Now().UTC()})
	if a.o.Raise != nil {
		a.o.Raise(context.Background(), f) //nolint:contextcheck // an alarm is raised to its end, also while the process stops
	}
}

// sumUp counts a finding in the one alarm that stands for all of its class beyond the bound.
func (a *Auditor) sumUp(f Finding, most int) {
	all := newFinding(Finding{
		Kind: f.Kind, Log: f.Log, Journal: f.Journal, Time: f.Time, Signature: f.Signature, Count: 1,
		Text: fmt.Sprintf("more than %d alarms of the kind %s are open for %s: further ones are counted here; mayfly "+
			"audit reconcile lists all",
			most, f.Kind, f.source()),
	}, "more "+f.Signature)
	if at, open := a.known[all.ID]; open {
		a.open[at].Count++
		return
	}
	a.raise(all)
}

// class is what alarms are alike in.
func (f *Finding) class() string { return string(f.Kind) + "\n" + f.source() + "\n" + f.Signature }

// count finds the open alarms anew, after some were closed.
func (a *Auditor) count() {
	clear(a.known)
	clear(a.alike)
	for i := range a.open {
		a.known[a.open[i].ID] = i
		a.alike[a.open[i].class()]++
	}
}

func (a *Auditor) bench(log, cause string) {
	if a.o.Bench != nil {
		a.o.Bench(log, cause)
	}
}

// conclude judges what can be judged now.
func (a *Auditor) conclude(ctx context.Context) error {
	m := moment{now: a.o.Now(), lag: a.o.Lag}
	a.again = reread(func(n uint16) *monitor.Follower {
		for _, f := range a.followers {
			if f.number == n {
				return f.Follower
			}
		}
		return nil
	})
	defer func() { a.again = nil }() // and what it keeps
	a.reportPairs()
	a.reportOthers()
	a.settle(m)
	a.suspects = slices.DeleteFunc(a.suspects, func(s suspect) bool { // whatever the journals say
		below := a.places.at(s.place).below
		if below {
			a.accuse(ctx, s)
		}
		return below
	})
	if a.o.Journals == nil {
		a.suspects, a.finals = nil, nil // nobody could say what was intended
		return nil
	}
	accused, waiting := a.suspected(m)
	err := a.recall(ctx, accused)
	if err != nil { // unread journals are no proof: next time
		a.suspects = slices.Concat(waiting, accused)
		return err
	}
	a.suspects = waiting
	for _, s := range accused {
		if !a.rows.at(s.row).is(intended) && a.judge(s, m) == guilty { // recall may have found that older files are gone
			a.accuse(ctx, s)
		}
	}
	finals := a.finals
	a.finals = nil
	for _, f := range finals {
		switch {
		case a.awaited(f.suspect) || !a.due(f.suspect):
			a.finals = append(a.finals, f)
		case a.rows.at(f.row).is(intended):
			a.acquit(ctx, f)
		}
	}
	return nil
}

// due says that the journals were read far enough to know of an entry.
func (a *Auditor) due(s suspect) bool {
	at := timeOf(a.places.at(s.place).timestamp)
	return a.until.IsZero() || !at.Add(slack).After(a.until)
}

func (a *Auditor) awaited(s suspect) bool {
	for _, w := range a.suspects {
		if w.place == s.place {
			return true
		}
	}
	return false
}

// suspected sorts the entries without intent: those that are judged now, and those that wait.
func (a *Auditor) suspected(m moment) (accused, waiting []suspect) {
	for _, s := range a.suspects {
		switch {
		case a.rows.at(s.row).is(intended):
		case !a.due(s):
			waiting = append(waiting, s)
		default:
			switch a.judge(s, m) {
			case guilty:
				accused = append(accused, s)
			case later:
				waiting = append(waiting, s)
			case before:
			}
		}
	}
	return accused, waiting
}

// recall looks for the intents of the accused in all of all journals: what was settled long ago is not in memory any more.
func (a *Auditor) recall(ctx context.Context, accused []suspect) error {
	if len(accused) == 0 {
		return nil
	}
	wanted := map[string]uint32{}
	for _, s := range accused {
		wanted[fmt.Sprintf("%x", a.rows.at(s.row).tbs)] = s.row
	}
	for _, f := range a.finals {
		wanted[fmt.Sprintf("%x", a.rows.at(f.row).tbs)] = f.row
	}
	all, err := a.o.Journals()
	if err != nil {
		return err
	}
	for _, j := range all {
		if err := a.recallFrom(ctx, j, wanted); err != nil {
			return fmt.Errorf("journal %s: %w", j.Name, err)
		}
	}
	return nil
}

// recallFrom looks in one journal.
func (a *Auditor) recallFrom(ctx context.Context, j Journal, wanted map[string]uint32) error {
	c := j.open(0)
	defer c.close()
	for first := true; ; {
		r, err := c.next()
		var d *journal.Damage
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &d):
			continue // reported when it was read first
		case err != nil:
			return err
		}
		if first {
			first = false
			if b := a.bookOf(j); r.Seq != 1 && r.Time.After(b.first) { // its older files were archived
				b.first, b.cut = r.Time, true
			}
		}
		n, ok := wanted[r.TBS]
		if !ok || r.TBS == "" {
			continue
		}
		one := a.rows.at(n)
		switch {
		case r.Kind == journal.Trial:
			one.flags |= trial
		case r.Kind == journal.Intent:
			one.flags |= intended
		case r.Kind == journal.Outcome && r.Result == journal.Issued:
			one.flags |= issued
			if sum, ok := digestIn(r.Certificate); ok {
				one.mark = markOf(sum)
			}
		}
	}
}

// evict forgets what is settled and old. What is open stays: promises, entries without intent, intents without outcome.
func (a *Auditor) evict() {
	n := a.rows.n
	if n < min(fewRows, a.o.Rows) || n < a.o.Rows && n < 2*a.kept {
		return
	}
	now := a.o.Now()
	if !a.until.IsZero() && a.until.Before(now) {
		now = a.until
	}
	horizon := now.Add(-a.o.Keep)
	if n >= a.o.Rows {
		horizon = now.Add(-aRequest)
	}
	a.reduce(horizon)
	a.kept = a.rows.n
}

// reduce keeps the rows that are open, and those after the horizon.
func (a *account) reduce(horizon time.Time) {
	open := map[uint32]bool{}
	for _, p := range a.promises {
		open[p.row] = true
	}
	for _, s := range a.suspects {
		open[s.row] = true
	}
	for _, f := range a.finals {
		open[f.row] = true
	}
	next := newTable()
	rows, places := map[uint32]uint32{}, map[uint32]uint32{}
	for n := uint32(1); n <= a.rows.n; n++ {
		r := *a.rows.at(n)
		young := time.Unix(int64(r.when), 0).After(horizon)
		if !open[n] && !young {
			continue
		}
		at := r.places
		r.places = 0
		to, _ := next.add(r)
		rows[n] = to
		for ; at != 0; at = a.places.at(at).next {
			next.addPlace(to, *a.places.at(at))
			places[at] = next.places.n
		}
	}
	for i := range a.promises {
		a.promises[i].row = rows[a.promises[i].row]
	}
	for i := range a.suspects {
		a.suspects[i].row, a.suspects[i].place = rows[a.suspects[i].row], places[a.suspects[i].place]
	}
	for i := range a.finals {
		a.finals[i].row, a.finals[i].place = rows[a.finals[i].row], places[a.finals[i].place]
	}
	a.table = next
}

// publish shows alarms and troubles to the other goroutines.
func (a *Auditor) publish(troubles []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.alarms, a.out = append([]Alarm(nil), a.open...), maps.Clone(a.benched)
	a.warnings = troubles
}
