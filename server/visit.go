package server

import (
	"context"
	"net/netip"
)

// visit is what the server knows of a request before it is decoded: whom it comes from, and how to end its reception.
type visit struct {
	client netip.Addr // the address of the client, behind trusted proxies
	key    netip.Addr // of client, for limits
}

// visitContext carries a visit. It embeds the context that it extends, so that deriving from it needs no goroutine.
type visitContext struct {
	context.Context //nolint:containedctx // it is a context
	visit           visit
}

type visitKey struct{}

// Value implements [context.Context].
func (c *visitContext) Value(key any) any {
	if _, ok := key.(visitKey); ok {
		return &c.visit
	}
	return c.Context.Value(key)
}

// visitIn returns the visit that a context carries; nil where there is none, as in a test of one handler.
func visitIn(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}
