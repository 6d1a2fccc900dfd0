// Package crash kills processes that add entries to a log, fills their disk, and makes their system calls fail. Each
// time it has the log's test prove that no entry is lost that was acknowledged.
//
// The process is the test binary itself: TestMain calls [Work] if [Dir] returns a directory.
package crash

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The environment of the process.
const (
	dirVariable     = "MAYFLY_TEST_LOG_DIR"
	entriesVariable = "MAYFLY_TEST_ENTRIES"
	firstVariable   = "MAYFLY_TEST_FIRST"
	waitVariable    = "MAYFLY_TEST_WAIT"
)

// Dir returns the directory of the log to which this process must add entries; empty if it is a test.
func Dir() string { return os.Getenv(dirVariable) }

// Answer is what the process printed for an entry before it ended.
type Answer struct {
	N    int    // the number of the entry
	Text string // what the log answered, on one line
}

// Log is the log under test.
type Log struct {
	// Valid reports whether an answer is complete: the last line of a killed process may be cut.
	Valid func(text string) bool
	// Prove opens the log in dir after the process has ended, and proves with separate code that the tree is complete
	// and has the entry of every answer.
	Prove func(t *testing.T, dir string, all []Answer)
}

// Work adds entries until the process is killed, or up to the number in the environment. It prints each answer. After
// an error, which it counts, it tries again.
func Work(add func(n int) (string, error), end func(context.Context) error) {
	wanted, _ := strconv.ParseInt(os.Getenv(entriesVariable), 10, 64) // 0: for ever
	start, _ := strconv.Atoi(os.Getenv(firstVariable))
	deadline := time.Now().Add(time.Minute)
	if wanted > 0 {
		deadline = time.Now().Add(20 * time.Second)
	}
	var mu sync.Mutex
	var done, failed atomic.Int64
	addOne := func(i int) {
		text, err := add(i)
		if err != nil {
			failed.Add(1)
			time.Sleep(5 * time.Millisecond)
			return
		}
		done.Add(1)
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(i, text)
	}
	if os.Getenv(waitVariable) != "" {
		addOne(start + 1_000_000)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	}
	var all sync.WaitGroup
	for c := range 8 {
		all.Go(func() {
			for i := start + c; (wanted == 0 || done.Load() < wanted) && time.Now().Before(deadline); i += 8 {
				addOne(i)
			}
		})
	}
	all.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	fmt.Println("end", failed.Load(), end(ctx))
}

// run runs the process until it ends or enough returns true, and then kills it. ended is the last line of a process
// that ended normally.
func (l Log) run(t *testing.T, cmd *exec.Cmd, enough func(n int) bool) (got []Answer, ended string) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		number, text, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			ended = lines.Text()
			continue
		}
		if !l.Valid(text) {
			continue
		}
		if got = append(got, Answer{n, text}); enough(len(got)) {
			_ = cmd.Process.Kill() // gone already is fine
		}
	}
	_ = cmd.Wait() // it was killed, or has failed
	return got, ended
}

// Killed kills a process repeatedly while it logs.
func (l Log) Killed(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	var all []Answer
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), dirVariable+"="+dir, fmt.Sprint(firstVariable, "=", round*1_000_000))
		limit := 1 + rand.IntN(400)
		got, ended := l.run(t, cmd, func(n int) bool { return n >= limit })
		if len(got) < limit {
			t.Fatalf("only %d answers of %d: %s", len(got), limit, ended)
		}
		all = append(all, got...)
		l.Prove(t, dir, all)
	}
	t.Logf("5 kills, %d acknowledged entries", len(all))
}

// FullDisk fills the disk of a log, which must refuse entries, lose none, and accept entries again once there is space.
// It mounts a file system: "make crash" runs it.
func (l Log) FullDisk(t *testing.T) {
	t.Helper()
	if os.Getenv("MAYFLY_CRASH") == "" {
		t.Skip("make crash runs this test")
	}
	disk := t.TempDir()
	mount := func(options string) error {
		return exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", options, "tmpfs", disk).Run()
	}
	if err := mount("size=4m"); err != nil {
		t.Skipf("nothing can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := exec.Command("umount", disk).Run(); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(disk, "log")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), dirVariable+"="+dir, entriesVariable+"=4000")
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		var free syscall.Statfs_t
		full := func() bool { return syscall.Statfs(disk, &free) == nil && free.Bavail*uint64(free.Bsize) < 1<<20 } //nolint:gosec // a block's size
		for deadline := time.Now().Add(15 * time.Second); !full() && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // another process fills it
		}
		time.Sleep(time.Second) // for requests to be refused: nothing else tells that they were
		if err := mount("remount,size=512m"); err != nil {
			t.Error(err)
		}
	})
	got, ended := l.run(t, cmd, func(int) bool { return false })
	var refused int
	if n, err := fmt.Sscanf(ended, "end %d", &refused); n != 1 || err != nil || refused == 0 || len(got) < 4000 {
		t.Errorf("%d entries, last words %q", len(got), ended)
	}
	l.Prove(t, dir, got)
	t.Logf("%d acknowledged entries, 0 of them lost, %d requests refused", len(got), refused)
}

