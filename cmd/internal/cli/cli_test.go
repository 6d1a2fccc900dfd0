package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/fault"
)

// program returns a command with one subcommand, which takes a file and up to one destination and returns err.
func program(err error) *cobra.Command {
	root := &cobra.Command{Use: "mayfly", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(&cobra.Command{
		Use: "copy FILE [TO]", Args: cobra.RangeArgs(1, 2),
		RunE: cli.Perform(func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), "ran")
			return err
		}),
	})
	cli.ExplainArguments(root)
	return root
}

// The exit status and the text depend on the kind of the error.
func TestExecute(t *testing.T) {
	t.Parallel()
	missing := &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}
	for name, c := range map[string]struct {
		err    error
		args   string
		status int
		stderr string
	}{
		"success":       {nil, "copy a", 0, ""},
		"two arguments": {nil, "copy a b", 0, ""},
		"failure":       {errors.New("no room"), "copy a", cli.ExitFailed, "mayfly: no room\n"},
		"failure with advice": {
			missing, "copy a", cli.ExitFailed,
			"mayfly: open x: file does not exist; write a path that exists\n",
		},
		"own advice": {
			fault.Cure(missing, "make it first"), "copy a", cli.ExitFailed,
			"mayfly: open x: file does not exist; make it first\n",
		},
		"usage": {
			cli.Usage("--at %q: write a time", "x"), "copy a", cli.ExitUsage,
			"mayfly: --at \"x\": write a time\n",
		},
		"configuration": {
			cli.Misconfigured(errors.New("mayfly.yaml:3:1: unknown key")), "copy a", cli.ExitUsage,
			"mayfly.yaml:3:1: unknown key\n",
		},
		"found": {
			&cli.Error{Status: cli.ExitFound, Err: errors.New("a finding")}, "copy a",
			cli.ExitFound, "a finding\n",
		},
		"a status below another error": {
			fmt.Errorf("outer: %w", &cli.Error{Status: cli.ExitFound, Err: errors.New("inner")}), "copy a",
			cli.ExitFound, "inner\n",
		},
		"a missing argument": {
			nil, "copy", cli.ExitUsage,
			"mayfly: the argument FILE is missing; write mayfly copy FILE [TO]\n" +
				"Run \"mayfly copy --help\" to see how it is used.\n",
		},
		"an argument too many": {
			nil, "copy a b c", cli.ExitUsage,
			"mayfly: unexpected argument \"c\"; quote an argument that has spaces\n" +
				"Run \"mayfly copy --help\" to see how it is used.\n",
		},
		"an unknown flag": {
			nil, "copy --nope", cli.ExitUsage,
			"mayfly: unknown flag: --nope\nRun \"mayfly copy --help\" to see how it is used.\n",
		},
		"control characters": {errors.New("a\x1b[2Jb"), "copy a", cli.ExitFailed, `mayfly: a\u001b[2Jb` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, stderr bytes.Buffer
			status := cli.Execute(t.Context(), program(c.err), strings.Fields(c.args),
				cli.Streams{In: strings.NewReader(""), Out: &out, Err: &stderr})
			if status != c.status || stderr.String() != c.stderr {
				t.Errorf("status %d, want %d; output %q, want %q", status, c.status, stderr.String(), c.stderr)
			}
			if ran := out.String() == "ran\n"; ran == strings.Contains(c.stderr, "--help") {
				t.Errorf("the command ran: %t, output %q", ran, out.String())
			}
		})
	}
}

