package reconcile

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/monitor"
)

// account is what journals and logs have said so far. Entries and records may come in any order; what they amount to is judged
// by settle, when the caller knows that logs were read first and journals after them.
//
// That order is the heart of it. An intent is on disk before the precertificate leaves for a log, so that whoever reads a log
// up to some head, and then a journal to its present end, has read the intent of everything under that head. The other way
// round, each certificate of the time between the two would look like the work of a thief.
type account struct {
	*table
	keys     *keyring
	logs     []*watched
	byID     map[string]uint16
	books    []*book
	promises []promise
	suspects []suspect
	finals   []final
	others   []other
	report   func(Finding)
	// again reads an entry of the log with that number once more: only those that are reported are worth the memory.
	again func(ctx context.Context, log uint16, index uint64) (*monitor.Entry, error)
	told  bool // a journal brought a key, or certificates, that were not known when logs were read

	pairs  []pair
	proven bool // whatever an entry is taken in from has been proven

	unwatched uint64 // promises of logs that are not read
}

// pair is two rows with one serial number.
type pair struct {
	row, twin uint32
	when      time.Time
}

// watched is a log under audit.
type watched struct {
	name  string
	id    [32]byte
	delay time.Duration // by which a promise must be kept
	size  uint64        // of the entries that were read and proven
	head  monitor.Head  // that was verified last
	ours  uint64
	last  uint64 // timestamp of the newest entry read, milliseconds
	// unread has the SHA-256 of CA certificates that the log names and did not serve, and the first entry that names
	// each.
	unread map[[32]byte]uint64
	// copied: it is read from a directory that need not be the one which the log is written to.
	copied bool
	// trusted: what was read of it was proven. away: the configuration does not name it any more.
	// stuck: it could not be read the last time.
	trusted, away, stuck bool
	state                monitor.State // of a log that is not followed at the moment
}

// suspect is an entry that had no intent when it was seen.
type suspect struct {
	row   uint32
	place uint32
	key   [32]byte
}

// other is a CA certificate for our key that the configuration does not name, as an entry has it in its chain.
type other struct {
	log       uint16
	index     uint64
	timestamp uint64
	sum       [32]byte
}

// final is a certificate that was found in a log.
type final struct {
	suspect
	certificate [32]byte
}

func newAccount(keys *keyring, report func(Finding)) *account {
	return &account{table: newTable(), keys: keys, byID: map[string]uint16{}, report: report}
}

// watch adds a log.
func (a *account) watch(name string, id [32]byte, delay time.Duration) *watched {
	w := &watched{name: name, id: id, delay: delay, trusted: true}
	a.byID[hex.EncodeToString(id[:])] = uint16(len(a.logs))
	a.logs = append(a.logs, w)
	return w
}

// entry takes in an entry of ours from the log with that number.
func (a *account) entry(log uint16, s sighting) {
	if s.other != ([32]byte{}) && !slices.ContainsFunc(a.others,
		func(o other) bool { return o.log == log && o.sum == s.other }) {
		a.others = append(a.others, other{log, s.index, s.timestamp, s.other})
	}
	n := a.find(s.tbs)
	if n == 0 {
		var twin uint32
		if n, twin = a.add(row{tbs: s.tbs, serial: s.serial, when: uint32(s.timestamp / 1000)}); twin != 0 {
			a.pairs = append(a.pairs, pair{n, twin, timeOf(s.timestamp)})
		}
	}
	if !a.addPlace(n, place{
		index: s.index, timestamp: s.timestamp, extensions: s.extensions, log: log, final: s.final,
		below: s.below,
	}) {
		return
	}
	a.logs[log].ours++
	one := suspect{n, a.rows.at(n).places, s.key}
	if !a.rows.at(n).is(intended) {
		a.suspects = append(a.suspects, one)
	}
	if s.final {
		a.finals = append(a.finals, final{one, s.certificate})
	}
}

// reportPairs reports what shares a serial number, unless one of the two was seen only where nothing is proven.
func (a *account) reportPairs() {
	for _, p := range a.pairs {
		if !a.real(p.row) || !a.real(p.twin) {
			continue
		}
		serial := hex.EncodeToString(a.rows.at(p.row).serial[:])
		first, second := a.rows.at(p.twin).tbs, a.rows.at(p.row).tbs
		if string(first[:]) > string(second[:]) {
			first, second = second, first
		}
		known := a.rows.at(p.row).is(intended|trial) || a.rows.at(p.twin).is(intended|trial)
		signature := ""
		if !known { // a log can make up any number of them, and each of the two is a finding of its own
			signature = SignatureUnverified
		}
		a.report(newFinding(Finding{
			Kind: SerialReused, Serial: serial, Time: p.when, Signature: signature,
			Text: fmt.Sprintf("two certificates have the serial number %s: those with the TBS digests %x and %x", serial, first, second),
		}, fmt.Sprintf("%x %x", first, second)))
	}
	a.pairs = nil
}

func (a *account) real(n uint32) bool {
	return a.proven || a.rows.at(n).is(intended|trial) || a.has(n, func(p *place) bool { return a.logs[p.log].trusted })
}

