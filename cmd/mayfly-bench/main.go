// Command mayfly-bench measures how many certificates a CA issues, and what each costs. It sends requests to a running
// CA, or to a "mayfly serve" that it starts on loopback.
package main

import "github.com/mayfly-ca/mayfly/cmd/internal/cli"

func main() { cli.Main(newBench(&cli.Common{})) }
