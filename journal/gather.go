package journal

import (
	"runtime"
	"time"
)

const (
	// The processors have nothing else to do when the writer, having stepped aside idleYields times in a row, was on again within
	// idleYield each time.
	idleYields = 3
	idleYield  = 5 * time.Microsecond
	// gatherMost is after how long the writer steps aside no more.
	gatherMost = 8 * time.Millisecond
)

// gather lets those that have work to do have the processors first: while they are busy, waiting costs nothing, and a sync costs
// about as much processor time as thirty records. It waits for no clock, so that nobody waits for company while a processor is
// idle, and who comes alone does not wait at all. What comes while a group is on its way to the disk is the next group anyway.
func (j *Journal) gather() {
	if j.crowd < 2 && j.queued() < 2 {
		return
	}
	began := time.Now()
	for idle := 0; idle < idleYields; {
		at := time.Now()
		if at.Sub(began) >= gatherMost {
			return
		}
		runtime.Gosched()
		if idle++; time.Since(at) >= idleYield {
			idle = 0
		}
	}
}

// queued is how many records wait.
func (j *Journal) queued() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.waiting)
}
