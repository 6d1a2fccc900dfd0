package canary

import "context"

// Force makes a run now.
func (c *Canary) Force(ctx context.Context) *Run {
	r, _ := c.next(ctx)
	return r
}
