package ctlog

import "time"

// crew runs functions beside the caller, each in a goroutine that has run others before if there is one. What an attempt calls
// goes deep (HTTP, verification of a signature): a goroutine that is used again need not grow its stack again.
type crew chan func()

// idle is how long a goroutine waits for another function before it ends.
const idle = 100 * time.Millisecond

func newCrew() crew { return make(crew) }

// run starts f and returns.
func (c crew) run(f func()) {
	select {
	case c <- f:
	default:
		go c.work(f)
	}
}

func (c crew) work(f func()) {
	end := time.NewTimer(idle)
	defer end.Stop()
	for {
		f()
		end.Reset(idle)
		select {
		case f = <-c:
		case <-end.C:
			return
		}
	}
}
