package lab

import (
	"context"
	"net"
	"sync"
	"time"
)

// Link forwards TCP connections to a server, and can be slow or broken, as a network between two parts can.
type Link struct {
	Address string // where the client connects
	target  string

	mu    sync.Mutex
	delay time.Duration // of each piece of data, in each direction
	cut   bool          // data is lost: connections stay open and silent
	conns map[net.Conn]bool
}

// Link starts a link to HOST:PORT, which works.
func (l *Lab) Link(target string) *Link {
	l.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.Fatal(err)
	}
	k := &Link{Address: listener.Addr().String(), target: target, conns: map[net.Conn]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	l.Cleanup(func() {
		cancel()
		_ = listener.Close()
		k.Heal()
	})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go k.forward(ctx, conn)
		}
	}()
	return k
}

// Slow delays all data by d in each direction.
func (k *Link) Slow(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.delay = d
}

// Cut loses all data from now on. Neither side is told.
func (k *Link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = true
}

// Heal ends delays and losses. Connections that existed are closed if data was lost.
func (k *Link) Heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut {
		for c := range k.conns {
			_ = c.Close()
		}
	}
	k.cut, k.delay = false, 0
}

func (k *Link) state() (delay time.Duration, cut bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.delay, k.cut
}

func (k *Link) keep(c net.Conn, keep bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if keep {
		k.conns[c] = true
	} else {
		delete(k.conns, c)
	}
}

func (k *Link) forward(ctx context.Context, client net.Conn) {
	k.keep(client, true)
	defer k.keep(client, false)
	defer client.Close()
	if _, cut := k.state(); cut {
		k.silence(client)
		return
	}
	server, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", k.target)
	if err != nil {
		return
	}
	k.keep(server, true)
	defer k.keep(server, false)
	defer server.Close()
	go k.copy(client, server)
	k.copy(server, client)
}

// silence reads what a client sends until the link is healed or the client leaves.
func (k *Link) silence(client net.Conn) {
	buf := make([]byte, 4096)
	for {
		if _, err := client.Read(buf); err != nil {
			return
		}
	}
}

// copy forwards one direction until either side closes.
func (k *Link) copy(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		delay, cut := k.state()
		if delay > 0 {
			time.Sleep(delay) // a slow network
		}
		if n > 0 && !cut {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
