package reconcile_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/reconcile"
)

// G1: wrong settings are refused with their place.
func TestConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		err  error
		want string // "": it passes
	}{
		{"nothing", (*reconcile.Config)(nil).Check(), ""},
		{"defaults", (&reconcile.Config{}).Check(), ""},
		{"off", (&reconcile.Config{Every: "off"}).Check(), ""},
		{"all", (&reconcile.Config{Every: "30s", Journals: []string{"/a/*.jsonl"}, Lag: time.Hour}).Check(), ""},
		{"no duration", (&reconcile.Config{Every: "often"}).Check(), "every"},
		{"too often", (&reconcile.Config{Every: "10ms"}).Check(), "every"},
		{"no pattern", (&reconcile.Config{Journals: []string{"a", "[x"}}).Check(), "journals.1"},
		{"no lag", (&reconcile.Config{Lag: -1}).Check(), "lag"},
		{"nobody is told", (*reconcile.AlarmConfig)(nil).Check(), ""},
		{"https", hook("https://a.example.com/x").Check(), ""},
		{"loopback", hook("http://127.0.0.1:1/x").Check(), ""},
		{"no url", hook("").Check(), "webhook.url"},
		{"plain http", hook("http://a.example.com").Check(), "webhook.url"},
		{"another scheme", hook("ftp://a.example.com").Check(), "webhook.url"},
		{"a password", hook("https://a:b@a.example.com").Check(), "webhook.url"},
		{"two secrets", (&reconcile.AlarmConfig{Webhook: &reconcile.WebhookConfig{URL: "https://a.example.com", Bearer: &secret.Source{Env: "A", File: "b"}}}).Check(), "webhook.bearer"},
	} {
		if c.want == "" {
			if c.err != nil {
				t.Errorf("%s: %v", c.name, c.err)
			}
			continue
		}
		got := fault.Under(c.err)
		if got == nil || !strings.HasPrefix(got.Error(), c.want) {
			t.Errorf("%s: %v, want it at %s", c.name, c.err, c.want)
		}
	}
	if (&reconcile.Config{Every: "off"}).Period() != 0 || (*reconcile.Config)(nil).Period() != time.Minute {
		t.Error("the period is another one")
	}
}

func hook(url string) *reconcile.AlarmConfig {
	return &reconcile.AlarmConfig{Webhook: &reconcile.WebhookConfig{URL: url}}
}

// A webhook that fails is tried again, one that hangs or redirects holds up nobody, and what finds no place is counted.
func TestWebhook(t *testing.T) {
	t.Parallel()
	told := make(chan reconcile.Finding, 8)
	answers := []int{http.StatusInternalServerError, http.StatusFound, http.StatusOK, http.StatusNoContent}
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Instance string
			Finding  reconcile.Finding
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Instance != "ca1" || r.Header.Get("Authorization") != "Bearer token" || r.Method != http.MethodPost {
			t.Errorf("%v %+v %s", err, in, r.Header)
		}
		code := answers[min(calls, len(answers)-1)]
		calls++
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(code)
		if code/100 == 2 {
			told <- in.Finding
		}
	}))
	t.Cleanup(server.Close)
	w := reconcile.NewWebhook(reconcile.WebhookOptions{URL: server.URL, Bearer: "token", Instance: "ca1", Pause: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	for _, id := range []string{"a", "b"} {
		w.Tell(reconcile.Finding{ID: id, Kind: reconcile.LogForked})
		if got := <-told; got.ID != id {
			t.Errorf("got %q, want %q", got.ID, id)
		}
	}
	cancel()
	<-ended
	if calls != 4 {
		t.Errorf("%d calls", calls)
	}
	for range 1000 { // nobody delivers any more
		w.Tell(reconcile.Finding{ID: "c"})
	}
}

// An alarm that may mean a lost key is never left out of the webhook and goes first, however many others wait, and
// whatever the server refuses for good.
func TestWebhookOrder(t *testing.T) {
	t.Parallel()
	const most = 256
	var mu sync.Mutex
	var got []reconcile.Finding
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Finding reconcile.Finding }
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
	w := reconcile.NewWebhook(reconcile.WebhookOptions{URL: server.URL, Pause: time.Microsecond})
	w.Tell(reconcile.Finding{Kind: reconcile.MissingEntry, Text: "refused"})
	w.Tell(reconcile.Finding{Kind: reconcile.UnintendedEntry, Text: "refused"})
	for range 2 * most {
		w.Tell(reconcile.Finding{Kind: reconcile.MissingEntry})
	}
	for range 2 * most {
		w.Tell(reconcile.Finding{Kind: reconcile.UnintendedEntry})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	deadline := time.After(20 * time.Second) // everything is there within one, on an idle machine
	for done := false; !done; {
		select {
		case <-deadline:
			cancel()
			running.Wait()
			t.Fatal("not everything is delivered")
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
	counts, before := map[reconcile.Kind]int{}, 0
	for _, f := range got {
		if counts[f.Kind]++; f.Kind == reconcile.MissingEntry && counts[reconcile.UnintendedEntry] < 2*most {
			before++
		}
	}
	if counts[reconcile.UnintendedEntry] != 2*most || counts[reconcile.MissingEntry] != most-1 || before > most {
		t.Errorf("%v, %d of the lesser kind before the last of the other", counts, before)
	}
}

// Every kind has its row in the manual, a severity and something to do.
func TestManual(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/reconcile.md")
	must(t, err)
	for _, k := range reconcile.Kinds() {
		if !strings.Contains(string(page), "\n| `"+string(k)+"` |") || k.Action() == "" || k.Severity() == "" {
			t.Errorf("%s is not described", k)
		}
	}
}

// A state that cannot be is refused, whatever it is.
func FuzzState(f *testing.F) {
	w := newWorld(f, 1, 1)
	c := w.next()
	w.intend(0, c)
	w.log(0, c)
	theft(w, 0, false)
	w.intend(0, w.next())
	w.publish()
	state := ""
	a, err := reconcile.NewAuditor(reconcile.AuditorOptions{
		Every: time.Minute, Now: w.now, Lag: time.Hour, Save: func(data []byte) error { state = string(data); return nil },
		Journals: func() ([]reconcile.Journal, error) { return w.list(), nil },
	})
	must(f, err)
	a.Configure(w.setup(f))
	a.Tick(f.Context())
	f.Add(state)
	nobody := func() ([]reconcile.Journal, error) { return nil, nil }
	f.Fuzz(func(t *testing.T, data string) {
		var out string
		a, err := reconcile.NewAuditor(reconcile.AuditorOptions{
			Every: time.Minute, Load: func() ([]byte, error) { return []byte(data), nil }, Save: func(b []byte) error { out = string(b); return nil },
			Journals: nobody,
		})
		if err != nil {
			return
		}
		a.Tick(t.Context())
		if _, err := reconcile.NewAuditor(reconcile.AuditorOptions{Every: time.Minute, Journals: nobody, Load: func() ([]byte, error) { return []byte(out), nil }}); err != nil {
			t.Errorf("a state that was taken is refused when it comes back: %v", err)
		}
	})
}
