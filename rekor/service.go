package rekor

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/span"
	"github.com/mayfly-ca/mayfly/journal"
)

// Log is an append-only log of bytes (RFC 6962 §2.1).
type Log interface {
	// Add appends leaf and returns when it is in a published checkpoint. If ctx ends first, leaf may still be logged.
	Add(ctx context.Context, leaf []byte) (Inclusion, error)
}

// Inclusion is where an entry is in a log, with the proof of it (RFC 6962 §2.1.1).
type Inclusion struct {
	LogID       []byte // of the log, or of the shard, that has the entry: 32 bytes
	Index, Size uint64 // of the entry, from 0; of the tree
	Root        []byte // hash of the tree
	Hashes      [][]byte
	Checkpoint  []byte // the signed note with Size and Root (c2sp.org/tlog-checkpoint)
}

// Request is what the server knows about a request that runs.
type Request struct {
	ID, Transport, Source string
	// Add adds an attribute to the log line of the request.
	Add func(key, value string)
}

// Options for [New].
type Options struct {
	Log Log
	// Call runs a request under the limits of the server; see server.Server.Call. Nil: run is called at once.
	Call func(ctx context.Context, method string, run func(context.Context, Request) error) error
	// Admit returns an error if the certificate is not one of this certificate authority; nil: every key and every
	// certificate is admitted.
	Admit func(*x509.Certificate) error
	// Pause is called when a request begins to wait for the log, and resume when it goes on. Optional.
	Pause func() (resume func())
	// Journal returns where decisions are recorded, or nil.
	Journal func() *journal.Journal
	// Config returns the digest of the configuration in force, for the journal. Optional.
	Config func() string
	// Waiting is how many entries may wait for the log at once. 0: [DefaultWaiting].
	Waiting int
}

// DefaultWaiting is how many entries may wait for the log at once. A waiting entry has up to 64 KiB.
const DefaultWaiting = 1024

// Service implements the API. It is safe for concurrent use.
type Service struct {
	pb.UnimplementedRekorServer
	o       Options
	waiting chan struct{} // one value for each entry that waits for the log
	large   chan struct{} // one value for each large body that is received
	recent  *recent
	metrics *metrics
}

// New returns a service that writes to o.Log.
func New(o Options) *Service {
	if o.Call == nil {
		o.Call = func(ctx context.Context, _ string, run func(context.Context, Request) error) error {
			return run(ctx, Request{Add: func(string, string) {}})
		}
	}
	if o.Pause == nil {
		o.Pause = func() func() { return func() {} }
	}
	if o.Journal == nil {
		o.Journal = func() *journal.Journal { return nil }
	}
	if o.Config == nil {
		o.Config = func() string { return "" }
	}
	if o.Waiting <= 0 {
		o.Waiting = DefaultWaiting
	}
	s := &Service{
		o: o, waiting: make(chan struct{}, o.Waiting), large: make(chan struct{}, largeBodies), recent: newRecent(),
	}
	s.metrics = newMetrics(s)
	return s
}

// Register registers the API over gRPC. Tiles and checkpoints are read over HTTP only, as from rekor-tiles.
func (s *Service) Register(to grpc.ServiceRegistrar) { pb.RegisterRekorServer(to, s) }

// Collectors returns the metrics of the service.
func (s *Service) Collectors() []prometheus.Collector { return s.metrics.collectors() }

// The names of methods and headers.
const (
	methodCreate = "CreateEntry"
	indexHeader  = "x-log-index" // of the entry that a duplicate repeats
)

