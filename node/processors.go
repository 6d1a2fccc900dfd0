package node

import (
	"os"
	"runtime"
	"sync"
)

// reserveProcessors makes room beside the requests that compute, of which there are as many at once as processors (the
// result), for what must not wait for them: reading sockets, refusing, answering. The runtime looks for what has come
// from the network when one of its running goroutines has nothing more to do, or every ten milliseconds; if there were
// no more of them than requests that compute, an answer of a log or a refusal would take a tenth of a second under
// load, and the kernel is better at sharing. GOMAXPROCS in the environment has precedence.
var reserveProcessors = sync.OnceValue(func() int {
	n := runtime.GOMAXPROCS(0) // what the machine has, the affinity leaves, and the control group allows
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(n + beside(n))
	}
	return n
})

// beside is how many more threads may run Go code than requests compute.
func beside(processors int) int { return max(2, processors/4) }
