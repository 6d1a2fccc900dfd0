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
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits of the webhook.
const (
	hookTimeout = 10 * time.Second
	hookQueue   = 256
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
	queue  chan []byte
	posts  *prometheus.CounterVec
	broken atomic.Pointer[string]
}

// NewWebhook prepares a webhook; it opens no connection.
func NewWebhook(o WebhookOptions) *Webhook {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause <= 0 {
		o.Pause = hookFirst
	}
	w := &Webhook{o: o, queue: make(chan []byte, hookQueue), posts: prometheus.NewCounterVec(prometheus.CounterOpts{
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

// Tell queues a finding. It never waits: when the queue is full the finding is left out, which the metric says.
func (w *Webhook) Tell(f Finding) {
	body, err := json.Marshal(message{w.o.Instance, f})
	if err != nil {
		return // a Finding has nothing that JSON lacks
	}
	select {
	case w.queue <- body:
	default:
		w.posts.WithLabelValues("dropped").Inc()
		w.o.Logger.Error("alarm webhook: the queue is full, an alarm is in the journal and the log only", "finding_id", f.ID)
	}
}

// Run delivers until ctx ends.
func (w *Webhook) Run(ctx context.Context) {
	defer w.client.CloseIdleConnections()
	for {
		select {
		case <-ctx.Done():
			return
		case body := <-w.queue:
			w.deliver(ctx, body)
		}
	}
}

func (w *Webhook) deliver(ctx context.Context, body []byte) {
	pause, began := w.o.Pause, time.Now()
	for {
		err := w.post(ctx, body)
		if err == nil {
			w.posts.WithLabelValues("success").Inc()
			w.broken.Store(nil)
			return
		}
		if ctx.Err() != nil {
			return
		}
		w.posts.WithLabelValues("failure").Inc()
		text := err.Error()
		w.broken.Store(&text)
		w.o.Logger.Warn("alarm webhook does not take an alarm", "error", err, "retry_in", pause)
		if time.Since(began) > hookGiveUp {
			w.posts.WithLabelValues("dropped").Inc()
			return
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		pause = min(2*pause, hookMost)
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
