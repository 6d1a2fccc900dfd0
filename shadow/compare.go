package shadow

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
)

// Kind is a kind of difference.
type Kind string

// The closed set of kinds.
const (
	Status     Kind = "status"     // issued or refused, or the code of the refusal
	Reason     Kind = "reason"     // the typed reason of a refusal, if both sides give one
	Message    Kind = "message"    // the text of a refusal
	HTTPStatus Kind = "http"       // the status of HTTP, with the same code
	Unreadable Kind = "unreadable" // the answer is none of the API
	Identity   Kind = "identity"   // the extensions with the issuer
	SAN        Kind = "san"
	Extension  Kind = "extension" // any other extension: absent, additional, another value, another criticality
	Key        Kind = "key"
	Subject    Kind = "subject"
	Validity   Kind = "validity"   // from notBefore to notAfter
	NotBefore  Kind = "not_before" // relative to the time of the request
	Issuer     Kind = "issuer"     // name and key identifier
	Signature  Kind = "signature"  // it does not verify under the next certificate of the answer
	Chain      Kind = "chain"      // the certificates above the leaf
	SCT        Kind = "sct"        // whether there are any
)

// Kinds lists the kinds.
func Kinds() []Kind {
	return []Kind{
		Status, Reason, Message, HTTPStatus, Unreadable, Identity, SAN, Extension, Key, Subject, Validity,
		NotBefore, Issuer, Signature, Chain, SCT,
	}
}

// Difference is one difference between the answers to one request.
type Difference struct {
	Kind  Kind   `json:"kind"`
	Field string `json:"field,omitempty"` // what differs, for kinds of several fields; never a value of a client
	// Upstream and Own are the two values. Values that may name somebody are digests, unless the operator wants to see
	// values.
	Upstream string `json:"upstream"`
	Own      string `json:"own"`
	// Rows are the rows of docs/compatibility.md that explain the difference: one of them, if there are several.
	Rows []string `json:"rows,omitempty"`
}

// value is one of the two values of a difference.
type value struct {
	text string
	open bool // it names nobody, and is stored as it is
}

func plain(format string, args ...any) value { return value{fmt.Sprintf(format, args...), true} }
func private(text string) value              { return value{text, false} }

const absent = "absent"

// comparison collects the differences between two answers to one request.
type comparison struct {
	exchange *exchange
	up, own  answer
	decided  time.Time // when the own side decided
	// chain is the own issuing chain; logged says that own certificates will have SCTs; mayfly that the upstream is
	// one, so that what differs between Fulcio and mayfly explains nothing.
	chain  []*x509.Certificate
	logged bool
	mayfly bool
	show   func(value) string

	out []Difference
}

// what is the kind of a difference, and its field.
type what struct {
	kind  Kind
	field string
}

// found is a difference that was added last.
type found struct{ *comparison }

func (c *comparison) add(w what, up, own value) found {
	c.out = append(c.out, Difference{Kind: w.kind, Field: w.field, Upstream: c.show(up), Own: c.show(own)})
	return found{c}
}

// because names the rows that explain the difference. What differs between Fulcio and mayfly explains nothing if the
// upstream is a mayfly.
func (f found) because(rows ...string) {
	if !f.mayfly || (len(rows) == 1 && rows[0] == rowChain) {
		f.out[len(f.out)-1].Rows = rows
	}
}

// run returns all differences.
func (c *comparison) run() []Difference {
	switch up, own := c.up, c.own; {
	case up.problem != "":
		c.add(what{Unreadable, up.problem}, plain("HTTP %d", up.status), outcomeOf(own)).
			because(c.failures()...)
	case own.problem != "":
		c.add(what{Unreadable, "own: " + own.problem}, outcomeOf(up), plain("HTTP %d", own.status))
	case up.issued() != own.issued():
		c.add(what{Status, c.statusField()}, outcomeOf(up), outcomeOf(own)).because(c.refusals()...)
	case !up.issued():
		c.refused()
	default:
		c.certificates()
	}
	return c.out
}

// statusField names what happened on both sides, in constants only.
func (c *comparison) statusField() string {
	own := strings.TrimSpace(codeName(c.own.code) + " " + string(c.own.reason))
	return fmt.Sprintf("%s, own: %s", codeName(c.up.code), own)
}

func codeName(c codes.Code) string {
	if c > codes.Unauthenticated {
		return "an unknown code"
	}
	return c.String()
}

// outcomeOf says what an answer is, without the texts that a CA may have made of a request.
func outcomeOf(a answer) value {
	if a.issued() {
		return plain("a certificate")
	}
	return plain("%s", strings.TrimSpace(codeName(a.code)+" "+string(a.reason)))
}

