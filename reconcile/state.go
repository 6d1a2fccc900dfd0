package reconcile

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/monitor"
)

// stateSuffix is the suffix of the state file, after the path of the journal.
const stateSuffix = ".reconcile"

// StatePath returns the path of the state that an auditor keeps beside a journal.
func StatePath(journal string) string { return journal + stateSuffix }

// LoadState reads the state that an auditor keeps beside a journal; nil if there is none. It refuses a file to which
// users other than its owner can write: they could close alarms, or make the auditor skip log entries.
func LoadState(journal string) ([]byte, error) {
	path := StatePath(journal)
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case st.Mode().IsRegular() && st.Mode().Perm()&0o022 != 0:
		return nil,
			fmt.Errorf("users other than the owner of %s can write to it (mode %04o), so its "+
				"content cannot be trusted; remove it to read everything again", path, st.Mode().Perm())
	}
	return os.ReadFile(path)
}

// SaveState writes the state of an auditor beside a journal.
func SaveState(journal string, state []byte) error {
	return durable.WriteFile(StatePath(journal), state, 0o600)
}

// CheckState reports whether an auditor could continue from the state beside a journal.
func CheckState(journal string) error {
	_, err := NewAuditor(AuditorOptions{Load: func() ([]byte, error) { return LoadState(journal) }})
	return err
}

// OpenAlarms returns the open alarms and the quarantined logs, with the cause, from the state beside a journal.
func OpenAlarms(journal string) (open []Alarm, quarantined map[string]string, err error) {
	data, err := LoadState(journal)
	if err != nil || data == nil {
		return nil, nil, err
	}
	var in savedState
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, nil, fmt.Errorf("the state of the auditor cannot be parsed: %w", err)
	}
	return in.Alarms, in.Quarantined, nil
}

// Format is the version of the saved state of an auditor. Any other version is refused. An operator can remove the
// state: everything is read again, and each alarm whose cause is still there is raised again.
const Format = 1

// savedState is the state of an auditor in JSON: how far everything has been read, and what is still open. Logs and
// journals are numbered by their places in the lists.
type savedState struct {
	Version     int               `json:"version"`
	Keys        []string          `json:"keys"` // SHA-256 of the SPKIs that the logs were searched for
	Logs        []savedLog        `json:"logs"`
	Journals    []savedJournal    `json:"journals"`
	Rows        []savedRow        `json:"rows"`
	Obligations []savedObligation `json:"promises"`
	Candidates  []savedCandidate  `json:"suspects"`
	Finals      []savedCandidate  `json:"finals"`
	Alarms      []Alarm           `json:"alarms"`
	Quarantined map[string]string `json:"benched"`
}

type savedLog struct {
	Name       string        `json:"name"`
	MergeDelay time.Duration `json:"delay"`
	Last       uint64        `json:"last"`
	Verified   bool          `json:"trusted"`
	State      monitor.State `json:"state"`
}

