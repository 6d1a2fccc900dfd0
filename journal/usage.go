package journal

import (
	"cmp"
	"errors"
	"iter"
	"slices"
	"time"
)

// Group says by which member records are added up.
type Group string

// The groups.
const (
	ByIssuer     Group = "issuer"
	ByIdentity   Group = "identity"
	ByRepository Group = "repository"
)

// Groups returns all groups.
func Groups() []Group { return []Group{ByIssuer, ByIdentity, ByRepository} }

// Usage is what one issuer, identity or repository has used.
type Usage struct {
	Issuer     string `json:"issuer,omitempty"`     // empty: of the total
	Identity   string `json:"identity,omitempty"`   // SAN, or its digest; empty: by issuer or repository
	Repository string `json:"repository,omitempty"` // or its digest; only by repository
	Issued     int    `json:"issued"`               // certificates
	Repeated   int    `json:"repeated"`             // requests that got a certificate again
	// requests after the verification of the token, and those only counted
	Denied     int `json:"denied"`
	Failed     int `json:"failed"`     // requests that ended after a signature without a certificate
	Signatures int `json:"signatures"` // by the CA key
	// Peak is the highest number of certificates in one minute of the clock.
	Peak  int       `json:"peak_per_minute"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`

	minute  int64
	minutes int
}

// maxUsages bounds the memory of a report: additional identities are added up together.
const maxUsages = 1 << 20

// Others is the issuer in the [Usage] that sums up everything beyond the bound of a report.
const Others = "(others)"

// usageKey identifies a Usage.
type usageKey struct{ issuer, identity, repository string }

// Usages adds up records, which are added in the order of their times.
type Usages struct {
	by    Group
	all   map[usageKey]*Usage
	total Usage
}

// NewUsages returns a report without records.
func NewUsages(by Group) *Usages { return &Usages{by: by, all: map[usageKey]*Usage{}} }

// Add adds a record. Records that are not about a verified identity are ignored.
func (u *Usages) Add(r *Record) {
	if r.unauthenticated() || r.Issuer == "" {
		return
	}
	switch r.Kind {
	case Outcome, Repeated, Dropped:
		u.of(r).add(r)
		u.total.add(r)
	case Start, Stop, Reload, Trial, Intent, Alarm, Recovered, Event, Rekor:
	}
}

func (u *Usage) add(r *Record) {
	n := max(1, r.Count)
	if u.Last = r.Time; u.First.IsZero() {
		u.First = r.Time
	}
	u.Signatures += r.Signatures
	switch {
	case r.Kind == Repeated, r.Kind == Dropped && r.Reason == "":
		u.Repeated += n
	case r.Kind == Dropped, r.Result == Denied:
		u.Denied += n
	case r.Result == Failed:
		u.Failed++
	case r.Result == Issued:
		u.Issued++
		if minute := r.Time.Unix() / 60; minute != u.minute {
			u.minute, u.minutes = minute, 0
		}
		u.minutes++
		u.Peak = max(u.Peak, u.minutes)
	}
}

func (u *Usages) of(r *Record) *Usage {
	key := usageKey{issuer: r.Issuer}
	switch u.by {
	case ByIdentity:
		key.identity = r.SAN
	case ByRepository:
		key.repository = r.Repository
	case ByIssuer:
	}
	if u.all[key] == nil && len(u.all) >= maxUsages {
		key = usageKey{issuer: Others}
	}
	one := u.all[key]
	if one == nil {
		one = &Usage{Issuer: key.issuer, Identity: key.identity, Repository: key.repository}
		u.all[key] = one
	}
	return one
}

// Total returns the sum over all records, with its own peak.
func (u *Usages) Total() Usage { return u.total }

// Sorted returns the usages, those with the most certificates first.
func (u *Usages) Sorted() []Usage {
	out := make([]Usage, 0, len(u.all))
	for _, one := range u.all {
		out = append(out, *one)
	}
	slices.SortFunc(out, func(a, b Usage) int {
		return cmp.Or(b.Issued-a.Issued, b.Denied+b.Failed-a.Denied-a.Failed, cmp.Compare(a.Issuer, b.Issuer),
			cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Repository, b.Repository))
	})
	return out
}

// Merge returns the records of several journals, such as those of the servers of one CA, in the order of their times.
// Damaged lines are passed to damaged and skipped; another error ends the sequence.
func Merge(paths []string, damaged func(*Damage)) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var heads []*source
		for _, path := range paths {
			next, stop := iter.Pull2(Read(path, 0))
			defer stop()
			s := &source{next: next, damaged: damaged}
			if s.advance() {
				heads = append(heads, s)
			}
		}
		for len(heads) > 0 {
			first := slices.MinFunc(heads, func(a, b *source) int { return a.head.Time.Compare(b.head.Time) })
			if !yield(first.head, first.err) || first.err != nil {
				return
			}
			if !first.advance() {
				heads = slices.DeleteFunc(heads, func(s *source) bool { return s == first })
			}
		}
	}
}

// source is a journal that is being merged with others.
type source struct {
	next    func() (Entry, error, bool)
	damaged func(*Damage)
	head    Entry
	err     error // then head is empty
}

// advance reads the next record, and reports whether there is one, or an error.
func (s *source) advance() bool {
	for {
		e, err, ok := s.next()
		if d, damaged := errors.AsType[*Damage](err); ok && damaged {
			s.damaged(d)
			continue
		}
		s.head, s.err = e, err
		return ok
	}
}
