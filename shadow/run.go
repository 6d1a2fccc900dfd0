package shadow

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mayfly-ca/mayfly/internal/httpclient"
)

// Listeners are where a proxy listens. API serves REST and gRPC, both on each listener.
type Listeners struct {
	API   []net.Listener
	Admin net.Listener // nil: none
}

// Times of the background work.
const (
	checkEvery   = 2 * time.Second
	checkTimeout = 2 * time.Second
	planEvery    = 200 * time.Millisecond
	drainTime    = 25 * time.Second // for running requests, and then for the queue, when the proxy stops
)

// Run serves on l until ctx ends; then it stops: running requests and waiting comparisons are finished. dir is the
// directory of the plan.
func (p *Proxy) Run(ctx context.Context, l Listeners, dir string) error {
	var background sync.WaitGroup
	defer background.Wait()
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	checked := make(chan struct{})
	background.Go(func() {
		<-checked // whether the upstream is a mayfly decides what explains a difference
		p.comparer.run(inner, drainTime)
	})
	background.Go(func() { p.check(inner, func() { close(checked) }) })
	background.Go(func() { p.followPlan(inner, dir) })
	failed := make(chan error, len(l.API)+1)
	var servers []*http.Server
	serve := func(at net.Listener, h http.Handler, both bool) {
		s := &http.Server{
			Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader,
			Protocols: new(http.Protocols),
		}
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(both)
		servers = append(servers, s)
		go func() {
			err := s.Serve(at)
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			failed <- err
		}()
	}
	for _, one := range l.API {
		serve(one, p, true)
	}
	if l.Admin != nil {
		serve(l.Admin, p.admin(), false)
	}
	var err error
	running := len(servers)
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	var stopping sync.WaitGroup
	for _, s := range servers {
		stopping.Go(func() {
			if s.Shutdown(end) != nil {
				_ = s.Close() // the time is over
			}
		})
	}
	stopping.Wait()
	for ; running > 0; running-- {
		err = errors.Join(err, <-failed)
	}
	p.upstream.close()
	if p.candidate != nil {
		p.candidate.sites.close()
	}
	return err
}

// followPlan applies the plan in dir when it changes. A plan that cannot be read changes nothing, except that a file
// that was removed means nobody.
func (p *Proxy) followPlan(ctx context.Context, dir string) {
	tick := time.NewTicker(planEvery)
	defer tick.Stop()
	var last Plan
	problem := ""
	for first := true; ; first = false {
		plan, _, err := ReadPlan(dir)
		switch {
		case err != nil && err.Error() != problem:
			problem = err.Error()
			p.log.Error("the plan cannot be read; the one in force stays", "cause", problem)
		case err == nil && (first || problem != "" || !plan.equal(last)):
			problem, last = "", plan
			p.SetPlan(plan)
			p.log.Info("the plan is in force", "share_percent", float64(plan.Share)/100, "identities",
				len(plan.Subjects))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// check asks the upstream at intervals whether it is there, and whether it is a mayfly. It calls checked after the
// first time.
func (p *Proxy) check(ctx context.Context, checked func()) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		cause := p.checkOnce(ctx)
		if was := *p.reachable.Swap(&cause); (was == "") != (cause == "") {
			if cause == "" {
				p.log.Info("the upstream answers")
			} else {
				p.log.Warn("the upstream does not answer", "cause", cause)
			}
		}
		value := 0.0
		if cause == "" {
			value = 1
		}
		p.metrics.reachable.Set(value)
		if first {
			checked()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// checkOnce returns why the upstream does not answer.
func (p *Proxy) checkOnce(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	to := p.upstream.rest
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.base.JoinPath("/api/v2/configuration").String(), nil)
	if err != nil {
		return err.Error()
	}
	response, err := to.transport.RoundTrip(r)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close() //nolint:errcheck // only read
	if _, err := httpclient.ReadBody(response, maxConfiguration); err != nil {
		return err.Error()
	}
	if response.StatusCode >= http.StatusInternalServerError {
		return response.Status
	}
	p.comparer.mayfly.Store(response.Header.Get("Mayfly-Config-Digest") != "")
	return ""
}

// maxConfiguration bounds the answer to a check, in bytes.
const maxConfiguration = 8 << 20

// admin serves liveness, readiness and metrics. The proxy is ready while the upstream answers.
func (p *Proxy) admin() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.Collectors()...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if cause := *p.reachable.Load(); cause != "" {
			http.Error(w, "the upstream does not answer: "+cause, http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // an error means that the caller has left
	})
	return mux
}
