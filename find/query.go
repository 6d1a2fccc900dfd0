package find

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/monitor"
)

// The number of entries in one answer, and the length of an identity or issuer in a query, in bytes.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
	maxName      = 2048
)

// Query is what is searched for: exactly one of Digest, Identity and Serial.
type Query struct {
	// Digest is the digest of the signed bytes: those of the artifact, or of the payload of an attestation, or of its
	// pre-authentication encoding, depending on the client that signed.
	Digest []byte
	// Identity is a subject alternative name, and Issuer, which is optional, the OIDC issuer beside it.
	Identity, Issuer string
	// Serial is the serial number of a certificate.
	Serial []byte
	// Limit is the largest number of entries in the answer; 0: [DefaultLimit].
	Limit int
	// After is the value of [Answer.Next]; empty: the beginning.
	After string
}

// Answer has the entries that a query found, in the order of the logs and of their indexes.
type Answer struct {
	Entries []Entry `json:"entries"`
	// Next is the value of After with which a query gets the entries that follow; empty if there are none.
	Next string `json:"next,omitempty"`
	// Logs are the logs in which was searched.
	Logs []LogState `json:"logs"`
}

// LogState is a log, and how much of it the index has.
type LogState struct {
	Name string `json:"name"`
	ID   string `json:"id"` // hexadecimal
	Kind Kind   `json:"kind"`
	Size uint64 `json:"size"` // entries in the index; the log may have more
}

// Entry is an entry of a log.
type Entry struct {
	Log   string `json:"log"`
	LogID string `json:"log_id"` // hexadecimal
	Index uint64 `json:"index"`
	Kind  Kind   `json:"kind"`
	// Type is the kind of a signature: hashedrekord or dsse.
	Type string `json:"type,omitempty"`
	// Digest is ALGORITHM:HEX of what was signed.
	Digest string `json:"digest,omitempty"`
	// Logged is the timestamp of the SCT of a certificate. The entry of a signature has no time.
	Logged *time.Time `json:"logged,omitempty"`
	// Certificates are those of the entry: one, unless an envelope has several signatures or keys without a
	// certificate.
	Certificates []Certificate `json:"certificates,omitempty"`
	// Keys are the SHA-256 of the SubjectPublicKeyInfo of signatures without a certificate, in hexadecimal.
	Keys []string `json:"keys,omitempty"`
}

// Certificate is the certificate or precertificate of an entry.
type Certificate struct {
	Identities []string  `json:"identities"` // the subject alternative names
	Issuer     string    `json:"issuer,omitempty"`
	Serial     string    `json:"serial"` // hexadecimal
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	Precert    bool      `json:"precertificate,omitempty"`
	// Fingerprint is the SHA-256 of the certificate in DER; empty for a precertificate, of which the leaf of a log has
	// the TBSCertificate only.
	Fingerprint string `json:"sha256,omitempty"`
}

// cursor is the position from which a search continues.
type cursor struct {
	log   uint16
	index uint64
}

func (c cursor) String() string { return fmt.Sprintf("%d.%d", c.log, c.index) }

func parseCursor(text string) (c cursor, err error) {
	if text == "" {
		return c, nil
	}
	log, index, _ := strings.Cut(text, ".")
	n, err1 := strconv.ParseUint(log, 10, 16)
	i, err2 := strconv.ParseUint(index, 10, 64)
	if errors.Join(err1, err2) != nil {
		return c, errors.New("after is not the value next of an answer")
	}
	return cursor{uint16(n), i}, nil
}

// ParseDigest parses HEX or ALGORITHM:HEX of SHA-256, SHA-384 or SHA-512.
func ParseDigest(text string) ([]byte, error) {
	name, digits, named := strings.Cut(text, ":")
	if !named {
		digits = text
	}
	sum, err := hex.DecodeString(digits)
	want := map[int]string{32: "sha256", 48: "sha384", 64: "sha512"}[len(sum)]
	if err != nil || want == "" || named && name != want {
		return nil, errors.New("the digest is not sha256:HEX, sha384:HEX or sha512:HEX")
	}
	return sum, nil
}

