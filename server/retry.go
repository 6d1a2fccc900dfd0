package server

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/journal"
)

// retryKey identifies a request that a client may repeat: SHA-256 over the token, byte for byte, and the digest of the
// SubjectPublicKeyInfo.
type retryKey [sha256.Size]byte

func retryKeyOf(token string, spki []byte) (out retryKey) {
	key := sha256.Sum256(spki)
	h := sha256.New()
	h.Write(key[:]) // of fixed length, so that no two pairs are the same bytes
	h.Write([]byte(token))
	h.Sum(out[:0])
	return out
}

// retries has the certificates of the last minutes by the request that they were issued for, so that a client that did
// not receive the answer gets the same certificate again (api.idempotent_retry). Two requests with one key are never
// served at the same time: the second one waits for the result of the first.
//
// Whatever retries returns MUST be checked by [ca.Authority.Reissue]. A forgotten certificate is harmless: a new one is
// issued.
type retries struct {
	now func() time.Time

	mu   sync.Mutex
	by   map[retryKey]*retried
	ages list.List // of *retried: finished ones, oldest first
	size int       // of their certificates, in bytes
}

// retried is a certificate that was issued or is being issued.
type retried struct {
	key    retryKey
	done   chan struct{} // closed when der is set, or when there is no certificate
	der    []byte        // nil: none was issued
	config string        // digest of the configuration that it was issued under
	until  time.Time
	age    *list.Element
}

const (
	maxRetries    = 1 << 15          // certificates that are stored, about 2 KiB each
	maxRetrySize  = maxRetries << 11 // of all, in bytes: claims can make one eight times as large
	retryLifetime = ca.Validity / 2
)

func newRetries(now func() time.Time) *retries {
	return &retries{now: now, by: map[retryKey]*retried{}}
}

// begin returns the certificate that an earlier request with this key got. If there is none, finish is not nil: the
// caller issues a certificate and MUST call finish with it, or with nil if none was issued. While another request with
// this key is served, begin waits for the result of that request, and returns an error if ctx ends. pause is called
// before a wait, and the function that it returns is called afterwards.
func (r *retries) begin(ctx context.Context, key retryKey, pause func() func()) (one *retried,
	finish func(der []byte, config string), err error,
) {
	for {
		r.mu.Lock()
		r.expire()
		one = r.by[key]
		if one == nil {
			own := &retried{key: key, done: make(chan struct{})}
			r.by[key] = own
			r.mu.Unlock()
			return nil, func(der []byte, config string) { r.finish(own, der, config) }, nil
		}
		r.mu.Unlock()
		select {
		case <-one.done:
		default:
			resume := pause()
			select {
			case <-one.done:
			case <-ctx.Done():
			}
			resume()
			if ctx.Err() != nil {
				return nil, nil, context.Cause(ctx)
			}
		}
		if one.der != nil {
			return one, nil, nil
		}
	}
}

func (r *retries) finish(one *retried, der []byte, config string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one.der, one.config = der, config; der == nil {
		delete(r.by, one.key)
	} else {
		r.keep(one, r.now().Add(retryLifetime))
	}
	close(one.done)
}

// keep stores a finished certificate. The caller holds mu.
func (r *retries) keep(one *retried, until time.Time) {
	one.until, one.age = until, r.ages.PushBack(one)
	for r.size += len(one.der); r.ages.Len() > maxRetries || r.size > maxRetrySize; {
		r.drop(r.oldest())
	}
}

// drop removes a finished certificate. The caller holds mu.
func (r *retries) drop(one *retried) {
	r.ages.Remove(one.age)
	delete(r.by, one.key)
	r.size -= len(one.der)
}

// oldest returns the certificate that was stored first, or nil. The caller holds mu.
func (r *retries) oldest() *retried {
	if r.ages.Len() == 0 {
		return nil
	}
	one, _ := r.ages.Front().Value.(*retried)
	return one
}

// expire removes the certificates that are too old to be returned. The caller holds mu.
func (r *retries) expire() {
	for one := r.oldest(); one != nil && !r.now().Before(one.until); one = r.oldest() {
		r.drop(one)
	}
}

// forget removes a certificate that must not be returned any more.
func (r *retries) forget(one *retried) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by[one.key] == one {
		r.drop(one)
	}
}

// Remember adds a certificate that an earlier process issued, from its outcome in the journal. Records without
// [journal.Record.Retry] are ignored. It is called before the server has a core.
func (s *Server) Remember(r *journal.Record) error {
	if r.Retry == "" || r.DER == "" {
		return nil
	}
	var key retryKey
	if n, err := hex.Decode(key[:], []byte(r.Retry)); err != nil || n != len(key) {
		return fmt.Errorf("record %d: retry is not 64 hexadecimal digits", r.Seq)
	}
	der, err := base64.StdEncoding.DecodeString(r.DER)
	if err != nil {
		return fmt.Errorf("record %d: der is not base64", r.Seq)
	}
	one := &retried{key: key, done: make(chan struct{}), der: der, config: r.Config}
	close(one.done)
	until := r.Time.Add(retryLifetime)
	s.retries.mu.Lock()
	defer s.retries.mu.Unlock()
	if old := s.retries.by[key]; old != nil {
		s.retries.drop(old)
	}
	if s.retries.now().Before(until) {
		s.retries.by[key] = one
		s.retries.keep(one, until)
	}
	return nil
}

// RetryRecords is the number of records at the end of a journal that may be of use to [Server.Remember]: an intent and
// an outcome for each certificate, and as many denials.
const RetryRecords = 3 * maxRetries

// issuance is a request whose token and proof of possession are verified.
type issuance struct {
	core      *Core
	authority *ca.Authority
	preview   *ca.Previewer // not nil: in place of authority
	request   ca.Request
	token     string
	record    *record
}

// issue issues a certificate. If retries are idempotent, a request that is repeated with the same token and key gets
// the certificate that was issued for it, unless Issue would now make another one.
func (s service) issue(ctx context.Context, in issuance) (*ca.Certificate, error) {
	if in.preview != nil {
		return in.preview.Build(ctx, in.request)
	}
	if !in.core.IdempotentRetry {
		return s.issueNew(ctx, in)
	}
	key := retryKeyOf(in.token, in.request.SPKI)
	for {
		before, finish, err := s.retries.begin(ctx, key, s.admission.Pause)
		if err != nil {
			return nil, err
		}
		if before == nil {
			var der []byte
			defer func() { finish(der, in.core.Digest) }()
			in.record.entry.retry = hex.EncodeToString(key[:])
			cert, err := s.issueNew(ctx, in)
			if err == nil {
				der = cert.DER
			}
			return cert, err
		}
		if before.config == in.core.Digest {
			if cert, err := in.authority.Reissue(in.request, before.der); err == nil {
				s.metrics.repeated.Inc()
				in.record.repeated(cert)
				return cert, nil
			}
		}
		s.retries.forget(before)
	}
}

func (s service) issueNew(ctx context.Context, in issuance) (*ca.Certificate, error) {
	in.record.journalled(&in.request)
	return in.authority.Issue(ctx, in.request)
}
