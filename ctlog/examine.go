package ctlog

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"
)

// ExamineOptions are for [Examine].
type ExamineOptions struct {
	// Active is the root of the chain that issues, Others the roots of chains that may issue later.
	Active *x509.Certificate
	Others []*x509.Certificate
	// Now is the clock that the log's clock is compared with. Default: time.Now.
	Now func() time.Time
}

// Examination is the result of [Examine]. Its texts may quote the log.
type Examination struct {
	Problems []string // problems because of which the log would return no usable SCT
	Warnings []string
	// Offset is the log's clock minus this machine's, 0 if the difference is within the duration of the request.
	// Dated: the log sent its time.
	Offset time.Duration
	Dated  bool
}

// Examine checks whether a log could be used: its roots (RFC 6962 §4.7), a head signed with the pinned key, and its
// clock. It makes no entry in the log.
func Examine(ctx context.Context, log Remote, o ExamineOptions) (e Examination) {
	if o.Now == nil {
		o.Now = time.Now
	}
	sent := o.Now()
	accepted, date, err := log.Roots(ctx)
	var f *Failure
	if err != nil {
		f = failureOf(err)
	}
	switch {
	case f == nil:
		active, others := roots{o.Active, o.Others}.missingIn(accepted)
		e.add(&e.Problems, active)
		e.add(&e.Warnings, others)
	case f.Result == Refused: // the log answers, but does not list its roots
		e.add(&e.Warnings, "it is unknown whether the log accepts our root: its roots cannot be read: "+f.Error())
	default:
		e.add(&e.Problems, "its roots cannot be read: "+f.Error())
	}
	if !date.IsZero() {
		e.Offset, e.Dated = dateSpan(sent, o.Now()).offset(date), true
		if offset := e.Offset; offset.Abs() > maxSkew {
			word := "ahead of"
			if offset < 0 {
				word = "behind"
			}
			e.add(&e.Problems, fmt.Sprintf("its clock is %d s %s this machine's; timestamps of SCTs may differ by 60 s",
				int(offset.Abs().Seconds()+.5), word))
		}
	}
	if f != nil && f.unanswered() {
		return e
	}
	absent, err := log.Head(ctx)
	if err != nil {
		e.add(&e.Problems, err.Error())
	} else {
		e.add(&e.Warnings, absent)
	}
	return e
}

func (e *Examination) add(to *[]string, text string) {
	if text != "" {
		*to = append(*to, text)
	}
}
