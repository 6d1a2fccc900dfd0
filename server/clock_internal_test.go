package server

import (
	"net"
	"testing"
	"time"
)

// renewed is a connection that counts how often its deadline is set.
type renewed struct {
	net.Conn
	set int
}

// Write implements [net.Conn].
func (*renewed) Write(p []byte) (int, error) { return len(p), nil }

// SetWriteDeadline implements [net.Conn].
func (r *renewed) SetWriteDeadline(time.Time) error { r.set++; return nil }

// F2: after the clock was set back, the deadline for answers is renewed as before: otherwise the next answer would end
// each connection.
func TestWriteDeadlineAfterClockStep(t *testing.T) {
	t.Parallel()
	now, raw := time.Unix(1.8e9, 0), &renewed{}
	c := &conn{Conn: raw, all: &connections{now: func() time.Time { return now }, write: 16 * time.Second}}
	for _, step := range []time.Duration{0, time.Second, 5 * time.Second, -time.Hour, time.Second} {
		now = now.Add(step)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if raw.set != 3 {
		t.Errorf("the deadline was set %d times; want 3: at first, after 6 s, and after the step", raw.set)
	}
}

// After the clock was set back, refusals are logged as before.
func TestRefusalsAfterClockStep(t *testing.T) {
	t.Parallel()
	var r refusals
	now := time.Unix(1.8e9, 0)
	for n, c := range []struct {
		step time.Duration
		want bool
	}{{0, true}, {refuseEvery / 2, false}, {refuseEvery, true}, {-time.Hour, true}, {refuseEvery / 2, false}} {
		now = now.Add(c.step)
		if _, due := r.due(now); due != c.want {
			t.Errorf("refusal %d: due is %t", n, due)
		}
	}
}
