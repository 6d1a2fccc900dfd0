package node

import (
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
)

// heapFloor is the size in bytes that the heap may reach before a collection, however little of it is live. The live
// heap is a few MiB: with the runtime's default the collector runs dozens of times a second. Measured with mayfly-bench
// over gRPC, 32 callers, two processors: with an embedded log a certificate costs 10 to 20 % less processor time than
// with GOGC=100, and the process is 40 MiB larger.
const heapFloor = 48 << 20

// tuneMemory lets the collector run less often while the heap is small, and keeps the process within the memory of its control
// group. GOGC and GOMEMLIMIT have precedence over the one and the other.
func tuneMemory(log *slog.Logger) {
	floor := int64(heapFloor)
	if os.Getenv("GOMEMLIMIT") == "" {
		if limit := groupLimit(os.ReadFile); limit > 0 {
			soft := limit / 10 * 9 // the runtime's own limit is a soft one
			debug.SetMemoryLimit(soft)
			floor = min(floor, soft/2)
			log.Info("memory limit", "control_group_bytes", limit, "soft_limit_bytes", soft)
		}
	}
	if os.Getenv("GOGC") == "" {
		afterEachCollection(func() { debug.SetGCPercent(percentFor(measureHeap(), floor)) })
	}
}

// heap is what the last collection looked at, in bytes.
type heap struct {
	live  int64 // objects that it found alive
	roots int64 // stacks and global variables, which it scanned beside them
}

// smallest is the heap in bytes below which the runtime does not collect at GOGC=100; it grows with GOGC.
const smallest = 4 << 20

// sparing is the GOGC where more is live than the floor has room for, as with a thousand REST connections. The default
// of 100 would save a twentieth of the processor time there, and need a quarter more memory.
const sparing = 60

// percentFor is the GOGC with which the heap grows to floor, or sparing where that lets it grow further. The runtime lets it grow by
// that share of live objects and roots together.
func percentFor(h heap, floor int64) int {
	if h.live <= 0 {
		return sparing
	}
	return int(max(min(100*(floor-h.live)/(h.live+h.roots), 100*floor/smallest), sparing))
}

func measureHeap() heap {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(s)
	var n [3]int64
	for i := range s {
		if s[i].Value.Kind() == metrics.KindUint64 {
			n[i] = int64(min(s[i].Value.Uint64(), math.MaxInt64/4)) //nolint:gosec // bounded
		}
	}
	return heap{live: n[0], roots: n[1] + n[2]}
}

// afterEachCollection calls f now and after every garbage collection, for the life of the process. The finalizer of an
// unreachable object runs after the next collection, and makes the next such object.
func afterEachCollection(f func()) {
	type canary struct{ _ [16]byte }
	var again func(*canary)
	again = func(*canary) {
		f()
		runtime.SetFinalizer(new(canary), again)
	}
	again(nil)
}

// groupLimit is the memory in bytes that the control group of this process may use (cgroup v2 or v1); 0 is no limit.
func groupLimit(read func(string) ([]byte, error)) int64 {
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		data, err := read(name)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil || n <= 0 || n >= math.MaxInt64/2 { // "max", and what version 1 says for none
			return 0
		}
		return n
	}
	return 0
}
