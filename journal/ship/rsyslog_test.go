package ship_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/journal/ship"
)

// A real receiver, if it is installed: rsyslogd writes exactly the lines of the journal.
func TestRsyslog(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("rsyslogd")
	if err != nil {
		t.Skip("rsyslogd is not installed")
	}
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	must(t, l.Close())
	out, conf := filepath.Join(dir, "out"), filepath.Join(dir, "rsyslog.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `global(maxMessageSize="64k" workDirectory=%q)
module(load="imtcp")
input(type="imtcp" port=%q address="127.0.0.1")
template(name="line" type="list") { property(name="msg") constant(value="\n") }
action(type="omfile" file=%q template="line")
`, dir, port, out), 0o600))
	cmd := exec.CommandContext(t.Context(), program, "-n", "-f", conf, "-i", filepath.Join(dir, "pid"))
	must(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}()
	path := filepath.Join(dir, "journal.jsonl")
	j := open(t,
		journal.Config{File: path, Config: ship.Config{Syslog: &ship.SyslogConfig{Address: "tcp://127.0.0.1:" + port}}},
		journal.Options{})
	for n := range 100 {
		must(t, j.Append(t.Context(), outcome(n+1)))
	}
	long := intent(1)
	long.Text = strings.Repeat("é\x00", 4_000)
	must(t, j.Append(t.Context(), long))
	eventually(t, "the receiver has everything",
		func() bool { return gauge(t, j, "mayfly_journal_copy_lag_records") == 0 })
	shut(t, j, 0)
	want, err := os.ReadFile(path)
	must(t, err)
	eventually(t, "it is written",
		func() bool { got, err := os.ReadFile(out); return err == nil && len(got) >= len(want) })
	got, err := os.ReadFile(out)
	must(t, err)
	if string(got) != string(want) {
		t.Errorf("%d bytes arrived, not the %d of the journal", len(got), len(want))
	}
}
