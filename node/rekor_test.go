package node

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/config"
)

// elsewhereKey is a key in another process.
type elsewhereKey struct{ *ecdsa.PrivateKey }

func (k elsewhereKey) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.PrivateKey.Sign(rand.Reader, digest, opts)
}

// collected collects what a function returns.
type collected func() []prometheus.Collector

func (collected) Describe(chan<- *prometheus.Desc) {}

func (f collected) Collect(out chan<- prometheus.Metric) {
	for _, c := range f() {
		c.Collect(out)
	}
}

// Each key of the log of signatures has its own metrics. Two metrics with the same name and labels would stop the
// whole page of metrics.
func TestKeysHaveMetrics(t *testing.T) {
	t.Parallel()
	n := newNode(Options{})
	n.started = &config.Config{Rekor: &config.Rekor{}}
	n.rekor = newRekor(n)
	opened := func() *signer.Key {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		guard := remote.New(remote.Options{})
		return signer.Guarded(guard.Signer(elsewhereKey{private}), nil)
	}
	decrypted := &signer.Key{Collectors: remote.New(remote.Options{}).Collectors()} // as of a keyset
	n.rekor.keys = []*signer.Key{opened(), opened(), decrypted}
	ofCA := opened()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collected(func() []prometheus.Collector {
		return append(n.logCollectors(&snapshot{}), ofCA.Metrics()...)
	}))
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	chains := map[string]int{}
	for _, family := range all {
		if family.GetName() != "mayfly_signer_running_calls" {
			continue
		}
		for _, m := range family.GetMetric() {
			chain := ""
			for _, l := range m.GetLabel() {
				chain = l.GetValue()
			}
			chains[chain]++
		}
	}
	if len(chains) != 4 || chains[""] != 1 || chains["rekor"] != 1 || chains["rekor-1"] != 1 || chains["rekor-2"] != 1 {
		t.Errorf("metrics of the keys %v", chains)
	}
}
