package server

import (
	"context"
	"net/netip"
)

// WithSource is ctx for a request that comes from an address.
func WithSource(ctx context.Context, address string) context.Context {
	a := netip.MustParseAddr(address)
	return &visitContext{Context: ctx, visit: visit{client: a, key: sourceKey(a)}}
}
