package server

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// F8: as many TLS handshakes compute as there are processors. Sources take turns, and a place is free when the server
// has answered, when it has asked for another hello, and when the connection is closed.
func TestHandshakesTakeTurns(t *testing.T) {
	t.Parallel()
	c, _ := newBounds(10, 10)
	h := &handshakes{admission: admission.New(admission.Options{Processors: 1})}
	first, _ := connect(t, c, "192.0.2.1")
	second, _ := connect(t, c, "192.0.2.1")
	third, _ := connect(t, c, "192.0.2.1")
	calm, _ := connect(t, c, "192.0.2.2")
	if err := h.begin(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	order := make(chan *conn, 3)
	enter := func(one *conn) {
		waiting := h.admission.Waiting()
		go func() {
			if err := h.begin(context.Background(), one); err != nil {
				t.Error(err)
			}
			order <- one
		}()
		poll(t, "it waits", func() bool { return h.admission.Waiting() == waiting+1 })
	}
	enter(second)
	enter(third)
	enter(calm)
	next := func(want *conn) {
		t.Helper()
		select {
		case got := <-order:
			if got != want {
				t.Error("the wrong handshake is next")
			}
		case <-time.After(time.Minute):
			t.Fatal("no handshake is next")
		}
	}
	if _, err := first.Write([]byte("the answer of the server")); err != nil {
		t.Fatal(err)
	}
	next(second)
	_ = second.Close()
	next(calm)
	retry := append(make([]byte, 11), helloRetry...)
	if _, err := calm.Write(retry); err != nil {
		t.Fatal(err)
	}
	next(third)
	_ = third.Close()
	if h.admission.Waiting() != 0 {
		t.Error("a handshake waits still")
	}
}

// A handshake whose client was asked for another hello waits for its turn again, with the second hello.
func TestHandshakeRetries(t *testing.T) {
	t.Parallel()
	c, _ := newBounds(10, 10)
	h := &handshakes{admission: admission.New(admission.Options{Processors: 1})}
	here, there := net.Pipe()
	defer there.Close()
	one := c.admit(&pipeFrom{Conn: here, from: &net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 1}})
	other, _ := connect(t, c, "192.0.2.2")
	if err := h.begin(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.ReadFull(there, make([]byte, 11+len(helloRetry)))
		_, _ = there.Write([]byte("the second hello"))
	}()
	if _, err := one.Write(append(make([]byte, 11), helloRetry...)); err != nil {
		t.Fatal(err)
	}
	if err := h.begin(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { _, err := one.Read(make([]byte, 64)); read <- err }()
	poll(t, "the second hello waits", func() bool { return h.admission.Waiting() == 1 })
	select {
	case err := <-read:
		t.Fatalf("the second hello computes beside another handshake: %v", err)
	default:
	}
	_ = other.Close()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	third, _ := connect(t, c, "192.0.2.3")
	if h.begin(ctx, third) == nil {
		t.Error("a handshake computes beside the second hello")
	}
	if h.refused.Load() != 1 {
		t.Error("it is not counted")
	}
}

func poll(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// Connections that were opened together are not closed together.
func TestJitter(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for range 100 {
		d := jittered(time.Minute)
		if d < 54*time.Second || d > 66*time.Second {
			t.Fatalf("%s", d)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different times of 100", len(seen))
	}
}
