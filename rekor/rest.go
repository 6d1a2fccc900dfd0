package rekor

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/fault"
)

// EntriesPath is the path of the write API.
const EntriesPath = "/api/v2/log/entries"

// MaxBody is the largest size of a request over REST, in bytes, as in rekor-tiles: an envelope is sent with its
// payload.
const MaxBody = 4 << 20

// A body above smallBody needs one of the largeBodies places while it is received and verified, so that large envelopes
// cannot use up the memory.
const (
	smallBody   = 64 << 10
	largeBodies = 8
)

// Handler serves [EntriesPath]. writeError writes an error of Options.Call.
func (s *Service) Handler(writeError func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return s.posts(methodCreate, writeError, func(ctx context.Context, about Request, in posted) ([]byte, error) {
		entry, at, err := s.create(ctx, about, func() (*verified, error) { return decode(in.body) })
		if again, ok := errors.AsType[*duplicateError](err); ok {
			in.header.Set(indexHeader, again.text())
		}
		if err != nil {
			return nil, err
		}
		return protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(answer(entry, at))
	})
}

// posted is a request with an entry, and the header of its response.
type posted struct {
	body   []byte
	header http.Header
}

// posts serves a path to which entries are posted. run returns the body of the response.
func (s *Service) posts(method string, writeError func(http.ResponseWriter, *http.Request, error),
	run func(context.Context, Request, posted) ([]byte, error),
) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			writeError(w, r, status.Error(codes.Unimplemented, fault.MethodNotAllowed.Message()))
			return
		}
		var out []byte
		body, release, problem := s.readBody(r) // before Call: a request that runs does not wait for its client
		defer release()
		err := s.o.Call(r.Context(), method, func(ctx context.Context, about Request) (err error) {
			if problem != nil {
				return problem
			}
			out, err = run(ctx, about, posted{body, w.Header()})
			return err
		})
		if err != nil {
			writeError(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(out) // an error means that the client disconnected
	})
}

// decode verifies the entry in the body of a request.
func decode(body []byte) (*verified, error) {
	in := &pb.CreateEntryRequest{}
	if err := protojson.Unmarshal(body, in); err != nil { // an unknown member is an error, as in rekor-tiles
		return nil, fault.New(fault.RequestMalformed, err)
	}
	return verify(in)
}

// readBody reads a body up to [MaxBody]. The caller MUST call release, also after an error.
func (s *Service) readBody(r *http.Request) (body []byte, release func(), err error) {
	release = func() {}
	tooLarge := fault.New(fault.RequestTooLarge, nil, "max", strconv.Itoa(MaxBody))
	if r.ContentLength > MaxBody {
		return nil, release, tooLarge
	}
	body, err = io.ReadAll(io.LimitReader(r.Body, smallBody+1))
	if err == nil && len(body) > smallBody {
		select {
		case s.large <- struct{}{}:
			release = func() { <-s.large }
		default:
			return nil, release, fault.New(fault.RateLimited,
				errors.New("too many large requests are received"), "limit",
				"large bodies")
		}
		var rest []byte
		rest, err = io.ReadAll(io.LimitReader(r.Body, MaxBody+1-int64(len(body))))
		body = append(body, rest...)
	}
	switch limit := (*http.MaxBytesError)(nil); {
	case errors.As(err, &limit), len(body) > MaxBody:
		return nil, release, tooLarge
	case err != nil:
		return nil, release, fault.New(fault.RequestMalformed, err)
	}
	return body, release, nil
}
