package tlog

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	f_note "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/tessera"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/monitor"
)

const (
	cosignedFile   = "checkpoint.cosigned"
	pollEvery      = 200 * time.Millisecond // for a new checkpoint
	witnessTimeout = 4 * time.Second        // of all requests for one checkpoint
	graceTime      = time.Second            // for further cosignatures, once the policy is met
	maxCosignature = 16 << 10               // bytes of an answer
	maxFailures    = 3                      // in a row, until a witness is set aside
	asideFor       = 10 * time.Second       // after the first failure too many, then doubled
	maxAside       = 10 * time.Minute
)

// cosigner requests cosignatures from witnesses (c2sp.org/tlog-witness) and keeps the checkpoint for readers. Only the
// publication of a checkpoint waits for it, and no longer than witnessTimeout: the checkpoint is then published with
// the cosignatures received so far.
//
// Tessera's own support for witnesses is not used: it publishes an empty checkpoint if it cannot build a proof and may
// continue without cosignatures, it stops at the first cosignatures that meet the policy, and it has no limits.
type cosigner struct {
	dir, label string
	log        *slog.Logger
	event      func(reason, text string)
	metrics    *Metrics
	reader     tessera.LogReader
	origin     string
	tiles      *monitor.Log // for proofs
	witnesses  []*witness
	want       int
	client     *http.Client

	collecting sync.Mutex // one collection at a time

	mu     sync.Mutex
	served []byte // the checkpoint with its cosignatures
	have   int    // the number of its cosignatures
	tried  bool
	last   []byte    // the checkpoint of the last collection
	retry  time.Time // when missing cosignatures are requested again
}

// witness is the state of one witness. Only the collection that has the mutex of the cosigner changes it, except for
// the fields that mu guards.
type witness struct {
	name, url string
	verifier  note.Verifier
	size      uint64 // of the last checkpoint that it cosigned

	mu         sync.Mutex
	failures   int       // in a row
	asideUntil time.Time // set aside until then
	lastErr    error
}

// newCosigner makes a cosigner for a log whose storage is open.
func newCosigner(l *Log, c Config, o Options) (*cosigner, error) {
	w := &cosigner{
		dir: l.dir, label: l.label, log: l.log, event: l.event, metrics: l.metrics, reader: l.reader,
		origin: l.origin, tiles: l.tiles, want: c.cosignatures(),
		client: httpclient.New(httpclient.Options{
			Timeout: witnessTimeout, UserAgent: o.UserAgent, Proxy: http.ProxyFromEnvironment, IdleTimeout: time.Minute,
		}),
	}
	for _, one := range c.Witnesses {
		v, err := f_note.NewVerifierForCosignatureV1(one.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("witness %s: %w", one.URL, err)
		}
		name, err := one.check()
		if err != nil {
			return nil, err
		}
		w.witnesses = append(w.witnesses, &witness{
			name: name,
			url:  strings.TrimRight(one.URL, "/") + "/add-checkpoint", verifier: v,
		})
		for _, result := range []string{"success", "failure", "conflict", "skipped"} {
			w.metrics.cosignatures.WithLabelValues(w.label, name, result)
		}
	}
	w.served = lastCosigned(l.dir) // an older one would hide entries that have SCTs
	w.have = w.count(w.served)
	return w, nil
}

// lastCosigned returns the cosigned form of the checkpoint on disk, or nil.
func lastCosigned(dir string) []byte {
	plain, err := os.ReadFile(filepath.Join(dir, checkpointFile))
	if err != nil {
		return nil
	}
	cosigned, err := os.ReadFile(filepath.Join(dir, cosignedFile))
	if err != nil || !bytes.HasPrefix(cosigned, plain) {
		return nil
	}
	return cosigned
}

// count returns how many cosignatures a checkpoint has.
func (c *cosigner) count(checkpoint []byte) int {
	var verifiers []note.Verifier
	for _, w := range c.witnesses {
		verifiers = append(verifiers, w.verifier)
	}
	n, err := note.Open(checkpoint, note.VerifierList(verifiers...))
	if err != nil {
		return 0
	}
	return len(n.Sigs)
}

