package embedded_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/hex"
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

	f_note "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/fsck"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/tlog"
)

// submitAll runs in the process that is killed, or whose system calls fail. It prints each SCT, up to the number
// MAYFLY_TEST_ENTRIES; without that variable it does not end. After an error, which it counts, it tries again.
func submitAll(dir string) {
	l, err := embedded.Open(context.Background(), embedded.Config{Dir: dir, Origin: origin},
		tlog.Options{Every: 10 * time.Millisecond})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	wanted, _ := strconv.ParseInt(os.Getenv("MAYFLY_TEST_ENTRIES"), 10, 64) // 0: for ever
	start, _ := strconv.Atoi(os.Getenv("MAYFLY_TEST_FIRST"))
	deadline := time.Now().Add(time.Minute)
	if wanted > 0 {
		deadline = time.Now().Add(20 * time.Second)
	}
	var mu sync.Mutex
	var done, failed atomic.Int64
	submitOne := func(i int) {
		raw, err := l.Submit(context.Background(), precert(i))
		if err != nil {
			failed.Add(1)
			time.Sleep(5 * time.Millisecond)
			return
		}
		done.Add(1)
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(i, hex.EncodeToString(raw))
	}
	if os.Getenv("MAYFLY_TEST_WAIT") != "" {
		submitOne(start + 1_000_000)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	}
	var all sync.WaitGroup
	for c := range 8 {
		all.Go(func() {
			for i := start + c; (wanted == 0 || done.Load() < wanted) && time.Now().Before(deadline); i += 8 {
				submitOne(i)
			}
		})
	}
	all.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	fmt.Println("end", failed.Load(), l.Close(ctx))
}

// printedSCT is an SCT that the process printed before it ended.
type printedSCT struct {
	n   int
	raw []byte
}

// writer runs submitAll until the process ends or enough returns true, and then kills it. ended is the last line of a
// process that ended normally.
func writer(t *testing.T, cmd *exec.Cmd, enough func(n int) bool) (got []printedSCT, ended string) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		number, text, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			ended = lines.Text()
			continue
		}
		raw, err := hex.DecodeString(text)
		if _, e := tbs.ParseSCT(raw); err != nil || e != nil {
			continue // the last line may be cut
		}
		if got = append(got, printedSCT{n, raw}); enough(len(got)) {
			_ = cmd.Process.Kill() // gone already is fine
		}
	}
	_ = cmd.Wait() // it was killed, or has failed
	return got, ended
}

// proveAll opens the log after the process has ended, and proves with Tessera's fsck and with separate code that the
// tree is complete and has the entry of every SCT.
func proveAll(t *testing.T, dir string, scts []printedSCT) {
	t.Helper()
	l, err := embedded.Open(t.Context(), embedded.Config{Dir: dir, Origin: origin}, tlog.Options{})
	if err != nil {
		t.Errorf("the log does not open again: %v", err)
		return
	}
	defer shut(t, l)
	size, root := head(t, l, 0)
	if int(size) < len(scts) { //nolint:gosec // small
		t.Errorf("%d SCTs, %d entries", len(scts), size)
	}
	if size > 0 {
		leaves, computed := tree(t, l, size)
		if !bytes.Equal(root, computed) {
			t.Error("the hashes of level 0 do not have the root of the checkpoint")
		}
		for _, p := range scts {
			found(t, leaves, precert(p.n), p.raw)
			sct, err := tbs.ParseSCT(p.raw)
			if err != nil || sct.Verify(l.Key(), precert(p.n).Entry) != nil {
				t.Errorf("SCT %d does not verify: %v", p.n, err)
			}
		}
	}
	key, ok := l.Key().(*ecdsa.PublicKey)
	if !ok {
		t.Fatal("no ECDSA key")
	}
	vkey, err := f_note.RFC6962VerifierString(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := f_note.NewRFC6962Verifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if err := fsck.New(origin, v, bundles(dir), leafHashes, fsck.Opts{N: 2}).Check(t.Context()); err != nil {
		t.Errorf("fsck: %v", err)
	}
}

// bundles reads the files of a static-ct log for fsck.
type bundles string

func (b bundles) read(partial uint8, path func(uint8) string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(b), path(partial)))
	if errors.Is(err, fs.ErrNotExist) && partial > 0 {
		return os.ReadFile(filepath.Join(string(b), path(0)))
	}
	return data, err
}

func (b bundles) ReadCheckpoint(context.Context) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(b), "checkpoint"))
}

func (b bundles) ReadTile(_ context.Context, level, index uint64, p uint8) ([]byte, error) {
	return b.read(p, func(p uint8) string { return layout.TilePath(level, index, p) })
}

func (b bundles) ReadEntryBundle(_ context.Context, index uint64, p uint8) ([]byte, error) {
	return b.read(p, func(p uint8) string { return "tile/data/" + layout.NWithSuffix(0, index, p) })
}

