package provider

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }

func (s *slot) running() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// E5 // E8: for random reservations and releases, no limit is exceeded, no fetch waits while it could run, requests
// have priority, and nothing stays counted.
func TestSlots(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := newSlots(time.Now)
		var all []*slot
		dead, cancel := context.WithCancel(context.Background())
		cancel()
		for step := range 3000 {
			switch {
			case r.IntN(5) < 3 || len(all) == 0:
				c := class(r.IntN(int(classes)))
				who := caller{request: c == unproven || r.IntN(3) > 0, client: address(r.IntN(3))}
				one, err := s.reserve(c, scope{entry: fmt.Sprint(r.IntN(4)), host: fmt.Sprint(r.IntN(3))}, who)
				if err == nil {
					all = append(all, one)
				} else if c != unproven || !errors.Is(err, errNoSlot) {
					t.Fatalf("class %s: %v", classNames[c], err)
				}
			case r.IntN(6) == 0:
				all[r.IntN(len(all))].prioritize()
			default:
				i := r.IntN(len(all))
				one := all[i]
				if one.running() {
					one.release()
				} else if err := one.wait(dead); !errors.Is(err, errNoSlot) {
					t.Fatalf("a queued turn that is given up: %v", err)
				}
				all = slices.Delete(all, i, i+1)
			}
			if step%50 == 0 {
				checkSlots(t, s, all)
			}
		}
		for _, one := range all {
			if !one.running() {
				_ = one.wait(dead)
			}
		}
		for _, one := range all {
			if one.running() {
				one.release()
			}
		}
		for c := range s.classes {
			if l := &s.classes[c]; len(l.running)+len(l.admitted)+len(l.queue) != 0 {
				t.Fatalf("seed %d: class %s still counts %v, %v, %d queued", seed, classNames[c], l.running,
					l.admitted, len(l.queue))
			}
		}
	}
}

// checkSlots counts the slots independently.
func checkSlots(t *testing.T, s *slots, all []*slot) {
	t.Helper()
	for c := range s.classes {
		running, admitted := counts{}, counts{}
		for _, one := range all {
			if one.class != class(c) {
				continue
			}
			admitted.add(one.limits, 1)
			if one.running() {
				running.add(one.limits, 1)
			}
		}
		for _, one := range all {
			if one.class != class(c) {
				continue
			}
			for _, l := range one.limits {
				if running[l.scope] > l.max {
					t.Fatalf("class %s: %d run, the limit %s is %d", classNames[c], running[l.scope], l.name, l.max)
				}
				if class(c) == unproven && admitted[l.scope] > l.max*queueFactor {
					t.Fatalf("class %s: %d admitted, the limit %s is %d times %d", classNames[c], admitted[l.scope],
						l.name, l.max, queueFactor)
				}
			}
			if !one.running() && one.request && running.exceeded(one.limits, 1) == "" {
				t.Fatalf("class %s: a request waits and there is room", classNames[c])
			}
		}
	}
}

// E8: unproven providers fill their slots in every possible way; fetches of another class, and of a pattern, host or
// client that has not filled its quota, run at once.
func TestUnprovenFill(t *testing.T) {
	t.Parallel()
	good, attacker := address(1), address(2)
	for name, c := range map[string]struct {
		flood []scope // by the client attacker; each many times
		class class
		at    scope
		from  netip.Addr
	}{
		"known good": {
			flood: []scope{{entry: "a", host: "h"}}, class: knownGood,
			at: scope{entry: "a", host: "h"}, from: attacker,
		},
		"configured": {
			flood: []scope{{entry: "a", host: "h"}}, class: configured,
			at: scope{entry: "b", host: "h"}, from: attacker,
		},
		"failing": {
			flood: []scope{{entry: "a", host: "h"}}, class: failing,
			at: scope{entry: "b", host: "h"}, from: attacker,
		},
		"another pattern": {
			flood: []scope{{entry: "a", host: "h"}}, class: unproven,
			at: scope{entry: "b", host: "h"}, from: attacker,
		},
		"another host": {
			flood: []scope{{entry: "a", host: "h"}}, class: unproven,
			at: scope{entry: "a", host: "g"}, from: attacker,
		},
		"another source": {
			flood: []scope{{entry: "a", host: "h"}}, class: unproven,
			at: scope{entry: "a", host: "h"}, from: good,
		},
		"another source, many patterns": {
			flood: floodOf(10, 1), class: unproven,
			at: scope{entry: "0", host: "0"}, from: good,
		},
		"another source, many hosts": {
			flood: floodOf(10, 10), class: unproven,
			at: scope{entry: "z", host: "z"}, from: good,
		},
	} {
		s := newSlots(time.Now)
		held, refused := 0, 0
		for _, at := range c.flood {
			for range 200 {
				if _, err := s.reserve(unproven, at, caller{request: true, client: attacker}); err != nil {
					refused++
				} else {
					held++
				}
			}
		}
		if refused == 0 || held > quotas[unproven].client*queueFactor {
			t.Errorf("%s: %d of the flood are held, %d refused", name, held, refused)
		}
		one, err := s.reserve(c.class, c.at, caller{request: true, client: c.from})
		if err != nil || !one.running() {
			t.Errorf("%s: no slot: %v", name, err)
		}
		if st := s.status()[unproven]; st.Running > quotas[unproven].client+1 || st.LastRefused.IsZero() {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

// floodOf returns the scopes of patterns with some hosts each.
func floodOf(patterns, hosts int) (out []scope) {
	for i := range patterns {
		for j := range hosts {
			out = append(out, scope{entry: fmt.Sprint(i), host: fmt.Sprint(j)})
		}
	}
	return out
}

// E8: a thousand entries that are fetched at start leave slots for a request of one of them, also on the same host.
func TestStartFill(t *testing.T) {
	t.Parallel()
	for _, c := range []class{knownGood, configured, failing} {
		s := newSlots(time.Now)
		var last *slot
		for i := range 1000 {
			one, err := s.reserve(c, scope{entry: fmt.Sprint(i), host: "h"}, caller{})
			if err != nil {
				t.Fatal(err)
			}
			last = one
		}
		if n := s.status()[c].Running; n == 0 || n > quotas[c].host/2 {
			t.Errorf("class %s: %d run", classNames[c], n)
		}
		one, err := s.reserve(c, scope{entry: "x", host: "h"}, caller{request: true})
		if err != nil || !one.running() {
			t.Errorf("class %s: a request finds no slot: %v", classNames[c], err)
		}
		if last.prioritize(); !last.running() {
			t.Errorf("class %s: a request for an entry that is in the queue waits", classNames[c])
		}
	}
}