// Faults makes system calls of a process that logs fail, each kind at each place. It takes minutes: "make crash" runs
// it.
func (l Log) Faults(t *testing.T) {
	t.Helper()
	most, _ := strconv.Atoi(os.Getenv("MAYFLY_CRASH"))
	if most == 0 {
		t.Skip("make crash runs this test")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if out, err := exec.CommandContext(t.Context(), strace, "-f", "-o", os.DevNull,
		"/bin/true").CombinedOutput(); err != nil {
		t.Skipf("processes cannot be traced here: %s", out)
	}
	total := tally{early: map[string]int{}}
	t.Run("runs", func(t *testing.T) {
		for _, call := range []string{
			"write", "fsync", "renameat", "openat", "close", "mkdirat", "unlinkat",
			"flock", "fcntl",
		} {
			for _, problem := range []string{"EIO", "ENOSPC", "signal=KILL"} {
				t.Run(call+" "+problem, func(t *testing.T) {
					t.Parallel()
					for n := 1; n <= most; n++ {
						total.run(t, l, faultCase{strace: strace, call: call, problem: problem, n: n})
						total.run(t, l, faultCase{strace: strace, call: call, problem: problem, n: n, attached: true})
					}
				})
			}
		}
	})
	t.Logf("%d runs, %d injected faults, %d acknowledged entries, 0 of them lost; %d runs went on to their end, %d "+
		"ended early; %d requests refused",
		total.runs.Load(), total.injected.Load(), total.acknowledged.Load(), total.ended.Load(),
		total.runs.Load()-total.ended.Load(), total.refused.Load())
	t.Logf("an open log ended early: %v", total.early)
	if total.injected.Load() < int64(most) || total.acknowledged.Load() < int64(most) {
		t.Error("too few faults or entries to show anything")
	}
}

// tally counts the results of all runs of [Log.Faults].
type tally struct {
	runs, injected, acknowledged, ended, refused atomic.Int64

	mu    sync.Mutex
	early map[string]int // runs of an open log that ended early, by what failed
}

// faultCase is the n-th call of each thread that fails, and every fifth of those after it for every third case.
type faultCase struct {
	strace, call, problem string
	n                     int
	attached              bool // counted from when the log is open and has an entry, not from the start of the process
}

// attach traces the process once it has printed its first answer, and then lets it continue.
func (c faultCase) attach(t *testing.T, cmd *exec.Cmd, tracer []string) func(n int) bool {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return func(n int) bool {
		if n > 1 {
			return false
		}
		s := exec.CommandContext(t.Context(), c.strace, append(tracer, "-p", strconv.Itoa(cmd.Process.Pid))...)
		said, err := s.StderrPipe()
		if err == nil {
			err = s.Start()
		}
		if err != nil {
			t.Error(err)
			return true
		}
		text := bufio.NewScanner(said)
		text.Scan() // "Process N attached": to all of its threads
		go func() {
			for text.Scan() { //nolint:revive // so that it is not blocked
			}
			_ = s.Wait() // it ends with the process
		}()
		_, err = fmt.Fprintln(in, "go on")
		return err != nil
	}
}

func (total *tally) run(t *testing.T, l Log, c faultCase) {
	t.Helper()
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	inject := c.problem
	if !strings.HasPrefix(inject, "signal") {
		inject = "error=" + inject
	}
	when := strconv.Itoa(c.n)
	if c.n%3 == 0 {
		when += "+5"
	}
	tracer := []string{
		"-f", "-o", trace, "-e", "trace=" + c.call, "-e",
		fmt.Sprintf("inject=%s:%s:when=%s", c.call, inject, when),
	}
	cmd := exec.CommandContext(t.Context(), c.strace, append(tracer, os.Args[0])...)
	if c.attached {
		cmd = exec.CommandContext(t.Context(), os.Args[0])
	}
	cmd.Env = append(os.Environ(), dirVariable+"="+filepath.Join(dir, "log"), entriesVariable+"=150")
	then := func(int) bool { return false }
	if c.attached {
		cmd.Env = append(cmd.Env, waitVariable+"=1")
		then = c.attach(t, cmd, tracer)
	}
	got, ended := l.run(t, cmd, then)
	data, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	total.runs.Add(1)
	total.injected.Add(int64(bytes.Count(data, []byte("(INJECTED)"))))
	if bytes.Contains(data, []byte("+++ killed by SIGKILL")) { // by strace: nobody else kills here
		total.injected.Add(1)
	}
	total.acknowledged.Add(int64(len(got)))
	if c.attached && ended == "" {
		total.mu.Lock()
		total.early[c.call+" "+c.problem]++
		total.mu.Unlock()
	}
	if strings.HasPrefix(ended, "end ") {
		total.ended.Add(1)
		var refused int64
		if _, err := fmt.Sscanf(ended, "end %d", &refused); err == nil {
			total.refused.Add(refused)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "log")); errors.Is(err, fs.ErrNotExist) {
		return // it ended before there was a log
	}
	l.Prove(t, filepath.Join(dir, "log"), got)
	if t.Failed() {
		kept := filepath.Join(os.TempDir(), fmt.Sprintf("mayfly-crash-%s-%s-%d", c.call, c.problem, c.n))
		if err := os.CopyFS(kept, os.DirFS(dir)); err == nil {
			t.Fatalf("%s %s %s: the log is kept in %s; last words %q", c.call, c.problem, when, kept, ended)
		}
	}
}
