package journal

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// A denial costs the client nothing and the journal about 400 bytes. Three bounds keep denials from filling the disk:
// one for each identity and reason, one over all identities, and one by the free space, the last part of which is kept
// for certificates.
const (
	// repeatBurst denials of one identity for one reason are written in full, then one every repeatEvery. Further ones
	// are counted, and the count is written every reportRepeated.
	repeatBurst    = 100
	repeatEvery    = 10 * time.Second
	reportRepeated = 10 * time.Second
	// maxRepeaters is how many pairs of identity and reason are counted separately, and maxReported is how many of them
	// get a record each in one interval. The others are counted together.
	maxRepeaters = 1024
	maxReported  = 64
	// verifiedRate is how many denials a second, on average, are written in full for all verified identities together,
	// and verifiedBurst how many at once. Requests without a verified token have a budget of their own: otherwise any
	// client on the network could use up the budget of the others, or, without a budget, fill the disk.
	verifiedRate, verifiedBurst               = 50, 2000
	unauthenticatedRate, unauthenticatedBurst = 50, 2000
	// measureEvery is how often the free space is measured. While it is less than the reserve, denials are only
	// counted, and the count is written every reportTight.
	measureEvery = 5 * time.Second
	reportTight  = time.Minute
	maxReserve   = 256 << 20 // in bytes; or a twentieth of the disk if that is less
)

// repeater is a pair of an identity and a reason of its denials.
type repeater struct{ issuer, subject, reason string }

// repeats are the denials of one repeater.
type repeats struct {
	limit  *rate.Limiter
	record Record // the last denial that was only counted; its facts describe the identity
	count  int    // denials since the last record about them
}

// repetition describes what a record about repeated requests counts.
func (r *Record) repetition() string {
	if r.Kind == Repeated {
		return "requests of this identity that got the same certificate again"
	}
	return "denials of this identity for this reason"
}

// denials decides which denials are written in full. It is used under the lock of the journal.
type denials struct {
	unauthenticated, verified *rate.Limiter
	by                        map[repeater]*repeats
	reported                  time.Time // when the last records about repeated denials were written
	tight                     bool      // the disk is nearly full
}

func newDenials() denials {
	return denials{
		unauthenticated: rate.NewLimiter(unauthenticatedRate, unauthenticatedBurst),
		verified:        rate.NewLimiter(verifiedRate, verifiedBurst),
		by:              map[repeater]*repeats{},
		reported:        time.Now(),
	}
}

// admit reports whether a denial is written in full. If it is not, counted reports whether a later record about its
// identity will include it.
func (d *denials) admit(r *Record) (full, counted bool) {
	if d.tight {
		return false, false
	}
	if r.unauthenticated() {
		return d.unauthenticated.Allow(), false
	}
	who := repeater{r.Issuer, r.Subject, r.Reason}
	one := d.by[who]
	if one == nil {
		if len(d.by) >= maxRepeaters {
			return false, false
		}
		one = &repeats{limit: rate.NewLimiter(rate.Every(repeatEvery), repeatBurst)}
		d.by[who] = one
	}
	if one.limit.Allow() && d.verified.Allow() {
		return true, false
	}
	one.record = *r
	one.count++
	return false, true
}

// summaries returns the records about repeated denials that are due, those with the highest counts first, and the
// number of denials that they do not include. Identities without a recent denial are removed.
func (d *denials) summaries(now time.Time, closing bool) (out []entry, rest int) {
	if !closing && now.Sub(d.reported) < reportRepeated {
		return nil, 0
	}
	d.reported = now
	var all []*repeats
	for who, one := range d.by {
		switch {
		case one.count > 0:
			all = append(all, one)
		case one.limit.TokensAt(now) >= repeatBurst:
			delete(d.by, who)
		}
	}
	slices.SortFunc(all, func(a, b *repeats) int { return b.count - a.count })
	for i, one := range all {
		if i >= maxReported || d.tight {
			rest += one.count
		} else {
			r := &one.record
			out = append(out, entry{record: Record{
				Kind: Dropped, Issuer: r.Issuer, Subject: r.Subject, SAN: r.SAN, Entry: r.Entry,
				ProviderKey: r.ProviderKey, Reason: r.Reason, Count: one.count,
				Text: fmt.Sprintf("further %s within %s", r.repetition(), reportRepeated),
			}})
		}
		one.count, one.record = 0, Record{}
	}
	return out, rest
}
