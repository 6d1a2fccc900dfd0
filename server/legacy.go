package server

import (
	"context"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/mayfly-ca/mayfly/fault"
	fulciolegacypb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v1beta"
	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// legacy implements the older API (v1), over REST only. It is another encoding of the same requests: [service.create]
// verifies the identity and the key, and issues.
type legacy struct {
	fulciolegacypb.UnimplementedCAServer
	*Server
}

// CreateSigningCertificate issues one certificate. The body of this API has no token; the key may be PEM or DER.
func (s legacy) CreateSigningCertificate(ctx context.Context,
	in *fulciolegacypb.CreateSigningCertificateRequest,
) (*httpbody.HttpBody, error) {
	return observe(ctx, s.Server, call[*httpbody.HttpBody]{
		method: "v1.CreateSigningCertificate",
		issues: true, limited: true,
		run: func(ctx context.Context, core *Core, r *record) (*httpbody.HttpBody, error) {
			s.metrics.legacy.WithLabelValues("CreateSigningCertificate", family(r.agent)).Inc()
			if len(in.GetCertificateSigningRequest())+len(in.GetPublicKey().GetContent()) == 0 {
				// For example a body of the newer API, which contains the token: Fulcio reports the key before the
				// token here.
				return nil, fault.New(fault.KeyMissing, nil)
			}
			out, err := service{Server: s.Server}.create(ctx, core, upgraded(in), r)
			if err != nil {
				return nil, err
			}
			chain := out.GetSignedCertificateEmbeddedSct().GetChain()
			if chain == nil {
				chain = out.GetSignedCertificateDetachedSct().GetChain()
			}
			return chainBody(strings.Join(chain.GetCertificates(), "\n")), nil
		},
	})
}

// upgraded returns the request in the form of the newer API.
func upgraded(in *fulciolegacypb.CreateSigningCertificateRequest) *fulciopb.CreateSigningCertificateRequest {
	if csr := in.GetCertificateSigningRequest(); len(csr) > 0 {
		return &fulciopb.CreateSigningCertificateRequest{Key: &fulciopb.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: csr}}
	}
	return &fulciopb.CreateSigningCertificateRequest{Key: &fulciopb.CreateSigningCertificateRequest_PublicKeyRequest{
		PublicKeyRequest: &fulciopb.PublicKeyRequest{
			PublicKey:         &fulciopb.PublicKey{Content: string(in.GetPublicKey().GetContent())},
			ProofOfPossession: in.GetSignedEmailAddress(),
		},
	}}
}

// GetRootCertificate returns all chains, one after the other, with a blank line between two certificates.
func (s legacy) GetRootCertificate(ctx context.Context, _ *emptypb.Empty) (*httpbody.HttpBody, error) {
	return observe(ctx, s.Server, call[*httpbody.HttpBody]{
		method: "v1.GetRootCertificate",
		run: func(_ context.Context, core *Core, r *record) (*httpbody.HttpBody, error) {
			s.metrics.legacy.WithLabelValues("GetRootCertificate", family(r.agent)).Inc()
			var all []string
			for _, chain := range core.bundle() {
				for _, c := range chain {
					all = append(all, pemOf(c.Raw)+"\n")
				}
			}
			return chainBody(strings.Join(all, "\n")), nil
		},
	})
}

func chainBody(pem string) *httpbody.HttpBody {
	return &httpbody.HttpBody{ContentType: "application/pem-certificate-chain", Data: []byte(strings.TrimSpace(pem))}
}

// legacyPath is the prefix of the paths of the older API.
const legacyPath = "/api/v1/"

// withLegacy marks every answer of the older API as deprecated (RFC 9745) with a link to its successor (RFC 8288). If
// the older API is switched off, withLegacy refuses its requests.
func (s *Server) withLegacy(next http.Handler) http.Handler {
	successor := map[string]string{"signingCert": "/api/v2/signingCert", "rootCert": "/api/v2/trustBundle"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, old := strings.CutPrefix(r.URL.Path, legacyPath)
		newer, known := successor[name]
		if !old || !known {
			next.ServeHTTP(w, r)
			return
		}
		s.awaitStart(r.Context())
		if core := s.state.Load().core; core != nil && core.NoLegacy {
			s.writeError(w, r, status.Error(codes.NotFound, "The v1 API is switched off on this server; use "+newer))
			return
		}
		w.Header().Set("Deprecation", "@1795478400") // 2026-11-24, when mayfly first served this header
		w.Header().Set("Link", "<"+newer+`>; rel="successor-version"`)
		next.ServeHTTP(w, r)
	})
}

// created sets the status 201 for a certificate of the older API: its clients accept no other status.
func created(ctx context.Context, w http.ResponseWriter, _ proto.Message) error {
	if method, ok := runtime.RPCMethod(ctx); ok && method == fulciolegacypb.CA_CreateSigningCertificate_FullMethodName {
		w.WriteHeader(http.StatusCreated)
	}
	return nil
}
