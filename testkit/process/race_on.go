//go:build race

package process

// RaceDetector reports whether this test, and with it the programs that it starts, has the race detector, which
// multiplies the memory that goroutines need.
const RaceDetector = true
