package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/internal/hostname"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/spf13/cobra"
)

// benchFlags are the flags of mayfly-bench.
type benchFlags struct {
	target, grpc     string
	dir, listenIDP   string
	metrics          string
	mayfly           string
	callers, rate    string
	processors       string
	step, logLatency time.Duration
	most             int
	embedded         bool
	json             bool
	svg, profile     string
	anotherHost      bool
	plan             []benchLoad
	relative         bool  // the plan has percentages and starts with a measurement of the capacity
	servers          []int // number of processors of each server; 0: all
	native, launched bool
}

// Limits of a run, so that a typing error does not cause an excessive load.
const (
	maxBenchCallers  = 4096
	maxBenchRate     = 100_000
	maxBenchPercent  = 10_000
	maxBenchStep     = 10 * time.Minute
	maxBenchRequests = 10_000_000
	maxLogLatency    = 3 * time.Second
)

func newBench(o *cli.Common) *cobra.Command {
	f := &benchFlags{}
	cmd := &cobra.Command{
		Use:   "mayfly-bench",
		Short: "Measure how many certificates a CA issues, and what each costs",
		Long: "mayfly-bench requests certificates. For each step it prints certificates and refusals per second, the\n" +
			"latency of both, errors, and the server's processor time per certificate next to the time of its\n" +
			"cryptography.\n\n" +
			"With --callers, each caller sends one request at a time, and after a refusal waits as long as the\n" +
			"response says. With --rate, requests arrive at random times (a Poisson process), independent of the\n" +
			"responses: latency counts from the intended time of the request, and no request is repeated.\n" +
			"Percentages are of the capacity, which a short step with 64 callers measures first. After more than\n" +
			"100%, the tool measures how long it takes until half the capacity is served as before the overload.\n" +
			"--processors starts one server per number, with that many processors.\n\n" +
			"Without --target, the tool starts a CA on loopback, with a log and an identity provider that respond\n" +
			"immediately: the maximum of this machine. With --target it loads a running CA. The tokens then come\n" +
			"from \"mayfly dev\" (--dir), or from a provider that the tool starts (--listen-idp) and whose entry\n" +
			"for the CA's issuer file it prints. Every certificate is valid, and is submitted to the CA's logs.",
		Example: "  mayfly-bench\n  mayfly-bench --embedded --callers 1,64 --step 10s --svg bench.svg\n  " +
			"mayfly-bench --rate 50%,100%,1000%\n  mayfly-bench --processors 1,2,4\n" +
			"  mayfly-bench --target http://127.0.0.1:5555 --dir .mayfly-dev --metrics http://127.0.0.1:2112/metrics",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: cli.Perform(func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return bench(cmd.Context(), o, f,
				cli.Streams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
		}),
	}
	o.Add(cmd)
	cmd.Version = version.Read().Version
	cmd.SetVersionTemplate("mayfly-bench {{.Version}}\n")
	fl := cmd.Flags()
	fl.StringVar(&f.mayfly, "mayfly", "",
		"the mayfly binary to start (default: in the directory of mayfly-bench, else on the PATH)")
	fl.StringVar(&f.target, "target", "",
		"URL of a running CA's REST API, http://HOST:PORT; omitted: a CA is started for the run")
	fl.StringVar(&f.grpc, "grpc", "", "use gRPC: HOST:PORT of the running CA; \"on\" for the CA that is started")
	fl.StringVar(&f.dir, "dir", "", "directory of a \"mayfly dev\" whose provider signs the tokens")
	fl.StringVar(&f.listenIDP, "listen-idp", "",
		"loopback address for a provider whose tokens are used, for example 127.0.0.1:5558")
	fl.StringVar(&f.metrics, "metrics", "", "URL of the target's metrics page, for its processor time and memory")
	fl.StringVar(&f.callers, "callers", "", "callers at each step (default "+defaultCallers+"; with --processors 64)")
	fl.StringVar(&f.rate, "rate", "",
		"requests per second at each step, instead of callers: numbers, or percentages of the capacity: "+
			"200,400 or 50%,100%,1000%")
	fl.StringVar(&f.processors, "processors", "", "start one CA for each of these numbers of processors: 1,2")
	fl.Var(cli.DurationFlag(&f.step, 5*time.Second), "step", "length of a step")
	fl.IntVar(&f.most, "max-requests", 200_000, "stop after this many requests")
	fl.BoolVar(&f.embedded, "embedded", false, "use an embedded log on disk in the CA that the tool starts")
	fl.Var(cli.DurationFlag(&f.logLatency, 0), "log-latency", "latency of the log of the CA that the tool starts")
	fl.BoolVar(&f.json, "json", false, "print the result as JSON")
	fl.StringVar(&f.svg, "svg", "", "write a chart of the result to this file")
	fl.StringVar(&f.profile, "cpu-profile", "",
		"write a CPU profile of the CA that the tool starts, over all steps, to this file")
	fl.BoolVar(&f.anotherHost, "load-another-host", false,
		"confirm that the target is another machine whose operator agrees to the load")
	return cmd
}

