package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/internal/version"
)

// benchRun is one run of the plan against one CA.
type benchRun struct {
	flags    *benchFlags
	lab      *benchLab
	clients  lanes
	load     *generator
	caKey    crypto.PublicKey
	capacity float64 // certificates per second; 0: not looked for
	steps    []benchStep
}

// benchStep is what one load came to.
type benchStep struct {
	Processors int `json:"processors,omitempty"` // that the server had; 0: all
	benchLoad
	Certificates     int             `json:"certificates"`
	PerSecond        float64         `json:"certificates_per_second"`
	P50              float64         `json:"p50_ms"` // of certificates
	P99              float64         `json:"p99_ms"`
	Added            float64         `json:"added_mean_ms,omitempty"` // mean latency less the mean of the log
	Refused          int             `json:"refused"`                 // told to come back later
	RefusedPerSecond float64         `json:"refused_per_second"`
	RefusedP50       float64         `json:"refused_p50_ms,omitempty"`
	RefusedP99       float64         `json:"refused_p99_ms,omitempty"`
	Failed           int             `json:"failed"`
	NotSent          int             `json:"not_sent"`              // arrivals beyond what can be in flight or made
	LateP99          float64         `json:"late_p99_ms,omitempty"` // of the load generator, behind the intended arrivals
	FirstError       string          `json:"first_error,omitempty"`
	CPU              float64         `json:"server_cpu_us,omitempty"` // for one certificate
	Floor            float64         `json:"floor_us"`
	Ratio            float64         `json:"ratio,omitempty"`
	PerCPUSecond     float64         `json:"certificates_per_cpu_second,omitempty"`
	RSS              float64         `json:"server_rss_mb,omitempty"`
	Placement        *benchPlacement `json:"placement,omitempty"` // with --processors
	Recovery         *benchRecovery  `json:"recovery,omitempty"`  // after more than the capacity
}

const preparedRequests = 500

