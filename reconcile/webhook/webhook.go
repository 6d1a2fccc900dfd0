// Package webhook delivers findings to an HTTP server, each by a POST request that is repeated until the server answers
// with a 2xx status.
//
// [Webhook.Send] never blocks. A finding that may be dropped is dropped, and counted, when too many of them are queued;
// any other finding MUST be kept until it is delivered or a day has passed. The order of delivery is not guaranteed.
package webhook

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/httpclient"
)

// Limits of a webhook.
const (
	timeout      = 10 * time.Second
	maxDroppable = 256 // queued messages that may be dropped
	firstPause   = time.Second
	maxPause     = 5 * time.Minute
	maxAge       = 24 * time.Hour // age at which a message is dropped
	maxResponse  = 4 << 10        // bytes of a response that are read, so that the connection can be reused
)

// Options are for [New].
type Options struct {
	URL    string
	Bearer string         // empty: no Authorization header
	Roots  *x509.CertPool // nil: the system's
	// Instance identifies the CA in the message.
	Instance  string
	UserAgent string
	Logger    *slog.Logger // nil: no log
	// Pause is the time before the first retry; 0: a second. It doubles up to five minutes.
	Pause time.Duration
}

// Message is a finding to deliver.
type Message struct {
	// ID identifies the finding in the log.
	ID string
	// Finding is any value that can be encoded in JSON.
	Finding any
	// Droppable: the message may be dropped when too many such messages are queued. Messages that are not droppable are
	// delivered first.
	Droppable bool
}

// Webhook delivers messages to an HTTP server.
type Webhook struct {
	o       Options
	client  *http.Client
	wake    chan struct{} // signals that a message was queued
	posts   *prometheus.CounterVec
	lastErr atomic.Pointer[string]

	mu     sync.Mutex
	queues [2][]*post // messages that must be kept, and droppable ones
}

// The indexes of Webhook.queues.
const (
	keep = iota
	droppable
)

// post is the body of a POST request.
type post struct {
	body   []byte
	queued time.Time
}

// body is the JSON body of a POST request.
type body struct {
	Instance string `json:"instance"`
	Finding  any    `json:"finding"`
}

// New prepares a webhook. It opens no connection.
func New(o Options) *Webhook {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause <= 0 {
		o.Pause = firstPause
	}
	w := &Webhook{o: o, wake: make(chan struct{}, 1), posts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_audit_webhook_posts_total", Help: "Posts to the alarm webhook, by result.",
	}, []string{"result"})}
	for _, result := range []string{"success", "failure", "dropped"} {
		w.posts.WithLabelValues(result)
	}
	w.client = httpclient.New(httpclient.Options{
		Timeout: timeout, UserAgent: o.UserAgent,
		Roots: o.Roots, IdleConns: 1,
	})
	return w
}

// Send queues a message. It does not block.
func (w *Webhook) Send(m Message) {
	data, err := json.Marshal(body{w.o.Instance, m.Finding})
	if err != nil {
		w.o.Logger.Error("alarm webhook: the finding cannot be encoded", "finding_id", m.ID, "error", err)
		return
	}
	queue := keep
	if m.Droppable {
		queue = droppable
	}
	w.mu.Lock()
	full := queue == droppable && len(w.queues[queue]) >= maxDroppable
	if !full {
		w.queues[queue] = append(w.queues[queue], &post{body: data, queued: time.Now()})
	}
	w.mu.Unlock()
	if full {
		w.posts.WithLabelValues("dropped").Inc()
		w.o.Logger.Error("alarm webhook: the queue is full; an alarm is only in the journal and in the log",
			"finding_id", m.ID)
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// next returns the oldest message of a queue, or of the other queue if that one is empty. The message stays in its
// queue.
func (w *Webhook) next(queue int) (*post, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range w.queues {
		if all := w.queues[queue]; len(all) > 0 {
			return all[0], queue
		}
		queue = 1 - queue
	}
	return nil, 0
}

// done removes the first message of a queue. With retry it moves the message to the end of the queue, so that a message
// that the server always refuses does not block the others.
func (w *Webhook) done(queue int, retry bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.queues[queue]
	first := all[0]
	w.queues[queue] = all[1:]
	if retry {
		w.queues[queue] = append(w.queues[queue], first)
	}
}

// Run delivers messages until ctx ends.
func (w *Webhook) Run(ctx context.Context) {
	defer w.client.CloseIdleConnections()
	pause, queue := w.o.Pause, keep
	for {
		var p *post
		p, queue = w.next(queue)
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
			w.lastErr.Store(nil)
			w.done(queue, false)
			queue = keep
			continue
		}
		w.posts.WithLabelValues("failure").Inc()
		text := err.Error()
		w.lastErr.Store(&text)
		w.o.Logger.Warn("alarm webhook: an alarm could not be delivered", "error", err, "retry_in", pause)
		expired := time.Since(p.queued) > maxAge
		w.done(queue, !expired)
		if expired {
			w.posts.WithLabelValues("dropped").Inc()
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		// The other queue is next, so that neither queue is blocked by a message that the server always refuses.
		pause, queue = min(2*pause, maxPause), 1-queue
	}
}

func (w *Webhook) post(ctx context.Context, data []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.o.URL, bytes.NewReader(data))
	if err != nil {
		return errors.New("the request cannot be created") // err contains the URL
	}
	r.Header.Set("Content-Type", "application/json")
	if w.o.Bearer != "" {
		r.Header.Set("Authorization", "Bearer "+w.o.Bearer)
	}
	rsp, err := w.client.Do(r)
	if err != nil {
		return err
	}
	defer rsp.Body.Close() //nolint:errcheck // only read
	_, _ = io.Copy(io.Discard, io.LimitReader(rsp.Body, maxResponse))
	if rsp.StatusCode/100 != 2 {
		return fmt.Errorf("the server answered %d %s", rsp.StatusCode, http.StatusText(rsp.StatusCode))
	}
	return nil
}

// Warning describes the last error; empty if the last message was delivered.
func (w *Webhook) Warning() string {
	if text := w.lastErr.Load(); text != nil {
		return "the alarm webhook cannot be reached: " + *text
	}
	return ""
}

// Collectors returns the metrics of the webhook.
func (w *Webhook) Collectors() []prometheus.Collector { return []prometheus.Collector{w.posts} }
