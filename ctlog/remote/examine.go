package ctlog

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"
)

// ExamineOptions are for [Remote.Examine].
type ExamineOptions struct {
	// Active is the root of the chain that issues, Others those of chains that may issue later.
	Active *x509.Certificate
	Others []*x509.Certificate
	// Now is the clock that the log's is held against; nil is time.Now.
	Now func() time.Time
}

// Examination is what a log answered. Texts quote the log.
type Examination struct {
	Problems []string // for which no SCT that counts could be had
	Warnings []string
}

// Examine asks a log what shows whether it would do: its roots (RFC 6962 §4.7), a head signed with the pinned key, and
// the time. It makes no entry.
func (r *Remote) Examine(ctx context.Context, o ExamineOptions) (e Examination) {
	if o.Now == nil {
		o.Now = time.Now
	}
	sent := o.Now()
	roots, date, err := r.getRoots(ctx)
	var f *Failure
	if err != nil {
		f = failureOf(err)
	}
	switch {
	case f == nil:
		active, others := (watched{active: o.Active, others: o.Others}).lacking(roots)
		e.add(&e.Problems, active)
		e.add(&e.Warnings, others)
	case f.Result == Refused: // it is there, and does not tell
		e.add(&e.Warnings, "whether it accepts our root is not known: its roots cannot be read: "+f.Error())
	default:
		e.add(&e.Problems, "its roots cannot be read: "+f.Error())
	}
	if !date.IsZero() {
		if off := (span{sent.Add(-time.Second), o.Now()}).offset(date); off > skew || off < -skew {
			word := "ahead of"
			if off < 0 {
				word = "behind"
			}
			e.add(&e.Problems, fmt.Sprintf("its clock is %d s %s this machine's; SCTs may differ by 60 s",
				int(off.Abs().Seconds()+.5), word))
		}
	}
	if f != nil && f.silent() {
		return e
	}
	switch absent, err := r.head(ctx); {
	case err != nil:
		e.add(&e.Problems, err.Error())
	default:
		e.add(&e.Warnings, absent)
	}
	return e
}

func (e *Examination) add(to *[]string, text string) {
	if text != "" {
		*to = append(*to, text)
	}
}