// run requests cosignatures of each new checkpoint until ctx ends.
func (c *cosigner) run(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	defer c.client.CloseIdleConnections()
	for {
		c.collect(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// collect asks every witness to cosign the checkpoint on disk, unless the checkpoint has enough cosignatures, or was
// tried recently.
func (c *cosigner) collect(ctx context.Context) {
	c.collecting.Lock()
	defer c.collecting.Unlock()
	checkpoint, err := c.reader.ReadCheckpoint(ctx)
	if err != nil {
		return // readiness reports it
	}
	c.mu.Lock()
	same := bytes.Equal(checkpoint, c.last)
	done := same && (c.have >= c.want || time.Now().Before(c.retry))
	if c.last = checkpoint; !done {
		c.retry = time.Now().Add(asideFor)
	}
	c.mu.Unlock()
	if done {
		return
	}
	head, err := parseHead(checkpoint, c.origin)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	lines := make(chan string, len(c.witnesses))
	for _, w := range c.witnesses {
		go func() { lines <- c.ask(ctx, w, proposal{checkpoint, head.Size}) }()
	}
	signed, have := bytes.Clone(checkpoint), 0
	var enough <-chan time.Time
	for left := len(c.witnesses); left > 0; left-- {
		if have >= c.want && enough == nil {
			c.publish(signed, have)
			enough = time.After(graceTime)
		}
		select {
		case line := <-lines:
			if line != "" {
				signed, have = append(signed, line...), have+1
			}
			continue
		case <-enough:
			cancel() // and wait for the other requests to end: a witness has one at a time
			enough = nil
			if line := <-lines; line != "" {
				signed, have = append(signed, line...), have+1
			}
		}
	}
	c.publish(signed, have)
}

// publish makes a checkpoint available to readers.
func (c *cosigner) publish(signed []byte, have int) {
	c.mu.Lock()
	c.tried = true
	if bytes.HasPrefix(c.served, c.last) && have < c.have { // the retry received fewer
		c.mu.Unlock()
		return
	}
	c.served, c.have = bytes.Clone(signed), have
	c.mu.Unlock()
	c.metrics.cosigned.WithLabelValues(c.label).Set(float64(have))
	// The file is for the next process, and for another server that serves the directory.
	if err := durable.WriteFile(filepath.Join(c.dir, cosignedFile), signed, 0o644); err != nil {
		c.log.Warn("the cosigned checkpoint could not be written", "log", c.label, "cause", err.Error())
	}
}

// cosigned requests cosignatures of a checkpoint that was just published and returns it with them. It waits no longer
// than one collection.
func (c *cosigner) cosigned(ctx context.Context, plain []byte) []byte {
	c.collect(ctx)
	if served := c.checkpoint(); bytes.HasPrefix(served, plain) {
		return served
	}
	return plain
}

// checkpoint returns the checkpoint for readers; nil before the first collection.
func (c *cosigner) checkpoint() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.served
}

// warning describes missing cosignatures; empty if there are enough.
func (c *cosigner) warning() string {
	c.mu.Lock()
	have, tried := c.have, c.tried
	c.mu.Unlock()
	if !tried || have >= c.want {
		return ""
	}
	text := fmt.Sprintf("the checkpoint has %d of %d cosignatures", have, c.want)
	for _, w := range c.witnesses {
		w.mu.Lock()
		if w.lastErr != nil {
			text += "; witness " + w.name + ": " + w.lastErr.Error()
		}
		w.mu.Unlock()
	}
	return text
}

// proposal is a checkpoint to be cosigned, and the number of its entries.
type proposal struct {
	checkpoint []byte
	size       uint64
}

// ask returns the line with the cosignature of w; empty if there is none.
func (c *cosigner) ask(ctx context.Context, w *witness, p proposal) string {
	w.mu.Lock()
	aside := time.Now().Before(w.asideUntil)
	w.mu.Unlock()
	if aside {
		c.metrics.cosignatures.WithLabelValues(c.label, w.name, "skipped").Inc()
		return ""
	}
	line, err := c.cosign(ctx, w, p)
	result := "success"
	var larger *largerError
	switch {
	case errors.As(err, &larger):
		result = "conflict"
	case err != nil:
		result = "failure"
	}
	c.metrics.cosignatures.WithLabelValues(c.label, w.name, result).Inc()
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := (err == nil) != (w.lastErr == nil)
	var before *largerError
	if larger != nil && !errors.As(w.lastErr, &before) {
		changed = true
		c.event("log-behind-witness", fmt.Sprintf("%s: witness %s: %v", c.label, w.name, err))
	}
	w.lastErr = err
	if err == nil {
		w.failures, w.asideUntil = 0, time.Time{}
		if changed {
			c.log.Info("witness cosigns again", "log", c.label, "witness", w.name)
		}
		return line
	}
	if w.failures++; w.failures >= maxFailures {
		w.asideUntil = time.Now().Add(min(asideFor<<min(w.failures-maxFailures, 10), maxAside))
	}
	if changed {
		c.log.Warn("witness does not cosign", "log", c.label, "witness", w.name, "cause", err.Error())
	}
	return ""
}

// largerError means that a witness has cosigned a larger tree: this log has lost entries, or another process has its
// key.
type largerError struct{ theirs, ours uint64 }

func (e *largerError) Error() string {
	return fmt.Sprintf("the witness has cosigned a checkpoint over %d entries, and this log has %d: "+
		"entries were lost (an old "+
		"backup?), or another process has the log's key", e.theirs, e.ours)
}

// cosign asks w, at most twice: the second request starts from the size in the answer to the first
// (c2sp.org/tlog-witness, "409 Conflict").
func (c *cosigner) cosign(ctx context.Context, w *witness, p proposal) (line string, err error) {
	for range 2 {
		var proof [][]byte
		if w.size > 0 {
			if proof, err = c.tiles.Consistency(ctx, w.size, p.size); err != nil {
				return "", fmt.Errorf("no consistency proof: %w", err)
			}
		}
		var body strings.Builder
		fmt.Fprintf(&body, "old %d\n", w.size)
		for _, hash := range proof {
			body.WriteString(base64.StdEncoding.EncodeToString(hash) + "\n")
		}
		body.WriteString("\n" + string(p.checkpoint))
		status, answer, err := c.post(ctx, w.url, body.String())
		if err != nil {
			return "", err
		}
		switch status {
		case http.StatusOK:
			if line, err = cosignature(p.checkpoint, answer, w.verifier); err == nil {
				w.size = p.size
			}
			return line, err
		case http.StatusConflict:
			size, err := strconv.ParseUint(strings.TrimSuffix(string(answer), "\n"), 10, 63)
			switch {
			case err != nil:
				return "",
					fmt.Errorf("the witness has another root for the %d entries that it cosigned before: the log's "+
						"key has signed two trees", w.size)
			case size > p.size:
				return "", &largerError{size, p.size}
			case size == w.size:
				return "", fmt.Errorf("the witness refuses the step from %d to %d entries", w.size, p.size)
			}
			w.size = size
		case http.StatusNotFound:
			return "", errors.New("the witness does not know this log; give its operator the origin and the key")
		case http.StatusForbidden:
			return "", errors.New("the witness has another key for this log; give its operator the current key")
		default:
			return "", fmt.Errorf("status %d", status)
		}
	}
	return "", errors.New("the witness changes the size that it has cosigned between two requests")
}

func (c *cosigner) post(ctx context.Context, url, body string) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if answer, err = httpclient.ReadBody(resp, maxCosignature); err != nil {
		err = fmt.Errorf("read the response: %w", err)
	}
	return resp.StatusCode, answer, err
}

// cosignature returns the line of a witness's answer that verifies.
func cosignature(checkpoint, answer []byte, v note.Verifier) (string, error) {
	n, err := note.Open(append(bytes.Clone(checkpoint), answer...), note.VerifierList(v))
	if err != nil || len(n.Sigs) != 1 {
		return "", errors.New("the cosignature does not verify with the configured key")
	}
	at, err := f_note.CoSigV1Timestamp(n.Sigs[0])
	if age := time.Since(at); err != nil || age > 5*time.Minute || age < -5*time.Minute {
		return "", fmt.Errorf("the cosignature has the timestamp %s; check both clocks", at.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64), nil
}
