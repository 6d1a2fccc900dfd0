package lab

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
)

// Webhook is a server that records the bodies posted to it.
type Webhook struct {
	URL  string
	mu   sync.Mutex
	said []string
}

// Webhook starts one that ends with the test.
func (l *Lab) Webhook() *Webhook {
	h := &Webhook{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the sender retries
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.said = append(h.said, string(body))
	}))
	l.Cleanup(server.Close)
	h.URL = server.URL
	return h
}

// Said returns the bodies that were posted.
func (h *Webhook) Said() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.said)
}
