package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// stopTime is how long a program may take to end after SIGINT before it is killed.
const stopTime = 10 * time.Second

// Command is a program to run. Name is looked up on the PATH of the lab.
type Command struct {
	Name  string
	Args  []string
	Env   []string // on top of the lab's environment
	Dir   string   // "" is the folder of the lab
	Stdin string
}

func (c Command) String() string { return c.Name + " " + strings.Join(c.Args, " ") }

// Result is the output and the exit status of a finished program.
type Result struct {
	Stdout, Stderr string
	Status         int
	Took           time.Duration
}

// env is the environment of every program of the lab.
func (l *Lab) env(extra []string) []string {
	nowhere := "http://127.0.0.1:9"
	return append([]string{
		"PATH=" + l.path, "HOME=" + l.Path("home"), "TMPDIR=" + os.TempDir(), "LANG=C.UTF-8",
		"HTTP_PROXY=" + nowhere, "HTTPS_PROXY=" + nowhere, "https_proxy=" + nowhere, "http_proxy=" + nowhere,
		"NO_PROXY=127.0.0.1,localhost", "no_proxy=127.0.0.1,localhost",
	}, extra...)
}

// Look returns the path of a program of the lab, or name where there is none.
func (l *Lab) Look(name string) string {
	if !strings.Contains(name, "/") {
		for _, dir := range filepath.SplitList(l.path) {
			if path := filepath.Join(dir, name); isProgram(path) {
				return path
			}
		}
	}
	return name
}

// System returns the path of a program of the system's package manager, which "go run ./cmd/prepare" installs.
func (l *Lab) System(name string) string {
	l.Helper()
	path := l.Look(name)
	if path == name {
		path = "/usr/sbin/" + name // not on every PATH
	}
	if !isProgram(path) {
		l.Fatalf("%s is not on this machine: run \"go run ./cmd/prepare\" as root in the folder e2e", name)
	}
	return path
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&0o111 != 0 && !info.IsDir()
}

func (l *Lab) command(ctx context.Context, c Command) *exec.Cmd {
	l.Helper()
	cmd := exec.CommandContext(ctx, l.Look(c.Name), c.Args...)
	cmd.Env = l.env(c.Env)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = l.dir
	}
	cmd.SysProcAttr = processAttributes()
	return cmd
}

// Try runs a program to its end, whatever its exit status.
func (l *Lab) Try(c Command) Result {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), MaxWait)
	defer cancel()
	cmd := l.command(ctx, c)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.Stdin), &out, &errOut
	cmd.WaitDelay = time.Second
	start := time.Now()
	err := cmd.Run()
	r := Result{
		Stdout: out.String(), Stderr: errOut.String(), Status: cmd.ProcessState.ExitCode(),
		Took: time.Since(start),
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.Fatalf("%s: %v\n%s", c, err, r.Stderr)
	}
	if ctx.Err() != nil {
		l.Fatalf("%s: not done within %s\n%s%s", c, MaxWait, r.Stdout, r.Stderr)
	}
	return r
}

// Run runs a program that must succeed.
func (l *Lab) Run(c Command) Result {
	l.Helper()
	r := l.Try(c)
	if r.Status != 0 {
		l.Fatalf("%s\nexit status %d\n%s%s", c, r.Status, r.Stdout, r.Stderr)
	}
	return r
}

// RunFails runs a program that must fail and say want, on standard output or standard error.
func (l *Lab) RunFails(c Command, want string) Result {
	l.Helper()
	r := l.Try(c)
	if r.Status == 0 {
		l.Fatalf("%s\nsucceeded, and must not\n%s%s", c, r.Stdout, r.Stderr)
	}
	if !strings.Contains(r.Stdout+r.Stderr, want) {
		l.Fatalf("%s\nfailed without saying %q\n%s%s", c, want, r.Stdout, r.Stderr)
	}
	return r
}

// Process is a running server.
type Process struct {
	lab    *Lab
	name   string
	cmd    *exec.Cmd
	done   chan struct{}
	output string // files NAME.out and NAME.err of the lab
}

// Start starts a server and waits until ready returns nil. It is stopped when the test ends.
func (l *Lab) Start(name string, c Command, ready func(ctx context.Context) error) *Process {
	l.Helper()
	p := l.Spawn(name, c)
	l.Eventually(name+" is ready", func(ctx context.Context) error {
		select {
		case <-p.done:
			l.Fatalf("%s ended early: %s\n%s", c, p.cmd.ProcessState, p.Stderr())
		default:
		}
		return ready(ctx)
	})
	return p
}

// Spawn starts a program and does not wait.
func (l *Lab) Spawn(name string, c Command) *Process {
	l.Helper()
	l.Mkdir("output")
	p := &Process{lab: l, name: name, done: make(chan struct{}), output: l.Path("output", name)}
	for i := 2; ; i++ { // a restarted server writes to new files
		if _, err := os.Stat(p.output + ".out"); err != nil {
			break
		}
		p.output = l.Path("output", fmt.Sprintf("%s-%d", name, i))
	}
	out, err := os.Create(p.output + ".out")
	if err != nil {
		l.Fatal(err)
	}
	defer out.Close()
	errOut, err := os.Create(p.output + ".err")
	if err != nil {
		l.Fatal(err)
	}
	defer errOut.Close()
	p.cmd = l.command(context.Background(), c)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = nil, out, errOut
	if err := p.cmd.Start(); err != nil {
		l.Fatalf("%s: %v", c, err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState holds the exit status
		close(p.done)
	}()
	l.Cleanup(func() { p.Kill() })
	return p
}

// Stdout returns what the program has written to standard output.
func (p *Process) Stdout() string { return p.lab.Read(p.output + ".out") }

// Stderr returns what the program has written to standard error.
func (p *Process) Stderr() string { return p.lab.Read(p.output + ".err") }

// Stop sends SIGINT and returns how long the program took to end. An exit status other than 0 fails the test.
func (p *Process) Stop() time.Duration {
	p.lab.Helper()
	start := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		p.lab.Fatalf("%s: %v", p.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(stopTime):
		p.Kill()
		p.lab.Fatalf("%s did not stop within %s", p.name, stopTime)
	}
	if !p.cmd.ProcessState.Success() {
		p.lab.Errorf("%s: %s\n%s", p.name, p.cmd.ProcessState, p.Stderr())
	}
	return time.Since(start)
}

// Kill ends the program at once (SIGKILL) and returns when it is gone. It may be called more than once.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // the process may have ended already
	<-p.done
}

// Pause suspends the program (SIGSTOP): its sockets stay open and send no response.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Continue resumes a paused program (SIGCONT).
func (p *Process) Continue() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) {
	p.lab.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.lab.Fatalf("%s: %v", p.name, err)
	}
}

// Wait returns the exit status of a program that ends by itself.
func (p *Process) Wait() int {
	p.lab.Helper()
	select {
	case <-p.done:
	case <-time.After(MaxWait):
		p.Kill()
		p.lab.Fatalf("%s did not end within %s\n%s", p.name, MaxWait, p.Stderr())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Ended reports whether the program has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID returns the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }
