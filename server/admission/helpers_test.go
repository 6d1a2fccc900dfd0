package admission_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// maxWait is how long a test waits for an event: a busy machine is slow, but a test must not hang.
const maxWait = 60 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await receives from a channel.
func await[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(maxWait):
		t.Fatalf("nothing within %s: %s", maxWait, what)
		panic("unreachable")
	}
}

// withSource is ctx for a request from an address.
func withSource(ctx context.Context, address string) context.Context {
	s := admission.SourceOf(netip.MustParseAddr(address))
	return context.WithValue(ctx, admission.ContextKey{}, &s)
}

func waitsNow(c *admission.Controller) int {
	n, _ := c.AwaitingProviders()
	return n
}