// ParseSerial parses a serial number of at most 20 bytes in hexadecimal, with or without colons.
func ParseSerial(text string) ([]byte, error) {
	digits := strings.ReplaceAll(text, ":", "")
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) == 0 {
		return nil, errors.New("the serial number is not hexadecimal")
	}
	n := new(big.Int).SetBytes(raw) // without zeros at the front, such as the sign of a DER INTEGER
	if n.BitLen() > 8*serialSize {
		return nil, fmt.Errorf("the serial number has more than %d bytes", serialSize)
	}
	return serialBytes(n), nil
}

// ParseQuery reads a query from the parameters digest, identity, issuer, serial, limit and after. Its errors are
// written for the caller.
func ParseQuery(v url.Values) (q Query, err error) {
	for name, values := range v {
		if !slices.Contains([]string{"digest", "identity", "issuer", "serial", "limit", "after"}, name) {
			return q, errors.New("unknown parameter; write digest, identity, issuer, serial, limit or after")
		}
		if len(values) > 1 {
			return q, fmt.Errorf("%s is set more than once", name)
		}
	}
	q.Identity, q.Issuer, q.After = v.Get("identity"), v.Get("issuer"), v.Get("after")
	if text := v.Get("digest"); text != "" {
		if q.Digest, err = ParseDigest(text); err != nil {
			return q, err
		}
	}
	if text := v.Get("serial"); text != "" {
		if q.Serial, err = ParseSerial(text); err != nil {
			return q, err
		}
	}
	if text := v.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > MaxLimit {
			return q, fmt.Errorf("limit is not a number from 1 to %d", MaxLimit)
		}
	}
	return q, q.Check()
}

