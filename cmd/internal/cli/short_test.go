package cli

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// finished is the record of a request with these changes, as attributes by their names.
func finished(log *slog.Logger, level slog.Level, changes map[string]any) {
	attrs := []any{"request_id", "ABC", "method", "CreateSigningCertificate", "transport", "grpc"}
	for key, otherwise := range map[string]any{
		"code": "OK", "took": 12345678 * time.Nanosecond, "entry": "https://idp.example", "san": "alice@example.com",
	} {
		if v, ok := changes[key]; ok {
			otherwise = v
		}
		attrs = append(attrs, key, otherwise)
	}
	for _, key := range []string{"reason", "cause"} {
		if v, ok := changes[key]; ok {
			attrs = append(attrs, key, v)
		}
	}
	log.Log(nil, level, "request", attrs...) //nolint:staticcheck // the handler needs no context
}

// A request is one line: result, method, entry, name, time and request id; and the cause of a failure.
func TestShortRequests(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		level   slog.Level
		changes map[string]any
		want    string
		colour  string // of the result
	}{
		"a certificate": {
			slog.LevelInfo, nil,
			"OK CreateSigningCertificate https://idp.example alice@example.com 12.3ms ABC", "32",
		},
		"a refusal": {
			slog.LevelInfo,
			map[string]any{"code": "InvalidArgument", "reason": "TOKEN_EXPIRED", "cause": "since 3s", "san": ""},
			"TOKEN_EXPIRED CreateSigningCertificate https://idp.example - 12.3ms ABC: since 3s", "33",
		},
		"a failure": {
			slog.LevelError,
			map[string]any{"code": "Internal", "reason": "INTERNAL", "entry": "", "san": ""},
			"INTERNAL CreateSigningCertificate - - 12.3ms ABC", "31",
		},
		"text from outside": {
			slog.LevelInfo,
			map[string]any{
				"san": "a\x1b[31m\nOK b\u202e", "entry": "\x1b]0;x\x07", "reason": "CLAIM_INVALID", "cause": "x\r\ny",
			},
			`CLAIM_INVALID CreateSigningCertificate \x1b]0;x\x07 a\x1b[31m\x0aOK b\u202e 12.3ms ABC: x\x0d\x0ay`, "33",
		},
	} {
		for _, on := range []bool{false, true} {
			var out bytes.Buffer
			screen := terminal.NewScreen(&out)
			screen.Styled = on
			h := newShortHandler(screen, slog.LevelDebug)
			h.style.On = on
			finished(slog.New(h), c.level, c.changes)
			text := out.String()
			if on {
				if !strings.Contains(text, "\x1b["+c.colour+"m"+strings.Fields(c.want)[0]+"\x1b[0m") {
					t.Errorf("%s: the result is not painted: %q", name, text)
				}
				for _, attribute := range []string{"0", "1", "2", "31", "32", "33"} {
					text = strings.ReplaceAll(text, "\x1b["+attribute+"m", "")
				}
			}
			_, text, _ = strings.Cut(text, " ") // the time
			if text != c.want+"\n" {
				t.Errorf("%s, painted %t:\n%q, want\n%q", name, on, text, c.want)
			}
		}
	}
}

// Other records have their level, their message and all attributes, on one line.
func TestShortRecords(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(newShortHandler(&out, slog.LevelInfo))
	log.Debug("not written")
	log.Info("stopped", "uptime", 90*time.Minute+time.Millisecond, "requests", 7)
	log.With("a", 1).WithGroup("g").Warn("not ready", "cause", "log: \"down\"\n",
		slog.Group("h", "b", true), "empty", "")
	log.WithGroup("").Error("x\x1by", slog.Group("", "c", 2.5), "at", time.Unix(0, 0).UTC())
	want := []string{
		`stopped uptime=1h30m0s requests=7`,
		`WARN not ready a=1 g.cause="log: \"down\"\x0a" g.h.b=true g.empty=""`,
		`ERROR x\x1by c=2.5 at=1970-01-01T00:00:00Z`,
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for i, line := range lines {
		at, text, _ := strings.Cut(line, " ")
		if _, err := time.Parse("15:04:05.000", at); err != nil || i >= len(want) || text != want[i] {
			t.Errorf("%v: %q", err, line)
		}
	}
	if len(lines) != len(want) {
		t.Errorf("%d lines", len(lines))
	}
}

func TestShortDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 15 * time.Nanosecond: "15ns", 12345 * time.Nanosecond: "12.3µs", 1234567 * time.Nanosecond: "1.23ms",
		999999 * time.Nanosecond: "1ms", 12345678912: "12.3s", 25 * time.Hour: "25h0m0s", -1234567: "-1.23ms",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}

// Whatever an attribute is, the record is one line without control characters.
func FuzzShort(f *testing.F) {
	f.Add("a\x1b[31m", "b\nc", "request")
	f.Fuzz(func(t *testing.T, key, value, message string) {
		var out bytes.Buffer
		r := slog.NewRecord(time.Now(), slog.LevelInfo, message, 0)
		r.Add(key, value, "san", value, "cause", value)
		if err := newShortHandler(&out, slog.LevelInfo).WithGroup(key).Handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") ||
			strings.ContainsFunc(strings.TrimSuffix(text, "\n"), func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			t.Errorf("%q", text)
		}
	})
}
