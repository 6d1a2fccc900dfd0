package ctlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/tbs"
)

// request is a precertificate for a log; start is when its submission began.
type request struct {
	p     *tbs.Precertificate
	start time.Time
}

// expired reports whether the precertificate can no longer be logged.
func (r request) expired(now time.Time) bool { return !now.Before(r.p.NotAfter) }

// attempt tries one log once, verifies its answer, and informs the breaker. It ends when the time of the attempt is up,
// when the caller leaves, or when the SCT is no longer needed; a probe ends only with its time.
func (sub *submission) attempt(c *candidate, p permit) attemptResult {
	ctx := sub.ctx
	if p.probe { // a probe outlives the submission, and also a set that a reload replaced in the meantime
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(context.WithoutCancel(sub.ctx))
		defer cancel()
		defer context.AfterFunc(sub.set.life, func() { <-sub.ctx.Done(); cancel() })()
	}
	ctx, step := span.Call(ctx, "log attempt")
	step.Set(span.Log, c.Name)
	r := request{&sub.p, sub.start}
	sct, took, err := sub.set.call(ctx, c.logState, r)
	result := attemptResult{from: c, sct: sct}
	if err != nil {
		result.err = sub.classify(err, took, p)
	}
	endAttempt(step, result.err)
	sub.set.finish(c.logState, r, attemptEnd{
		failure: result.err, took: took, permit: p, step: step,
		overtaken: errors.Is(context.Cause(sub.ctx), errEnough),
	})
	return result
}

// endAttempt ends the span of an attempt.
func endAttempt(step span.Span, failure *Failure) {
	if failure == nil {
		step.EndCall(string(Accepted), false)
		return
	}
	step.SetInt(span.StatusCode, failure.Status)
	step.EndCall(string(failure.Result), failure.Result != Abandoned)
}

// attemptEnd is how an attempt ended. A nil failure means that the log returned a verified SCT.
type attemptEnd struct {
	failure   *Failure
	took      time.Duration
	permit    permit
	overtaken bool // abandoned because other logs were faster
	step      span.Span
}

// finish counts an attempt and informs the breaker.
func (s *Set) finish(l *logState, r request, end attemptEnd) {
	if end.failure == nil {
		s.metrics.observe(l.Name, Accepted, end)
		l.recordAccepted()
		if l.breaker.succeed(s.now()) {
			s.logger.Info("log works again", "log", l.Name)
			l.wakeUp() // its roots could not be read
		}
		return
	}
	s.metrics.observe(l.Name, end.failure.Result, end)
	if end.failure.Result == Abandoned {
		l.breaker.abandon(end.permit)
		if end.overtaken {
			l.breaker.countOvertaken()
		}
		return
	}
	s.logger.Debug("attempt at log failed", "log", l.Name, "error", end.failure, "seconds", end.took.Seconds())
	l.breaker.keep(r)
	if l.breaker.fail(s.now(), end.failure, end.permit) {
		s.logger.Warn("log is set aside", "log", l.Name, "error", end.failure)
		l.wakeUp()
	}
}

// call submits to one log and verifies the answer. took is the time until the answer.
func (s *Set) call(ctx context.Context, l *logState, r request) (sct []byte, took time.Duration, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.policy.Attempt)
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // a panic in one log must not end the process
			sct, took, err = nil, time.Since(began), fmt.Errorf("panic: %v", p)
		}
	}()
	if l.remote != nil {
		var date time.Time
		sent := s.now()
		sct, date, err = l.remote.AddPreChain(ctx, *r.p)
		s.recordDate(l, sent, date)
	} else {
		sct, err = l.Submitter.Submit(ctx, *r.p)
	}
	took = time.Since(began)
	if err != nil {
		return nil, took, err
	}
	to := s.now()
	defer s.compute()()
	from := r.start.Truncate(time.Millisecond) // the resolution of an SCT
	if r.p.NotBefore.After(from) {
		from = r.p.NotBefore
	}
	offset, err := l.verify(sct, r.p, interval{from, to})
	if _, skewed := errors.AsType[*skewError](err); err == nil || skewed {
		s.recordOffset(l, true, offset)
	}
	if err != nil {
		return nil, took, err
	}
	return sct, took, nil
}

// classify returns err as a failure of the log, or as Abandoned if the attempt ended because its SCT was no longer
// needed.
func (sub *submission) classify(err error, took time.Duration, p permit) *Failure {
	f := failureOf(err)
	if p.probe {
		if sub.set.life.Err() != nil && sub.ctx.Err() != nil {
			f = &Failure{Result: Abandoned, Err: err}
		}
		return f
	}
	switch cause := context.Cause(sub.ctx); {
	case cause == nil:
		return f
	case errors.Is(cause, errEnough) && took >= sub.set.policy.Stagger:
		// The breaker must count a log that hangs: otherwise the log would delay every request, because no submission
		// waits for its timeout.
		return &Failure{
			Result: TimedOut,
			Err:    fmt.Errorf("no answer within %s, while other logs answered", took.Round(time.Millisecond)),
		}
	case sub.caller.Err() == nil && errors.Is(cause, context.DeadlineExceeded):
		return &Failure{Result: TimedOut, Err: errors.New("no answer within the budget")}
	}
	return &Failure{Result: Abandoned, Err: err}
}
