//go:build !linux

package main

import "time"

func nap(d time.Duration) { time.Sleep(d) }

// place calls start without a restriction, because this platform has no sched_setaffinity.
func place(_ int, start func() error) (p *benchPlacement, undo func() error, err error) {
	return &benchPlacement{Shared: true}, func() error { return nil }, start()
}
