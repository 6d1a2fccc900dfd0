package tsa_test

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/tsa"
)

// timeServer is an NTP server on loopback (RFC 5905 §7.3).
type timeServer struct {
	url string

	mu     sync.Mutex
	clock  func() time.Time
	offset time.Duration // of its clock
	spread time.Duration // root dispersion
	mode   string        // "", silent, kiss, unsynchronized, short
	asked  int
}

func newTimeServer(t *testing.T, clock func() time.Time) *timeServer {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &timeServer{url: "ntp://" + l.LocalAddr().String(), clock: clock}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1024)
		for {
			n, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := s.answer(buf[:n]); reply != nil {
				_, _ = l.WriteTo(reply, from)
			}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return s
}

func (s *timeServer) set(offset time.Duration, mode string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset, s.mode = offset, mode
}

func (s *timeServer) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *timeServer) answer(query []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	out := make([]byte, 48)
	stamp := func(at int, t time.Time) {
		binary.BigEndian.PutUint32(out[at:], uint32(t.Unix()+2208988800))
		binary.BigEndian.PutUint32(out[at+4:], uint32(int64(t.Nanosecond())<<32/1e9))
	}
	now := s.clock().Add(s.offset)
	out[0], out[1], out[2], out[3] = 4<<3|4, 1, 6, 0xec
	binary.BigEndian.PutUint32(out[8:], uint32(s.spread.Seconds()*65536))
	stamp(16, now.Add(-time.Second))
	copy(out[24:32], query[40:48])
	stamp(32, now)
	stamp(40, now)
	switch s.mode {
	case "silent":
		return nil
	case "short":
		return out[:20]
	case "kiss":
		out[1] = 0
		copy(out[12:], "RATE")
	case "unsynchronized":
		out[0] |= 3 << 6
	}
	return out
}

// comparing returns an authority that compares its clock with n servers, and has begun to.
func comparing(t *testing.T, n int, prepare func([]*timeServer)) (*tsa.Authority, []*timeServer, *clocks) {
	t.Helper()
	k := &clocks{wall: time.Now(), elapsed: time.Hour}
	c := tsa.ClockConfig{}
	var servers []*timeServer
	began := k.now()
	for range n {
		// the clock of a server goes on when that of the machine is set
		s := newTimeServer(t, func() time.Time { return began.Add(k.since() - time.Hour) })
		servers, c.Servers = append(servers, s), append(c.Servers, s.url)
	}
	prepare(servers)
	a := open(t, tsa.Config{Clock: &c}, tsa.Options{Now: k.now, Elapsed: k.since})
	if err := a.Health(); err == nil || !strings.Contains(err.Error(),
		"has not been compared with the time servers yet") {
		t.Fatalf("before the first comparison: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return a, servers, k
}

// health waits until the health contains a text; "" means that timestamps are made.
func health(t *testing.T, a *tsa.Authority, want string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = a.Health(); want == "" && err == nil ||
			want != "" && err != nil && strings.Contains(err.Error(), want) {
			return
		}
	}
	t.Fatalf("%v, want %q", err, want)
}

// More than half of the servers must agree before timestamps are made.
func TestTimeServers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		n       int
		prepare func([]*timeServer)
		want    string // why there are no timestamps
		warning string
	}{
		"all agree": {3, func([]*timeServer) {}, "", ""},
		"one":       {1, func(s []*timeServer) { s[0].offset = 300 * time.Millisecond }, "", ""},
		"one is wrong": {
			3, func(s []*timeServer) { s[1].offset = -time.Hour }, "",
			"the clocks differ by -1h0m0s (disagrees)",
		},
		"one does not answer": {3, func(s []*timeServer) { s[2].mode = "short" }, "", ": "},
		"behind": {
			3, func(s []*timeServer) {
				s[0].offset, s[1].offset, s[2].offset = time.Minute, 3*time.Second, 2*time.Second
			},
			"this machine's clock is 2.0 s behind 3 of 3 time servers", "",
		},
		"ahead": {
			3, func(s []*timeServer) { s[0].offset, s[1].offset = -time.Minute, -3*time.Second },
			"this machine's clock is 3.0 s ahead of 2 of 3 time servers", "",
		},
		"half": {
			2, func(s []*timeServer) { s[0].offset = time.Minute },
			"not been compared with the time servers yet: ntp://", "",
		},
		"too uncertain": {
			1, func(s []*timeServer) { s[0].spread = time.Second }, "the clocks differ by 0s (unsure)", "",
		},
		"kiss-o'-death":  {1, func(s []*timeServer) { s[0].mode = "kiss" }, "kiss of death", ""},
		"unsynchronized": {1, func(s []*timeServer) { s[0].mode = "unsynchronized" }, "leap second", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _, _ := comparing(t, c.n, c.prepare)
			health(t, a, c.want)
			if got := a.Warning(); c.want == "" &&
				((got == "") != (c.warning == "") || !strings.Contains(got, c.warning)) {
				t.Errorf("warning %q", got)
			}
			_, err := stampAt(t, serve(t, a))
			switch {
			case (err == nil) != (c.want == ""):
				t.Error(err)
			case err != nil && strings.Contains(err.Error(), "ntp://"):
				t.Errorf("a client learns the names of the servers: %v", err)
			}
		})
	}
}

// After the clock was set, the servers say whether the time is right; meanwhile there are no timestamps.
func TestTimeServersAfterStep(t *testing.T) {
	t.Parallel()
	a, servers, k := comparing(t, 3, func([]*timeServer) {})
	health(t, a, "")
	k.pass(0, time.Hour)
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "was set forward by 3600.0 s") {
		t.Fatal(err)
	}
	for _, s := range servers[:2] { // they learn of the hour as well, for example because the machine was wrong before
		s.set(time.Hour, "")
	}
	health(t, a, "")
	k.pass(0, -time.Minute)
	health(t, a, "this machine's clock was set back by 60.0 s, and the time servers have not confirmed its time yet")
	if _, err := stampAt(t, serve(t, a)); err == nil {
		t.Error("a timestamp of a clock that was set back")
	}
}

// Without answers, timestamps end after max_age.
func TestTimeServersSilent(t *testing.T) {
	t.Parallel()
	a, servers, k := comparing(t, 1, func([]*timeServer) {})
	health(t, a, "")
	servers[0].set(0, "short")
	k.pass(59*time.Minute, 0)
	if err := a.Health(); err != nil {
		t.Fatal(err)
	}
	k.pass(2*time.Minute, 0)
	health(t, a, "the time servers have not confirmed this machine's clock for 1h1m0s")
	if servers[0].requests() == 0 {
		t.Error("the server was not asked")
	}
}

// Each server is asked once, for the operator.
func TestCompare(t *testing.T) {
	t.Parallel()
	right, wrong, silent := newTimeServer(t, time.Now), newTimeServer(t, time.Now), newTimeServer(t, time.Now)
	wrong.set(-time.Minute, "")
	silent.set(0, "short")
	got := tsa.Compare(t.Context(), tsa.ClockConfig{Servers: []string{right.url, wrong.url, silent.url}})
	if len(got) != 3 || !got[0].Agrees || got[0].Server != right.url || got[0].Offset.Abs() > time.Second ||
		got[1].Agrees || got[1].Err != nil || got[1].Offset.Round(time.Second) != -time.Minute ||
		got[2].Agrees || got[2].Err == nil {
		t.Errorf("%+v", got)
	}
}
