// Command mutants plants small defects in the code, one at a time, and says which of them the tests do not notice.
//
// The defects are kept in lists beside this file (*.txt, format in CONTRIBUTING.md). Each one is given to "go test" as
// an overlay, so that no file of the repository changes. A defect is caught when a test fails. A defect that makes the
// tests run into the time limit hangs: a test has to fail within seconds. The exit status is 0 when all are caught, 1
// when one survives or hangs, 2 when a list does not fit the code (its text is not there exactly once, the result does
// not build) or when the tests fail without any defect.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

func main() {
	only := flag.String("only", "", "areas, comma-separated, or \"area: words of a title\"; empty is all")
	limit := flag.Duration("limit", time.Minute,
		"time that the tests may take with a defect, beyond twice what they take without one")
	jobs := flag.Int("jobs", 1, "defects tried at the same time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, options{root: ".", only: *only, limit: *limit, jobs: *jobs, out: os.Stdout})
	stop()
	os.Exit(code)
}

type options struct {
	root  string // of the repository
	only  string
	limit time.Duration
	jobs  int
	out   io.Writer
}

// The results of a mutant.
const (
	caught   = "caught"
	survives = "survives"
	hangs    = "hangs"
	broken   = "broken" // the list does not match the code
)

type result struct {
	mutant mutant
	status string
	note   string // why, one line or a few
	took   time.Duration
}

// run tries the chosen mutants and returns the exit status.
func run(ctx context.Context, o options) int {
	list, err := readLists(filepath.Join(o.root, "testkit", "mutants"))
	if err != nil {
		fmt.Fprintln(o.out, err)
		return 2
	}
	list = slices.DeleteFunc(list, func(m mutant) bool { return !m.chosen(o.only) })
	if len(list) == 0 {
		fmt.Fprintf(o.out, "no mutant is named %q\n", o.only)
		return 2
	}
	normal, ok := baselines(ctx, o, list)
	if !ok {
		return 2
	}

	results := make([]result, len(list))
	work := make(chan int)
	var mu sync.Mutex // the output, and the number of those that ended
	ended := 0
	var workers sync.WaitGroup
	for range max(1, o.jobs) {
		workers.Go(func() {
			for i := range work {
				m := list[i]
				r := try(ctx, o, m, o.limit+2*normal[strings.Join(m.test, " ")])
				mu.Lock()
				ended++
				fmt.Fprintf(o.out, "%3d/%d  %-8s  %5.1fs  %s\n", ended, len(list), r.status, r.took.Seconds(), m.name())
				results[i] = r
				mu.Unlock()
			}
		})
	}
	for i := range list {
		work <- i
	}
	close(work)
	workers.Wait()
	if ctx.Err() != nil {
		fmt.Fprintln(o.out, "interrupted")
		return 2
	}
	return report(o.out, results)
}

// baselines runs the tests of list without a defect, which also fills the build cache, and returns how long each set
// takes.
func baselines(ctx context.Context, o options, list []mutant) (map[string]time.Duration, bool) {
	normal := map[string]time.Duration{}
	for _, m := range list {
		key := strings.Join(m.test, " ")
		if _, ok := normal[key]; ok {
			continue
		}
		fmt.Fprintf(o.out, "without a defect: go test %s\n", key)
		r := goTest(ctx, o.root, 10*time.Minute, append([]string{"-count=1"}, m.test...))
		if r.status != survives {
			fmt.Fprintf(o.out, "the tests fail without a defect, or take more than ten minutes (%s):\n%s\n",
				m.place(), r.note)
			return nil, false
		}
		normal[key] = r.took
	}
	return normal, true
}

// try runs the tests of m with its defect.
func try(ctx context.Context, o options, m mutant, limit time.Duration) result {
	fail := func(err error) result { return result{mutant: m, status: broken, note: err.Error()} }
	data, err := m.apply(o.root)
	if err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file, err := filepath.Abs(filepath.Join(o.root, filepath.FromSlash(m.file)))
	if err != nil {
		return fail(err)
	}
	with, overlay := filepath.Join(dir, filepath.Base(m.file)), filepath.Join(dir, "overlay.json")
	plan, err := json.Marshal(map[string]any{"Replace": map[string]string{file: with}})
	if err != nil {
		return fail(err)
	}
	for name, content := range map[string][]byte{with: data, overlay: plan} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return fail(err)
		}
	}
	r := goTest(ctx, o.root, limit, append([]string{"-overlay=" + overlay}, m.test...))
	r.mutant = m
	return r
}

// noBuild is what "go test" prints for a package that does not compile.
var noBuild = regexp.MustCompile(`(?m)^FAIL\t\S+ \[(build|setup) failed\]|^(no Go files|no packages|pattern )`)

// goTest runs "go test" with args in dir. Profile-guided optimization and vet are turned off: neither finds a defect,
// and both take time.
func goTest(ctx context.Context, dir string, limit time.Duration, args []string) result {
	ctx, cancel := context.WithTimeout(ctx, limit+10*time.Minute) // building has its own time
	defer cancel()
	began := time.Now()
	args = append([]string{"test", "-pgo=off", "-vet=off", "-failfast", "-timeout=" + limit.String()}, args...)
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // the arguments come from the lists
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	output, err := cmd.CombinedOutput()
	r := result{status: caught, note: tail(string(output), 40), took: time.Since(began)}
	switch {
	case err == nil && strings.Contains(string(output), "[no tests to run]"):
		r.status, r.note = broken, "no test has the name after -run"
	case err == nil:
		r.status = survives
	case ctx.Err() != nil || strings.Contains(string(output), "panic: test timed out after"):
		r.status = hangs
	case noBuild.Match(output):
		r.status = broken
	}
	return r
}

// tail returns the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// report prints the table of the mutants that were not caught, and returns the exit status.
func report(out io.Writer, results []result) int {
	count := map[string]int{}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range results {
		count[r.status]++
		if r.status != caught {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.status, r.mutant.place(), r.mutant.file, r.mutant.title)
		}
	}
	fmt.Fprintf(out, "\n%d defects: %d caught, %d survive, %d hang, %d do not fit the code\n",
		len(results), count[caught], count[survives], count[hangs], count[broken])
	_ = table.Flush()
	for _, r := range results {
		if r.status == broken {
			fmt.Fprintf(out, "\n%s: %s\n", r.mutant.place(), r.note)
		}
	}
	switch {
	case count[broken] > 0:
		return 2
	case count[survives]+count[hangs] > 0:
		return 1
	}
	return 0
}
