//go:build !linux

package main

import "time"

func nap(d time.Duration) { time.Sleep(d) }

// place cannot bind a process to processors on this operating system.
func place(_ int, start func() error) (p *benchPlacement, undo func() error, err error) {
	return &benchPlacement{Shared: true}, func() error { return nil }, start()
}
