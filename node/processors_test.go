package node

import "testing"

// F2: there is always somebody to read sockets beside those that compute.
func TestBeside(t *testing.T) {
	t.Parallel()
	for processors, want := range map[int]int{1: 2, 2: 2, 4: 2, 8: 2, 12: 3, 64: 16} {
		if got := beside(processors); got != want {
			t.Errorf("%d processors: %d", processors, got)
		}
	}
}
