package journal

import (
	"runtime"
	"time"
)

const (
	// The processors are idle if the writer yields idleYields times in a row and continues within idleYield each time.
	idleYields = 3
	idleYield  = 5 * time.Microsecond
	// maxCollect bounds the time for which the writer yields.
	maxCollect = 8 * time.Millisecond
)

// collect yields the processor to requests before a group is taken, so that their records join the group. While the
// processors are busy the wait costs nothing, and a sync costs as much processor time as about thirty records. It does
// not use a timer, so no record waits while a processor is idle, and a single record does not wait at all.
//
// With eight callers on two busy processors a group has 7.3 instead of 4.0 records, and a record takes 0.29 instead of
// 0.42 ms; with 64 callers it is 54 instead of 34 records (BenchmarkAppend).
func (j *Journal) collect() {
	if j.lastGroup < 2 && j.queued() < 2 {
		return
	}
	began := time.Now()
	for idle := 0; idle < idleYields; {
		at := time.Now()
		if at.Sub(began) >= maxCollect {
			return
		}
		runtime.Gosched()
		if idle++; time.Since(at) >= idleYield {
			idle = 0
		}
	}
}

// queued returns the number of waiting records.
func (j *Journal) queued() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.waiting)
}
