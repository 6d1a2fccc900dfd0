// Package signer is the interface between the CA and its key, which is in a file, a key management service or a
// hardware security module.
//
// A [Backend] is one kind of key store: the settings below ca.NAME in the configuration, with methods that check them
// and open the key. To add one, write a package below this one (ca/signer/file is the example) and add one field to
// backends.Table. Nothing else has to change: loading, "config check", serving, reload, readiness, "trust export" and
// "audit reconcile" reach every backend through that table.
//
// The settings are a struct with yaml tags. A setting that is a path has the tag path:"read", or path:"secret" if only
// this process may read the file; the configuration makes such paths absolute and watches the files for changes. The
// settings of the chain and of the key MUST be called "chain" and "key", because errors about the two are reported at
// these settings. A backend MUST NOT put any byte of a key or a password into an error.
package signer

import (
	"context"
	"crypto"
	"crypto/x509"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// Backend is the settings of one kind of key store. The errors of its methods are [fault.Setting] values, with paths
// relative to the backend's block.
type Backend interface {
	// Check validates the settings without reading a file or opening a connection.
	Check() error
	// Temporary reports whether Open makes chain and key, which are lost when the process ends. Such a backend is
	// refused in production, "trust export" cannot use it, and a reload keeps the open key.
	Temporary() bool
	// ChainFile is the path of the issuing chain in PEM. The file is public, and tools without access to the key or to
	// secrets read it. The path is empty for a temporary backend.
	ChainFile() string
	// Open opens the key. It MUST NOT sign anything: [ca.New] tests the key.
	Open(ctx context.Context, o Options) (*Key, error)
}

// Options for [Open].
type Options struct {
	// Warn is called with a problem of a key that works. Optional.
	Warn func(*fault.Setting)
	// Log is for later events of an open key, such as the end of the signer process. Optional.
	Log *slog.Logger
}

// Attester is a [Backend] that can say whether its key can be exported. For a backend that does not implement it, the
// answer is unknown.
type Attester interface {
	// Attest says whether the private key can be exported. For a key outside this process, it may make a call to the
	// key store. It MUST NOT sign. Its errors are like those of Open.
	Attest(ctx context.Context) (Attestation, error)
}

// Attestation says whether a private key can be exported, and why.
type Attestation struct {
	// Exportable is [ExportYes], [ExportNo] or [ExportUnknown].
	Exportable string
	// Reason explains Exportable, such as "the key is a file". It is for people.
	Reason string
	// Evidence has the facts that the key store reported, such as {"Origin": "AWS_KMS"}. It has no secret. It may be
	// empty.
	Evidence map[string]string
}

// The answers to whether a key can be exported.
const (
	ExportYes     = "yes"
	ExportNo      = "no"
	ExportUnknown = "unknown"
)

// Key is an open CA key with its chain.
type Key struct {
	Signer crypto.Signer
	// Chain has the issuing certificate first and the root last. A backend with a chain file leaves Chain nil.
	Chain []*x509.Certificate
	// Probe checks whether the key can sign now. It makes a signature only if there was no recent one, and never over
	// bytes that could be taken for a certificate. A backend with the key in the memory of this process leaves Probe
	// nil.
	Probe func(context.Context) error
	// Collectors are the metrics of the calls of Open, if the signer itself has no metrics. Optional.
	Collectors []prometheus.Collector
	// Release frees the resources of Open, such as a session. It is called once, when no request uses the key any more.
	// Optional.
	Release func() error

	released sync.Once
	probing  sync.Mutex
	probed   time.Time // when the last probe ran
	usable   error     // result of the last probe
}

// Guarded returns the key of a backend whose key is outside this process. Release may be nil.
func Guarded(s *remote.Signer, release func() error) *Key {
	return &Key{Signer: s, Probe: s.Probe, Release: release}
}

const (
	probeEvery   = 10 * time.Second
	probeTimeout = 4 * time.Second
)

// Remote reports whether the key is outside this process, so that [Key.Usable] can fail.
func (k *Key) Remote() bool { return k.Probe != nil }

// Metrics returns the metrics of the calls of the key and of Open.
func (k *Key) Metrics() []prometheus.Collector {
	if s, ok := k.Signer.(*remote.Signer); ok {
		return append(s.Collectors(), k.Collectors...)
	}
	return k.Collectors
}

// Usable returns the result of a probe that is at most ten seconds old. Readiness uses it.
func (k *Key) Usable(ctx context.Context) error {
	if !k.Remote() {
		return nil
	}
	k.probing.Lock()
	defer k.probing.Unlock()
	if !k.probed.IsZero() && time.Since(k.probed) < probeEvery {
		return k.usable
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	k.usable = k.Probe(ctx)
	k.probed = time.Now()
	return k.usable
}

// Close releases the key. Only the first call has an effect. Close of a nil Key does nothing.
func (k *Key) Close() (err error) {
	if k == nil || k.Release == nil {
		return nil
	}
	k.released.Do(func() { err = k.Release() })
	return err
}

// Open opens the key of b and reads the chain. Its errors are [fault.Setting] values, with paths relative to the
// backend's block.
func Open(ctx context.Context, b Backend, o Options) (*Key, error) {
	if o.Warn == nil {
		o.Warn = func(*fault.Setting) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var chain []*x509.Certificate
	if !b.Temporary() {
		var err error
		if chain, err = ReadChain(b.ChainFile()); err != nil {
			return nil, fault.Under(err, "chain")
		}
	}
	key, err := b.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	if chain != nil {
		key.Chain = chain
	}
	return key, nil
}

// ReadChain reads a file with a chain in PEM: issuing certificate first, root last. Its error is a [fault.Setting] with
// an empty path.
func ReadChain(file string) ([]*x509.Certificate, error) {
	data, err := pemfile.Read(file)
	if err != nil {
		return nil, fault.BadFile(file, err)
	}
	chain, err := ca.ParseChain(data)
	if err != nil {
		return nil, fault.BadContent(err,
			"write the certificates in PEM, issuing certificate first, root last").In(file)
	}
	return chain, nil
}
