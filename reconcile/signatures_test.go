package reconcile_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/signlog"
)

// B4, G6: a certificate of the CA in a log of signatures is in a journal, and is the one that was released. Any other
// one is reported with its identity, at once and by the auditor; certificates of others, and a certificate that signs
// several times, are not.
func TestSignatures(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	log := signlog.New(t)
	released := func() *certificate {
		c := h.realCertificate()
		h.intend(0, c)
		h.log(0, c)
		h.release(0, c)
		return c
	}
	for n := range 3 {
		c := released()
		log.Add(fmt.Sprint("first ", n), c.der)
		log.Add(fmt.Sprint("second ", n), c.der)
	}
	log.Add("of another CA", pki.New(pki.Options{}).Leaf(1, false))
	h.publish()
	all := func(in *reconcile.Input) {
		in.Logs = append(in.Logs, reconcile.Log{Log: log.Open(), MergeDelay: delay})
	}
	if r := h.runAll(all); len(r.Findings) != 0 || len(r.Incomplete) != 0 || r.Logs[1].Matched != 6 ||
		r.Logs[1].Read != 7 {
		t.Fatalf("%+v", r)
	}
	auditor := h.auditor()
	scope := h.scope(t)
	scope.Logs = append(scope.Logs, reconcile.Log{Log: log.Open(), MergeDelay: delay})
	auditor.Configure(scope)
	auditor.run()
	if len(auditor.raised) != 0 {
		t.Fatalf("%+v", auditor.raised)
	}

	stolen := h.realCertificate()
	log.Add("with the CA's key outside of the CA", stolen.der)
	failed := h.realCertificate()
	h.intend(0, failed)
	h.log(0, failed)
	h.fail(0, failed)
	log.Add("never released", failed.der)
	h.publish()
	want := []string{string(reconcile.CertificateWithoutOutcome), string(reconcile.UnintendedEntry)}
	r := h.runAll(all)
	if got := kinds(r.Findings); !slices.Equal(got, want) {
		t.Fatalf("%v", got)
	}
	for _, f := range r.Findings {
		if f.Identity != "rogue@example.com" || f.Log != "rekor" || f.Index == nil ||
			f.Signature != reconcile.SignatureVerified {
			t.Errorf("%+v", f)
		}
	}
	auditor.run()
	if got := ids(auditor.raised); !slices.Equal(got, ids(r.Findings)) {
		t.Errorf("the auditor: %v", got)
	}
	auditor.restart()
	auditor.Configure(scope)
	auditor.run()
	if len(auditor.raised) != 2 {
		t.Errorf("after a restart: %v", ids(auditor.raised))
	}
}
