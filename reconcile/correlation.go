package reconcile

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/monitor"
)

// correlation is the correlation index: the content of journals and logs that was read so far, by TBSCertificate. Log
// entries and journal records may be added in any order. The caller checks the index when it has read the logs and then
// the journals (see the package comment for why in that order).
type correlation struct {
	*rowTable
	keys        *issuerKeys
	logs        []*logState
	logByID     map[string]uint16
	journals    []*journalState
	obligations []obligation
	candidates  []candidate
	finals      []finalEntry
	unknownCAs  []unknownCA
	sameSerials []sameSerial
	report      func(Finding)
	// reader reads the entries of findings again, because keeping all entries would need too much memory.
	reader *entryReader
	// rescan: a journal named a key, or a log served a CA certificate, that was unknown when the logs were read. The
	// logs must be read again.
	rescan bool
	// verifiedOnly: every entry that is added comes from a verified part of a log.
	verifiedOnly bool
	unreadLogs   uint64 // SCTs of logs that are not read
}

// sameSerial is a pair of rows with the same serial number.
type sameSerial struct {
	row, older uint32
	time       time.Time
}

// obligation is the merge obligation of an SCT (RFC 6962 §3): its entry has not been seen yet.
type obligation struct {
	row        uint32
	log        uint16
	hasIndex   bool // the SCT names the index of the entry
	index      uint64
	timestamp  uint64
	extensions uint64 // extensionsDigest
}

// candidate is a log entry that had no intent when it was read: a candidate for an UnintendedEntry finding.
type candidate struct {
	row   uint32
	entry uint32
	key   [32]byte // SHA-256 of the issuing key's SPKI
}

// finalEntry is a log entry with a final certificate.
type finalEntry struct {
	candidate
	certificate [32]byte // SHA-256
}

// unknownCA is a CA certificate for an issuing key that the configuration does not name, in the chain of a log entry.
type unknownCA struct {
	log       uint16
	index     uint64
	timestamp uint64
	sum       [32]byte // SHA-256 of the CA certificate
}

func newCorrelation(keys *issuerKeys, report func(Finding)) *correlation {
	return &correlation{rowTable: newRowTable(), keys: keys, logByID: map[string]uint16{}, report: report}
}

// addLog adds a log to read.
func (c *correlation) addLog(name string, id [32]byte, mergeDelay time.Duration) *logState {
	w := &logState{name: name, id: id, mergeDelay: mergeDelay, verified: true}
	c.logByID[hex.EncodeToString(id[:])] = uint16(len(c.logs))
	c.logs = append(c.logs, w)
	return w
}

// logNumber returns the number of a log.
func (c *correlation) logNumber(id [32]byte) (uint16, bool) {
	n, ok := c.logByID[hex.EncodeToString(id[:])]
	return n, ok
}

// addMatch adds an entry under an issuing key that was read from the log with the given number.
func (c *correlation) addMatch(log uint16, m matchedEntry) {
	if m.unknownCA != ([32]byte{}) && !slices.ContainsFunc(c.unknownCAs,
		func(u unknownCA) bool { return u.log == log && u.sum == m.unknownCA }) {
		c.unknownCAs = append(c.unknownCAs, unknownCA{log, m.index, m.timestamp, m.unknownCA})
	}
	n := c.find(m.tbs)
	if n == 0 {
		var older uint32
		if n, older = c.addRow(row{tbs: m.tbs, serial: m.serial, seconds: uint32(m.timestamp / 1000)}); older != 0 {
			c.sameSerials = append(c.sameSerials, sameSerial{n, older, timeOf(m.timestamp)})
		}
	}
	if !c.addEntry(n, logEntry{
		index: m.index, timestamp: m.timestamp, extensions: m.extensions, log: log, final: m.final,
		subordinate: m.subordinate, precertSigner: m.precertSigner,
	}) {
		return
	}
	c.logs[log].matched++
	one := candidate{n, c.rows.at(n).entries, m.key}
	if !c.rows.at(n).is(intended) {
		c.candidates = append(c.candidates, one)
	}
	if m.final {
		c.finals = append(c.finals, finalEntry{one, m.certificate})
	}
}