type savedJournal struct {
	Name      string    `json:"name"`
	Path      string    `json:"path"`
	Live      bool      `json:"live"`
	Next      uint64    `json:"next"`
	Sum       string    `json:"sum"`
	Root      string    `json:"root"`
	Truncated bool      `json:"cut"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Keys      []string  `json:"keys"`
	Read      uint64    `json:"read"`
	Started   bool      `json:"on"`
	Explained int       `json:"signed"`
	Pending   int       `json:"pending"`
}

type savedRow struct {
	TBS        string       `json:"tbs"`
	Serial     string       `json:"serial"`
	Seconds    uint32       `json:"when"`
	CertPrefix uint64       `json:"mark"`
	Journal    uint16       `json:"journal"`
	Flags      uint8        `json:"flags"`
	Entries    []savedEntry `json:"places,omitempty"`
}

type savedEntry struct {
	Log         uint16 `json:"log"`
	Index       uint64 `json:"index"`
	Timestamp   uint64 `json:"timestamp"`
	Extensions  uint64 `json:"extensions"`
	Final       bool   `json:"final,omitempty"`
	Subordinate bool   `json:"below,omitempty"`
}

type savedObligation struct {
	Row        uint32 `json:"row"` // from 1
	Log        uint16 `json:"log"`
	HasIndex   bool   `json:"indexed"`
	Index      uint64 `json:"index"`
	Timestamp  uint64 `json:"timestamp"`
	Extensions uint64 `json:"extensions"`
}

type savedCandidate struct {
	Row         uint32 `json:"row"`
	Log         uint16 `json:"log"`
	Index       uint64 `json:"index"`
	Key         string `json:"key"`
	Certificate string `json:"certificate,omitempty"`
}

// save passes the state without the resolved rows to Save.
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

func (a *Auditor) dump() savedState {
	out := savedState{Version: Format, Alarms: a.alarms.open, Quarantined: a.alarms.quarantined}
	for sum := range a.keys.hashes {
		out.Keys = append(out.Keys, hex.EncodeToString(sum[:]))
	}
	for _, f := range a.followers {
		f.state = f.State()
	}
	for _, w := range a.logs {
		w.state.Log = w.id
		out.Logs = append(out.Logs, savedLog{w.name, w.mergeDelay, w.last, w.verified, w.state})
	}
	for _, s := range a.journals {
		one := savedJournal{
			Name: s.name, Path: s.path, Live: s.live, Next: s.next, Sum: s.sum, Root: s.root, Truncated: s.truncated,
			First: s.first, Last: s.last, Read: s.read, Started: s.signatures.started,
			Explained: s.signatures.explained,
			Pending:   s.signatures.pending,
		}
		for key := range s.keys {
			one.Keys = append(one.Keys, key)
		}
		out.Journals = append(out.Journals, one)
	}
	a.dumpRows(&out)
	return out
}

// dumpRows adds the rows that are open. An intent without an outcome is open as long as a request may take.
func (a *Auditor) dumpRows(out *savedState) {
	numbers := map[uint32]uint32{} // row to its place in out.Rows, from 1
	row := func(n uint32) uint32 {
		if numbers[n] == 0 {
			r := a.rows.at(n)
			one := savedRow{
				TBS: hex.EncodeToString(r.tbs[:]), Serial: hex.EncodeToString(r.serial[:]), Seconds: r.seconds,
				CertPrefix: r.certPrefix, Journal: r.journal, Flags: r.flags,
			}
			for at := r.entries; at != 0; at = a.entries.at(at).next {
				e := a.entries.at(at)
				one.Entries = append(one.Entries,
					savedEntry{e.log, e.index, e.timestamp, e.extensions, e.final, e.subordinate})
			}
			out.Rows = append(out.Rows, one)
			numbers[n] = uint32(len(out.Rows)) //nolint:gosec // as many as rows
		}
		return numbers[n]
	}
	for _, o := range a.obligations {
		out.Obligations = append(out.Obligations,
			savedObligation{row(o.row), o.log, o.hasIndex, o.index, o.timestamp, o.extensions})
	}
	dumpCandidate := func(one candidate) savedCandidate {
		e := a.entries.at(one.entry)
		return savedCandidate{Row: row(one.row), Log: e.log, Index: e.index, Key: hex.EncodeToString(one.key[:])}
	}
	for _, one := range a.candidates {
		out.Candidates = append(out.Candidates, dumpCandidate(one))
	}
	for _, f := range a.finals {
		one := dumpCandidate(f.candidate)
		one.Certificate = hex.EncodeToString(f.certificate[:])
		out.Finals = append(out.Finals, one)
	}
	for n := uint32(1); n <= a.rows.n; n++ {
		r := a.rows.at(n)
		if r.is(intended) && !r.is(issued) && !r.is(failed) &&
			time.Unix(int64(r.seconds), 0).Add(a.o.Keep).After(a.o.Now()) {
			row(n)
		}
	}
}

// restore takes over a saved state. It refuses an inconsistent state as a whole.
func (a *Auditor) restore(data []byte) error {
	var in savedState
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("the state of the auditor cannot be parsed: %w; remove it to read everything again", err)
	}
	if in.Version > Format {
		return fmt.Errorf("a newer mayfly wrote the state of the auditor (format %d; this version reads %d); use that "+
			"version, or remove the state: everything is read again", in.Version, Format)
	}
	if in.Version != Format {
		return fmt.Errorf("the state of the auditor has the format %d, not %d; remove it: everything is read again",
			in.Version, Format)
	}
	a.alarms.open = in.Alarms
	if in.Quarantined != nil {
		a.alarms.quarantined = in.Quarantined
	}
	for _, key := range in.Keys {
		a.keys.addKey(key)
	}
	for _, l := range in.Logs {
		w := a.addLog(l.Name, l.State.Log, l.MergeDelay)
		w.last, w.verified, w.removed, w.state, w.size, w.head = l.Last, l.Verified, true, l.State,
			l.State.Size, l.State.Head
	}
	for i, j := range in.Journals {
		one := &journalState{
			name: j.Name, path: j.Path, number: uint16(i), live: j.Live, next: j.Next, sum: j.Sum, root: j.Root, //nolint:gosec // a few
			truncated: j.Truncated, first: j.First, last: j.Last, read: j.Read, keys: map[string]bool{},
			signatures: signatureCount{started: j.Started, explained: j.Explained, pending: j.Pending},
		}
		for _, key := range j.Keys {
			one.keys[key] = true
		}
		a.journals = append(a.journals, one)
	}
	if !a.restoreRows(&in) {
		return errors.New("the state of the auditor is inconsistent; remove it to read everything again")
	}
	return nil
}

func (a *Auditor) restoreRows(in *savedState) bool {
	for _, r := range in.Rows {
		tbs, ok := parseDigest(r.TBS)
		serial, err := journal.ParseSerial(r.Serial)
		if !ok || err != nil || a.find(tbs) != 0 {
			return false
		}
		n, _ := a.addRow(row{
			tbs: tbs, serial: serial, seconds: r.Seconds, certPrefix: r.CertPrefix, journal: r.Journal, flags: r.Flags,
		})
		for _, e := range r.Entries {
			if int(e.Log) >= len(a.logs) {
				return false
			}
			a.addEntry(n, logEntry{
				index: e.Index, timestamp: e.Timestamp, extensions: e.Extensions, log: e.Log,
				final: e.Final, subordinate: e.Subordinate,
			})
		}
	}
	for _, o := range in.Obligations {
		if o.Row == 0 || o.Row > a.rows.n || int(o.Log) >= len(a.logs) {
			return false
		}
		a.obligations = append(a.obligations, obligation{o.Row, o.Log, o.HasIndex, o.Index, o.Timestamp, o.Extensions})
	}
	for _, s := range in.Candidates {
		one, ok := a.restoreCandidate(s)
		if !ok {
			return false
		}
		a.candidates = append(a.candidates, one)
	}
	for _, s := range in.Finals {
		one, ok := a.restoreCandidate(s)
		sum, sumOK := parseDigest(s.Certificate)
		if !ok || !sumOK {
			return false
		}
		a.finals = append(a.finals, finalEntry{one, sum})
	}
	return true
}

func (a *Auditor) restoreCandidate(s savedCandidate) (out candidate, ok bool) {
	key, keyOK := parseDigest(s.Key)
	if !keyOK || s.Row == 0 || s.Row > a.rows.n {
		return out, false
	}
	for at := a.rows.at(s.Row).entries; at != 0; at = a.entries.at(at).next {
		if e := a.entries.at(at); e.log == s.Log && e.index == s.Index {
			return candidate{s.Row, at, key}, true
		}
	}
	return out, false
}