// CreateEntry implements the API over gRPC.
func (s *Service) CreateEntry(ctx context.Context, in *pb.CreateEntryRequest) (*rekorpb.TransparencyLogEntry, error) {
	var out *rekorpb.TransparencyLogEntry
	err := s.o.Call(ctx, methodCreate, func(ctx context.Context, r Request) error {
		entry, at, err := s.create(ctx, r, func() (*verified, error) { return verify(in) })
		if again, ok := errors.AsType[*duplicateError](err); ok {
			_ = grpc.SetHeader(ctx, metadata.Pairs(indexHeader, again.text())) // an error: the call has ended
		}
		if err == nil {
			out = answer(entry, at)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// create is the path of an entry: verify it, admit it, log it, record it. read returns the entry that it has verified.
func (s *Service) create(ctx context.Context, r Request, read func() (*verified, error)) (*verified,
	*Inclusion, error,
) {
	w := write{service: s, request: r, began: time.Now()}
	err := s.check(ctx, &w, read)
	var at *Inclusion
	if err == nil {
		at, err = s.addOnce(ctx, w.entry.leaf)
	}
	if err = w.ended(ctx, at, err); err != nil {
		return nil, nil, err
	}
	return w.entry, at, nil
}

// check reads, verifies and admits an entry.
func (s *Service) check(ctx context.Context, w *write, read func() (*verified, error)) (err error) {
	_, step := span.Start(ctx, "verify entry")
	defer step.Done(&err)
	if w.entry, err = read(); err != nil {
		w.entry = nil
		return err
	}
	w.describe()
	if s.o.Admit == nil {
		return nil
	}
	if w.entry.by.certificate == nil {
		return fault.New(fault.EntryNotAdmitted, errors.New("the signature has a bare key"))
	}
	if err := s.o.Admit(w.entry.by.certificate); err != nil {
		return fault.New(fault.EntryNotAdmitted, err)
	}
	return nil
}

// addOnce logs a leaf that is not known to be in the log.
func (s *Service) addOnce(ctx context.Context, leaf []byte) (at *Inclusion, err error) {
	resume := s.o.Pause() // another request may be logging the same entry
	done, err := s.recent.begin(ctx, leaf)
	resume()
	if err != nil {
		return nil, err
	}
	defer func() { done(at) }()
	return s.add(ctx, leaf)
}

// add logs a leaf, and verifies the proof.
func (s *Service) add(ctx context.Context, leaf []byte) (_ *Inclusion, err error) {
	ctx, step := span.Start(ctx, "log entry")
	defer step.Done(&err)
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return nil, unavailable(fmt.Errorf("%d entries wait for the log", cap(s.waiting)))
	}
	resume := s.o.Pause()
	began := time.Now()
	at, err := s.o.Log.Add(ctx, leaf)
	s.metrics.seconds.Observe(time.Since(began).Seconds())
	resume()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, unavailable(err)
	}
	if at.Index > math.MaxInt64 || at.Size > math.MaxInt64 {
		return nil, unavailable(fmt.Errorf("index %d of %d is too large", at.Index, at.Size))
	}
	err = proof.VerifyInclusion(rfc6962.DefaultHasher, at.Index, at.Size,
		rfc6962.DefaultHasher.HashLeaf(leaf), at.Hashes,
		at.Root)
	if err != nil {
		s.metrics.badProofs.Inc()
		return nil, unavailable(fmt.Errorf("the proof of entry %d does not verify: %w", at.Index, err))
	}
	return &at, nil
}

func unavailable(cause error) error {
	return fault.New(fault.EntryNotLogged, cause)
}

// answer returns the answer for a logged entry.
func answer(e *verified, at *Inclusion) *rekorpb.TransparencyLogEntry {
	return &rekorpb.TransparencyLogEntry{
		LogIndex:    int64(at.Index), //nolint:gosec // add has checked it
		LogId:       &v1.LogId{KeyId: at.LogID},
		KindVersion: &rekorpb.KindVersion{Kind: e.kind, Version: e.version},
		InclusionProof: &rekorpb.InclusionProof{
			LogIndex: int64(at.Index), RootHash: at.Root, TreeSize: int64(at.Size), Hashes: at.Hashes, //nolint:gosec // likewise
			Checkpoint: &rekorpb.Checkpoint{Envelope: string(at.Checkpoint)},
		},
		CanonicalizedBody: e.leaf,
	}
}

// write is one request to log an entry.
type write struct {
	service *Service
	request Request
	began   time.Time
	entry   *verified // nil: the request has no valid entry
}

// describe adds what the entry is to the log line of the request.
func (w write) describe() {
	w.request.Add("entry_kind", w.entry.kind)
	w.request.Add("digest", w.entry.digest.String())
	w.request.Add("key_algorithm", w.entry.by.name())
	if c := w.entry.by.certificate; c != nil {
		w.request.Add("serial", fmt.Sprintf("%x", c.SerialNumber))
	}
}

// outcomeTime bounds the wait for a record of the journal. The wait continues after the end of the request's context,
// because the entry is in the log.
const outcomeTime = 10 * time.Second

// ended counts and records how the request ended, and returns the error for the client: err, or JOURNAL_UNAVAILABLE if
// the record of a logged entry is not durable.
func (w write) ended(ctx context.Context, at *Inclusion, err error) error {
	kind := "none"
	if w.entry != nil {
		kind = w.entry.kind
	}
	rec := w.record(at, err)
	w.service.metrics.entries.WithLabelValues(kind, string(rec.Result)).Inc()
	if at != nil {
		w.request.Add("log_index", strconv.FormatUint(at.Index, 10))
	}
	j := w.service.o.Journal()
	if j == nil || rec.Reason == string(fault.RequestMalformed) || rec.Reason == string(fault.RequestTooLarge) {
		return err // a request that cannot be decoded is no decision
	}
	if at == nil {
		j.Note(rec)
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeTime)
	defer cancel()
	resume := w.service.o.Pause()
	defer resume()
	if err := j.Append(ctx, rec); err != nil {
		return fault.New(fault.JournalUnavailable, err)
	}
	return nil
}

// record returns the record of the request. It has nothing of an entry whose signatures were not verified.
func (w write) record(at *Inclusion, err error) *journal.Record {
	r := &journal.Record{
		Kind: journal.Rekor, RequestID: w.request.ID, Transport: w.request.Transport, Source: w.request.Source,
		Config: w.service.o.Config(), Result: journal.Logged, Micros: time.Since(w.began).Microseconds(),
	}
	if err != nil {
		f := fault.From(err)
		r.Reason, r.Result = string(f.Reason), journal.Denied
		if f.Kind != fault.Invalid && f.Kind != fault.Denied && f.Kind != fault.Exists {
			r.Result = journal.Failed
		}
	}
	if w.entry == nil {
		return r
	}
	first := w.entry.by
	r.Key, r.KeyType = sum(first.spki), first.name()
	if c := first.certificate; c != nil {
		r.Certificate = sum(c.Raw)
		if n := c.SerialNumber; n.Sign() > 0 && n.BitLen() <= 160 {
			r.Serial = fmt.Sprintf("%040x", n)
		}
		if id, err := identity.Parse(c); err == nil { // every certificate may be logged, unless admit is own
			r.Issuer, r.SAN = id.Issuer, id.SAN.Value
			r.Repository = id.Extensions.Get(identity.SourceRepositoryURI)
		}
	}
	r.LogEntry = journal.LogEntry{
		Kind: w.entry.kind, Leaf: hex.EncodeToString(rfc6962.DefaultHasher.HashLeaf(w.entry.leaf)),
		Digest: w.entry.digest.String(),
	}
	if at != nil {
		r.LogEntry.Log, r.LogEntry.Index = hex.EncodeToString(at.LogID), at.Index
	}
	return r
}
