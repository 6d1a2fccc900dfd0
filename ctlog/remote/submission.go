package ctlog

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/mayfly-ca/mayfly/tbs"
)

// poster posts a precertificate and its chain to add-pre-chain (RFC 6962 §4.1) once, and reads the answer to its end.
type poster interface {
	post(ctx context.Context, p *tbs.Precertificate) (reply, error)
}

// reply is an answer of a log.
type reply struct {
	status     int
	retryAfter string // header
	date       string // header
	body       []byte
}

// submission is the client of one path of a log, and the poster over TLS, HTTP/2 and proxies. It goes to the transport
// without a [http.Client] in between: there are no redirects to follow, no cookies, and the time limit is the
// context's.
type submission struct {
	url       *url.URL
	host      string
	header    http.Header // never changed
	transport http.RoundTripper
}

// names are what requests say of the two sides: the Host that is asked for, and the User-Agent; "" is none.
type names struct{ host, agent string }

func newSubmission(u *url.URL, n names, transport http.RoundTripper) submission {
	h := http.Header{"Content-Type": {"application/json"}}
	if n.agent != "" {
		h.Set("User-Agent", n.agent)
	}
	return submission{url: u, host: n.host, header: h, transport: transport}
}

// Submit sends p to add-pre-chain (RFC 6962 §4.2), once, and returns the SCT in TLS encoding. It does not verify the SCT:
// [Set.Submit] does. Its errors are each a [Failure].
func (r *Remote) Submit(ctx context.Context, p tbs.Precertificate) ([]byte, error) {
	sct, _, err := r.add(ctx, &p)
	return sct, err
}

// add is Submit, with the time of the answer as its Date says, whatever the answer is; zero if there is none.
func (r *Remote) add(ctx context.Context, p *tbs.Precertificate) (sct []byte, date time.Time, err error) {
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > r.timeout { // a [Set] has set one
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	answer, err := r.submit.post(ctx, p)
	date = parseDate(answer.date)
	switch {
	case err != nil:
		return nil, date, callFailure(err)
	case answer.status != http.StatusOK:
		return nil, date, r.statusFailure(answer.status, answer.retryAfter, answer.body)
	}
	sct, err = ParseResponse(answer.body)
	if err != nil {
		return nil, date, &Failure{Result: Garbled, Status: answer.status, Err: err}
	}
	return sct, date, nil
}

// parseDate reads a Date (RFC 9110 §6.6.1); what cannot be read is the zero time.
func parseDate(text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	date, err := http.ParseTime(text)
	if err != nil {
		return time.Time{}
	}
	return date
}

// post implements poster. The header goes out as it is for every request: the transport only reads it.
func (s submission) post(ctx context.Context, p *tbs.Precertificate) (reply, error) {
	body := appendChain(make([]byte, 0, chainLen(p)), p)
	request := (&http.Request{
		Method: http.MethodPost, URL: s.url, Host: s.host, Header: s.header, Proto: "HTTP/1.1",
		ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		// A connection that the log closed while it was idle: the transport may send the request again, on another one.
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	}).WithContext(ctx)
	rsp, err := s.transport.RoundTrip(request) //nolint:bodyclose // readReply closes it
	if err != nil {
		return reply{}, err
	}
	return readReply(rsp, maxSCTBody)
}

// get asks for the URL, and reads at most limit bytes of the answer.
func (s submission) get(ctx context.Context, limit int64) (reply, error) {
	request := (&http.Request{
		Method: http.MethodGet, URL: s.url, Host: s.host, Header: s.header, Proto: "HTTP/1.1",
		ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	rsp, err := s.transport.RoundTrip(request) //nolint:bodyclose // readReply closes it
	if err != nil {
		return reply{}, err
	}
	return readReply(rsp, limit)
}

// readReply reads rsp to its end, so that the connection can be used again, but at most limit bytes, and closes it.
func readReply(rsp *http.Response, limit int64) (answer reply, err error) {
	defer func() { err = errors.Join(err, rsp.Body.Close()) }()
	answer = reply{status: rsp.StatusCode, retryAfter: rsp.Header.Get("Retry-After"), date: rsp.Header.Get("Date")}
	body := bytes.NewBuffer(make([]byte, 0, min(max(rsp.ContentLength, 0), maxSCTBody)+bytes.MinRead))
	_, err = body.ReadFrom(http.MaxBytesReader(nil, rsp.Body, limit))
	answer.body = body.Bytes()
	return answer, err
}

// The JSON of a request: the precertificate and its chain, in base64.
const chainHead, chainBetween, chainTail = `{"chain":["`, `","`, `"]}`

// chainLen is the length of what appendChain appends.
func chainLen(p *tbs.Precertificate) int {
	n := len(chainHead) + base64.StdEncoding.EncodedLen(len(p.DER)) + len(chainTail)
	for _, c := range p.Chain {
		n += len(chainBetween) + base64.StdEncoding.EncodedLen(len(c))
	}
	return n
}

func appendChain(out []byte, p *tbs.Precertificate) []byte {
	out = base64.StdEncoding.AppendEncode(append(out, chainHead...), p.DER)
	for _, c := range p.Chain {
		out = base64.StdEncoding.AppendEncode(append(out, chainBetween...), c)
	}
	return append(out, chainTail...)
}
