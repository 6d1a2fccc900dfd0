package tsa

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/digitorus/timestamp"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/bounded"
)

// The paths that [Authority.Handler] serves.
const (
	Path      = "/api/v1/timestamp"
	ChainPath = "/api/v1/timestamp/certchain"
)

const (
	queryType = "application/timestamp-query"
	jsonType  = "application/json"
	replyType = "application/timestamp-reply"
	maxQuery  = 4096 // bytes; a query with a SHA-512 digest and a nonce has about 150
	// retryAfter is how long a client should wait after it was refused for a reason that may pass.
	retryAfter = 5 * time.Second
)

// Calls are the limits and records of the server around each request for a timestamp. With the zero value there are
// none.
type Calls struct {
	// Call runs a request. The function add puts an attribute into the line in the log.
	Call func(ctx context.Context, run func(ctx context.Context, add func(key, value string)) error) error
	// WriteError answers a request that Call did not run.
	WriteError func(w http.ResponseWriter, r *http.Request, err error)
}

// Handler returns a handler for timestamp queries over HTTP (RFC 3161 §3.4), in DER or in the JSON form of Sigstore's
// timestamp authority, and for the chain in PEM. A refusal has the form of the query: a TimeStampResp in DER with
// status rejection, or a JSON object with code and message. The status is 400 if the query is wrong, and 503 if the
// same query may succeed later.
func (a *Authority) Handler(c Calls) http.Handler {
	if c.Call == nil {
		c.Call = func(ctx context.Context, run func(context.Context, func(key, value string)) error) error {
			return run(ctx, func(string, string) {})
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, func(w http.ResponseWriter, r *http.Request) { a.answer(w, r, c) })
	mux.HandleFunc("GET "+ChainPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		for _, c := range a.chain {
			// an error means that the client disconnected
			_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		}
	})
	return mux
}

func (a *Authority) answer(w http.ResponseWriter, r *http.Request, c Calls) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	body, problem := bounded.ReadAll(r.Body, maxQuery) // before the call, which takes the place of others
	began := time.Now()
	var reply []byte
	var why *refusal
	err := c.Call(r.Context(), func(ctx context.Context, add func(key, value string)) (err error) {
		if problem != nil {
			err = &refusal{
				timestamp.BadDataFormat, http.StatusRequestEntityTooLarge, "a timestamp query has at most 4096 bytes",
				resultRefused, fault.New(fault.RequestTooLarge, problem, "max", strconv.Itoa(maxQuery)),
			}
		} else {
			reply, err = a.reply(ctx, received{kind, body, add})
		}
		errors.As(err, &why) // Call returns another error
		return err
	})
	switch {
	case err == nil:
		a.metrics.count(resultSuccess, time.Since(began))
		w.Header().Set("Content-Type", replyType)
		w.WriteHeader(http.StatusCreated) // as Sigstore's public authority does; older clients accept no other status
		_, _ = w.Write(reply)             // an error means that the client disconnected
	case why != nil:
		a.metrics.count(why.result, time.Since(began))
		refuse(w, kind, why)
	default:
		a.metrics.count(resultLimited, time.Since(began))
		c.WriteError(w, r, err)
	}
}

// received is the body of a request, with its media type.
type received struct {
	kind string
	body []byte
	add  func(key, value string) // adds an attribute to the line in the log
}

// reply returns the response to a query. Its errors are [*refusal] values.
func (a *Authority) reply(ctx context.Context, in received) ([]byte, error) {
	parse := a.parseDER
	switch in.kind {
	case queryType:
	case jsonType:
		parse = a.parseJSON
	default:
		why := badQuery(timestamp.BadDataFormat,
			"the body must be a timestamp query (RFC 3161) with Content-Type "+queryType+", or "+jsonType)
		why.code = http.StatusUnsupportedMediaType
		return nil, why
	}
	q, err := parse(in.body)
	if err != nil {
		return nil, err
	}
	in.add("hash", q.HashAlgorithm.String())
	return a.stamp(ctx, q)
}

// refuse sends a refusal in the form of the query.
func refuse(w http.ResponseWriter, kind string, why *refusal) {
	if why.code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	if kind == queryType {
		w.Header().Set("Content-Type", replyType)
		w.WriteHeader(why.code)
		_, _ = w.Write(why.response()) // an error means that the client disconnected
		return
	}
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(why.code)
	// An error means that the client disconnected.
	_ = json.NewEncoder(w).Encode(map[string]any{"code": why.code, "message": why.text})
}
