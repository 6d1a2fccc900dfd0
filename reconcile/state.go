package reconcile

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/monitor"
)

// stateVersion is the form of the state. Another one is refused: the state can be removed, and everything is read again.
const stateVersion = 1

// saved is an auditor's state outside: what has been read, and what is still open. Numbers of logs and journals are places in
// their lists.
type saved struct {
	Version  int               `json:"version"`
	Keys     []string          `json:"keys"` // SHA-256 of the issuing SPKIs that logs were searched for
	Logs     []savedLog        `json:"logs"`
	Books    []savedBook       `json:"journals"`
	Rows     []savedRow        `json:"rows"`
	Promises []savedPromise    `json:"promises"`
	Suspects []savedSuspect    `json:"suspects"`
	Finals   []savedSuspect    `json:"finals"`
	Alarms   []Alarm           `json:"alarms"`
	Benched  map[string]string `json:"benched"`
}

type savedLog struct {
	Name    string        `json:"name"`
	Delay   time.Duration `json:"delay"`
	Last    uint64        `json:"last"`
	Trusted bool          `json:"trusted"`
	State   monitor.State `json:"state"`
}

type savedBook struct {
	Name    string    `json:"name"`
	Path    string    `json:"path"`
	Live    bool      `json:"live"`
	Next    uint64    `json:"next"`
	Sum     string    `json:"sum"`
	Root    string    `json:"root"`
	Cut     bool      `json:"cut"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Keys    []string  `json:"keys"`
	Read    uint64    `json:"read"`
	On      bool      `json:"on"`
	Signed  int       `json:"signed"`
	Pending int       `json:"pending"`
}

type savedRow struct {
	TBS     string       `json:"tbs"`
	Serial  string       `json:"serial"`
	When    uint32       `json:"when"`
	Mark    uint64       `json:"mark"`
	Journal uint16       `json:"journal"`
	Flags   uint8        `json:"flags"`
	Places  []savedPlace `json:"places,omitempty"`
}

type savedPlace struct {
	Log        uint16 `json:"log"`
	Index      uint64 `json:"index"`
	Timestamp  uint64 `json:"timestamp"`
	Extensions uint64 `json:"extensions"`
	Final      bool   `json:"final,omitempty"`
	Below      bool   `json:"below,omitempty"`
}

type savedPromise struct {
	Row        uint32 `json:"row"` // from 1
	Log        uint16 `json:"log"`
	Indexed    bool   `json:"indexed"`
	Index      uint64 `json:"index"`
	Timestamp  uint64 `json:"timestamp"`
	Extensions uint64 `json:"extensions"`
}

type savedSuspect struct {
	Row         uint32 `json:"row"`
	Log         uint16 `json:"log"`
	Index       uint64 `json:"index"`
	Key         string `json:"key"`
	Certificate string `json:"certificate,omitempty"`
}

// save hands the state out, without what is settled.
func (a *Auditor) save() error {
	if a.o.Save == nil {
		return nil
	}
	data, err := json.Marshal(a.dump())
	if err != nil {
		return err
	}
	return a.o.Save(data)
}

func (a *Auditor) dump() saved {
	out := saved{Version: stateVersion, Alarms: a.open, Benched: a.benched}
	for sum := range a.keys.hashes {
		out.Keys = append(out.Keys, hex.EncodeToString(sum[:]))
	}
	for _, f := range a.followers {
		f.state = f.State()
	}
	for _, w := range a.logs {
		w.state.Log = w.id
		out.Logs = append(out.Logs, savedLog{w.name, w.delay, w.last, w.trusted, w.state})
	}
	for _, b := range a.books {
		one := savedBook{
			Name: b.name, Path: b.path, Live: b.live, Next: b.next, Sum: b.sum, Root: b.root, Cut: b.cut, First: b.first, Last: b.last, Read: b.read,
			On: b.tally.on, Signed: b.tally.signed, Pending: b.tally.pending,
		}
		for key := range b.keys {
			one.Keys = append(one.Keys, key)
		}
		out.Books = append(out.Books, one)
	}
	a.dumpRows(&out)
	return out
}

// dumpRows adds what is open. An intent without outcome is open for as long as a request may last.
func (a *Auditor) dumpRows(out *saved) {
	numbers := map[uint32]uint32{}
	row := func(n uint32) uint32 {
		if numbers[n] == 0 {
			r := a.rows.at(n)
			one := savedRow{TBS: hex.EncodeToString(r.tbs[:]), Serial: hex.EncodeToString(r.serial[:]), When: r.when, Mark: r.mark, Journal: r.journal, Flags: r.flags}
			for at := r.places; at != 0; at = a.places.at(at).next {
				p := a.places.at(at)
				one.Places = append(one.Places, savedPlace{p.log, p.index, p.timestamp, p.extensions, p.final, p.below})
			}
			out.Rows = append(out.Rows, one)
			numbers[n] = uint32(len(out.Rows)) //nolint:gosec // as many as rows
		}
		return numbers[n]
	}
	for _, p := range a.promises {
		out.Promises = append(out.Promises, savedPromise{row(p.row), p.log, p.indexed, p.index, p.timestamp, p.extensions})
	}
	keep := func(s suspect) savedSuspect {
		p := a.places.at(s.place)
		return savedSuspect{Row: row(s.row), Log: p.log, Index: p.index, Key: hex.EncodeToString(s.key[:])}
	}
	for _, s := range a.suspects {
		out.Suspects = append(out.Suspects, keep(s))
	}
	for _, f := range a.finals {
		one := keep(f.suspect)
		one.Certificate = hex.EncodeToString(f.certificate[:])
		out.Finals = append(out.Finals, one)
	}
	for n := uint32(1); n <= a.rows.n; n++ {
		if r := a.rows.at(n); r.is(intended) && !r.is(issued) && !r.is(failed) && time.Unix(int64(r.when), 0).Add(a.o.Keep).After(a.o.Now()) {
			row(n)
		}
	}
}

// restore takes a state in. What it cannot be is refused, so that nothing is judged from half of it.
func (a *Auditor) restore(data []byte) error {
	var in saved
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("the auditor's state cannot be read: %w; remove it, and everything is read again", err)
	}
	if in.Version != stateVersion {
		return fmt.Errorf("the auditor's state has the form %d, not %d; remove it, and everything is read again", in.Version, stateVersion)
	}
	a.open = in.Alarms
	if in.Benched != nil {
		a.benched = in.Benched
	}
	for _, key := range in.Keys {
		a.keys.learn(key)
	}
	for _, l := range in.Logs {
		w := a.watch(l.Name, l.State.Log, l.Delay)
		w.last, w.trusted, w.away, w.state, w.size, w.head = l.Last, l.Trusted, true, l.State, l.State.Size, l.State.Head
	}
	for i, b := range in.Books {
		one := &book{
			name: b.Name, path: b.Path, number: uint16(i), live: b.Live, next: b.Next, sum: b.Sum, root: b.Root, cut: b.Cut, first: b.First, last: b.Last, read: b.Read, //nolint:gosec // a few
			keys: map[string]bool{}, tally: tally{on: b.On, signed: b.Signed, pending: b.Pending},
		}
		for _, key := range b.Keys {
			one.keys[key] = true
		}
		a.books = append(a.books, one)
	}
	if !a.restoreRows(&in) {
		return errors.New("the auditor's state contradicts itself; remove it, and everything is read again")
	}
	return nil
}

func (a *Auditor) restoreRows(in *saved) bool {
	for _, r := range in.Rows {
		tbs, ok := digestIn(r.TBS)
		serial, err := parseSerial(r.Serial)
		if !ok || err != nil || a.find(tbs) != 0 {
			return false
		}
		n, _ := a.add(row{tbs: tbs, serial: serial, when: r.When, mark: r.Mark, journal: r.Journal, flags: r.Flags})
		for _, p := range r.Places {
			if int(p.Log) >= len(a.logs) {
				return false
			}
			a.addPlace(n, place{
				index: p.Index, timestamp: p.Timestamp, extensions: p.Extensions, log: p.Log,
				final: p.Final, below: p.Below,
			})
		}
	}
	for _, p := range in.Promises {
		if p.Row == 0 || p.Row > a.rows.n || int(p.Log) >= len(a.logs) {
			return false
		}
		a.promises = append(a.promises, promise{p.Row, p.Log, p.Indexed, p.Index, p.Timestamp, p.Extensions})
	}
	for _, s := range in.Suspects {
		one, ok := a.suspectOf(s)
		if !ok {
			return false
		}
		a.suspects = append(a.suspects, one)
	}
	for _, s := range in.Finals {
		one, ok := a.suspectOf(s)
		sum, good := digestIn(s.Certificate)
		if !ok || !good {
			return false
		}
		a.finals = append(a.finals, final{one, sum})
	}
	return true
}

func (a *Auditor) suspectOf(s savedSuspect) (out suspect, ok bool) {
	key, good := digestIn(s.Key)
	if !good || s.Row == 0 || s.Row > a.rows.n {
		return out, false
	}
	for at := a.rows.at(s.Row).places; at != 0; at = a.places.at(at).next {
		if p := a.places.at(at); p.log == s.Log && p.index == s.Index {
			return suspect{s.Row, at, key}, true
		}
	}
	return out, false
}

// ReadAlarms reads the alarms and the benched logs out of an auditor's state.
func ReadAlarms(state []byte) (open []Alarm, benched map[string]string, err error) {
	var in saved
	if err := json.Unmarshal(state, &in); err != nil {
		return nil, nil, fmt.Errorf("the auditor's state cannot be read: %w", err)
	}
	return in.Alarms, in.Benched, nil
}
