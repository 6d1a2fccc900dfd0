// Package signlog writes a log of signatures into a directory, whatever is in its entries.
package signlog

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"

	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/rekor/entry"
	"github.com/mayfly-ca/mayfly/tlog"
)

// Log is a log of signatures.
type Log struct {
	t     testing.TB
	c     tlog.Config
	store *tlog.Store
}

// New makes an empty log, which is closed when the test ends.
func New(t testing.TB) *Log {
	t.Helper()
	l := &Log{t: t, c: tlog.Config{Kind: tlog.Rekor, Dir: t.TempDir(), Origin: "rekor.test"}}
	var err error
	l.store, err = tlog.OpenStore(t.Context(), l.c, tlog.Options{})
	l.must(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		l.must(l.store.Close(ctx))
	})
	return l
}

func (l *Log) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// Add adds the entry of a signature of what with a certificate. The signature is not one.
func (l *Log) Add(what string, certificate []byte) {
	l.t.Helper()
	sum := sha256.Sum256([]byte(what))
	body, err := entry.Canonical(&rekorpb.Entry{
		Kind: entry.HashedRekord, ApiVersion: entry.Version,
		Spec: &rekorpb.Spec{Spec: &rekorpb.Spec_HashedRekordV002{HashedRekordV002: &rekorpb.HashedRekordLogEntryV002{
			Data: &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature: &rekorpb.Signature{Content: []byte("signature"), Verifier: &rekorpb.Verifier{
				Verifier: &rekorpb.Verifier_X509Certificate{
					X509Certificate: &common.X509Certificate{RawBytes: certificate},
				},
				KeyDetails: common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
			}},
		}}},
	})
	l.must(err)
	_, err = l.store.Add(l.t.Context(), body)
	l.must(err)
}

// Open opens the log's files, to read them.
func (l *Log) Open() *monitor.Log {
	l.t.Helper()
	shards, err := l.c.Shards()
	l.must(err)
	log, err := l.c.Reader(shards[0])
	l.must(err)
	return log
}
