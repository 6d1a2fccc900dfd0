package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

const requestID = "x-request-id"

// rest implements transport over REST.
type rest struct {
	base string
	o    Options
	http *http.Client
}

func newREST(u *url.URL, o Options) *rest {
	c := o.HTTPClient
	if c == nil {
		c = httpclient.New(httpclient.Options{
			ConnectTimeout: 10 * time.Second, UserAgent: o.UserAgent, Proxy: http.ProxyFromEnvironment, IdleConns: 64,
			Roots: o.Roots,
			Redirect: func(*http.Request, []*http.Request) error {
				return errors.New("the server redirects the request; the token is not sent elsewhere")
			},
		})
	}
	return &rest{base: strings.TrimSuffix(u.String(), "/"), o: o, http: c}
}

func (r *rest) close() { r.http.CloseIdleConnections() }

func (r *rest) create(ctx context.Context, in *fulciopb.CreateSigningCertificateRequest) (*fulciopb.SigningCertificate,
	error,
) {
	out := &fulciopb.SigningCertificate{}
	return out, r.call(ctx, "/api/v2/signingCert", in, out)
}

func (r *rest) bundle(ctx context.Context) (*fulciopb.TrustBundle, error) {
	out := &fulciopb.TrustBundle{}
	return out, r.call(ctx, "/api/v2/trustBundle", nil, out)
}

func (r *rest) configuration(ctx context.Context) (*fulciopb.Configuration, error) {
	out := &fulciopb.Configuration{}
	return out, r.call(ctx, "/api/v2/configuration", nil, out)
}

// call sends in with POST, or sends a GET request if in is nil, and decodes the response into out.
func (r *rest) call(ctx context.Context, path string, in, out proto.Message) error {
	method, body := http.MethodGet, []byte(nil)
	if in != nil {
		var err error
		if body, err = protojson.Marshal(in); err != nil {
			return err
		}
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", r.o.UserAgent)
	res, err := r.http.Do(req)
	if err != nil {
		return fmt.Errorf("reach the CA: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	data, err := httpclient.ReadBody(res, maxAnswer)
	if err != nil {
		return fmt.Errorf("read the CA's response: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return refusal(res, data)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, out); err != nil {
		return errors.New("the response is not that of a CA; check the URL")
	}
	return nil
}

// refusal decodes an error response. A body that is not a google.rpc.Status was sent by an intermediary.
func refusal(res *http.Response, data []byte) error {
	e := &Error{
		Code: codes.Unknown, HTTPStatus: res.StatusCode, Message: res.Status,
		RequestID: res.Header.Get(requestID),
	}
	st := &rpcstatus.Status{}
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, st) == nil && st.GetCode() != 0 {
		e.read(status.FromProto(st))
	}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 && s < 86400 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// read sets code, message and details from st.
func (e *Error) read(st *status.Status) {
	e.Code, e.Message = st.Code(), st.Message()
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.Reason, e.Metadata = fault.Reason(d.GetReason()), d.GetMetadata()
			if e.RequestID == "" {
				e.RequestID = d.GetMetadata()["request_id"]
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
}

// native implements transport over gRPC.
type native struct {
	conn *grpc.ClientConn
	api  fulciopb.CAClient
}

func newGRPC(u *url.URL, o Options) (*native, error) {
	creds, port := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.Roots}), "443"
	if u.Scheme == "http" {
		creds, port = insecure.NewCredentials(), "80"
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), port)
	}
	conn, err := grpc.NewClient("dns:///"+host, grpc.WithTransportCredentials(creds), grpc.WithUserAgent(o.UserAgent),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err
	}
	return &native{conn: conn, api: fulciopb.NewCAClient(conn)}, nil
}

func (n *native) close() { _ = n.conn.Close() }

func (n *native) create(ctx context.Context,
	in *fulciopb.CreateSigningCertificateRequest,
) (*fulciopb.SigningCertificate, error) {
	var h metadata.MD
	out, err := n.api.CreateSigningCertificate(ctx, in, grpc.Header(&h))
	return out, refused(err, h)
}

func (n *native) bundle(ctx context.Context) (*fulciopb.TrustBundle, error) {
	var h metadata.MD
	out, err := n.api.GetTrustBundle(ctx, &fulciopb.GetTrustBundleRequest{}, grpc.Header(&h))
	return out, refused(err, h)
}

func (n *native) configuration(ctx context.Context) (*fulciopb.Configuration, error) {
	var h metadata.MD
	out, err := n.api.GetConfiguration(ctx, &fulciopb.GetConfigurationRequest{}, grpc.Header(&h))
	return out, refused(err, h)
}

func refused(err error, h metadata.MD) error {
	if err == nil {
		return nil
	}
	e := &Error{}
	if id := h.Get(requestID); len(id) > 0 {
		e.RequestID = id[0]
	}
	e.read(status.Convert(err))
	return e
}
