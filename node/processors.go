package node

import (
	"os"
	"runtime"
	"sync"
)

// reserveProcessors raises GOMAXPROCS above the number of processors, and returns the number of processors, which is
// the number of requests that compute at once. The extra threads read sockets, refuse requests and write responses
// while the requests compute. Without them this work could wait: the Go scheduler polls the network when a thread has
// no runnable goroutine, or every ten milliseconds, and all threads are busy under load. The environment variable
// GOMAXPROCS has precedence.
var reserveProcessors = sync.OnceValue(func() int {
	n := runtime.GOMAXPROCS(0) // the runtime considers the CPU affinity and the control group
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(n + extraProcessors(n))
	}
	return n
})

// extraProcessors returns how far GOMAXPROCS is raised above the number of processors.
func extraProcessors(processors int) int { return max(2, processors/4) }
