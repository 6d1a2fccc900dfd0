package journal_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/mayfly-ca/mayfly/journal"
)

// crashVariable names the journal that this test binary, started again as a process of its own, writes until it is
// killed.
const crashVariable = "MAYFLY_TEST_CRASH_JOURNAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashVariable); path != "" {
		writeForever(path)
	}
	os.Exit(m.Run())
}

// writeForever prints each serial number whose record was acknowledged.
func writeForever(path string) {
	j, err := journal.Open(journal.Config{File: path, MaxSize: "64KiB"}, journal.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for n := 0; ; n++ {
				r := intent(os.Getpid()*10_000_000 + i*1_000_000 + n)
				if j.Append(context.Background(), r) != nil {
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(r.Serial)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
}

// G4 // G5: a process is killed during commits, several times: the records that it reported as durable are in the
// journal, and the journal is intact after the next start.
func TestKilled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	self, err := os.Executable()
	must(t, err)
	said := map[string]bool{}
	const rounds = 5
	for round := range rounds {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), crashVariable+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for n := 0; n < 100+50*round && lines.Scan(); n++ {
			said[lines.Text()] = true
		}
		must(t, cmd.Process.Kill())
		for lines.Scan() {
			if len(lines.Text()) == 40 {
				said[lines.Text()] = true
			}
		}
		_ = cmd.Wait() // it was killed
	}
	j := open(t, journal.Config{File: path, MaxSize: "64KiB"}, journal.Options{})
	shut(t, j, 0)
	s, findings, err := journal.Verify(path, journal.VerifyOptions{})
	must(t, err)
	if len(findings) > 0 || s.Crashes != rounds || s.Segments < 2 {
		t.Errorf("%+v %v", s, findings)
	}
	for _, e := range all(t, path) {
		delete(said, e.Serial)
	}
	if len(said) > 0 {
		t.Errorf("%d records that were durable are gone", len(said))
	}
}