// refused compares two refusals.
func (c *comparison) refused() {
	up, own := c.up, c.own
	switch {
	case up.code != own.code:
		c.add(what{Status, c.statusField()}, outcomeOf(up), outcomeOf(own)).because(c.refusals()...)
		return
	case up.reason != "" && up.reason != own.reason:
		c.add(what{Reason, ""}, plain("%s", up.reason), plain("%s", own.reason))
	case up.message != own.message:
		c.add(what{Message, string(own.reason)}, messageOf(up), messageOf(own)).because(c.texts()...)
	}
	c.httpStatus()
}

// httpStatus compares the status of HTTP of two answers with one code.
func (c *comparison) httpStatus() {
	if up, own := c.up.status, c.own.status; up != own {
		c.add(what{HTTPStatus, fmt.Sprintf("%d, own: %d", up, own)}, plain("%d", up), plain("%d", own))
	}
}

// messageOf returns the text of a refusal. A text that is none of the constants may contain a name.
func messageOf(a answer) value {
	for r := range fault.Reasons() {
		if r.Message() == a.message {
			return plain("%s", a.message)
		}
	}
	return private(a.message)
}

// upstreamFailed reports whether the upstream failed, as opposed to refused.
func (c *comparison) upstreamFailed() bool {
	if c.up.status >= http.StatusInternalServerError {
		return true
	}
	switch c.up.code { //nolint:exhaustive // the others are refusals
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.DeadlineExceeded:
		return true
	}
	return c.up.message == fault.LogUnavailable.Message() || c.up.message == fault.SignerUnavailable.Message()
}

// failures returns the row that explains a failure of the upstream, if it failed.
func (c *comparison) failures() []string {
	if c.upstreamFailed() {
		return []string{rowFails}
	}
	return nil
}

// tooLarge reports whether the own side refused the request for its size. The library of gRPC gives no reason.
func (c *comparison) tooLarge() bool {
	return c.own.reason == fault.RequestTooLarge || c.own.reason == "" && c.own.code == codes.ResourceExhausted
}

// texts returns the rows that explain that two refusals with one code have different texts.
func (c *comparison) texts() []string {
	switch {
	case c.tooLarge():
		return []string{rowSizes}
	case c.own.reason == "" || c.own.reason == fault.RequestMalformed: // the text is that of a library
		return []string{rowTexts}
	}
	return refusalRows[c.own.reason]
}

// refusals returns the rows that explain that one side refuses, or refuses in another way.
func (c *comparison) refusals() []string {
	if c.upstreamFailed() {
		return []string{rowFails}
	}
	if c.own.issued() {
		if strings.HasPrefix(c.exchange.header.Get("Authorization"), "bearer ") {
			return []string{rowBearer}
		}
		return nil
	}
	if c.own.reason.Kind() == fault.Unavailable && !c.up.issued() {
		return []string{rowFails}
	}
	switch {
	case c.own.reason == fault.ClaimMissing && c.own.claim == "sub":
		return []string{rowSub}
	case c.own.reason == fault.KeyMalformed && bytes.Count(c.exchange.body, []byte("-----BEGIN ")) > 1:
		return []string{rowBlocks}
	case c.tooLarge():
		return []string{rowSizes}
	}
	return refusalRows[c.own.reason]
}

var (
	oidSAN       = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidSubjectID = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidIssuerID  = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidSCTs      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2} // RFC 6962 §3.3
)

// certificates compares two certificates.
func (c *comparison) certificates() {
	up, own := c.up.leaf, c.own.leaf
	c.httpStatus()
	if a, b := up.RawSubjectPublicKeyInfo, own.RawSubjectPublicKeyInfo; !bytes.Equal(a, b) {
		c.add(what{Key, ""}, private(hex.EncodeToString(a)), private(hex.EncodeToString(b)))
	}
	if !bytes.Equal(up.RawSubject, own.RawSubject) {
		c.add(what{Subject, ""}, private(up.Subject.String()), private(own.Subject.String()))
	}
	c.times()
	otherCA := c.issuer()
	c.extensions(otherCA)
}

// slack is how inexactly the beginning of a certificate is known: it has whole seconds, and two machines two clocks.
const slack = 5 * time.Second

// times compares the validity. The certificates were made at different times, so each beginning is compared with the
// time of its own request.
func (c *comparison) times() {
	up, own := c.up.leaf, c.own.leaf
	if a, b := up.NotAfter.Sub(up.NotBefore), own.NotAfter.Sub(own.NotBefore); a != b {
		c.add(what{Validity, ""}, plain("%s", a), plain("%s", b))
	}
	before, ownBefore := c.exchange.began.Sub(up.NotBefore), c.decided.Sub(own.NotBefore)
	late := c.exchange.took + slack // the upstream may have made its certificate at any time until it answered
	if apart := ownBefore - before; -slack <= apart && apart <= late {
		return
	}
	var rows []string
	if -late <= before && before <= slack { // it begins when it was made, as Fulcio's do
		rows = []string{rowNotBefore}
	}
	at := func(d time.Duration) value { return plain("%s before the request", d.Round(slack)) }
	c.add(what{NotBefore, ""}, at(before), at(ownBefore)).because(rows...)
}

