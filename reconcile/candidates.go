package reconcile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

// result is the result of checking a candidate.
type result int

const (
	unintended      result = iota // no journal explains the entry
	undecided                     // a journal that is behind may still have the intent
	predatesJournal               // the entry is older than every journal of its key
	// The entry is a precertificate signing certificate that the CA made for itself: a journal has its trial. The
	// certificate is public, because logs show it above every precertificate that its key signed, so that anybody can
	// submit it to a log.
	ownPrecertSigner
)

// checkCandidate checks an entry for which no intent has been read.
func (c *correlation) checkCandidate(one candidate, ev evaluation) result {
	switch e := c.entries.at(one.entry); {
	case e.precertSigner && c.rows.at(one.row).is(trial):
		return ownPrecertSigner
	case e.subordinate && !e.precertSigner: // no journal can have an intent for it
		return unintended
	}
	at := timeOf(c.entries.at(one.entry).timestamp)
	key := hex.EncodeToString(one.key[:])
	named := false // a journal names the key
	for _, j := range c.journals {
		named = named || j.keys[key]
	}
	var begin time.Time // start of the oldest journal of the key
	for _, j := range c.journals {
		first := j.first
		if j.truncated { // the intents of the requests in progress then are in the files that were removed
			first = first.Add(maxClockSkew)
		}
		if (j.keys[key] || !named) && j.read > 0 && (begin.IsZero() || first.Before(begin)) {
			begin = first
		}
		if !j.live && j.last.Before(at.Add(maxClockSkew)) && ev.now.Sub(at) < ev.lag {
			return undecided
		}
	}
	if !begin.IsZero() && at.Before(begin) {
		return predatesJournal
	}
	return unintended
}

// reportUnintended reports an entry that has no intent.
func (c *correlation) reportUnintended(ctx context.Context, one candidate) {
	e, r := c.entries.at(one.entry), c.rows.at(one.row)
	index := e.index
	what := "precertificate"
	if e.final {
		what = "certificate"
	}
	f := Finding{
		Kind: UnintendedEntry, Log: c.logs[e.log].name, Index: &index, Serial: hex.EncodeToString(r.serial[:]),
		Time: timeOf(e.timestamp),
		TBS:  hex.EncodeToString(r.tbs[:]),
	}
	of := c.describe(ctx, one, &f)
	switch {
	case e.subordinate && !of.isCA:
		f.Kind = SubordinateCA
		f.Text = fmt.Sprintf("the %s at index %d is below a CA that the issuing key %x certified (TBS digest %x)", what,
			index, one.key[:8], r.tbs)
	case of.isCA:
		f.Kind = SubordinateCA
		f.Text = fmt.Sprintf("the %s at index %d is a CA certificate under the issuing key %x (TBS digest %x)", what,
			index, one.key[:8], r.tbs)
	case r.is(trial):
		f.Text = fmt.Sprintf("the %s at index %d was signed to test the issuing key at a start and "+
			"must not be in a log "+
			"(TBS digest %x)", what, index, r.tbs)
	default:
		f.Text = fmt.Sprintf("the %s at index %d is under the issuing key %x and has no intent in any journal "+
			"(TBS digest %x)", what, index, one.key[:8], r.tbs)
	}
	if f.Signature == SignatureUnverified {
		f.Text += "; the log has no precertificate for it that the issuing key signed: the log did not verify the " +
			"submission, or invented the entry"
	}
	if f.Identity == "" {
		f.Text += "; the identity is unknown because the log did not serve the entry again"
	}
	c.report(newFinding(f, ""))
}

// describe adds the subject of an entry to a finding. The entry is read again, and is used only if it is the one that
// was verified.
func (c *correlation) describe(ctx context.Context, one candidate, f *Finding) (of subject) {
	e, r := c.entries.at(one.entry), c.rows.at(one.row)
	if c.reader == nil {
		return of
	}
	read, err := c.reader.read(ctx, e.log, e.index)
	if err == nil {
		read = c.reader.certificate(e.log, read, r.tbs)
	}
	if err != nil || read.Precert == e.final || read.Timestamp != e.timestamp {
		return of
	}
	body := read.Content
	if e.final {
		parts, err := tbs.Split(read.Content)
		if err != nil || tbsDigest(read.Content) != r.tbs {
			return of
		}
		body = parts.TBS
		sum := sha256.Sum256(read.Content)
		f.Certificate, f.Signature = hex.EncodeToString(sum[:]), SignatureVerified
	} else {
		if sha256.Sum256(body) != r.tbs {
			return of
		}
		if f.Signature = SignatureUnverified; e.subordinate ||
			tbsDigest(read.Precertificate) == r.tbs && c.keys.signer(read.Precertificate) != nil {
			f.Signature = SignatureVerified
		}
	}
	of = subjectOf(body)
	f.Identity, f.Issuer, f.IssuedBy = of.identity, of.oidcIssuer, of.issuedBy
	if f.Identity == "" {
		f.Identity = "unreadable"
	}
	return of
}

// reportUnknownCAs reports the CA certificates for issuing keys that the configuration does not name, once for each
// log.
func (c *correlation) reportUnknownCAs() {
	for _, u := range c.unknownCAs {
		if w := c.logs[u.log]; !c.verifiedOnly && !w.verified {
			continue
		}
		var of subject
		if parts, err := tbs.Split(c.keys.unknown[u.sum]); err == nil {
			of = subjectOf(parts.TBS)
		}
		f := newFinding(Finding{
			Kind: UnknownCACertificate, Log: c.logs[u.log].name, Time: timeOf(u.timestamp),
			Certificate: hex.EncodeToString(u.sum[:]),
			Identity:    of.identity, IssuedBy: of.issuedBy,
			Text: fmt.Sprintf("the entry at index %d, and perhaps others, is under a CA certificate "+
				"(SHA-256 %x) for the "+
				"issuing key that neither ca nor ca.trust names", u.index, u.sum),
		}, hex.EncodeToString(u.sum[:]))
		index := u.index
		f.Index = &index // not part of the ID, because any entry would do
		c.report(f)
	}
	c.unknownCAs = nil
}

// checkFinal checks a final certificate in a log whose intent is known: it must be the one that was released.
func (c *correlation) checkFinal(ctx context.Context, one finalEntry) {
	e, r := c.entries.at(one.entry), c.rows.at(one.row)
	if r.is(issued) && r.certPrefix == certPrefix(one.certificate) {
		return
	}
	index := e.index
	text := fmt.Sprintf("the certificate at index %d (SHA-256 %x) differs from the one that was released "+
		"with its serial number",
		index, one.certificate)
	if !r.is(issued) {
		text = fmt.Sprintf("the certificate at index %d (SHA-256 %x) has an intent, and no record "+
			"says that it was released",
			index, one.certificate)
	}
	f := Finding{
		Kind: CertificateWithoutOutcome, Log: c.logs[e.log].name, Index: &index,
		Serial: hex.EncodeToString(r.serial[:]), Time: timeOf(e.timestamp),
		TBS: hex.EncodeToString(r.tbs[:]), Text: text,
	}
	c.describe(ctx, one.candidate, &f)
	c.report(newFinding(f, ""))
}
