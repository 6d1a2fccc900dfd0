package oidc

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
)

// metrics of verifiers. The labels issuer and rule are keys and names of the configuration, or empty; reason is one of
// the reasons of package fault.
type metrics struct {
	tokens *prometheus.CounterVec
	rules  *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_oidc_tokens_total",
			Help: "Tokens, by entry of the issuer file and reason of refusal; an empty reason means accepted.",
		}, []string{"issuer", "reason"}),
		rules: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_oidc_policy_total",
			Help: "Policy decisions, by the rule that decided: allowed, refused, or would_refuse for a rule in " +
				"shadow mode.",
		}, []string{"issuer", "rule", "verdict"}),
	}
}

// forget deletes the series of an entry that was removed.
func (m *metrics) forget(entry string) {
	for _, vec := range []*prometheus.CounterVec{m.tokens, m.rules} {
		vec.DeletePartialMatch(prometheus.Labels{"issuer": entry})
	}
}

// count counts the result for a token. d has an entry if one was found.
func (m *metrics) count(d *Decision, err error) {
	reason := ""
	if err != nil {
		reason = string(fault.From(err).Reason)
	}
	m.tokens.WithLabelValues(d.Entry, reason).Inc()
	switch {
	case d.Rule != "" && reason == string(fault.PolicyDenied):
		m.rules.WithLabelValues(d.Entry, d.Rule, "refused").Inc()
	case d.Rule != "":
		m.rules.WithLabelValues(d.Entry, d.Rule, "allowed").Inc()
	}
	if d.Shadow != "" {
		m.rules.WithLabelValues(d.Entry, d.Shadow, "would_refuse").Inc()
	}
}
