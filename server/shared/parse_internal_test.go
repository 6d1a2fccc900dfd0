package shared

import (
	"math"
	"strings"
	"testing"
)

// D20: a reply of another form is an error, and never a use that was counted.
func FuzzReply(f *testing.F) {
	f.Add(int64(1), int64(1), int64(1.8e12), int64(1), int64(0), 5)
	f.Add(int64(0), int64(3), int64(1.8e12), int64(9), int64(1), 5)
	f.Add(int64(1), int64(0), int64(0), int64(-1), int64(2), 4)
	f.Add(int64(1), int64(1), int64(1.8e12), int64(math.MaxInt64), int64(0), 5)
	f.Fuzz(func(t *testing.T, status, used, born, seq, lost int64, n int) {
		all := []int64{status, used, born, seq, lost, 0, 0}
		r, err := parseReply(all[:min(max(n, 0), len(all))])
		if err != nil {
			return
		}
		if n != 5 || r.status != status || r.used != used || r.born.UnixMilli() != born || r.seq != seq ||
			r.lost != (lost == 1) {
			t.Errorf("%d: %+v", all, r)
		}
		if r.seq > maxSeq { // the store would get it back, and could not count with it
			t.Errorf("%+v is accepted", r)
		}
		if r.status == statusCounted && (r.used < 1 || r.seq < 1) {
			t.Errorf("%+v is a use", r)
		}
	})
}

// B4: whatever a store answers to INFO is read without a panic.
func FuzzInfo(f *testing.F) {
	f.Add("# Memory\r\nmaxmemory_policy:noeviction\r\n# Stats\r\nevicted_keys:0\r\n")
	f.Add("maxmemory_policy:allkeys-lru\nevicted_keys:12")
	f.Add("evicted_keys:-1\r\nmaxmemory_policy:" + strings.Repeat("x", 100))
	f.Fuzz(func(t *testing.T, text string) {
		if in := parseInfo(text); in.evicted < 0 || len(in.policy) > 64 || strings.ContainsAny(in.policy, "\n") {
			t.Errorf("%+v", in)
		}
	})
}

func TestInfo(t *testing.T) {
	t.Parallel()
	got := parseInfo("# Server\r\nrun_id:x\r\n# Memory\r\nmaxmemory_policy:allkeys-lru\r\n\r\n# " +
		"Stats\r\nevicted_keys:12\r\n")
	if got.policy != "allkeys-lru" || got.evicted != 12 {
		t.Errorf("%+v", got)
	}
}
