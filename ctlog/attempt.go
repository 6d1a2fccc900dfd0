package ctlog

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// attempt asks one log once, verifies what it answers, and tells the breaker. It ends when the attempt's time is up, when the
// caller leaves, or when the SCT is no longer needed.
func (r *round) attempt(e *entrant) outcome {
	began := time.Now()
	sct, err := r.ask(e)
	took := time.Since(began)
	o := outcome{from: e, sct: sct}
	if err == nil {
		r.set.metrics.observe(e.Name, Accepted, took)
		if e.breaker.succeed(r.set.now()) {
			r.set.log.Info("log is back", "log", e.Name)
		}
		return o
	}
	o.err = r.judge(err, took)
	r.set.metrics.observe(e.Name, o.err.Result, took)
	if o.err.Result == Abandoned {
		e.breaker.abandon()
		return o
	}
	r.set.log.Debug("attempt at log failed", "log", e.Name, "error", o.err, "seconds", took.Seconds())
	if e.breaker.fail(r.set.now(), o.err.Error()) {
		r.set.log.Warn("log is set aside", "log", e.Name, "error", o.err)
	}
	return o
}

func (r *round) ask(e *entrant) (sct []byte, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.set.attempt)
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // a defect of one log is no reason to lose the process
			sct, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	if sct, err = e.Submitter.Submit(ctx, r.p); err != nil {
		return nil, err
	}
	from := r.start
	if r.p.NotBefore.After(from) {
		from = r.p.NotBefore
	}
	if err := e.verify(sct, r.p, span{from, r.set.now()}); err != nil {
		return nil, &Failure{Result: Unverified, Err: err}
	}
	return sct, nil
}

// judge says whose doing err is: the log's, or of those who did not wait for it.
func (r *round) judge(err error, took time.Duration) *Failure {
	f := failureOf(err)
	switch cause := context.Cause(r.ctx); {
	case cause == nil:
		return f
	case errors.Is(cause, errEnough) && took >= r.set.stagger:
		// Else a log that hangs would go on to delay every request, because nobody ever waits for its end.
		return &Failure{Result: TimedOut, Err: fmt.Errorf("no answer in %s, while other logs answered", took.Round(time.Millisecond))}
	case r.caller.Err() == nil && errors.Is(cause, context.DeadlineExceeded):
		return &Failure{Result: TimedOut, Err: errors.New("no answer within the budget")}
	}
	return &Failure{Result: Abandoned, Err: err}
}
