package reconcile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

// grace is how long after a log's delay a promise may still be open because the log shows no newer head.
const grace = time.Hour

// moment is when, and with what patience, accounts are settled.
type moment struct {
	now time.Time
	// lag is how far a copy of another instance's journal may be behind: an entry younger than that has time.
	lag time.Duration
}

// settle judges every promise that can be judged. Those that cannot yet are kept.
func (a *account) settle(m moment) {
	kept := a.promises[:0]
	for i := range a.promises {
		p := a.promises[i]
		if a.kept(&p) {
			continue
		}
		if kind, text := a.late(&p, m); text != "" {
			w := a.logs[p.log]
			f := Finding{Kind: kind, Log: w.name, Serial: hex.EncodeToString(a.rows.at(p.row).serial[:]), Time: timeOf(p.timestamp), Text: text}
			if p.indexed {
				f.Index = &p.index
			}
			a.report(newFinding(f, fmt.Sprint(p.timestamp)))
			continue
		}
		kept = append(kept, p)
	}
	a.promises = kept
}

// late says how the promise p is broken; "" is not, as far as can be known.
func (a *account) late(p *promise, m moment) (Kind, string) {
	w := a.logs[p.log]
	due := timeOf(p.timestamp).Add(w.delay)
	elsewhere := a.elsewhere(p)
	switch {
	case w.away || !w.trusted:
		return "", ""
	case p.indexed && p.index < w.size && elsewhere != "":
		return EntryMismatch, fmt.Sprintf("the log promised this entry at index %d with the time %d; %s", p.index, p.timestamp, elsewhere)
	case p.indexed && p.index < w.size:
		return MissingEntry, fmt.Sprintf("the log promised this entry at index %d, and has another one there (head over %d entries)", p.index, w.size)
	case w.size == w.head.Size && w.head.Time().After(due) && elsewhere != "":
		return EntryMismatch, fmt.Sprintf("the log promised this entry with the time %d; %s", p.timestamp, elsewhere)
	case w.size == w.head.Size && w.head.Time().After(due):
		return MissingEntry, fmt.Sprintf("the log promised this entry at %s, and its head of %s does not cover it (its delay is %s)",
			timeOf(p.timestamp).Format(time.RFC3339), w.head.Time().Format(time.RFC3339), w.delay)
	case !w.copied && (w.size == w.head.Size || w.stuck) && m.now.After(due.Add(grace)):
		return MissingEntry, fmt.Sprintf("the log promised this entry at %s and has shown no head that covers it since (its delay is %s)",
			timeOf(p.timestamp).Format(time.RFC3339), w.delay)
	}
	return "", ""
}

// overdue counts the promises that no copy keeps although their time is over, and says so of each such log: whether the log broke them or the
// copy is an old one, the copy does not tell. What was promised before since is counted and not spoken of.
func (a *account) overdue(now, since time.Time) (all uint64, texts []string) {
	here := make([]uint64, len(a.logs))
	for _, p := range a.promises {
		w, at := a.logs[p.log], timeOf(p.timestamp)
		if !w.copied || !w.trusted || !now.After(at.Add(w.delay+grace)) {
			continue
		}
		all++
		if !at.Before(since) {
			here[p.log]++
		}
	}
	for i, n := range here {
		if w := a.logs[i]; n > 0 {
			texts = append(texts, fmt.Sprintf("log %s: its newest head here is of %s, covers %d entries, and lacks %d that were promised and whose time is over: "+
				"if this is a copy, take a newer one; if it is the log itself, restore its newest state", w.name, w.head.Time().Format(time.RFC3339), w.head.Size, n))
		}
	}
	return all, texts
}

// elsewhere says where the log has the entry, if not where and as it promised.
func (a *account) elsewhere(p *promise) (text string) {
	a.has(p.row, func(have *place) bool {
		if have.log == p.log && !have.final {
			text = fmt.Sprintf("it has it at index %d with the time %d", have.index, have.timestamp)
			if have.index == p.index && have.timestamp == p.timestamp {
				text += " and other extensions"
			}
		}
		return text != ""
	})
	return text
}

// verdict is what becomes of an entry without intent.
type verdict int

const (
	guilty verdict = iota
	later          // a journal may still bring the intent
	before         // it is older than the journals
)

// judge says what becomes of an entry that no journal read so far intended.
func (a *account) judge(s suspect, m moment) verdict {
	if a.places.at(s.place).below { // no journal can explain it
		return guilty
	}
	at := timeOf(a.places.at(s.place).timestamp)
	key := hex.EncodeToString(s.key[:])
	named := false
	for _, b := range a.books {
		named = named || b.keys[key]
	}
	var began time.Time
	for _, b := range a.books {
		start := b.first
		if b.cut { // the intent of what was under way then is in the files that are gone
			start = start.Add(slack)
		}
		if (b.keys[key] || !named) && b.read > 0 && (began.IsZero() || start.Before(began)) {
			began = start
		}
		if !b.live && b.last.Before(at.Add(slack)) && m.now.Sub(at) < m.lag {
			return later
		}
	}
	if !began.IsZero() && at.Before(began) {
		return before
	}
	return guilty
}

