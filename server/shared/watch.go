package shared

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/valkey-io/valkey-go"
)

const (
	probeEvery   = 500 * time.Millisecond
	inspectEvery = 5 * time.Second
	firstConnect = 3 * time.Second // how long Start waits for the first connection
	inspectTime  = 2 * time.Second
	// maxNodes bounds the nodes of a cluster that are inspected.
	maxNodes = 1000
)

// watched is what inspections have found.
type watched struct {
	policy  map[string]string // by node: a maxmemory-policy that is not noeviction
	evicted map[string]int64  // by node: keys evicted, when last seen
	total   int64             // evicted since this process has watched
	at      time.Time         // when total last rose
	few     error             // why a use was refused although the store answers
	fewAt   time.Time
}

// Start connects to the store and watches it, until ctx ends. It waits a few seconds for the first connection, and
// returns without one after that: the connection is tried again in the background.
func (s *Store) Start(ctx context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	first := make(chan struct{})
	s.watches.Go(func() { s.watch(ctx, first) })
	timer := time.NewTimer(firstConnect)
	defer timer.Stop()
	select {
	case <-first:
	case <-timer.C:
		s.o.Logger.Warn("the shared store does not answer yet", "cause", s.breaker.open())
	case <-ctx.Done():
	}
}

// Close ends the watch and the connections.
func (s *Store) Close() {
	if s == nil || s.stop == nil {
		return
	}
	s.stop()
	s.watches.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.client != nil {
		s.client.Close()
	}
}

// watch connects, then probes and inspects the store. It closes first after the first successful probe.
func (s *Store) watch(ctx context.Context, first chan struct{}) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	var inspected time.Time
	connected := false
	for n := 0; ; n++ {
		ok := s.connect() && s.probe(ctx, n, connected)
		if ok && !connected {
			connected = true
			close(first)
		}
		if ok && time.Since(inspected) >= inspectEvery {
			inspected = time.Now()
			s.inspect(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// connect makes the client, once. The client connects again on its own.
func (s *Store) connect() bool {
	s.mu.Lock()
	have := s.client != nil
	s.mu.Unlock()
	if have {
		return true
	}
	c, err := valkey.NewClient(s.option)
	if err != nil {
		s.breaker.told(fmt.Errorf("the shared store: %s", brief(err)))
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client = c
	return true
}

// probe checks or makes the markers: those of all groups at first and while the breaker is open, afterwards that of one
// group each time.
func (s *Store) probe(ctx context.Context, n int, connected bool) bool {
	from, to := n%groups, n%groups+1
	if !connected || s.breaker.open() != nil {
		from, to = 0, groups
	}
	for group := from; group < to; group++ {
		err := s.try(ctx, opProbe, func(ctx context.Context, c valkey.Client) error {
			keys := []string{s.markerKey(group), s.markerKey(group)}
			_, err := s.counted(group, s.spends.run(ctx, c, keys, []string{
				strconv.FormatInt(s.seen[group].Load(), 10),
			}))
			return err
		})
		if err != nil {
			return false
		}
	}
	return true
}

// inspect asks each node how it treats a full memory. A store that evicts forgets uses of tokens.
func (s *Store) inspect(ctx context.Context) {
	s.mu.Lock()
	c := s.client
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	nodes := 0
	for name, node := range c.Nodes() {
		if nodes++; nodes > maxNodes || ctx.Err() != nil {
			return
		}
		text, err := node.Do(ctx, node.B().Info().Build()).ToString()
		if err != nil {
			continue // the probes report a store that does not answer; INFO may be forbidden
		}
		s.inspected(name, parseInfo(text))
	}
}

// inspected stores what a node said.
func (s *Store) inspected(name string, in info) {
	s.mu.Lock()
	h := &s.health
	if h.policy == nil {
		h.policy, h.evicted = map[string]string{}, map[string]int64{}
	}
	before, known := h.evicted[name]
	rise := in.evicted - before
	if rise < 0 { // the node has started again
		rise = in.evicted
	}
	if !known {
		rise = 0
	}
	h.evicted[name] = in.evicted
	was := h.policy[name]
	delete(h.policy, name)
	if in.policy != "" && in.policy != noEviction {
		h.policy[name] = in.policy
	}
	if rise > 0 {
		h.total, h.at = h.total+rise, time.Now()
		s.lost.Store(time.Now().UnixNano())
	}
	s.mu.Unlock()
	if rise > 0 {
		s.o.Logger.Error("the shared store evicts keys, and with them uses of tokens; tokens that were issued before "+
			"this time are refused unless their issuer entry has budget-unavailable: issue. Give the store more "+
			"memory, and set maxmemory-policy noeviction", "node", name, "keys", rise)
	}
	if in.policy != "" && in.policy != noEviction && was != in.policy {
		s.o.Logger.Warn("the shared store may forget uses of tokens when its memory is full; set maxmemory-policy "+
			"noeviction", "node", name, "maxmemory_policy", in.policy)
	}
}

// tooFew records that too few replicas have a use.
func (s *Store) tooFew(few error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health.few, s.health.fewAt = few, time.Now()
}

// Evicted returns how many keys the store has evicted since this process has watched it.
func (s *Store) Evicted() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health.total
}

const (
	evictedFor = 10 * time.Minute // how long Health warns after an eviction
	fewFor     = 10 * time.Second // how long Health warns after a use that too few replicas have
)

// Health returns why the store cannot be used, or else what an operator must know; both are empty if there is nothing
// to report.
func (s *Store) Health() (cause, warning string) {
	if err := s.breaker.open(); err != nil {
		return err.Error(), ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	if !s.health.at.IsZero() && time.Since(s.health.at) < evictedFor {
		all = append(all, fmt.Sprintf("it has evicted %d keys, and uses of tokens may be among them", s.health.total))
	}
	if s.health.few != nil && time.Since(s.health.fewAt) < fewFor {
		all = append(all, s.health.few.Error())
	}
	for name, policy := range s.health.policy {
		all = append(all,
			fmt.Sprintf("maxmemory-policy of %s is %s: it forgets uses of tokens when its memory is full; "+
				"set noeviction", name, policy))
	}
	return "", strings.Join(all, "; ")
}

// noEviction is the maxmemory-policy under which a store refuses writes when its memory is full.
const noEviction = "noeviction"

// info is a part of the answer to INFO.
type info struct {
	policy  string // maxmemory_policy; empty: the node does not say
	evicted int64  // evicted_keys
}

// parseInfo reads an answer to INFO: lines NAME:VALUE. Other lines, and values that make no sense, are ignored.
func parseInfo(text string) (out info) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		switch name {
		case "maxmemory_policy":
			if out.policy = value; len(value) > 64 {
				out.policy = ""
			}
		case "evicted_keys":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 {
				out.evicted = n
			}
		}
	}
	return out
}