// The flags of the log decide its level and format. A file gets JSON, with durations in seconds.
func TestLoggerFlags(t *testing.T) { //nolint:paralleltest // the logger of the storage library is one for the process
	for name, c := range map[string]struct {
		args string
		want string // of the lines, "|" between two
		err  string
	}{
		"default": {"", `{"level":"INFO","msg":"done","took_seconds":1.5}|{"level":"WARN","msg":"late"}`, ""},
		"json": {
			"--log-format json",
			`{"level":"INFO","msg":"done","took_seconds":1.5}|{"level":"WARN","msg":"late"}`, "",
		},
		"text":  {"--log-format text", "level=INFO msg=done took=1.5s|level=WARN msg=late", ""},
		"short": {"--log-format short", "done took=1.5s|WARN late", ""},
		"debug": {
			"--log-level debug --log-format text",
			"level=DEBUG msg=detail|level=INFO msg=done took=1.5s|level=WARN msg=late", "",
		},
		"warn":  {"--log-level warn --log-format text", "level=WARN msg=late", ""},
		"error": {"--log-level error", "", ""},
		"a wrong level": {
			"--log-level loud", "", `mayfly: --log-level "loud": write debug, info, warn or error`,
		},
		"a level of slog that is no level here": {
			"--log-level info+1", "", `mayfly: --log-level "info+1": write debug, info, warn or error`,
		},
		"a wrong format": {"--log-format xml", "", `mayfly: --log-format "xml": write short, text, json or auto`},
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // as above
			root := &cobra.Command{Use: "x"}
			var flags cli.Common
			flags.Add(root)
			if err := root.ParseFlags(strings.Fields(c.args)); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			log, err := flags.NewLogger(&out)
			if err != nil {
				var e *cli.Error
				if !errors.As(err, &e) || e.Status != cli.ExitUsage || err.Error() != c.err {
					t.Errorf("%v, want %q with status %d", err, c.err, cli.ExitUsage)
				}
				return
			}
			log = slog.New(withoutTime{log.Handler()})
			log.Debug("detail")
			log.Info("done", "took", 1500*time.Millisecond)
			log.Warn("late")
			if got := strings.ReplaceAll(strings.TrimSuffix(out.String(), "\n"), "\n", "|"); got != c.want ||
				c.err != "" {
				t.Errorf("%s\nwant %s %s", got, c.want, c.err)
			}
		})
	}
}

// withoutTime writes records without their time.
type withoutTime struct{ slog.Handler }

func (h withoutTime) Handle(ctx context.Context, r slog.Record) error {
	r.Time = time.Time{}
	return h.Handler.Handle(ctx, r)
}

func TestDurationFlag(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fallback time.Duration
		text     string // of the default
		set      string
		want     time.Duration // -1: refused
	}{
		"hours":     {time.Hour, "1h", "90m", 90 * time.Minute},
		"minutes":   {10 * time.Minute, "10m", "1s", time.Second},
		"seconds":   {30 * time.Second, "30s", "0", 0},
		"mixed":     {90 * time.Minute, "1h30m", "2h", 2 * time.Hour},
		"tenths":    {1500 * time.Millisecond, "1.5s", "1h", time.Hour},
		"none":      {0, "", "5ms", 5 * time.Millisecond},
		"ten hours": {10 * time.Hour, "10h", "", -1},
		"no unit":   {time.Hour, "1h", "30", -1},
		"a word":    {time.Hour, "1h", "soon", -1},
	} {
		var got time.Duration
		flag := cli.DurationFlag(&got, c.fallback)
		if got != c.fallback || flag.String() != c.text || flag.Type() != "duration" {
			t.Errorf("%s: default %s, written %q of type %s; want %s, %q", name, got, flag.String(), flag.Type(),
				c.fallback, c.text)
		}
		err := flag.Set(c.set)
		if c.want < 0 {
			if err == nil || got != c.fallback || !strings.Contains(err.Error(), "write a duration such as 30s") {
				t.Errorf("%s: %q is %s, %v", name, c.set, got, err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%s: %q is %s, %v; want %s", name, c.set, got, err, c.want)
		}
	}
}

// JSON for programs is indented and has no HTML escapes.
func TestWriteJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := cli.WriteJSON(&out, map[string]string{"url": "https://a.test/?b&c<d>"}); err != nil {
		t.Fatal(err)
	}
	if want := "{\n  \"url\": \"https://a.test/?b&c<d>\"\n}\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if err := cli.WriteJSON(&out, make(chan int)); err == nil {
		t.Error("wrote a channel")
	}
	closed, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(closed.Close(), cli.WriteJSON(closed, 1)); err == nil {
		t.Error("a failed write is no error")
	}
}