func (f *benchFlags) check() error {
	f.launched = f.target == "" && (f.grpc == "" || f.grpc == "on")
	f.native = f.grpc != ""
	if err := f.makePlan(runtime.NumCPU()); err != nil {
		return err
	}
	switch {
	case f.step < 100*time.Millisecond || f.step > maxBenchStep:
		return cli.Usage("--step %s: write a duration from 100ms to %s", f.step, maxBenchStep)
	case f.most < 1 || f.most > maxBenchRequests:
		return cli.Usage("--max-requests %d: write a number from 1 to %d", f.most, maxBenchRequests)
	case f.logLatency < 0 || f.logLatency > maxLogLatency:
		return cli.Usage("--log-latency %s: write a duration up to %s", f.logLatency, maxLogLatency)
	case f.logLatency > 0 && f.embedded:
		return cli.Usage("--log-latency is for the simulated log, and --embedded for a real " +
			"one; remove one of them")
	case f.profile != "" && f.processors != "":
		return cli.Usage("--cpu-profile is for one CA, and --processors starts several; remove one of them")
	case f.launched && (f.dir != "" || f.listenIDP != "" || f.metrics != ""):
		return cli.Usage("--dir, --listen-idp and --metrics are for a running CA; add --target, or remove them")
	case f.launched:
		return nil
	case f.profile != "" || f.embedded || f.processors != "" || f.logLatency > 0:
		return cli.Usage("--cpu-profile, --embedded, --processors and --log-latency are for a CA " +
			"that this tool starts; remove --target, or these flags")
	case f.grpc == "on":
		return cli.Usage("--grpc on: the gRPC port of the target is needed; write --grpc HOST:PORT")
	case (f.dir == "") == (f.listenIDP == ""):
		return cli.Usage("the source of tokens is missing; write --dir DIRECTORY of a \"mayfly dev\", or --listen-idp " +
			"127.0.0.1:PORT for a provider that this tool starts")
	}
	return f.checkHosts()
}

// checkHosts returns an error if the target is another machine, unless --load-another-host is set.
func (f *benchFlags) checkHosts() error {
	for _, at := range []string{f.target, f.grpc} {
		host := at
		if u, err := url.Parse(at); err == nil && u.Host != "" {
			host = u.Host
		}
		if at != "" && !hostname.IsLoopbackRequest(host) && !f.anotherHost {
			return cli.Usage("%s is not this machine; add --load-another-host if its operator agrees to the load", at)
		}
	}
	return nil
}

// bench runs the plan against each server and prints the result.
func bench(ctx context.Context, o *cli.Common, f *benchFlags, std cli.Streams) error {
	result := f.result()
	left := &atomic.Int64{}
	left.Store(int64(f.most))
	for _, n := range f.servers {
		if len(result.Steps) > 0 && (ctx.Err() != nil || left.Load() <= 0) {
			break
		}
		lab, err := f.open(ctx, o, std, n)
		if err != nil {
			return err
		}
		run, err := f.runOn(ctx, lab, std.Err, left)
		if err := errors.Join(err, lab.close()); err != nil {
			return err
		}
		result.add(run)
	}
	result.Exhausted, result.Interrupted = left.Load() <= 0, ctx.Err() != nil
	return f.report(std.Out, result)
}

// runOn runs the plan against one CA.
func (f *benchFlags) runOn(ctx context.Context, lab *benchLab, progress io.Writer,
	left *atomic.Int64,
) (*benchRun, error) {
	fmt.Fprintln(progress, "preparing requests …")
	run, err := newBenchRun(ctx, lab, f, left)
	if err != nil {
		return nil, err
	}
	defer run.clients.close()
	profiled := lab.profile(ctx, f)
	if err := run.ramp(ctx, progress); err != nil {
		return nil, err
	}
	if err := profiled(); err != nil {
		return nil, fmt.Errorf("--cpu-profile: %w", err)
	}
	return run, nil
}

func (f *benchFlags) report(w io.Writer, r benchResult) error {
	if f.svg != "" {
		if err := os.WriteFile(f.svg, r.svg(), 0o644); err != nil { //nolint:gosec // the chart is not secret
			return err
		}
	}
	if f.json {
		return cli.WriteJSON(w, r)
	}
	return r.print(w, terminal.StyleFor(w))
}