// accuse reports an entry that nobody intended.
func (a *account) accuse(ctx context.Context, s suspect) {
	p, r := a.places.at(s.place), a.rows.at(s.row)
	index := p.index
	what := "precertificate"
	if p.final {
		what = "certificate"
	}
	f := Finding{
		Kind: UnintendedEntry, Log: a.logs[p.log].name, Index: &index, Serial: hex.EncodeToString(r.serial[:]),
		Time: timeOf(p.timestamp),
		TBS:  hex.EncodeToString(r.tbs[:]),
	}
	who := a.name(ctx, s, &f)
	switch {
	case p.below && !who.ca:
		f.Kind = CABelowOurs
		f.Text = fmt.Sprintf("the %s at index %d is under a CA that our issuing key %x certified (TBS digest %x)", what,
			index, s.key[:8], r.tbs)
	case who.ca:
		f.Kind = CABelowOurs
		f.Text = fmt.Sprintf("the %s at index %d is one of a CA, under our issuing key %x (TBS digest %x)", what,
			index, s.key[:8], r.tbs)
	case r.is(trial):
		f.Text = fmt.Sprintf("the %s at index %d is one that was made to try the key at a start, and should have "+
			"gone nowhere (TBS digest %x)",
			what, index, r.tbs)
	default:
		f.Text = fmt.Sprintf("the %s at index %d is under our issuing key %x, and no journal "+
			"intended it (TBS digest %x)",
			what, index, s.key[:8], r.tbs)
	}
	if f.Signature == SignatureUnverified {
		f.Text += "; the log has no precertificate for it that our key signed: it did not verify what it " +
			"took, or made the entry up"
	}
	if f.Identity == "" {
		f.Text += "; the log did not serve the entry again, so that its identity is not known"
	}
	a.report(newFinding(f, ""))
}

// name adds to a finding whose name the entry bears. The entry is read again, and counts only if it is the one that was
// proven.
func (a *account) name(ctx context.Context, s suspect, f *Finding) (who bearer) {
	p, r := a.places.at(s.place), a.rows.at(s.row)
	if a.again == nil {
		return who
	}
	e, err := a.again(ctx, p.log, p.index)
	if err != nil || e.Precert == p.final || e.Timestamp != p.timestamp {
		return who
	}
	body := e.Content
	if p.final {
		parts, err := tbs.Split(e.Content)
		if err != nil || tbsDigest(e.Content) != r.tbs {
			return who
		}
		body = parts.TBS
		sum := sha256.Sum256(e.Content)
		f.Certificate, f.Signature = hex.EncodeToString(sum[:]), SignatureVerified
	} else {
		if sha256.Sum256(body) != r.tbs {
			return who
		}
		if f.Signature = SignatureUnverified; p.below ||
			tbsDigest(e.Precertificate) == r.tbs && a.keys.signer(e.Precertificate) != nil {
			f.Signature = SignatureVerified
		}
	}
	who = bearerOf(body)
	f.Identity, f.Issuer, f.IssuedBy = who.identity, who.issuer, who.by
	if f.Identity == "" {
		f.Identity = "none that can be read"
	}
	return who
}

// reportOthers reports CA certificates for our keys that the configuration does not name, each once for each log.
func (a *account) reportOthers() {
	for _, o := range a.others {
		if w := a.logs[o.log]; !a.proven && !w.trusted {
			continue
		}
		var who bearer
		if parts, err := tbs.Split(a.keys.others[o.sum]); err == nil {
			who = bearerOf(parts.TBS)
		}
		f := newFinding(Finding{
			Kind: UnknownCACertificate, Log: a.logs[o.log].name, Time: timeOf(o.timestamp),
			Certificate: hex.EncodeToString(o.sum[:]),
			Identity:    who.identity, IssuedBy: who.by,
			Text: fmt.Sprintf("the entry at index %d, and perhaps others, is under a certificate (SHA-256 %x) for "+
				"our issuing key that neither "+
				"ca nor ca.trust names", o.index, o.sum),
		}, hex.EncodeToString(o.sum[:]))
		index := o.index
		f.Index = &index // any entry would do: the ID is that of the certificate
		a.report(f)
	}
	a.others = nil
}

// acquit judges a certificate that was found in a log, whose intent is known: it must be the one that was released.
func (a *account) acquit(ctx context.Context, f final) {
	p, r := a.places.at(f.place), a.rows.at(f.row)
	if r.is(issued) && r.mark == markOf(f.certificate) {
		return
	}
	index := p.index
	text := fmt.Sprintf("the certificate at index %d (SHA-256 %x) is not the one that was released for its serial number", index, f.certificate)
	if !r.is(issued) {
		text = fmt.Sprintf("the certificate at index %d (SHA-256 %x) was intended, and no record says that it was released", index, f.certificate)
	}
	found := Finding{
		Kind: CertificateWithoutOutcome, Log: a.logs[p.log].name, Index: &index,
		Serial: hex.EncodeToString(r.serial[:]), Time: timeOf(p.timestamp),
		TBS: hex.EncodeToString(r.tbs[:]), Text: text,
	}
	a.name(ctx, f.suspect, &found)
	a.report(newFinding(found, ""))
}