// addRecord adds the next record of a journal.
func (c *correlation) addRecord(j *journalState, r *journal.Record) {
	j.checkChain(c, r)
	if r.IssuerKey != "" && !j.keys[r.IssuerKey] {
		j.keys[r.IssuerKey] = true
		if c.keys.addKey(r.IssuerKey) {
			c.rescan = true
		}
	}
	switch r.Kind {
	case journal.Start, journal.Stop, journal.Reload, journal.Trial:
		j.checkSignatures(c, r)
		if r.Kind == journal.Trial {
			c.addIntent(j, r, trial)
		}
	case journal.Intent:
		j.signatures.pending++
		c.addIntent(j, r, intended)
	case journal.Outcome:
		c.addOutcome(j, r)
	case journal.Repeated, journal.Alarm, journal.Recovered, journal.Dropped, journal.Event, journal.Rekor:
	}
}

// addIntent adds the record of a TBSCertificate that is about to be signed.
func (c *correlation) addIntent(j *journalState, r *journal.Record, flag uint8) {
	sum, ok := parseDigest(r.TBS)
	serial, err := journal.ParseSerial(r.Serial)
	if !ok || err != nil {
		j.broken(c, r, "the record has no TBS digest or no serial number")
		return
	}
	n := c.find(sum)
	if n == 0 {
		var older uint32
		seconds := uint32(max(r.Time.Unix(), 0)) //nolint:gosec // until 2106
		if n, older = c.addRow(row{tbs: sum, serial: serial, seconds: seconds, journal: j.number}); older != 0 {
			c.sameSerials = append(c.sameSerials, sameSerial{n, older, r.Time})
		}
	}
	one := c.rows.at(n)
	if flag == intended && one.is(intended) {
		c.report(newFinding(Finding{
			Kind: SerialReused, Journal: j.name, Serial: r.Serial, Time: r.Time,
			Text: fmt.Sprintf("the TBS digest %x has two intents, the second one in record %d", sum, r.Seq),
		}, fmt.Sprintf("intent %x %d", sum, r.Seq)))
	}
	one.flags |= flag
	one.journal = j.number
}

// addOutcome adds the record of how a request ended.
func (c *correlation) addOutcome(j *journalState, r *journal.Record) {
	j.signatures.explained += r.Signatures
	sum, ok := parseDigest(r.TBS)
	signed := r.Result == journal.Issued || r.Signatures > 0
	if !ok {
		if signed {
			j.broken(c, r, "the outcome has no TBS digest")
		}
		return // the request ended before there was a TBSCertificate
	}
	n := c.find(sum)
	if n != 0 && c.rows.at(n).is(intended) {
		j.signatures.pending = max(j.signatures.pending-1, 0)
	} else if signed {
		if j.truncated && r.Time.Sub(j.first) < maxRequestTime {
			j.intentsRemoved++
			return // its intent is in a segment that was archived
		}
		c.report(newFinding(Finding{
			Kind: OutcomeWithoutIntent, Journal: j.name, Serial: r.Serial, Time: r.Time,
			Text: fmt.Sprintf("record %d is the outcome (%s) of a signed certificate that has no intent", r.Seq,
				r.Result),
		}, fmt.Sprint(r.Seq)))
	}
	if n == 0 {
		return
	}
	one := c.rows.at(n)
	if r.Result != journal.Issued {
		one.flags |= failed
		if r.Result == journal.Canary {
			one.flags |= canary
			c.addJournalSCTs(j, r, n)
		}
		return
	}
	if one.is(issued) {
		c.report(newFinding(Finding{
			Kind: SerialReused, Journal: j.name, Serial: r.Serial, Time: r.Time,
			Text: fmt.Sprintf("the certificate was released twice, the second time in record %d", r.Seq),
		}, fmt.Sprintf("outcome %d", r.Seq)))
	}
	one.flags |= issued
	if sum, ok := parseDigest(r.Certificate); ok {
		one.certPrefix = certPrefix(sum)
	}
	c.addJournalSCTs(j, r, n)
}

