package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// healthService implements grpc.health.v1 with the readiness of /readyz. Every service name has the health of the whole
// server, because there is one service.
type healthService struct {
	grpc_health_v1.UnimplementedHealthServer
	server *Server
}

func (h *healthService) now() grpc_health_v1.HealthCheckResponse_ServingStatus {
	if h.server.ready() {
		return grpc_health_v1.HealthCheckResponse_SERVING
	}
	return grpc_health_v1.HealthCheckResponse_NOT_SERVING
}

// Check returns the health once.
func (h *healthService) Check(context.Context,
	*grpc_health_v1.HealthCheckRequest,
) (*grpc_health_v1.HealthCheckResponse, error) {
	return &grpc_health_v1.HealthCheckResponse{Status: h.now()}, nil
}

// List returns the health for every name.
func (h *healthService) List(context.Context,
	*grpc_health_v1.HealthListRequest,
) (*grpc_health_v1.HealthListResponse, error) {
	st := &grpc_health_v1.HealthCheckResponse{Status: h.now()}
	return &grpc_health_v1.HealthListResponse{Statuses: map[string]*grpc_health_v1.HealthCheckResponse{
		"": st, fulciopb.CA_ServiceDesc.ServiceName: st,
	}}, nil
}

// watchEvery is how often Watch checks for a change.
const watchEvery = time.Second

// Watch sends the health at once and at every change, until the caller disconnects or the server stops to listen.
func (h *healthService) Watch(_ *grpc_health_v1.HealthCheckRequest,
	stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse],
) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := grpc_health_v1.HealthCheckResponse_UNKNOWN
	stopping := h.server.stopping
	for {
		if st := h.now(); st != last {
			if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: st}); err != nil {
				return err
			}
			last = st
		}
		select {
		case <-tick.C:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-stopping:
			stopping = nil // the next message says so
		case <-h.server.closing:
			return status.Error(codes.Unavailable, "the server is stopping")
		}
	}
}
