package node

import "testing"

// F2: there are always threads that can read sockets while all admitted requests compute.
func TestExtraProcessors(t *testing.T) {
	t.Parallel()
	for processors, want := range map[int]int{1: 2, 2: 2, 4: 2, 8: 2, 12: 3, 64: 16} {
		if got := extraProcessors(processors); got != want {
			t.Errorf("%d processors: %d", processors, got)
		}
	}
}
