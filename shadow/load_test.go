package shadow_test

import (
	"bytes"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	fulciopb "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
	"github.com/mayfly-ca/mayfly/shadow"
)

// requestsEnv is how many requests TestLoad sends; "make shadow" sets it.
const requestsEnv = "MAYFLY_SHADOW"

// Of many requests, exactly the planted differences are found, whatever the load, and callers do not wait for it.
func TestLoad(t *testing.T) {
	t.Parallel()
	n, err := strconv.Atoi(os.Getenv(requestsEnv))
	if err != nil {
		n = 400
	}
	w := newWorld(t)
	p := w.run(site(t, planted(w, w.upstream, false)), nil)
	names := slices.Sorted(maps.Keys(plants(w)))
	every := n / len(names)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	defer client.CloseIdleConnections()
	var next, failed atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				body := w.requests[i%int64(len(w.requests))].JSON
				r, err := http.NewRequest(http.MethodPost, p.url+"/api/v2/signingCert", bytes.NewReader(body))
				if err != nil {
					failed.Add(1)
					return
				}
				plant := int(i)%every == every-1 && int(i)/every < len(names)
				if plant {
					r.Header.Set("Plant", names[int(i)/every])
				}
				response, err := client.Do(r)
				if err != nil {
					failed.Add(1)
					continue
				}
				_, err = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if err != nil || (!plant && response.StatusCode != http.StatusOK) {
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	r := p.report()
	if failed.Load() != 0 || r.Equal != int64(n-len(names)) || r.Different+r.Explained != int64(len(names)) {
		t.Errorf("%d failed; %+v", failed.Load(), r)
	}
	t.Logf("%d requests, %d equal, %d different", n, r.Equal, r.Different)
}

// A slow upstream delays nobody but its own callers, and a caller who leaves is not counted as a failure.
func TestSlowUpstream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	release := make(chan struct{})
	p := w.run(site(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Slow") != "" {
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		w.upstream.ServeHTTP(rw, r)
	})), nil)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if got := post(t, p.url, w.requests[i].JSON, "Slow", "yes"); got.status != http.StatusOK {
				t.Error(got.status)
			}
		})
	}
	for _, r := range w.requests {
		if got := post(t, p.url, r.JSON); got.status != http.StatusOK {
			t.Error(got.status)
		}
	}
	impatient := &http.Client{Timeout: 50 * time.Millisecond}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/v2/signingCert",
		bytes.NewReader(w.requests[0].JSON))
	must(t, err)
	r.Header.Set("Slow", "yes")
	if response, err := impatient.Do(r); err == nil {
		_ = response.Body.Close()
		t.Error("an answer came before the upstream's")
	}
	close(release)
	all.Wait()
	// The upstream may have answered the impatient one, too, before it noticed.
	if r := p.report(); r.Equal < int64(len(w.requests)+20) || r.Compared != r.Equal || len(r.NotCompared) != 0 {
		t.Errorf("%+v", r)
	}
}

// The streams of a native server of gRPC, and its refusals of one header, arrive as it sends them.
func TestNativeGRPC(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	native := grpc.NewServer()
	state := health.NewServer()
	grpc_health_v1.RegisterHealthServer(native, state)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = native.Serve(l) }() // it ends with the test
	t.Cleanup(native.Stop)
	up, err := shadow.ParseSite(site(t, w.upstream).REST.String(), "http://"+l.Addr().String())
	must(t, err)
	p := w.run(up, nil)
	for range 20 { // what was sent too early was so now and then only
		_, err = dial(t, p.url).GetTrustBundle(t.Context(), &fulciopb.GetTrustBundleRequest{})
		if want := "unknown service dev.sigstore.fulcio.v2.CA"; status.Code(err) != codes.Unimplemented ||
			status.Convert(err).Message() != want {
			t.Fatal(err)
		}
	}
	conn, err := grpc.NewClient(p.url[len("http://"):], grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	stream, err := grpc_health_v1.NewHealthClient(conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	must(t, err)
	for _, want := range []grpc_health_v1.HealthCheckResponse_ServingStatus{
		grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING,
		grpc_health_v1.HealthCheckResponse_SERVING,
	} {
		state.SetServingStatus("", want)
		got, err := stream.Recv()
		must(t, err)
		if got.GetStatus() != want {
			t.Errorf("%s, want %s", got.GetStatus(), want)
		}
	}
	must(t, conn.Close())
	if r := p.report(); r.Compared != 0 {
		t.Errorf("%+v", r)
	}
}
