package main

import (
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// "config check" refuses what cannot issue now, and warns of what ends within 30 days; a start says the same (G2).
func TestCheckOfTimes(t *testing.T) {
	t.Parallel()
	day := func(days float64) string {
		return time.Now().Add(time.Duration(days * 24 * float64(time.Hour))).UTC().Format(time.RFC3339)
	}
	quoted := func(key string, days float64) string { return ", " + key + `: "` + day(days) + `"` }
	for _, row := range []struct {
		name, ct string
		chain    time.Duration // until its end; 0 is years
		exit     int
		want     string // in what is printed; "" is no warning
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
		{"the only log ends in 40 days", "  logs:\n    - {%0" + quoted("not_after", 40) + "}\n", 0, 0, ""},
		{"another log follows", "  logs:\n    - {%0" + quoted("not_after", 20) + "}\n    - {%1" +
			quoted("not_before", 19) + "}\n", 0, 0, ""},
		{"a gap before the other log", "  logs:\n    - {%0" + quoted("not_after", 20) + "}\n    - {%1" +
			quoted("not_before", 21) + "}\n", 0, 0, "ct.logs.0: the log log0 ends"},
		{"the chain ends in 50 minutes", "  logs:\n    - {%0}\n", 50 * time.Minute, 2, "ca.file.chain"},
		{
			"the chain ends in 20 days", "  logs:\n    - {%0}\n", 20 * 24 * time.Hour, 0,
			"ca.file.chain: the chain expires in 19 days",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLogLab(t, 2)
			if row.chain != 0 {
				p := pki.New(pki.Options{Intermediate: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(row.chain) }})
				l.write(t, "chain.pem", p.ChainPEM())
				l.write(t, "key.pem", p.KeyPEM())
			}
			l.config(t, row.ct)
			got, text := exitAndText(runIn(l.dir, "config", "check", "--config", "mayfly.yaml"))
			if got != row.exit || !strings.Contains(text, row.want) {
				t.Errorf("exit %d, want %d with %q:\n%s", got, row.exit, row.want, text)
			}
			if row.want == "" && (strings.Contains(text, "ct.logs") || strings.Contains(text, "ca.file")) {
				t.Errorf("a warning of what does not end:\n%s", text)
			}
			if row.exit == 0 {
				return
			}
			if got, text := exitAndText(runIn(l.dir, "serve", "--config", "mayfly.yaml")); got != row.exit ||
				!strings.Contains(text, row.want) {
				t.Errorf("a start: exit %d\n%s", got, text)
			}
		})
	}
}

// "config check --online" asks every log: for its roots, for a head that the pinned key signed, and for the time.
func TestCheckAsksLogs(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		set  func(l *logLab, log *ct.Log, t *testing.T)
		ct   string // "" is the log as it is
		want string // in what is printed; "" is all well
	}{
		{"well", func(*logLab, *ct.Log, *testing.T) {}, "", ""},
		{
			"another root", func(_ *logLab, log *ct.Log, _ *testing.T) { log.SetFault(ct.UnknownRoot) }, "",
			"does not accept our root",
		},
		{"another key", func(l *logLab, _ *ct.Log,
			t *testing.T,
		) {
			l.write(t, "ct0.pem", newTestLog(t, l.pki).PublicKeyPEM())
		}, "", "pinned key"},
		{
			"another time", func(_ *logLab, log *ct.Log, _ *testing.T) { log.SetSkew(-10 * time.Minute) }, "",
			"behind this machine's",
		},
		{"broken", func(_ *logLab, log *ct.Log, _ *testing.T) { log.SetFault(ct.Reset) }, "", "unreachable"},
		{
			"dead", func(*logLab, *ct.Log, *testing.T) {},
			"  logs:\n    - {name: dead, url: \"http://127.0.0.1:1\", public_key: ct0.pem}\n", "unreachable",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			l := newLogLab(t, 1)
			row.set(l, l.logs[0], t)
			if row.ct == "" {
				row.ct = "  logs:\n    - {%0}\n"
			}
			cfg := l.config(t, row.ct)
			m, err := prove(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			got := m.askLogs(t.Context(), cfg)
			text := strings.Join(got[0].Problems, "; ")
			if got[0].OK != (row.want == "") || !strings.Contains(text, row.want) {
				t.Errorf("%+v, want %q", got[0], row.want)
			}
		})
	}
}

// A log that shows neither roots nor a head may do: the check says that it does not know, and names the settings that
// tell.
func TestCheckOfASilentLog(t *testing.T) {
	t.Parallel()
	l := newLogLab(t, 1)
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	cfg := l.config(t, "  logs:\n    - {name: static, url: \""+srv.URL+"\", public_key: ct0.pem}\n")
	m, err := prove(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := m.askLogs(t.Context(), cfg)[0]
	if text := strings.Join(got.Warnings, "; "); !got.OK || !strings.Contains(text, "roots cannot be read") ||
		!strings.Contains(text, "monitoring_url and origin") {
		t.Errorf("%+v", got)
	}
}

// The embedded log is asked by its files: a directory without a log is no problem, a head of another key is one.
func TestCheckOfTheEmbeddedLog(t *testing.T) {
	t.Parallel()
	l := newLogLab(t, 1)
	cfg := l.config(t, "  embedded: {dir: log, origin: ca.example.com/ct}\n")
	m, err := prove(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.askLogs(t.Context(), cfg)[0]; !got.OK || len(got.Warnings) != 1 {
		t.Errorf("before the first start: %+v", got)
	}
	sys := l.start(t, cfg)
	_ = sys
	if got := m.askLogs(t.Context(), cfg)[0]; !got.OK || len(got.Warnings) != 0 {
		t.Errorf("a log that runs: %+v", got)
	}
	l.write(t, filepath.Join("log", "log.pub.pem"), l.logs[0].PublicKeyPEM())
	if got := m.askLogs(t.Context(), cfg)[0]; got.OK || !strings.Contains(got.Problems[0], "pinned key") {
		t.Errorf("another key: %+v", got)
	}
}

// exitAndText is the exit status of a command and all that it printed.
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
