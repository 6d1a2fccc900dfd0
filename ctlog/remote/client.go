package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/certificate-transparency-go/jsonclient"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/span"
)

// client is the JSON client of one call. LogClient.AddPreChain of certificate-transparency-go is not used: it repeats a
// request until the context ends. A jsonclient is not shared between calls, because the backoff of one call would delay
// the others.
type client = *jsonclient.JSONClient

// reply has the parts of a response that an [exchange] keeps. The status is 0 unless the answer was read to its end.
type reply struct {
	status     int
	retryAfter time.Duration
	date       time.Time
	body       []byte
}

// call makes one request with the function request, through jsonclient, within our limits.
func (l *Log) call(ctx context.Context, limit int64, request func(client) error) (reply, error) {
	x := exchange{log: l, limit: limit}
	// Redirects are not followed: only the configured host may answer for the log.
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c, err := jsonclient.New(l.URL, &http.Client{Transport: &x, CheckRedirect: refuse},
		jsonclient.Options{UserAgent: l.agent})
	if err != nil {
		return reply{}, err
	}
	err = request(c)
	switch call, _ := errors.AsType[*url.Error](err); {
	case err == nil && x.reply.status != http.StatusOK:
		err = errors.New(http.StatusText(x.reply.status)) // jsonclient does not return an error for this after a POST
	case x.reply.status == 0 && ctx.Err() != nil: // the transport may have returned another error
		err = ctx.Err()
	case call != nil:
		err = call.Err // without the method and the URL, which follow from the log's name
	}
	return x.reply, err
}

// exchange is the transport of one call. It applies the Host header and the limit on the answer, and keeps the parts of
// the answer that jsonclient discards if the answer is not the expected JSON.
type exchange struct {
	log   *Log
	limit int64
	reply reply
}

// RoundTrip implements [http.RoundTripper].
func (x *exchange) RoundTrip(request *http.Request) (*http.Response, error) {
	r := *request // a RoundTripper must not change the request
	r.Host = x.log.host
	if x.log.propagate {
		r.Header = request.Header.Clone()
		span.Inject(request.Context(), r.Header.Set)
	}
	rsp, err := x.log.transport.RoundTrip(&r)
	if err != nil {
		return nil, err
	}
	x.reply.date = parseDate(rsp.Header.Get("Date"))
	x.reply.retryAfter = parseRetryAfter(rsp.Header.Get("Retry-After"), x.log.now())
	body := bytes.NewBuffer(make([]byte, 0, min(max(rsp.ContentLength, 0), maxSCTBody)+bytes.MinRead))
	_, err = body.ReadFrom(http.MaxBytesReader(nil, rsp.Body, x.limit))
	if err = errors.Join(err, rsp.Body.Close()); err != nil {
		return nil, err
	}
	x.reply.status, x.reply.body = rsp.StatusCode, body.Bytes()
	rsp.Body = io.NopCloser(bytes.NewReader(x.reply.body))
	return rsp, nil
}

// failure classifies the error of a call.
func (l *Log) failure(r reply, err error) *ctlog.Failure {
	switch r.status {
	case 0:
		return callFailure(err)
	case http.StatusOK:
		return &ctlog.Failure{
			Result: ctlog.Garbled, Status: r.status, Err: fmt.Errorf("not the expected JSON: %w", err),
		}
	}
	f := &ctlog.Failure{
		Result: ctlog.Refused, Status: r.status,
		Err: fmt.Errorf("the log answered %d %s %q", r.status, http.StatusText(r.status),
			r.body[:min(len(r.body), maxQuote)]),
	}
	switch {
	case r.status == http.StatusRequestTimeout, r.status == http.StatusTooManyRequests,
		r.status == http.StatusServiceUnavailable:
		f.Result, f.RetryAfter = ctlog.Busy, r.retryAfter
	case r.status >= 500:
		f.Result = ctlog.Broken
	}
	return f
}

// callFailure classifies the error of a request without a complete answer.
func callFailure(err error) *ctlog.Failure {
	f := &ctlog.Failure{Result: ctlog.Unreachable, Err: err}
	tooLarge, isTooLarge := errors.AsType[*http.MaxBytesError](err)
	_, isTLS := errors.AsType[*tls.CertificateVerificationError](err)
	netErr, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		f.Result = ctlog.Abandoned
	case isTooLarge:
		f.Result, f.Err = ctlog.Garbled, fmt.Errorf("the answer is longer than %d bytes", tooLarge.Limit)
	case errors.Is(err, context.DeadlineExceeded), isNet && netErr.Timeout():
		f.Result = ctlog.TimedOut
	case isTLS:
		f.Result = ctlog.Failed // another attempt does not make a certificate valid
	}
	return f
}

// parseDate reads a Date header (RFC 9110 §6.6.1). It returns the zero time if the header is absent or invalid.
func parseDate(text string) time.Time {
	date, err := http.ParseTime(text)
	if err != nil {
		return time.Time{}
	}
	return date
}

// parseRetryAfter reads delay-seconds or a date (RFC 9110 §10.2.3). It returns 0 for an invalid value or a past date.
func parseRetryAfter(text string, now time.Time) time.Duration {
	if text == "" {
		return 0
	}
	const most = 24 * time.Hour // prevents overflow for any value from the log
	digits := strings.Trim(text, "0123456789") == ""
	// ParseInt returns the largest number for digits that exceed 64 bits.
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil || digits {
		return time.Duration(min(max(seconds, 0), int64(most/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(t.Sub(now), 0), most)
	}
	return 0
}
