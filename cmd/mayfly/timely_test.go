package main

import (
	"crypto/x509"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/testkit/site"
)

// G2: "config check" refuses a chain or logs that cannot be used now, and warns about those that end within 90 days. A
// start does the same.
func TestCheckOfTimes(t *testing.T) {
	t.Parallel()
	day := func(days float64) string {
		return time.Now().Add(time.Duration(days * 24 * float64(time.Hour))).UTC().Format(time.RFC3339)
	}
	quoted := func(key string, days float64) string { return ", " + key + `: "` + day(days) + `"` }
	for _, row := range []struct {
		name, ct string
		chain    time.Duration // remaining validity; 0 is several years
		exit     int
		want     string // in the output; "" is no warning
	}{
		{"all is well", "  logs:\n    - {%0}\n", 0, 0, ""},
		{"the only log is over", "  logs:\n    - {%0" + quoted("not_after", -1) + "}\n", 0, 2, "ct.logs.0.not_after"},
		{
			"the only log ends before a certificate", "  logs:\n    - {%0" + quoted("not_after", 0.003) + "}\n", 0, 2,
			"ct.logs.0.not_after",
		},
		{
			"the only log has not begun", "  logs:\n    - {%0" + quoted("not_before", 1) + "}\n", 0, 2,
			"ct.logs.0.not_before",
		},
		{"a second log begins", "  logs:\n    - {%0}\n    - {%1" + quoted("not_before", 1) + "}\n", 0, 0, ""},
		{"two of two are needed", "  logs:\n    - {%0}\n    - {%1" + quoted("not_before", 1) +
			"}\n  policy: {min_scts: 2}\n", 0, 2, "ct.logs.1.not_before"},
		{"the only log ends in 20 days", "  logs:\n    - {%0" + quoted("not_after", 20) + "}\n", 0, 0, "warning"},
		{"the only log ends in 100 days", "  logs:\n    - {%0" + quoted("not_after", 100) + "}\n", 0, 0, ""},
		{"another log follows", "  logs:\n    - {%0" + quoted("not_after", 20) + "}\n    - {%1" +
			quoted("not_before", 19) + "}\n", 0, 0, ""},
		{"a gap before the other log", "  logs:\n    - {%0" + quoted("not_after", 20) + "}\n    - {%1" +
			quoted("not_before", 21) + "}\n", 0, 0, "ct.logs.0: the log log0 ends"},
		{"the chain ends in 50 minutes", "  logs:\n    - {%0}\n", 50 * time.Minute, 2, "ca.file.chain"},
		{
			"the chain ends in 80 days", "  logs:\n    - {%0}\n", 80 * 24 * time.Hour, 0,
			"ca.file.chain: the chain expires in 79 days",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := site.New(t, 2)
			if row.chain != 0 {
				p := pki.New(pki.Options{Intermediate: func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter = time.Now().Add(-365*24*time.Hour), time.Now().Add(row.chain)
				}, Root: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(-366 * 24 * time.Hour) }})
				l.Write(t, "chain.pem", p.ChainPEM())
				l.Write(t, "key.pem", p.KeyPEM())
			}
			l.Config(t, row.ct)
			got, text := exitAndText(process.Mayfly(l.Dir, "config", "check", "--config", "mayfly.yaml"))
			if got != row.exit || !strings.Contains(text, row.want) {
				t.Errorf("exit %d, want %d with %q:\n%s", got, row.exit, row.want, text)
			}
			if row.want == "" && (strings.Contains(text, "ct.logs") || strings.Contains(text, "ca.file")) {
				t.Errorf("an unexpected warning:\n%s", text)
			}
			if row.exit == 0 {
				return
			}
			if got, text := exitAndText(process.Mayfly(l.Dir, "serve", "--config", "mayfly.yaml")); got != row.exit ||
				!strings.Contains(text, row.want) {
				t.Errorf("a start: exit %d\n%s", got, text)
			}
		})
	}
}

// exitAndText returns the exit status of a command and its output.
func exitAndText(out string, err error) (int, string) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, out
	case errors.As(err, &exit):
		return exit.ExitCode(), out + string(exit.Stderr)
	}
	return -1, out + err.Error()
}
