package ctlog

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	attempts *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	checks   *prometheus.HistogramVec
	offset   *prometheus.GaugeVec
	states   []prometheus.Collector               // by log and result
	accepted map[string]func() prometheus.Counter // by log: the counter of accepted attempts, looked up once
}

// newMetrics makes the collectors of s. Labels are names from the configuration and the closed set of results.
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
	m.checks = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "mayfly_ctlog_check_seconds",
		Help: "Time of a request in the background, by log, by what is read (roots, head) and " +
			"by result (ok, failed).",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2, 4},
	}, []string{"log", "check", "result"})
	m.offset = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "mayfly_ctlog_clock_offset_seconds",
		Help: "The clock of a log minus ours, by its last answer; 0 if the difference is within the " +
			"duration of the call.",
	}, []string{"log"})
	m.accepted = make(map[string]func() prometheus.Counter, len(s.logs))
	for _, l := range s.logs {
		m.accepted[l.Name] = sync.OnceValue(func() prometheus.Counter {
			return m.attempts.WithLabelValues(l.Name, string(Accepted))
		})
		m.states = append(m.states, stateGauges(l)...)
	}
	return m
}

func stateGauges(l *logState) []prometheus.Collector {
	labels := prometheus.Labels{"log": l.Name}
	gauge := func(name, help string, value func() bool) prometheus.Collector {
		o := prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}
		return prometheus.NewGaugeFunc(o, func() float64 {
			if value() {
				return 1
			}
			return 0
		})
	}
	all := []prometheus.Collector{
		gauge("mayfly_ctlog_usable_ratio",
			"1 if the log is used, 0 if it is set aside because it fails, or in quarantine.",
			func() bool {
				ok, _, _ := l.breaker.state()
				return ok && l.quarantine() == ""
			}),
		gauge("mayfly_ctlog_benched_ratio", "1 if the log is in quarantine because it violated its merge obligation.",
			func() bool { return l.quarantine() != "" }),
	}
	if l.Detached {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "mayfly_ctlog_background_queue_entries",
			Help:        "Precertificates that wait for a log whose SCTs are not embedded.",
			ConstLabels: labels,
		}, func() float64 { return float64(len(l.queue)) }))
	}
	return all
}

func (m *metrics) observe(log string, r Result, end attemptEnd) {
	if r == Accepted {
		m.accepted[log]().Inc()
	} else {
		m.attempts.WithLabelValues(log, string(r)).Inc()
	}
	end.step.Observe(m.seconds.WithLabelValues(log), end.took.Seconds())
}

// checked begins to observe a request for the roots or the head of a log. The caller calls the result with the outcome.
func (m *metrics) checked(log, check string) func(error) {
	began := time.Now()
	return func(err error) {
		result := "ok"
		if err != nil {
			result = "failed"
		}
		m.checks.WithLabelValues(log, check, result).Observe(time.Since(began).Seconds())
	}
}

// drop counts a precertificate that was not submitted in the background.
func (m *metrics) drop(log string) { m.attempts.WithLabelValues(log, string(Dropped)).Inc() }

// Collectors returns the metrics of this set: mayfly_ctlog_attempts_total, mayfly_ctlog_attempt_seconds,
// mayfly_ctlog_check_seconds, mayfly_ctlog_clock_offset_seconds, mayfly_ctlog_usable_ratio, mayfly_ctlog_benched_ratio,
// mayfly_ctlog_background_queue_entries.
func (s *Set) Collectors() []prometheus.Collector {
	return append([]prometheus.Collector{
		s.metrics.attempts, s.metrics.seconds, s.metrics.checks, s.metrics.offset,
	}, s.metrics.states...)
}