// Values returns the parameters of q, as [ParseQuery] reads them.
func (q Query) Values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("digest", hex.EncodeToString(q.Digest))
	set("serial", hex.EncodeToString(q.Serial))
	set("identity", q.Identity)
	set("issuer", q.Issuer)
	set("after", q.After)
	if q.Limit > 0 {
		set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// Check validates q. Its errors are written for the caller.
func (q Query) Check() error {
	n := 0
	for _, set := range []bool{q.Digest != nil, q.Identity != "", q.Serial != nil} {
		if set {
			n++
		}
	}
	switch {
	case n != 1:
		return errors.New("write one of digest, identity and serial")
	case q.Issuer != "" && q.Identity == "":
		return errors.New("issuer is allowed only with identity")
	case len(q.Identity) > maxName || len(q.Issuer) > maxName:
		return fmt.Errorf("identity or issuer has more than %d bytes", maxName)
	}
	_, err := parseCursor(q.After)
	return err
}

func (q Query) key() (bucket, key []byte) {
	switch {
	case q.Digest != nil:
		return bucketDigest, q.Digest
	case q.Serial != nil:
		return bucketSerial, q.Serial
	}
	return bucketIdentity, identityKey(q.Identity)
}

// Find returns the entries that a query finds. An entry that the log does not serve as it was proven is an error.
func (x *Index) Find(ctx context.Context, q Query) (*Answer, error) {
	if err := q.Check(); err != nil {
		return nil, fault.New(fault.RequestMalformed, err, "cause", err.Error())
	}
	limit := q.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	from, _ := parseCursor(q.After) // checked above
	out := &Answer{Entries: []Entry{}, Logs: x.states()}
	// Entries that are read and do not match are bounded too: those of an identity at other issuers.
	for range maxRead / limit {
		all, err := x.look(q, from, limit+1)
		if err != nil {
			return nil, fault.New(fault.InternalError, err)
		}
		for _, one := range all {
			from = cursor{one.log, one.index}
			if len(out.Entries) == limit {
				out.Next = from.String()
				return out, nil
			}
			e, err := x.read(ctx, one)
			if err != nil {
				return nil, err
			}
			if q.matches(e) {
				out.Entries = append(out.Entries, *e)
			}
			from.index++
		}
		if len(all) <= limit {
			return out, nil
		}
	}
	out.Next = from.String()
	return out, nil
}

// maxRead is the number of entries that are read for one answer.
const maxRead = 4 * MaxLimit

// matches reports whether an entry is one that q searches for. The index has only a part of the digest of an identity,
// and no issuers.
func (q Query) matches(e *Entry) bool {
	if q.Identity == "" {
		return true
	}
	return slices.ContainsFunc(e.Certificates, func(c Certificate) bool {
		return slices.Contains(c.Identities, q.Identity) && (q.Issuer == "" || c.Issuer == q.Issuer)
	})
}

// states returns the logs in the index.
func (x *Index) states() []LogState {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]LogState, 0, len(x.logs))
	for _, l := range x.logs {
		id := l.source.ID()
		out = append(out, LogState{l.saved.Name, hex.EncodeToString(id[:]), l.saved.Kind, l.saved.State.Size})
	}
	slices.SortFunc(out, func(a, b LogState) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// read reads an entry from its log and compares it with the one that was proven.
func (x *Index) read(ctx context.Context, one found) (*Entry, error) {
	x.mu.RLock()
	l := x.logs[one.log]
	var source Source
	var saved savedLog
	if l != nil {
		source, saved = l.source, l.saved
	}
	x.mu.RUnlock()
	if l == nil {
		return nil, fault.New(fault.LogUnavailable, errors.New("a log of the index is not configured any more; "+
			"remove the directory of the index"))
	}
	for e, err := range source.Entries(ctx, saved.State.Head, one.index, one.index+1) {
		if err == nil && e.LeafHash() != one.leaf {
			err = errors.New("the entry differs from the one that was proven to be in the log")
		}
		if err != nil {
			return nil, fault.New(fault.LogUnavailable, fmt.Errorf("log %s, entry %d: %w", saved.Name, one.index, err))
		}
		c, err := contentOf(saved.Kind, e)
		if err != nil {
			return nil, fault.New(fault.InternalError, err)
		}
		out := describe(e, c)
		id := source.ID()
		out.Log, out.LogID, out.Kind = saved.Name, hex.EncodeToString(id[:]), saved.Kind
		return out, nil
	}
	return nil, fault.New(fault.LogUnavailable, fmt.Errorf("log %s does not have entry %d", saved.Name, one.index))
}

// describe returns what an entry says, without its log.
func describe(e *monitor.Entry, c content) *Entry {
	out := &Entry{Index: e.Index}
	if c.signed != nil {
		out.Type, out.Digest = c.signed.Kind, c.signed.Digest.String()
		for _, s := range c.signed.Signatures {
			if s.Certificate == nil {
				sum := sha256.Sum256(s.Key)
				out.Keys = append(out.Keys, hex.EncodeToString(sum[:]))
			}
		}
	} else {
		out.Logged = new(e.Time().UTC())
	}
	for _, one := range c.certificates {
		out.Certificates = append(out.Certificates, describeCertificate(one, e.Precert))
	}
	return out
}

func describeCertificate(c *x509.Certificate, precert bool) Certificate {
	out := Certificate{
		Identities: namesOf(c), Serial: hex.EncodeToString(serialBytes(c.SerialNumber)), NotBefore: c.NotBefore.UTC(),
		NotAfter: c.NotAfter.UTC(), Precert: precert,
	}
	if !precert {
		sum := sha256.Sum256(c.Raw)
		out.Fingerprint = hex.EncodeToString(sum[:])
	}
	if id, err := identity.Parse(c); err == nil {
		out.Issuer = id.Issuer
	}
	return out
}
