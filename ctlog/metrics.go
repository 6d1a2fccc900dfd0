package ctlog

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	attempts *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	usable   []prometheus.Collector
	accepted map[string]func() prometheus.Counter // by log: what every request adds to, found once
}

// newMetrics makes the instruments of s. Labels are names of the configuration and the closed set of results.
func newMetrics(s *Set) *metrics {
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_ctlog_attempts_total", Help: "Attempts to get an SCT, by log and result.",
		}, []string{"log", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_ctlog_attempt_seconds", Help: "Time of an attempt to get an SCT, by log.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2, 4},
		}, []string{"log"}),
	}
	m.accepted = make(map[string]func() prometheus.Counter, len(s.members))
	for _, one := range s.members {
		m.accepted[one.Name] = sync.OnceValue(func() prometheus.Counter { return m.attempts.WithLabelValues(one.Name, string(Accepted)) })
		m.usable = append(m.usable, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_ctlog_usable_ratio", Help: "1 if the log is asked, 0 if it is set aside because it fails.",
			ConstLabels: prometheus.Labels{"log": one.Name},
		}, func() float64 {
			if ok, _, _ := one.breaker.state(s.now()); ok {
				return 1
			}
			return 0
		}))
	}
	return m
}

func (m *metrics) observe(log string, r Result, took time.Duration) {
	if r == Accepted {
		m.accepted[log]().Inc()
	} else {
		m.attempts.WithLabelValues(log, string(r)).Inc()
	}
	m.seconds.WithLabelValues(log).Observe(took.Seconds())
}

// Collectors returns the metrics of this set: mayfly_ctlog_attempts_total, mayfly_ctlog_attempt_seconds, mayfly_ctlog_usable_ratio.
func (s *Set) Collectors() []prometheus.Collector {
	return append([]prometheus.Collector{s.metrics.attempts, s.metrics.seconds}, s.metrics.usable...)
}
