package reconcile

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits of the webhook.
const (
	hookTimeout = 10 * time.Second
	hookQueue   = 256 // findings of bounded kinds that wait
	hookFirst   = time.Second
	hookMost    = 5 * time.Minute
	hookGiveUp  = 24 * time.Hour
	hookAnswer  = 4 << 10 // bytes of an answer that are read
)

// WebhookOptions are for [NewWebhook].
type WebhookOptions struct {
	URL    string
	Bearer string         // "": no Authorization
	Roots  *x509.CertPool // nil: the system's
	// Instance says in the message which CA this is.
	Instance  string
	UserAgent string
	Logger    *slog.Logger
	// Pause is how long after a failure it tries again, at first; 0 is a second. It doubles up to five minutes.
	Pause time.Duration
}

// Webhook tells an HTTP server of findings, each until it answers 2xx. What it could not deliver within a day is given up: the
// journal has it.
type Webhook struct {
	o      WebhookOptions
	client *http.Client
	wake   chan struct{} // something waits
	posts  *prometheus.CounterVec
	broken atomic.Pointer[string]

	mu      sync.Mutex
	waiting [2][]*post // what may mean a lost key or log; and the rest
}

// post is one body that is to be delivered.
type post struct {
	body  []byte
	since time.Time
}

// NewWebhook prepares a webhook; it opens no connection.
func NewWebhook(o WebhookOptions) *Webhook {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause <= 0 {
		o.Pause = hookFirst
	}
	w := &Webhook{o: o, wake: make(chan struct{}, 1), posts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_audit_webhook_posts_total", Help: "Posts to the alarm webhook, by result.",
	}, []string{"result"})}
	for _, result := range []string{"success", "failure", "dropped"} {
		w.posts.WithLabelValues(result)
	}
	w.client = &http.Client{
		Timeout:       hookTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: hookTimeout / 2}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    hookTimeout / 2,
			MaxResponseHeaderBytes: 32 << 10,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        30 * time.Second,
		},
	}
	return w
}

// message is the body of a post.
type message struct {
	Instance string  `json:"instance"`
	Finding  Finding `json:"finding"`
}

// Tell queues a finding. It never waits. When very many wait, findings of a bounded kind are left out, which the metric
// says; one that may mean that a key or a log is lost never is.
func (w *Webhook) Tell(f Finding) {
	body, err := json.Marshal(message{w.o.Instance, f})
	if err != nil {
		return // a Finding has nothing that JSON lacks
	}
	w.mu.Lock()
	class := 0
	if f.Bounded() {
		class = 1
	}
	full := class == 1 && len(w.waiting[class]) >= hookQueue
	if !full {
		w.waiting[class] = append(w.waiting[class], &post{body: body, since: time.Now()})
	}
	w.mu.Unlock()
	if full {
		w.posts.WithLabelValues("dropped").Inc()
		w.o.Logger.Error("alarm webhook: the queue is full, an alarm is in the journal and the log only", "finding_id", f.ID)
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// next is the post that is to be tried: the oldest one of a class, or of the other class where that one is empty. It
// stays in its queue.
func (w *Webhook) next(class int) (*post, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range w.waiting {
		if queue := w.waiting[class]; len(queue) > 0 {
			return queue[0], class
		}
		class = 1 - class
	}
	return nil, 0
}

// done takes the first post out of its queue, or puts it behind the others of its class, so that one which the server
// refuses for what it says does not keep the others from it.
func (w *Webhook) done(class int, again bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	queue := w.waiting[class]
	first := queue[0]
	w.waiting[class] = queue[1:]
	if again {
		w.waiting[class] = append(w.waiting[class], first)
	}
}

// Run delivers until ctx ends.
func (w *Webhook) Run(ctx context.Context) {
	defer w.client.CloseIdleConnections()
	pause, class := w.o.Pause, 0
	for {
		var p *post
		p, class = w.next(class)
		if p == nil {
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
			continue
		}
		err := w.post(ctx, p.body)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = w.o.Pause
			w.posts.WithLabelValues("success").Inc()
			w.broken.Store(nil)
			w.done(class, false)
			class = 0
			continue
		}
		w.posts.WithLabelValues("failure").Inc()
		text := err.Error()
		w.broken.Store(&text)
		w.o.Logger.Warn("alarm webhook does not take an alarm", "error", err, "retry_in", pause)
		late := time.Since(p.since) > hookGiveUp
		w.done(class, !late)
		if late {
			w.posts.WithLabelValues("dropped").Inc()
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		pause, class = min(2*pause, hookMost), 1-class // one that is always refused holds up neither class
	}
}

func (w *Webhook) post(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.o.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the request cannot be made") // the error would quote the URL
	}
	r.Header.Set("Content-Type", "application/json")
	if w.o.UserAgent != "" {
		r.Header.Set("User-Agent", w.o.UserAgent)
	}
	if w.o.Bearer != "" {
		r.Header.Set("Authorization", "Bearer "+w.o.Bearer)
	}
	rsp, err := w.client.Do(r)
	if err != nil {
		return err
	}
	defer rsp.Body.Close() //nolint:errcheck // only read
	_, _ = io.Copy(io.Discard, io.LimitReader(rsp.Body, hookAnswer))
	if rsp.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %d %s", rsp.StatusCode, http.StatusText(rsp.StatusCode))
	}
	return nil
}

// Warning says what is wrong with the webhook; "" is nothing.
func (w *Webhook) Warning() string {
	if text := w.broken.Load(); text != nil {
		return "the alarm webhook cannot be reached: " + *text
	}
	return ""
}

// Collectors returns mayfly_audit_webhook_posts_total.
func (w *Webhook) Collectors() []prometheus.Collector { return []prometheus.Collector{w.posts} }
