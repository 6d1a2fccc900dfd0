package server

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// The service of a request is that of its path; every other path is one of the CA, whatever its form.
func TestServiceOf(t *testing.T) {
	t.Parallel()
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	s := newServices([]Service{
		{Name: "tuf", Paths: []string{"/tuf/"}, Handler: answer},
		{Name: "tsa", Paths: []string{"/api/v1/timestamp"}, Handler: answer},
	})
	for path, want := range map[string]struct {
		service string
		code    int
	}{
		"/tuf/root.json":         {"tuf", http.StatusTeapot},
		"/api/v1/timestamp":      {"tsa", http.StatusTeapot},
		"/tuf":                   {"tuf", http.StatusTemporaryRedirect},
		"//tuf/root.json":        {"tuf", http.StatusTemporaryRedirect},
		"/tufroot.json":          {},
		"/api/v1/timestamp/":     {},
		"/api/v2/signingCert":    {},
		"/api//v2/signingCert":   {},
		"/api/v2/../signingCert": {},
		"/":                      {},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		r.URL.Path = path
		one, handler := s.of(r)
		if want.service == "" {
			if one != nil || handler != nil {
				t.Errorf("%s: %v", path, one)
			}
			continue
		}
		if one == nil || one.Name != want.service {
			t.Errorf("%s: %v, want %s", path, one, want.service)
			continue
		}
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, r); w.Code != want.code {
			t.Errorf("%s: status %d, want %d", path, w.Code, want.code)
		}
	}
}
