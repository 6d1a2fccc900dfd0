package shadow_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkOwn measures what the own side computes for one request.
func BenchmarkOwn(b *testing.B) {
	w := newWorld(b)
	for i := 0; b.Loop(); i++ {
		r := httptest.NewRequest(http.MethodPost, "/api/v2/signingCert",
			bytes.NewReader(w.requests[i%len(w.requests)].JSON))
		r.Header.Set("Content-Type", "application/json")
		got := httptest.NewRecorder()
		w.own.Handler.ServeHTTP(got, r)
		if got.Code != http.StatusOK {
			b.Fatal(got.Body)
		}
	}
}
