package reconcile_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"

	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/reconcile"
	"github.com/mayfly-ca/mayfly/rekor/entry"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/tlog"
)

// signed returns an entry of a log of signatures with a certificate.
func signed(t testing.TB, what string, certificate []byte) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(what))
	body, err := entry.Canonical(&rekorpb.Entry{
		Kind: entry.HashedRekord, ApiVersion: entry.Version,
		Spec: &rekorpb.Spec{Spec: &rekorpb.Spec_HashedRekordV002{HashedRekordV002: &rekorpb.HashedRekordLogEntryV002{
			Data: &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature: &rekorpb.Signature{Content: []byte("signature"), Verifier: &rekorpb.Verifier{
				Verifier:   &rekorpb.Verifier_X509Certificate{X509Certificate: &common.X509Certificate{RawBytes: certificate}},
				KeyDetails: common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
			}},
		}}},
	})
	must(t, err)
	return body
}

// signatureLog is a log of signatures on disk.
type signatureLog struct {
	t     testing.TB
	c     tlog.Config
	store *tlog.Store
}

func newSignatureLog(t testing.TB) *signatureLog {
	t.Helper()
	l := &signatureLog{t: t, c: tlog.Config{Kind: tlog.Rekor, Dir: t.TempDir(), Origin: "rekor.test"}}
	var err error
	l.store, err = tlog.OpenStore(t.Context(), l.c, tlog.Options{})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		must(t, l.store.Close(ctx))
	})
	return l
}

func (l *signatureLog) add(what string, certificate []byte) {
	l.t.Helper()
	_, err := l.store.Add(l.t.Context(), signed(l.t, what, certificate))
	must(l.t, err)
}

func (l *signatureLog) open() reconcile.Log {
	l.t.Helper()
	shards, err := l.c.Shards()
	must(l.t, err)
	description, err := l.c.Describe(shards[0])
	must(l.t, err)
	log, err := monitor.Open(monitor.Options{Log: description, Format: monitor.Opaque, Dir: l.c.ShardDir(shards[0])})
	must(l.t, err)
	return reconcile.Log{Log: log, MergeDelay: delay}
}

// B4, G6: a certificate of the CA in a log of signatures is in a journal, and is the one that was released. Any other
// one is reported with its identity, at once and by the auditor; certificates of others, and a certificate that signs
// several times, are not.
func TestSignatures(t *testing.T) {
	t.Parallel()
	h := newHarness(t, 1, 1)
	log := newSignatureLog(t)
	released := func() *certificate {
		c := h.realCertificate()
		h.intend(0, c)
		h.log(0, c)
		h.release(0, c)
		return c
	}
	for n := range 3 {
		c := released()
		log.add(fmt.Sprint("first ", n), c.der)
		log.add(fmt.Sprint("second ", n), c.der)
	}
	log.add("of another CA", pki.New(pki.Options{}).Leaf(1, false))
	h.publish()
	all := func(in *reconcile.Input) { in.Logs = append(in.Logs, log.open()) }
	if r := h.runAll(all); len(r.Findings) != 0 || len(r.Incomplete) != 0 || r.Logs[1].Matched != 6 || r.Logs[1].Read != 7 {
		t.Fatalf("%+v", r)
	}
	auditor := h.auditor()
	scope := h.scope(t)
	scope.Logs = append(scope.Logs, log.open())
	auditor.Configure(scope)
	auditor.run()
	if len(auditor.raised) != 0 {
		t.Fatalf("%+v", auditor.raised)
	}

	stolen := h.realCertificate()
	log.add("with the CA's key outside of the CA", stolen.der)
	failed := h.realCertificate()
	h.intend(0, failed)
	h.log(0, failed)
	h.fail(0, failed)
	log.add("never released", failed.der)
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
