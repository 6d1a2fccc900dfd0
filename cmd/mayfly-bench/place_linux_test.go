package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

func cpus(of ...int) (s unix.CPUSet) {
	for _, c := range of {
		s.Set(c)
	}
	return s
}

// The server gets the first processors. The load generator gets the others, or all if too few remain.
func TestDivideProcessors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		all       unix.CPUSet
		n         int
		its, ours unix.CPUSet
	}{
		{cpus(0, 1), 1, cpus(0), cpus(1)},
		{cpus(0, 1), 2, cpus(0, 1), cpus(0, 1)},
		{cpus(0, 1, 2), 2, cpus(0, 1), cpus(0, 1, 2)},
		{cpus(2, 5, 70, 71), 2, cpus(2, 5), cpus(70, 71)},
		{cpus(3), 1, cpus(3), cpus(3)},
	} {
		if its, ours := divide(c.all, c.n); its != c.its || ours != c.ours {
			t.Errorf("%v for %d: %v and %v", c.all, c.n, its, ours)
		}
	}
}
