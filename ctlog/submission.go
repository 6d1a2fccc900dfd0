package ctlog

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/tbs"
)

// submission makes add-pre-chain requests (RFC 6962 §4.2). It goes to the transport without a [http.Client] in between: there are
// no redirects to follow, no cookies, and the time limit is the context's.
type submission struct {
	url       *url.URL
	header    http.Header // never changed
	transport http.RoundTripper
}

func newSubmission(prefix, agent string, transport http.RoundTripper) (submission, error) {
	u, err := url.Parse(strings.TrimRight(prefix, "/") + ct.AddPreChainPath)
	if err != nil {
		return submission{}, err
	}
	h := http.Header{"Content-Type": {"application/json"}}
	if agent != "" {
		h.Set("User-Agent", agent)
	}
	return submission{url: u, header: h, transport: transport}, nil
}

// Submit sends p to add-pre-chain (RFC 6962 §4.2), once, and returns the SCT in TLS encoding. It does not verify the SCT:
// [Set.Submit] does. Its errors are each a [Failure].
func (r *Remote) Submit(ctx context.Context, p tbs.Precertificate) ([]byte, error) {
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > r.timeout { // a [Set] has set one
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	rsp, body, err := r.submit.do(ctx, marshalChain(p)) //nolint:bodyclose // it reads and closes it
	switch {
	case err != nil:
		return nil, callFailure(err)
	case rsp.StatusCode != http.StatusOK:
		return nil, r.statusFailure(rsp.StatusCode, rsp.Header.Get("Retry-After"), body)
	}
	sct, err := ParseResponse(body)
	if err != nil {
		return nil, &Failure{Result: Garbled, Status: rsp.StatusCode, Err: err}
	}
	return sct, nil
}

// do makes one request and reads the answer to its end, so that the connection can be used again. The header goes out as it is
// for every request: the transport only reads it.
func (s submission) do(ctx context.Context, body []byte) (_ *http.Response, answer []byte, err error) {
	request := (&http.Request{
		Method: http.MethodPost, URL: s.url, Host: s.url.Host, Header: s.header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		// A connection that the log closed while it was idle: the transport may send the request again, on another one.
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	}).WithContext(ctx)
	rsp, err := s.transport.RoundTrip(request)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, rsp.Body.Close()) }()
	answer, err = io.ReadAll(rsp.Body)
	return rsp, answer, err
}

// marshalChain writes the JSON of the request: the precertificate and its chain, in base64.
func marshalChain(p tbs.Precertificate) []byte {
	const head, between, tail = `{"chain":["`, `","`, `"]}`
	n := len(head) + base64.StdEncoding.EncodedLen(len(p.DER)) + len(tail)
	for _, c := range p.Chain {
		n += len(between) + base64.StdEncoding.EncodedLen(len(c))
	}
	out := append(make([]byte, 0, n), head...)
	out = base64.StdEncoding.AppendEncode(out, p.DER)
	for _, c := range p.Chain {
		out = append(out, between...)
		out = base64.StdEncoding.AppendEncode(out, c)
	}
	return append(out, tail...)
}