// leafHashes hashes the entries of a bundle of precertificates, byte by byte (c2sp.org/static-ct-api, "Log Entries").
func leafHashes(data []byte) (out [][]byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the bundle is cut: %v", r)
		}
	}()
	for len(data) > 0 {
		n := 8 + 2 + 32
		n += 3 + int(data[n])<<16 + int(binary.BigEndian.Uint16(data[n+1:]))
		n += 2 + int(binary.BigEndian.Uint16(data[n:]))
		out = append(out, rfc6962.DefaultHasher.HashLeaf(append([]byte{0, 0}, data[:n]...)))
		data = data[n:]
		n = 3 + int(data[0])<<16 + int(binary.BigEndian.Uint16(data[1:]))
		n += 2 + int(binary.BigEndian.Uint16(data[n:]))
		data = data[n:]
	}
	return out, nil
}

// A process that is killed repeatedly while it logs loses no entry with an SCT.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var all []printedSCT
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "MAYFLY_TEST_LOG_DIR="+dir, fmt.Sprint("MAYFLY_TEST_FIRST=", round*1_000_000))
		limit := 1 + rand.IntN(400)
		got, ended := writer(t, cmd, func(n int) bool { return n >= limit })
		if len(got) < limit {
			t.Fatalf("only %d SCTs of %d: %s", len(got), limit, ended)
		}
		all = append(all, got...)
		proveAll(t, dir, all)
	}
	t.Logf("5 kills, %d acknowledged entries", len(all))
}

// After a failed write no entry is accepted, readiness reports the cause, and the log continues when the storage works
// again.
func TestStorageFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := &journal{}
	l, err := embedded.Open(t.Context(), embedded.Config{Dir: dir, Origin: origin},
		tlog.Options{Every: 10 * time.Millisecond, Event: told.event})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, l) })
	submit(t, l, 0)
	for i, name := range []string{"tile", "issuer", ".state/treeState"} {
		path := filepath.Join(dir, name)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("not a log"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := precert(100 + i)
		p.Chain = append(p.Chain, fmt.Appendf(nil, "issuer %d", i))
		if _, err := l.Submit(t.Context(), p); err == nil || !strings.Contains(err.Error(), "LOG_UNAVAILABLE") {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
		until(t, "recovered after "+name, func() bool { return l.Health() == nil })
		submit(t, l, 200+i)
	}
	if !told.has("log-storage-failed") || !told.has("log-storage-works") {
		t.Errorf("journal: %v", told.reasons)
	}
	size, _ := head(t, l, 4)
	if size < 4 {
		t.Errorf("%d entries", size)
	}
}

// A log on a full disk refuses entries, loses none, and accepts entries again once there is space. The test mounts a
// file system: "make crash" runs it.
func TestFullDisk(t *testing.T) {
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
	cmd.Env = append(os.Environ(), "MAYFLY_TEST_LOG_DIR="+dir, "MAYFLY_TEST_ENTRIES=4000")
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
	got, ended := writer(t, cmd, func(int) bool { return false })
	var refused int
	if n, err := fmt.Sscanf(ended, "end %d", &refused); n != 1 || err != nil || refused == 0 || len(got) < 4000 {
		t.Errorf("%d entries, last words %q", len(got), ended)
	}
	proveAll(t, dir, got)
	t.Logf("%d acknowledged entries, 0 of them lost, %d requests refused", len(got), refused)
}

// TestFaults makes system calls of a process that logs fail, each kind at each place, and proves each time that no
// entry with an SCT is lost. It takes minutes: "make crash" runs it.
func TestFaults(t *testing.T) {
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
						total.run(t, faultCase{strace: strace, call: call, problem: problem, n: n})
						total.run(t, faultCase{strace: strace, call: call, problem: problem, n: n, attached: true})
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

// tally counts the results of all runs of [TestFaults].
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

// attach traces the process once it has printed its first SCT, and then lets it continue.
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

func (total *tally) run(t *testing.T, c faultCase) {
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
	cmd.Env = append(os.Environ(), "MAYFLY_TEST_LOG_DIR="+filepath.Join(dir, "log"), "MAYFLY_TEST_ENTRIES=150")
	then := func(int) bool { return false }
	if c.attached {
		cmd.Env = append(cmd.Env, "MAYFLY_TEST_WAIT=1")
		then = c.attach(t, cmd, tracer)
	}
	got, ended := writer(t, cmd, then)
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
	proveAll(t, filepath.Join(dir, "log"), got)
	if t.Failed() {
		kept := filepath.Join(os.TempDir(), fmt.Sprintf("mayfly-crash-%s-%s-%d", c.call, c.problem, c.n))
		if err := os.CopyFS(kept, os.DirFS(dir)); err == nil {
			t.Fatalf("%s %s %s: the log is kept in %s; last words %q", c.call, c.problem, when, kept, ended)
		}
	}
}
