package ctlog

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// attempt asks one log once, verifies what it answers, and tells the breaker. It ends when the attempt's time is up, when the
// caller leaves, or when the SCT is no longer needed; a lingering one with its time only.
func (r *round) attempt(e *entrant, p pass) outcome {
	ctx := r.ctx
	if p.linger { // beyond the round, and beyond the life of a set that a reload took out of use while the round goes on
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(context.WithoutCancel(r.ctx))
		defer cancel()
		defer context.AfterFunc(r.set.life, func() { <-r.ctx.Done(); cancel() })()
	}
	q := question{&r.p, r.start}
	sct, took, err := r.set.ask(ctx, e.member, q)
	o := outcome{from: e, sct: sct}
	if err != nil {
		o.err = r.judge(err, took, p)
	}
	r.set.conclude(e.member, q, ending{
		failure: o.err, took: took, pass: p,
		overtaken: errors.Is(context.Cause(r.ctx), errEnough),
	})
	return o
}

// ending is how an attempt ended: failure is nil for an SCT.
type ending struct {
	failure   *Failure
	took      time.Duration
	pass      pass
	overtaken bool // if abandoned: because other logs were faster
}

// conclude counts an attempt at q and tells the breaker.
func (s *Set) conclude(m *member, q question, v ending) {
	if v.failure == nil {
		s.metrics.observe(m.Name, Accepted, v.took)
		m.accepts()
		if m.breaker.succeed(s.now()) {
			s.log.Info("log is back", "log", m.Name)
			m.nudge() // its roots, which could not be read
		}
		return
	}
	s.metrics.observe(m.Name, v.failure.Result, v.took)
	if v.failure.Result == Abandoned {
		m.breaker.abandon(v.pass)
		if v.overtaken {
			m.breaker.overtaken()
		}
		return
	}
	s.log.Debug("attempt at log failed", "log", m.Name, "error", v.failure, "seconds", v.took.Seconds())
	m.breaker.keep(q)
	if m.breaker.fail(s.now(), v.failure, v.pass) {
		s.log.Warn("log is set aside", "log", m.Name, "error", v.failure)
		m.nudge()
	}
}

// ask is one call of a log, which took so long, and the proof of its answer.
func (s *Set) ask(ctx context.Context, m *member, q question) (sct []byte, took time.Duration, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.policy.Attempt)
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // a defect of one log is no reason to lose the process
			sct, took, err = nil, time.Since(began), fmt.Errorf("panic: %v", p)
		}
	}()
	if m.remote != nil {
		var date time.Time
		sent := s.now()
		sct, date, err = m.remote.add(ctx, q.p)
		s.hearDate(m, sent, date)
	} else {
		sct, err = m.Submitter.Submit(ctx, *q.p)
	}
	took = time.Since(began)
	if err != nil {
		return nil, took, err
	}
	to := s.now()
	defer s.compute()()
	from := q.start.Truncate(time.Millisecond) // the resolution of an SCT
	if q.p.NotBefore.After(from) {
		from = q.p.NotBefore
	}
	offset, err := m.verify(sct, q.p, span{from, to})
	if _, off := offsetOf(err); err == nil || off {
		s.hear(m, true, offset)
	}
	if err != nil {
		return nil, took, err
	}
	return sct, took, nil
}

// judge says whose doing err is: the log's, or of those who did not wait for it.
func (r *round) judge(err error, took time.Duration, p pass) *Failure {
	f := failureOf(err)
	if p.linger {
		if r.set.life.Err() != nil && r.ctx.Err() != nil {
			f = &Failure{Result: Abandoned, Err: err}
		}
		return f
	}
	switch cause := context.Cause(r.ctx); {
	case cause == nil:
		return f
	case errors.Is(cause, errEnough) && took >= r.set.policy.Stagger:
		// Else a log that hangs would go on to delay every request, because nobody ever waits for its end.
		return &Failure{Result: TimedOut, Err: fmt.Errorf("no answer in %s, while other logs answered", took.Round(time.Millisecond))}
	case r.caller.Err() == nil && errors.Is(cause, context.DeadlineExceeded):
		return &Failure{Result: TimedOut, Err: errors.New("no answer within the budget")}
	}
	return &Failure{Result: Abandoned, Err: err}
}
