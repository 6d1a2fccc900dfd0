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

// heapFloor is the size in bytes that the heap may always reach before a collection. The live heap is a few MiB, so
// with GOGC=100 the collector runs dozens of times a second under load. The price is a process that is up to heapFloor
// bytes larger.
const heapFloor = 48 << 20

// tuneMemory makes the garbage collector run less often while the heap is small, and sets a soft memory limit from the
// control group. The environment variables GOGC and GOMEMLIMIT have precedence.
func tuneMemory(log *slog.Logger) {
	floor := int64(heapFloor)
	if os.Getenv("GOMEMLIMIT") == "" {
		if limit := groupLimit(os.ReadFile); limit > 0 {
			soft := limit / 10 * 9 // the rest is for memory that the runtime does not count
			debug.SetMemoryLimit(soft)
			floor = min(floor, soft/2)
			log.Info("memory limit", "control_group_bytes", limit, "soft_limit_bytes", soft)
		}
	}
	if os.Getenv("GOGC") == "" {
		afterEachCollection(func() { debug.SetGCPercent(percentFor(measureHeap(), floor)) })
	}
}

// heap has the sizes that the last garbage collection measured, in bytes.
type heap struct {
	live  int64 // reachable objects
	roots int64 // stacks and global variables, which the collector also scans
}

// runtimeMinHeap is the heap size in bytes below which the runtime does not collect at GOGC=100. This size is
// proportional to GOGC.
const runtimeMinHeap = 4 << 20

// minGCPercent is the smallest GOGC. It applies if the live heap does not fit the floor, as with a thousand REST
// connections. It is less than the runtime's default of 100 to save memory.
const minGCPercent = 60

// percentFor returns the GOGC with which the heap grows to floor, but at least minGCPercent. GOGC is the growth of the
// heap until the next collection, in percent of live objects and roots together.
func percentFor(h heap, floor int64) int {
	if h.live <= 0 {
		return minGCPercent
	}
	return int(max(min(100*(floor-h.live)/(h.live+h.roots), 100*floor/runtimeMinHeap), minGCPercent))
}

func measureHeap() heap {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/scan/stack:bytes"},
		{Name: "/gc/scan/globals:bytes"},
	}
	metrics.Read(s)
	var n [3]int64
	for i := range s {
		if s[i].Value.Kind() == metrics.KindUint64 {
			n[i] = int64(min(s[i].Value.Uint64(), math.MaxInt64/4)) //nolint:gosec // bounded
		}
	}
	return heap{live: n[0], roots: n[1] + n[2]}
}

// afterEachCollection calls f now and after every garbage collection until the process ends. It makes an unreachable
// object with a finalizer, which the runtime runs after the next collection; the finalizer calls f and makes the next
// such object.
func afterEachCollection(f func()) {
	type sentinel struct{ _ [16]byte }
	var again func(*sentinel)
	again = func(*sentinel) {
		f()
		runtime.SetFinalizer(new(sentinel), again)
	}
	again(nil)
}

// groupLimit returns the memory limit of this process's control group in bytes (cgroup v2 or v1); 0 is no limit.
func groupLimit(read func(string) ([]byte, error)) int64 {
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		data, err := read(name)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil || n <= 0 || n >= math.MaxInt64/2 { // no limit: "max" in version 2, a huge number in version 1
			return 0
		}
		return n
	}
	return 0
}