// addJournalSCTs adds the SCTs of a record. The row with the number n is that of the record.
func (c *correlation) addJournalSCTs(j *journalState, r *journal.Record, n uint32) {
	for i := range r.SCTs {
		if problem := c.addJournalSCT(n, &r.SCTs[i]); problem != "" {
			j.broken(c, r, problem)
		}
	}
}

// addJournalSCT adds an SCT of a released certificate or of a canary. It returns what is wrong with the SCT; empty if
// nothing is.
func (c *correlation) addJournalSCT(n uint32, sct *journal.SCT) (problem string) {
	log, ok := c.logByID[sct.Log]
	if !ok {
		c.unreadLogs++
		return ""
	}
	extensions, err := hex.DecodeString(sct.Extensions)
	if err != nil {
		return "the extensions of an SCT are not hexadecimal"
	}
	c.addObligation(obligation{row: n, log: log, timestamp: sct.Timestamp}, extensions)
	return ""
}

// addSCT adds an SCT of a certificate that no journal has.
func (c *correlation) addSCT(s SCT) {
	n := c.find(s.TBS)
	if n == 0 {
		n, _ = c.addRow(row{tbs: s.TBS, serial: s.Serial, seconds: uint32(s.Timestamp / 1000)}) //nolint:gosec // until 2106
	}
	c.rows.at(n).flags |= intended | issued
	if log, ok := c.logNumber(s.Log); ok {
		c.addObligation(obligation{row: n, log: log, timestamp: s.Timestamp}, s.Extensions)
	}
}

// addObligation adds the merge obligation of an SCT with the given extensions, unless its entry has been read.
func (c *correlation) addObligation(o obligation, extensions []byte) {
	o.extensions = extensionsDigest(extensions)
	o.index, o.hasIndex = monitor.ParseLeafIndex(extensions)
	if !c.fulfilled(&o) {
		c.obligations = append(c.obligations, o)
	}
}

// reportSameSerials reports the pairs of rows with the same serial number. It ignores a pair if one of the two has been
// seen only in a log that could not be verified.
func (c *correlation) reportSameSerials() {
	for _, p := range c.sameSerials {
		if !c.credible(p.row) || !c.credible(p.older) {
			continue
		}
		serial := hex.EncodeToString(c.rows.at(p.row).serial[:])
		first, second := c.rows.at(p.older).tbs, c.rows.at(p.row).tbs
		if string(first[:]) > string(second[:]) {
			first, second = second, first
		}
		inJournal := c.rows.at(p.row).is(intended|trial) || c.rows.at(p.older).is(intended|trial)
		signature := ""
		// a log can invent any number of such pairs, and each of the two entries has a finding of its own
		if !inJournal {
			signature = SignatureUnverified
		}
		c.report(newFinding(Finding{
			Kind: SerialReused, Serial: serial, Time: p.time, Signature: signature,
			Text: fmt.Sprintf("two certificates have the serial number %s: those with the TBS digests %x and %x",
				serial, first, second),
		}, fmt.Sprintf("%x %x", first, second)))
	}
	c.sameSerials = nil
}

// credible reports whether a row is from a journal or from a verified part of a log.
func (c *correlation) credible(n uint32) bool {
	return c.verifiedOnly || c.rows.at(n).is(intended|trial) ||
		c.hasEntry(n, func(e *logEntry) bool { return c.logs[e.log].verified })
}

// parseDigest parses a SHA-256 as a journal writes it.
func parseDigest(text string) (out [32]byte, ok bool) {
	if len(text) != 2*len(out) {
		return out, false
	}
	_, err := hex.Decode(out[:], []byte(text))
	return out, err == nil
}

// certPrefix returns the part of a certificate's SHA-256 that a row keeps. Eight bytes are enough: an attacker gains
// nothing by finding another certificate with the same prefix, because the intent of the TBSCertificate is known.
func certPrefix(sum [32]byte) uint64 { return binary.BigEndian.Uint64(sum[:]) }

func timeOf(milliseconds uint64) time.Time { return monitor.TimeOf(milliseconds) }
