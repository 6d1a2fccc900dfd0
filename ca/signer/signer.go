// Package signer is the interface between the CA and the place that holds its key: a file, a key management service, a
// hardware module.
//
// A [Backend] is one kind of place: the settings below ca.NAME in the configuration, with methods that check them and
// open the key. To add one, write a package below this one (ca/signer/file is the example) and add one field to
// backends.Table. Nothing else has to change: loading, "config check", serving, reload, readiness, "trust export" and
// "audit reconcile" reach every backend through that table.
//
// The settings are a struct with yaml tags. A setting that is a path has the tag path:"read", or path:"secret" if only
// this process may read the file; the configuration makes such paths absolute and watches the files for changes. The
// setting that names the chain is called "chain", and the setting that names the key "key", because errors about the
// two are reported there. A backend MUST NOT put any byte of a key or a password into an error.
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

// Backend is the settings of one kind of place that holds a CA key. The errors of its methods are [fault.Setting]
// values, with paths that begin in the backend's own block.
type Backend interface {
	// Check validates the settings without reading a file or opening a connection.
	Check() error
	// Temporary reports whether chain and key are made by Open and lost when the process ends. Such a backend is
	// refused in production, nothing can be exported from it, and a reload keeps the open key.
	Temporary() bool
	// ChainFile is the path of the issuing chain in PEM. Its content is public: tools without access to the key or to
	// secrets read it. It is empty for a temporary backend.
	ChainFile() string
	// Open opens the key. It MUST NOT sign anything: the caller proves the key with [ca.New].
	Open(ctx context.Context, o Options) (*Key, error)
}

// Options for [Open].
type Options struct {
	// Warn is called with a problem of a key that works. Optional.
	Warn func(*fault.Setting)
	// Log is for what happens to an open key later, such as the end of a process that has it. Optional.
	Log *slog.Logger
}

// Attester is a [Backend] that knows where its key comes from. It is optional; without it nobody can say whether the
// key can leave its place.
type Attester interface {
	// Attest says whether the private key can be exported. For a key outside of this process it asks the place that
	// holds the key, which may take a call; it MUST NOT sign. Its errors are as those of Open.
	Attest(ctx context.Context) (Attestation, error)
}

// Attestation says whether a private key can be exported, and who says so.
type Attestation struct {
	// Exportable is [ExportYes], [ExportNo] or [ExportUnknown].
	Exportable string
	// Reason says who says so and why, such as "the key is a file". It is for people.
	Reason string
	// Evidence has the facts that the place returned, such as {"Origin": "AWS_KMS"}. It has no secret. It may be empty.
	Evidence map[string]string
}

// The answers to whether a key can be exported.
const (
	ExportYes     = "yes"
	ExportNo      = "no"
	ExportUnknown = "unknown"
)

// Key is a CA key that is open, with the chain that it issues under.
type Key struct {
	Signer crypto.Signer
	// Chain has the issuing certificate first and the root last. A backend that has a chain file leaves it nil.
	Chain []*x509.Certificate
	// Probe checks whether the key could sign now. It signs rarely, and never bytes that could be taken for a
	// certificate. A backend whose key is in the memory of this process leaves it nil.
	Probe func(context.Context) error
	// Collectors are the metrics of the calls that Open made, if the signer does not have them. Optional.
	Collectors []prometheus.Collector
	// Release frees the resources of Open, such as a session. It is called once, when no request uses the key any
	// longer. Optional.
	Release func() error

	released sync.Once
	probing  sync.Mutex
	probed   time.Time // when the last probe ran
	usable   error     // result of the last probe
}

// Guarded returns the key of a backend that is outside this process. Release may be nil.
func Guarded(s *remote.Signer, release func() error) *Key {
	return &Key{Signer: s, Probe: s.Probe, Release: release}
}

const (
	probeEvery   = 10 * time.Second
	probeTimeout = 4 * time.Second
)

// Remote reports whether the key is outside this process, so that [Key.Usable] can fail.
func (k *Key) Remote() bool { return k.Probe != nil }

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

// Close releases the key. Only the first call has an effect. A nil Key has nothing to release.
func (k *Key) Close() (err error) {
	if k == nil || k.Release == nil {
		return nil
	}
	k.released.Do(func() { err = k.Release() })
	return err
}

// Open opens the key of b and reads the chain. Its errors are [fault.Setting] values, with paths that begin in the
// backend's own block.
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