// issuer compares who issued, and reports whether it is another CA.
func (c *comparison) issuer() (otherCA bool) {
	up := c.up.leaf
	id := func(l *x509.Certificate) value {
		return plain("%s, key identifier %x", l.Issuer, l.AuthorityKeyId)
	}
	if !bytes.Equal(up.RawIssuer, c.own.leaf.RawIssuer) || !bytes.Equal(up.AuthorityKeyId, c.own.leaf.AuthorityKeyId) {
		otherCA = true
		c.add(what{Issuer, ""}, id(up), id(c.own.leaf)).because(rowChain)
	}
	if len(c.up.chain) == 0 {
		c.add(what{Chain, "length"}, plain("0"), plain("%d", len(c.chain)))
		return otherCA
	}
	next, err := x509.ParseCertificate(c.up.chain[0])
	if err == nil {
		err = up.CheckSignatureFrom(next)
	}
	if err != nil {
		c.add(what{Signature, ""}, plain("does not verify under the next certificate of the answer"),
			plain("not signed"))
	}
	if otherCA {
		return true
	}
	same := len(c.up.chain) == len(c.chain)
	for i := 0; same && i < len(c.chain); i++ {
		same = bytes.Equal(c.up.chain[i], c.chain[i].Raw)
	}
	if !same {
		c.add(what{Chain, "certificates"}, plain("%d, others", len(c.up.chain)), plain("%d", len(c.chain))).
			because(rowChain)
	}
	return false
}

// maxExtensions bounds how many extensions of a certificate are compared.
const maxExtensions = 64

// extensions compares the extensions, one by one.
func (c *comparison) extensions(otherCA bool) {
	type pair struct{ up, own *extension }
	all, order := map[string]*pair{}, []string{}
	at := func(id asn1.ObjectIdentifier) *pair {
		key := id.String()
		if all[key] == nil {
			all[key] = &pair{}
			order = append(order, key)
		}
		return all[key]
	}
	for _, e := range c.up.leaf.Extensions {
		if len(order) < maxExtensions {
			at(e.Id).up = &extension{e.Id, e.Critical, e.Value}
		}
	}
	for _, e := range c.own.leaf.Extensions {
		at(e.Id).own = &extension{e.Id, e.Critical, e.Value}
	}
	for _, key := range order {
		p := all[key]
		known := p.up
		if known == nil {
			known = p.own
		}
		switch {
		case known.id.Equal(oidSCTs):
		case known.id.Equal(oidIssuerID) && otherCA: // a part of the issuer
		case p.up.equal(p.own):
		default:
			var rows []string
			if known.id.Equal(oidSubjectID) && p.up == nil {
				rows = []string{rowSubjectID}
			}
			c.add(what{known.kind(), known.name()}, p.up.value(), p.own.value()).because(rows...)
		}
	}
	if scts := all[oidSCTs.String()]; (scts != nil && scts.up != nil) != c.logged {
		c.add(what{SCT, ""}, plain("present: %t", !c.logged), plain("present: %t", c.logged))
	}
}

type extension struct {
	id       asn1.ObjectIdentifier
	critical bool
	content  []byte
}

func (e *extension) equal(o *extension) bool {
	return e != nil && o != nil && e.critical == o.critical && bytes.Equal(e.content, o.content)
}

func (e *extension) kind() Kind {
	switch {
	case e.id.Equal(oidSAN):
		return SAN
	case identity.IssuerV1.Is(e.id), identity.Issuer.Is(e.id):
		return Identity
	}
	return Extension
}

// maxOID bounds the text of an object identifier that the upstream chose.
const maxOID = 100

// name returns the object identifier, with the name of the extensions of Sigstore.
func (e *extension) name() string {
	text := e.id.String()
	if len(text) > maxOID {
		text = text[:maxOID] + "…"
	}
	for x := range identity.Known() {
		if x.Is(e.id) {
			return text + " (" + x.String() + ")"
		}
	}
	switch {
	case e.id.Equal(oidSAN):
		return text + " (subject alternative name)"
	case e.id.Equal(oidSubjectID):
		return text + " (subject key identifier)"
	case e.id.Equal(oidIssuerID):
		return text + " (authority key identifier)"
	}
	return text
}

// value returns the value of an extension as far as it is text, and in hexadecimal otherwise.
func (e *extension) value() value {
	if e == nil {
		return plain(absent)
	}
	text := hex.EncodeToString(e.content)
	var decoded string
	if rest, err := asn1.Unmarshal(e.content, &decoded); err == nil && len(rest) == 0 {
		text = decoded
	} else if printable(e.content) {
		text = string(e.content)
	}
	if e.critical {
		text += " (critical)"
	}
	return private(text)
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
