package server

import (
	"context"
	"encoding/binary"
	"testing"
	"time"
)

// F2: the certificates that are stored for repeated requests are bounded in number and in bytes.
func TestRetriesAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1.8e9, 0)
	for _, size := range []int{1, 16 << 10} {
		r, der := newRetries(func() time.Time { return now }), make([]byte, size)
		for n := range maxRetries + 10 {
			var key retryKey
			binary.BigEndian.PutUint64(key[:], uint64(n)+1) //nolint:gosec // not negative
			_, finish, err := r.begin(context.Background(), key, nil)
			if err != nil || finish == nil {
				t.Fatal(err)
			}
			finish(der, "")
		}
		if n := len(r.by); n != r.ages.Len() || n != min(maxRetries, maxRetrySize/size) || r.size != n*size {
			t.Errorf("%d certificates of %d bytes are stored; %d bytes are counted", n, size, r.size)
		}
		now = now.Add(retryLifetime)
		if r.expire(); len(r.by) != 0 || r.size != 0 {
			t.Errorf("%d certificates and %d bytes after their time", len(r.by), r.size)
		}
	}
}
