// Command mayfly-bench measures how many certificates a CA issues, and what each costs. It sends requests to a running
// CA, or to a "mayfly serve" that it starts on loopback.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, cancel) // a second signal ends the process immediately
	status := cli.Execute(ctx, newBench(&cli.Common{}), os.Args[1:],
		cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	cancel()
	os.Exit(status)
}
