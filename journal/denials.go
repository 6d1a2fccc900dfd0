package journal

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// Denials cost whoever asks for them nothing, and the journal some 400 bytes each. How much of the disk they take is
// bounded three times: by identity and reason, over all identities, and by what is left of the disk, the last part of
// which is kept for certificates.
const (
	// repeatBurst is how many denials of one identity for one reason are written in full at once, and repeatEvery after
	// which time another one is. Further ones are counted, and the count is written every tellRepeated.
	repeatBurst  = 100
	repeatEvery  = 10 * time.Second
	tellRepeated = 10 * time.Second
	// maxRepeaters is how many identities and reasons are kept apart, and maxTold how many of them have a record of
	// their own in one interval. The others are counted together.
	maxRepeaters = 1024
	maxTold      = 64
	// knownRate is how many denials a second, on average, are written in full of all identities together, and
	// knownBurst how many at once.
	knownRate, knownBurst = 50, 2000
	// measureEvery is how often the disk is looked at. While less of it is free than the reserve, denials are counted
	// only, and tellTight is how often the count is written.
	measureEvery = 5 * time.Second
	tellTight    = time.Minute
	maxReserve   = 256 << 20 // bytes, or a twentieth of the disk if that is less
)

// repeater is who is denied what, and why.
type repeater struct{ issuer, subject, reason string }

// repeats are the denials of one repeater.
type repeats struct {
	limit  *rate.Limiter
	record Record // the last one that was only counted, for its identity
	count  int    // since the last record about them
}

// denials decides which denials are written in full. It is used under the lock of the journal.
type denials struct {
	strangers, known *rate.Limiter
	by               map[repeater]*repeats
	told             time.Time // of the last records about repeated denials
	tight            bool      // the disk is nearly full
}

func newDenials() denials {
	return denials{
		strangers: rate.NewLimiter(strangersRate, strangersBurst), known: rate.NewLimiter(knownRate, knownBurst),
		by:   map[repeater]*repeats{},
		told: time.Now(),
	}
}

// admit reports whether a denial is written in full. If not, counted says that a record about its identity will count
// it.
func (d *denials) admit(r *Record) (full, counted bool) {
	if d.tight {
		return false, false
	}
	if r.unauthenticated() {
		return d.strangers.Allow(), false
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
	if one.limit.Allow() && d.known.Allow() {
		return true, false
	}
	one.record = *r
	one.count++
	return false, true
}

// summaries are the records about repeated denials that are due, those with the highest counts first, and how many
// denials have none. An identity that was not denied for long is forgotten.
func (d *denials) summaries(now time.Time, closing bool) (out []entry, rest int) {
	if !closing && now.Sub(d.told) < tellRepeated {
		return nil, 0
	}
	d.told = now
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
		if i >= maxTold || d.tight {
			rest += one.count
		} else {
			r := &one.record
			out = append(out, entry{record: Record{
				Kind: Dropped, Issuer: r.Issuer, Subject: r.Subject, SAN: r.SAN, Entry: r.Entry,
				ProviderKey: r.ProviderKey, Reason: r.Reason, Count: one.count,
				Text: fmt.Sprintf("further denials of this identity for this reason within %s", tellRepeated),
			}})
		}
		one.count, one.record = 0, Record{}
	}
	return out, rest
}
