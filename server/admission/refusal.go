package server

import (
	"context"
	"sync"
	"time"
)

// pace gives refusals a share of the processors. So many are given at once; further ones wait for their turn, and whoever has waited
// is let in if there is room by then. Callers who come back at once, against what they were told, would else take the
// processors for being refused. Callers who obey Retry-After, which is three seconds on average, never wait: six thousand
// of them can be refused over and over at the pace of two processors.
type pace struct {
	gap time.Duration // between two refusals

	mu      sync.Mutex
	next    time.Time // when the next one is due
	waiting int
}

const (
	refusalsPerProcessor = 1000            // a second: about a twentieth of a processor
	savedUp              = 5 * time.Second // refusals of so long may come at once
	longestTurn          = time.Second     // nobody waits longer to be refused
	mostTurns            = 4096            // so many wait at once; those beyond are refused at once: waiting costs memory
)

func newPace(processors int) *pace {
	return &pace{gap: time.Second / time.Duration(refusalsPerProcessor*processors)}
}

// turn says how long a refusal that is due now has to wait; 0 is not at all. After a wait the caller MUST call done.
func (p *pace) turn(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if earliest := now.Add(-savedUp); p.next.Before(earliest) {
		p.next = earliest
	}
	wait := p.next.Add(p.gap).Sub(now)
	if wait > 0 && p.waiting >= mostTurns {
		return 0
	}
	if wait <= longestTurn {
		p.next = p.next.Add(p.gap)
	}
	if wait <= 0 {
		return 0
	}
	p.waiting++
	return min(wait, longestTurn)
}

func (p *pace) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
}

func (p *pace) turns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// Knock returns nil if the gate has room. Its error is RATE_LIMITED: at once while refusals are few, else when it is this one's
// turn and there is still no room, or when ctx ends.
func (g *Gate) Knock(ctx context.Context) error {
	err := g.Full(ctx)
	if err == nil {
		return nil
	}
	wait := g.refusals.turn(g.now())
	if wait == 0 {
		return err
	}
	defer g.refusals.done()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return g.Full(ctx)
	case <-ctx.Done():
		return err
	}
}
