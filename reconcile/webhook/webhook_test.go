package webhook_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-ca/mayfly/reconcile/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// finding stands for reconcile.Finding.
type finding struct{ ID, Kind, Text string }

// A failed request is repeated, a redirect is an error, and Send does not block after the webhook has stopped.
func TestDelivery(t *testing.T) {
	t.Parallel()
	received := make(chan finding, 8)
	answers := []int{http.StatusInternalServerError, http.StatusFound, http.StatusOK, http.StatusNoContent}
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Instance string
			Finding  finding
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Instance != "ca1" ||
			r.Header.Get("Authorization") != "Bearer token" || r.Method != http.MethodPost {
			t.Errorf("%v %+v %s", err, in, r.Header)
		}
		code := answers[min(calls, len(answers)-1)]
		calls++
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(code)
		if code/100 == 2 {
			received <- in.Finding
		}
	}))
	t.Cleanup(server.Close)
	w := webhook.New(webhook.Options{URL: server.URL, Bearer: "token", Instance: "ca1", Pause: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	for _, id := range []string{"a", "b"} {
		w.Send(webhook.Message{ID: id, Finding: finding{ID: id}})
		if got := <-received; got.ID != id {
			t.Errorf("got %q, want %q", got.ID, id)
		}
	}
	cancel()
	<-ended
	if calls != 4 {
		t.Errorf("%d calls", calls)
	}
	for range 1000 { // Run has ended
		w.Send(webhook.Message{ID: "c", Finding: finding{ID: "c"}})
	}
}

// A message that is not droppable is always delivered, and before the others, however many others are queued and
// whatever the server always refuses.
func TestOrder(t *testing.T) {
	t.Parallel()
	const most = 256
	var mu sync.Mutex
	var got []finding
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Finding finding }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		if in.Finding.Text == "refused" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, in.Finding)
	}))
	t.Cleanup(server.Close)
	w := webhook.New(webhook.Options{URL: server.URL, Pause: time.Microsecond})
	send := func(kind, text string) {
		w.Send(webhook.Message{Finding: finding{Kind: kind, Text: text}, Droppable: kind == "droppable"})
	}
	send("droppable", "refused")
	send("kept", "refused")
	for range 2 * most {
		send("droppable", "")
	}
	for range 2 * most {
		send("kept", "")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	deadline := time.After(20 * time.Second) // an idle machine needs less than one
	for done := false; !done; {
		select {
		case <-deadline:
			cancel()
			running.Wait()
			t.Fatal("some messages were not delivered")
		case <-time.After(time.Millisecond):
		}
		mu.Lock()
		done = len(got) >= 3*most-1
		mu.Unlock()
	}
	cancel()
	running.Wait()
	mu.Lock()
	defer mu.Unlock()
	counts, before := map[string]int{}, 0
	for _, f := range got {
		if counts[f.Kind]++; f.Kind == "droppable" && counts["kept"] < 2*most {
			before++
		}
	}
	if counts["kept"] != 2*most || counts["droppable"] != most-1 || before > most {
		t.Errorf("%v, %d droppable ones before the last of the others", counts, before)
	}
}
