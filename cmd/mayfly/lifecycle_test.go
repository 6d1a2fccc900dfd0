package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// The log tells the life of a process: where it listens, when it has started, when it is ready and after how long, why
// it is not ready, why it stops, and what it has done. JSON has durations in seconds, under names that say so.
func TestLifecycleLines(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), Embedded: true, LogLevel: "info",
		More: "audit: {file: journal.jsonl}\n",
	})
	lines := func() (out []map[string]any) {
		for text := range strings.Lines(s.Logs.String()) {
			var line map[string]any
			if json.Unmarshal([]byte(text), &line) == nil {
				out = append(out, line)
			}
		}
		return out
	}
	count := func(message string) (n int) {
		for _, line := range lines() {
			if line["msg"] == message {
				n++
			}
		}
		return n
	}
	s.Until(t, "ready", func() bool { return count("ready") == 1 })
	call, done := s.Caller(t, true)
	if err := call(process.Requests(t, provider)[0]); err != nil {
		t.Fatal(err)
	}
	done()
	journal := s.Dir + "/journal.jsonl"
	if err := os.Rename(journal, journal+".away"); err != nil { // as if somebody had removed it
		t.Fatal(err)
	}
	s.Until(t, "not ready", func() bool {
		_ = call(process.Requests(t, provider)[1])
		return count("not ready") == 1
	})
	if err := s.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = s.Cmd.Wait() // the journal cannot be closed
	var messages []string
	for _, line := range lines() {
		message, _ := line["msg"].(string)
		number := func(key string) float64 {
			n, ok := line[key].(float64)
			if !ok {
				t.Errorf("%s has no %s: %v", message, key, line)
			}
			return n
		}
		text := func(key string) string {
			value, ok := line[key].(string)
			if !ok || value == "" {
				t.Errorf("%s has no %s: %v", message, key, line)
			}
			return value
		}
		switch message {
		case "listening":
			text("http")
		case "ready":
			if n := number("after_seconds"); n <= 0 || n > 60 {
				t.Errorf("%v", line)
			}
		case "not ready":
			number("after_seconds")
			if !strings.Contains(text("cause"), "journal") {
				t.Errorf("%v", line)
			}
		case "stopping":
			if text("cause") != "terminated signal received" || number("drain_seconds") != 25 {
				t.Errorf("%v", line)
			}
		case "stopped":
			if number("uptime_seconds") <= 0 || number("requests") < 2 {
				t.Errorf("%v", line)
			}
		case "started":
			text("config_digest")
		case "request":
			if n := number("took_seconds"); n <= 0 || n > 60 {
				t.Errorf("%v", line)
			}
			continue
		default:
			continue
		}
		messages = append(messages, message)
	}
	if i := slices.Index(messages, "started"); i == 2 { // the server was ready before the node had logged it
		messages[1], messages[2] = messages[2], messages[1]
	}
	want := []string{"listening", "started", "ready", "not ready", "stopping", "stopped"}
	if !slices.Equal(messages, want) {
		t.Errorf("%q, want %q", messages, want)
	}
}
