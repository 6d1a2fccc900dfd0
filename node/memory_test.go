package node

import (
	"errors"
	"io/fs"
	"runtime"
	"testing"
	"time"
)

// F2: a small heap may grow to the floor before a collection, and a larger one by minGCPercent.
func TestPercentFor(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, c := range []struct {
		h     heap
		floor int64
		want  int
	}{
		{heap{}, 48 * mib, 60},
		{heap{live: 4 * mib}, 48 * mib, 1100},
		{heap{live: 4 * mib, roots: 4 * mib}, 48 * mib, 550},
		{heap{live: 24 * mib}, 48 * mib, 100},
		{heap{live: 200 * mib}, 48 * mib, 60},
		{heap{live: 1}, 48 * mib, 1200},
		{heap{live: 4 * mib}, 16 * mib, 300},
		{heap{live: 1}, 2 * mib, 60},
		{heap{live: 60 * mib, roots: 20 * mib}, 48 * mib, 60},
		{heap{live: 30 * mib, roots: 90 * mib}, 48 * mib, 60},
	} {
		if got := percentFor(c.h, c.floor); got != c.want {
			t.Errorf("%+v: %d, want %d", c.h, got, c.want)
		}
	}
}

// The memory limit is read from both versions of control groups. A missing or invalid limit is 0.
func TestGroupLimit(t *testing.T) {
	t.Parallel()
	const v2, v1 = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"
	for _, c := range []struct {
		files map[string]string
		want  int64
	}{
		{map[string]string{v2: "268435456\n"}, 268435456},
		{map[string]string{v2: "max\n"}, 0},
		{map[string]string{v1: "268435456\n"}, 268435456},
		{map[string]string{v1: "9223372036854771712\n"}, 0},
		{map[string]string{v2: "nonsense"}, 0},
		{nil, 0},
	} {
		read := func(name string) ([]byte, error) {
			if text, ok := c.files[name]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		}
		if got := groupLimit(read); got != c.want {
			t.Errorf("%v: %d, want %d", c.files, got, c.want)
		}
	}
	if got := groupLimit(func(string) ([]byte, error) { return nil, errors.New("no") }); got != 0 {
		t.Errorf("unreadable: %d", got)
	}
}

// The heap of this process can be measured, and the function is called immediately and after each collection.
func TestAfterEachCollection(t *testing.T) {
	t.Parallel()
	runtime.GC()
	if h := measureHeap(); h.live <= 0 || h.roots <= 0 {
		t.Errorf("measured %+v", h)
	}
	called := make(chan struct{}, 1000)
	afterEachCollection(func() {
		select {
		case called <- struct{}{}:
		default:
		}
	})
	for range 3 {
		select {
		case <-called:
		case <-time.After(10 * time.Second):
			t.Fatal("the function was not called")
		}
		runtime.GC()
	}
}
