package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// nap sleeps with a higher resolution than the timers of the Go runtime.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&t, nil) // a signal may end the sleep early, which is harmless
}

// place calls start, which starts a process, with that process restricted to n processors (sched_setaffinity(2)). If at
// least n other processors remain, this process is restricted to them; undo removes this restriction.
func place(n int, start func() error) (p *benchPlacement, undo func() error, err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, nil, fmt.Errorf("processors: %w", err)
	}
	its, ours := divide(all, n)
	runtime.LockOSThread() // a process inherits the affinity of the thread that starts it
	defer runtime.UnlockOSThread()
	if err := unix.SchedSetaffinity(0, &its); err != nil {
		return nil, nil, fmt.Errorf("processors: %w", err)
	}
	err = start()
	if err := errors.Join(err, confine(ours)); err != nil {
		return nil, nil, errors.Join(err, confine(all))
	}
	return &benchPlacement{Pinned: true, Shared: ours == all}, func() error { return confine(all) }, nil
}

// divide assigns n processors to the server and the others to the load generator. If fewer than n remain, the load
// generator gets all processors.
func divide(all unix.CPUSet, n int) (its, ours unix.CPUSet) {
	for cpu := 0; its.Count()+ours.Count() < all.Count(); cpu++ {
		switch {
		case !all.IsSet(cpu):
		case its.Count() < n:
			its.Set(cpu)
		default:
			ours.Set(cpu)
		}
	}
	if ours.Count() < n {
		ours = all
	}
	return its, ours
}

// confine restricts all threads of this process to some processors. New threads inherit the affinity of the thread that
// creates them.
func confine(to unix.CPUSet) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		// ESRCH: the thread has ended
		if err := unix.SchedSetaffinity(id, &to); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("processors: %w", err)
		}
	}
	return nil
}