// newBenchRun prepares requests of many people and makes the first one, whose answer must be a certificate. left is how many
// requests may still be made.
func newBenchRun(ctx context.Context, l *benchLab, f *benchFlags, left *atomic.Int64) (*benchRun, error) {
	r := &benchRun{flags: f, lab: l}
	o := client.Options{URL: l.rest, SkipVerify: true, UserAgent: version.UserAgent() + " bench"}
	if f.native {
		o.URL, o.GRPC = l.grpc, true
	}
	var err error
	if r.clients, err = openLanes(o); err != nil {
		return nil, err
	}
	requests := make([]*client.Prepared, preparedRequests)
	for i := range requests {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		token, err := l.provider.Token(fmt.Sprintf("caller-%d@bench.mayfly.invalid", i), nil)
		if err != nil {
			return nil, err
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		if requests[i], err = (client.Request{Token: token, Signer: key}).Prepare(); err != nil {
			return nil, err
		}
	}
	r.load = newGenerator(r.clients, requests, left)
	if err := r.first(ctx, requests[0]); err != nil {
		return nil, err
	}
	for i := range r.clients { // connections
		if err := r.load.send(ctx, i, maxLanes); err != nil {
			return nil, errors.New(client.Explain(err))
		}
	}
	return r, nil
}

// first waits until the CA takes a request: with --listen-idp, its operator has to tell it of the provider.
func (r *benchRun) first(ctx context.Context, request *client.Prepared) error {
	for deadline := time.Now().Add(5 * time.Minute); ; {
		a, err := r.clients[0].Send(ctx, request)
		if err == nil {
			certs, err := a.Certificates()
			if err != nil || len(certs) < 2 {
				return fmt.Errorf("the target does not answer with a chain: %w", err)
			}
			r.caKey = certs[1].PublicKey
			return nil
		}
		if r.flags.listenIDP == "" || time.Now().After(deadline) {
			return errors.New(client.Explain(err))
		}
		select {
		case <-ctx.Done():
			return errors.New(client.Explain(err))
		case <-time.After(time.Second):
		}
	}
}

// ramp makes the steps of the plan, and says on progress where it is.
func (r *benchRun) ramp(ctx context.Context, progress io.Writer) error {
	for i, l := range r.flags.plan {
		if r.load.over(ctx) {
			break
		}
		if l.Percent > 0 {
			l.Rate = min(l.Percent/100*r.capacity, maxBenchRate)
		}
		fmt.Fprintf(progress, "%s …\n", l)
		s, err := r.step(ctx, l)
		if err != nil {
			return err
		}
		r.steps = append(r.steps, s)
		if i == 0 && r.flags.relative {
			if r.capacity = s.PerSecond; r.capacity == 0 && ctx.Err() == nil {
				return fmt.Errorf("no capacity to take percentages of: not one certificate for %s; %s", l, s.FirstError)
			}
		}
	}
	return nil
}

// step makes one load, between two looks at the floor: who else runs on this machine makes it slower, never faster.
func (r *benchRun) step(ctx context.Context, l benchLoad) (benchStep, error) {
	s := benchStep{benchLoad: l, Processors: r.lab.processors, Placement: r.lab.placement}
	before, err := benchFloor(r.caKey)
	if err != nil {
		return s, err
	}
	switch {
	case l.Callers > 0:
		r.measure(ctx, &s, func() tally { return r.load.closed(ctx, l.Callers, r.length(l)) })
	case r.capacity > 0 && l.Rate > r.capacity:
		r.overload(ctx, &s)
	default:
		r.measure(ctx, &s, func() tally { return r.load.open(ctx, l.Rate, r.flags.step).wait() })
	}
	after, err := benchFloor(r.caKey)
	if err != nil {
		return s, err
	}
	s.Floor = microseconds(min(before, after))
	if s.CPU > 0 {
		s.Ratio, s.PerCPUSecond = s.CPU/s.Floor, 1e6/s.CPU
	}
	return s, nil
}

// length is how long a load lasts. The one that looks for the capacity is short.
func (r *benchRun) length(l benchLoad) time.Duration {
	if l.Callers > 0 && r.flags.relative {
		return min(r.flags.step, capacityStep)
	}
	return r.flags.step
}

// measure notes what came of a load, and what server and log used meanwhile.
func (r *benchRun) measure(ctx context.Context, s *benchStep, load func() tally) {
	usage, logged, began := r.lab.usage(ctx), r.lab.logged(), time.Now()
	t := load()
	took := time.Since(began)
	s.fill(t, took)
	after := r.lab.usage(ctx)
	if n := len(t.served); n > 0 {
		s.Added = added(t.served, r.lab.logged().since(logged))
		if usage.ok && after.ok {
			s.CPU, s.RSS = microseconds(after.cpu-usage.cpu)/float64(n), after.rss/(1<<20)
		}
	}
}

// fill counts what came of the requests of a load that took so long, the last answer included.
func (s *benchStep) fill(t tally, took time.Duration) {
	s.Certificates, s.Refused, s.Failed, s.NotSent, s.FirstError = len(t.served), len(t.refused), t.failed, t.unsent, t.first
	s.PerSecond, s.RefusedPerSecond = float64(len(t.served))/took.Seconds(), float64(len(t.refused))/took.Seconds()
	s.P50, s.P99 = percentile(t.served, 50), percentile(t.served, 99)
	s.RefusedP50, s.RefusedP99 = percentile(t.refused, 50), percentile(t.refused, 99)
	s.LateP99 = percentile(t.late, 99)
}

// added is the mean latency in milliseconds beside what the log itself took. Means can be subtracted where each certificate has
// one answer of the log, percentiles cannot; where the log answered more often, or less, it is 0: not known.
func added(served []time.Duration, log logUse) float64 {
	if log.answers == 0 || log.answers != int64(len(served)) {
		return 0
	}
	return microseconds(mean(served)-log.took/time.Duration(log.answers)) / 1e3
}

func mean(of []time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range of {
		sum += d
	}
	return sum / time.Duration(len(of))
}

// percentile is the p-th percentile in milliseconds, 0 of nothing.
func percentile(of []time.Duration, p int) float64 {
	if len(of) == 0 {
		return 0
	}
	return microseconds(slices.Sorted(slices.Values(of))[len(of)*p/100]) / 1e3
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
