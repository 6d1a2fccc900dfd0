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
	capacity float64 // certificates per second; 0: not measured
	steps    []benchStep
}

// benchStep is the result of one load.
type benchStep struct {
	Processors int `json:"processors,omitempty"` // of the server; 0: all
	benchLoad
	Certificates     int     `json:"certificates"`
	PerSecond        float64 `json:"certificates_per_second"`
	P50              float64 `json:"p50_ms"` // of certificates
	P99              float64 `json:"p99_ms"`
	Added            float64 `json:"added_mean_ms,omitempty"` // mean latency less the mean of the log
	Refused          int     `json:"refused"`                 // refused with Retry-After
	RefusedPerSecond float64 `json:"refused_per_second"`
	RefusedP50       float64 `json:"refused_p50_ms,omitempty"`
	RefusedP99       float64 `json:"refused_p99_ms,omitempty"`
	Failed           int     `json:"failed"`
	NotSent          int     `json:"not_sent"` // arrivals that were not sent
	// delay of the load generator behind the intended arrivals
	LateP99      float64         `json:"late_p99_ms,omitempty"`
	FirstError   string          `json:"first_error,omitempty"`
	CPU          float64         `json:"server_cpu_us,omitempty"` // per certificate
	Floor        float64         `json:"floor_us"`
	Ratio        float64         `json:"ratio,omitempty"`
	PerCPUSecond float64         `json:"certificates_per_cpu_second,omitempty"`
	RSS          float64         `json:"server_rss_mb,omitempty"`
	Placement    *benchPlacement `json:"placement,omitempty"` // with --processors
	Recovery     *benchRecovery  `json:"recovery,omitempty"`  // after an overload
}

const preparedRequests = 500

// newBenchRun prepares requests with different identities and sends the first one, whose response must be a
// certificate. left is the number of requests that may still be sent.
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
	for i := range r.clients { // open the connections
		if err := r.load.send(ctx, i, maxLanes); err != nil {
			return nil, errors.New(client.Explain(err))
		}
	}
	return r, nil
}

// first sends a request until the CA accepts it: with --listen-idp, the operator must first add the provider to the
// issuer file.
func (r *benchRun) first(ctx context.Context, request *client.Prepared) error {
	for deadline := time.Now().Add(5 * time.Minute); ; {
		a, err := r.clients[0].Send(ctx, request)
		if err == nil {
			certs, err := a.Certificates()
			if err != nil || len(certs) < 2 {
				return fmt.Errorf("the target did not return a certificate chain: %w", err)
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

// ramp runs the steps of the plan and prints the current step to progress.
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
				return fmt.Errorf("the capacity, which percentages refer to, is 0: no certificate "+
					"was issued with %s; %s", l, s.FirstError)
			}
		}
	}
	return nil
}

// step runs one load, and measures the floor before and after. The floor is the minimum of both, because other
// processes can only make the measurement slower.
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

// length returns the duration of a load. The step that measures the capacity is short.
func (r *benchRun) length(l benchLoad) time.Duration {
	if l.Callers > 0 && r.flags.relative {
		return min(r.flags.step, capacityStep)
	}
	return r.flags.step
}

// measure runs a load and records its results, and the resource usage of server and log.
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

// fill sets the results of a load. took is the time until the last response.
func (s *benchStep) fill(t tally, took time.Duration) {
	s.Certificates, s.Refused, s.Failed, s.NotSent, s.FirstError = len(t.served), len(t.refused),
		t.failed, t.unsent, t.first
	s.PerSecond, s.RefusedPerSecond = float64(len(t.served))/took.Seconds(), float64(len(t.refused))/took.Seconds()
	s.P50, s.P99 = percentile(t.served, 50), percentile(t.served, 99)
	s.RefusedP50, s.RefusedP99 = percentile(t.refused, 50), percentile(t.refused, 99)
	s.LateP99 = percentile(t.late, 99)
}

// added returns the mean latency in milliseconds without the time of the log. The means can be subtracted only if the
// log has sent one response per certificate; otherwise the result is 0, which means unknown.
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

// percentile returns the p-th percentile in milliseconds; 0 without values.
func percentile(of []time.Duration, p int) float64 {
	if len(of) == 0 {
		return 0
	}
	return microseconds(slices.Sorted(slices.Values(of))[len(of)*p/100]) / 1e3
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