// record takes in the next record of a journal.
func (a *account) record(b *book, r *journal.Record) {
	b.follow(a, r)
	if r.IssuerKey != "" && !b.keys[r.IssuerKey] {
		b.keys[r.IssuerKey] = true
		if a.keys.learn(r.IssuerKey) {
			a.told = true
		}
	}
	switch r.Kind {
	case journal.Start, journal.Stop, journal.Reload, journal.Trial:
		b.count(a, r)
		if r.Kind == journal.Trial {
			a.intend(b, r, trial)
		}
	case journal.Intent:
		b.tally.pending++
		a.intend(b, r, intended)
	case journal.Outcome:
		a.outcome(b, r)
	case journal.Alarm, journal.Recovered, journal.Dropped, journal.Event:
	}
}

// digestIn reads a SHA-256 as a journal has it.
func digestIn(text string) (out [32]byte, ok bool) {
	if len(text) != 2*len(out) {
		return out, false
	}
	_, err := hex.Decode(out[:], []byte(text))
	return out, err == nil
}

// intend notes that a TBSCertificate is about to be signed.
func (a *account) intend(b *book, r *journal.Record, flag uint8) {
	sum, ok := digestIn(r.TBS)
	serial, err := parseSerial(r.Serial)
	if !ok || err != nil {
		b.broken(a, r, "the record has no TBS digest, or no serial number")
		return
	}
	n := a.find(sum)
	if n == 0 {
		var twin uint32
		if n, twin = a.add(row{tbs: sum, serial: serial, when: uint32(max(r.Time.Unix(), 0)), journal: b.number}); twin != 0 { //nolint:gosec // until 2106
			a.pairs = append(a.pairs, pair{n, twin, r.Time})
		}
	}
	one := a.rows.at(n)
	if flag == intended && one.is(intended) {
		a.report(newFinding(Finding{
			Kind: SerialReused, Journal: b.name, Serial: r.Serial, Time: r.Time,
			Text: fmt.Sprintf("the TBS digest %x has two intents, the second with the number %d", sum, r.Seq),
		}, fmt.Sprintf("intent %x %d", sum, r.Seq)))
	}
	one.flags |= flag
	one.journal = b.number
}

// outcome notes how a request ended.
func (a *account) outcome(b *book, r *journal.Record) {
	b.tally.signed += r.Signatures
	sum, ok := digestIn(r.TBS)
	signed := r.Result == journal.Issued || r.Signatures > 0
	if !ok {
		if signed {
			b.broken(a, r, "the outcome has no TBS digest")
		}
		return // it ended before there was anything to sign
	}
	n := a.find(sum)
	if n != 0 && a.rows.at(n).is(intended) {
		b.tally.pending = max(b.tally.pending-1, 0)
	} else if signed {
		if b.cut && r.Time.Sub(b.first) < aRequest {
			b.early++
			return // its intent is in a segment that was taken away
		}
		a.report(newFinding(Finding{
			Kind: OutcomeWithoutIntent, Journal: b.name, Serial: r.Serial, Time: r.Time,
			Text: fmt.Sprintf("record %d says that a certificate was %s, and no record says that it was to be", r.Seq, r.Result),
		}, fmt.Sprint(r.Seq)))
	}
	if n == 0 {
		return
	}
	one := a.rows.at(n)
	if r.Result != journal.Issued {
		one.flags |= failed
		return
	}
	if one.is(issued) {
		a.report(newFinding(Finding{
			Kind: SerialReused, Journal: b.name, Serial: r.Serial, Time: r.Time,
			Text: fmt.Sprintf("the certificate was released twice, the second time in record %d", r.Seq),
		}, fmt.Sprintf("outcome %d", r.Seq)))
	}
	one.flags |= issued
	if sum, ok := digestIn(r.Certificate); ok {
		one.mark = markOf(sum)
	}
	for i := range r.SCTs {
		if problem := a.promised(n, &r.SCTs[i]); problem != "" {
			b.broken(a, r, problem)
		}
	}
}

// promised notes an SCT that is in a released certificate, unless its entry is here already. It returns what is wrong with it.
func (a *account) promised(n uint32, sct *journal.SCT) (problem string) {
	log, ok := a.byID[sct.Log]
	if !ok {
		a.unwatched++
		return ""
	}
	extensions, err := hex.DecodeString(sct.Extensions)
	if err != nil {
		return "the extensions of an SCT are not hexadecimal"
	}
	a.expect(promise{row: n, log: log, timestamp: sct.Timestamp}, extensions)
	return ""
}

// expect keeps a promise, whose SCT has these extensions, until its entry is here.
func (a *account) expect(p promise, extensions []byte) {
	p.extensions = digestOf(extensions)
	p.index, p.indexed = monitor.ParseLeafIndex(extensions)
	if !a.kept(&p) {
		a.promises = append(a.promises, p)
	}
}

// kept reports whether the entry that p promises has been seen where and as it was promised.
func (a *account) kept(p *promise) bool {
	return a.has(p.row, func(have *place) bool {
		return have.log == p.log && !have.final && have.timestamp == p.timestamp && have.extensions == p.extensions &&
			(!p.indexed || have.index == p.index)
	})
}

// markOf is as much of the digest of a certificate as is kept for a million of them. Whoever could make another certificate with
// the same eight bytes would gain nothing: its intent is known.
func markOf(sum [32]byte) uint64 { return binary.BigEndian.Uint64(sum[:]) }

func timeOf(milliseconds uint64) time.Time { return monitor.TimeOf(milliseconds) }
