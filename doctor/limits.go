package doctor

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"syscall"

	"github.com/mayfly-ca/mayfly/node"
)

// The defaults of limits.connections, and what the CA needs besides: files, logs, providers.
const (
	defaultConnections = 4096
	otherDescriptors   = 256
)

// descriptors compares the limit of file descriptors with the connections that the CA accepts.
func (e *exam) descriptors(context.Context) []Row {
	const name = "file descriptors"
	listeners := 0
	for address := range map[string]bool{e.cfg.Listen.HTTP: true, e.cfg.Listen.GRPC: true} {
		if address != "off" {
			listeners++
		}
	}
	connections := e.cfg.Limits.Connections
	if connections == 0 {
		connections = defaultConnections
	}
	want := listeners*connections + otherDescriptors
	var out []Row
	tooFew := func(who string, have int) {
		if have < want {
			out = append(out,
				problem(name, fmt.Sprintf("the limit of %s is %d, and %d connections on each of %d listeners "+
					"need %d", who, have, connections, listeners, want),
					fmt.Sprintf("raise the limit (systemd: LimitNOFILE=%d), or "+
						"write a smaller limits.connections", want)))
		}
	}
	for _, r := range e.running { // another process than this one, with a limit of its own
		if d := r.Limits.Descriptors; d != nil {
			tooFew(r.URL, d.Limit)
		}
	}
	if len(e.running) > 0 {
		return otherwise(out, name, fmt.Sprintf("the running CA may open the %d that it needs", want))
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return []Row{skipped(name, err.Error(), "")}
	}
	most := min(uint64(limit.Max), math.MaxInt32) //nolint:gosec,unconvert // signed on some systems
	tooFew("this process", int(most))             //nolint:gosec // bounded above
	return otherwise(out, name, fmt.Sprintf("this process may open the %d that are needed", want))
}

// leastMemory is less than a CA with the default limits needs under load.
const leastMemory = 128 << 20

func (e *exam) memory(context.Context) []Row {
	const name = "memory"
	limit := node.MemoryLimit()
	switch {
	case limit == 0:
		return []Row{ok(name, "the control group has no memory limit")}
	case limit < leastMemory:
		return []Row{warning(name, fmt.Sprintf("the memory limit of the control group is %d MiB", limit>>20),
			fmt.Sprintf("give the CA %d MiB or more; with less it accepts fewer connections", leastMemory>>20))}
	}
	return []Row{ok(name, fmt.Sprintf("the memory limit of the control group is %d MiB", limit>>20))}
}

// processors says how many processors the CA may use, as the machine and the control group allow.
func (e *exam) processors(context.Context) []Row {
	return []Row{ok("processors", fmt.Sprintf("%d: the limit of the machine or its control group",
		runtime.GOMAXPROCS(0)))}
}
