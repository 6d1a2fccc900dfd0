package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// benchFlags are the flags of "mayfly bench".
type benchFlags struct {
	target, grpc     string
	dir, listenIDP   string
	metrics          string
	callers          string
	step             time.Duration
	most             int
	embedded         bool
	json             bool
	svg, profile     string
	anotherHost      bool
	steps            []int
	native, launched bool
}

// Bounds on a run: this tool must not become a weapon by a slip of the finger.
const (
	maxBenchCallers  = 4096
	maxBenchStep     = 10 * time.Minute
	maxBenchRequests = 10_000_000
)

func newBench(o *common) *cobra.Command {
	f := &benchFlags{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how many certificates a CA issues, and what each costs",
		Long: "bench asks for certificates, with more callers at each step, and prints per step: certificates per second, latency, errors, and\n" +
			"the server's processor time for one certificate beside the cost of its cryptography.\n\n" +
			"Without --target it starts a CA of its own on loopback, with a log and an identity provider that answer at once: what this\n" +
			"machine can do at best. With --target it loads a CA that runs; its tokens come from \"mayfly dev\" (--dir), or from a provider\n" +
			"that bench starts (--listen-idp) and whose entry it prints for the CA's issuer file. Every certificate is real, and logged\n" +
			"where the CA logs.",
		Example: "  mayfly bench\n  mayfly bench --embedded --callers 1,64 --step 10s --svg bench.svg\n" +
			"  mayfly bench --target http://127.0.0.1:5555 --dir .mayfly-dev --metrics http://127.0.0.1:2112/metrics",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return bench(cmd.Context(), o, f, streams{cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()})
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.target, "target", "", "URL of a running CA's REST API, http://HOST:PORT; omitted: a CA is started for the run")
	fl.StringVar(&f.grpc, "grpc", "", "use gRPC: HOST:PORT of the running CA; \"on\" for the CA that is started")
	fl.StringVar(&f.dir, "dir", "", "take tokens of the \"mayfly dev\" whose directory this is")
	fl.StringVar(&f.listenIDP, "listen-idp", "", "loopback address for a provider whose tokens are used, for example 127.0.0.1:5558")
	fl.StringVar(&f.metrics, "metrics", "", "URL of the target's metrics page, for its processor time and memory")
	fl.StringVar(&f.callers, "callers", "1,4,16,64,256", "callers at each step")
	fl.DurationVar(&f.step, "step", 5*time.Second, "length of a step")
	fl.IntVar(&f.most, "max-requests", 200_000, "stop after so many requests")
	fl.BoolVar(&f.embedded, "embedded", false, "the CA that is started logs to an embedded log on disk")
	fl.BoolVar(&f.json, "json", false, "print the result as JSON")
	fl.StringVar(&f.svg, "svg", "", "write a picture of the result to this file")
	fl.StringVar(&f.profile, "cpu-profile", "", "write a profile of the CA that is started, over all steps, to this file")
	fl.BoolVar(&f.anotherHost, "load-another-host", false, "the target is not this machine, and its operator knows that it is loaded")
	return cmd
}

func (f *benchFlags) check() error {
	for _, text := range strings.Split(f.callers, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > maxBenchCallers {
			return usage("--callers %q: write numbers from 1 to %d with commas between, for example 1,16,64", f.callers, maxBenchCallers)
		}
		f.steps = append(f.steps, n)
	}
	f.launched = f.target == "" && (f.grpc == "" || f.grpc == "on")
	f.native = f.grpc != ""
	switch {
	case f.step < 100*time.Millisecond || f.step > maxBenchStep:
		return usage("--step %s: write a duration from 100ms to %s", f.step, maxBenchStep)
	case f.most < 1 || f.most > maxBenchRequests:
		return usage("--max-requests %d: write a number from 1 to %d", f.most, maxBenchRequests)
	case f.launched && (f.dir != "" || f.listenIDP != "" || f.metrics != ""):
		return usage("--dir, --listen-idp and --metrics are for a running CA; write --target too, or remove them")
	case f.launched:
		return nil
	case f.profile != "" || f.embedded:
		return usage("--cpu-profile and --embedded are for a CA that bench starts; remove --target, or remove them")
	case f.grpc == "on":
		return usage("--grpc on: the gRPC port of the target is needed; write --grpc HOST:PORT")
	case (f.dir == "") == (f.listenIDP == ""):
		return usage("where do tokens come from? write --dir DIRECTORY for a \"mayfly dev\", or --listen-idp 127.0.0.1:PORT for a provider of this tool")
	}
	return f.checkHosts()
}

// checkHosts lets this tool load this machine only, unless somebody says that another one is meant.
func (f *benchFlags) checkHosts() error {
	for _, at := range []string{f.target, f.grpc} {
		host := at
		if u, err := url.Parse(at); err == nil && u.Host != "" {
			host = u.Host
		}
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if at != "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) && !f.anotherHost {
			return usage("%s is not this machine; write --load-another-host if its operator knows of the load", at)
		}
	}
	return nil
}

// bench runs the steps and reports.
func bench(ctx context.Context, o *common, f *benchFlags, std streams) (err error) {
	lab, err := f.open(ctx, o, std)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	fmt.Fprintln(std.err, "preparing requests …")
	run, err := newBenchRun(ctx, f, lab)
	if err != nil {
		return err
	}
	defer run.client.Close()
	profiled := lab.profile(ctx, f)
	for _, n := range f.steps {
		if ctx.Err() != nil || run.left.Load() <= 0 {
			break
		}
		fmt.Fprintf(std.err, "%d callers …\n", n)
		if err := run.step(ctx, n); err != nil {
			return err
		}
	}
	if err := profiled(); err != nil {
		return fmt.Errorf("--cpu-profile: %w", err)
	}
	return f.report(std.out, run.result())
}

func (f *benchFlags) report(w io.Writer, r benchResult) error {
	if f.svg != "" {
		if err := os.WriteFile(f.svg, r.svg(), 0o644); err != nil { //nolint:gosec // a picture is for everybody
			return err
		}
	}
	if f.json {
		return writeJSON(w, r)
	}
	return r.print(w, styleFor(w))
}
