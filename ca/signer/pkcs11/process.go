package pkcs11

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
)

const (
	// A process that ended is restarted after a pause. The pause doubles from the first to the longest one, and is
	// reset after the process has run for a while.
	firstRestart   = 50 * time.Millisecond
	longestRestart = time.Second
	steady         = 5 * time.Second

	// stopLimit is how long a process may take to exit after it was asked to.
	stopLimit = 6 * time.Second
	// hangLimit is how long a process may answer no call, although calls wait, before it is killed.
	hangLimit = 15 * time.Second
)

// process is a signer process that this process starts and restarts. The socket is in a separate directory that only
// this user can enter. The socket is opened here and inherited by the signer process, so that it exists before the
// first start and during restarts. The signer process exits when its standard input ends. The kernel closes that pipe
// however this process ends.
type process struct {
	socket  string
	command []string
	log     *slog.Logger
	hang    time.Duration
	dir     string
	file    *os.File // the listening socket
	quit    chan struct{}
	ended   chan struct{} // closed when no further process is started and the last one has ended

	mu      sync.Mutex
	child   *os.Process // nil while none runs
	begun   time.Time
	why     error     // how the last process ended
	next    time.Time // when the next process is started
	stopped bool
}

// start starts the command, and keeps it running until stop. log is optional.
func start(command []string, log *slog.Logger) (*process, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "mayfly-hsm-")
	if err != nil {
		return nil, err
	}
	p := &process{
		socket: filepath.Join(dir, "socket"), command: command, log: log, hang: hangLimit, dir: dir,
		quit: make(chan struct{}), ended: make(chan struct{}),
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: p.socket})
	if err == nil {
		l.SetUnlinkOnClose(false)
		p.file, err = l.File()
		err = errors.Join(err, l.Close()) // the file keeps the socket open
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go p.keep()
	return p, nil
}

// keep runs the command again and again.
func (p *process) keep() {
	defer close(p.ended)
	pause := firstRestart
	for {
		begun := time.Now()
		err := p.run()
		if time.Since(begun) >= steady {
			pause = firstRestart
		}
		p.mu.Lock()
		p.child, p.why, p.next = nil, err, time.Now().Add(pause)
		stopped := p.stopped
		p.mu.Unlock()
		if stopped {
			return
		}
		p.log.Error("the signer process has ended and is started again",
			"program", p.command[0], "reason", err.Error(), "after", pause)
		select {
		case <-p.quit:
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, longestRestart)
	}
}

// run runs the command once and returns how it ended.
func (p *process) run() error {
	//nolint:gosec,noctx // the operator writes the command; stop ends it
	cmd := exec.Command(p.command[0], p.command[1:]...)
	cmd.Env = append(os.Environ(), wire.SocketVariable+"=3")
	cmd.ExtraFiles = []*os.File{p.file}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	// a signal of the terminal goes only to the CA, which ends the process
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // the process is gone
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return nil
	}
	err = cmd.Start()
	if err == nil {
		p.child, p.begun = cmd.Process, time.Now()
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	p.log.Info("the signer process has started", "program", p.command[0], "pid", cmd.Process.Pid)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-p.quit:
			_ = in.Close()
		case <-over:
		}
	}()
	if err = cmd.Wait(); err == nil {
		err = errors.New("exit status 0")
	}
	return err
}

// stop ends the process and removes the socket.
func (p *process) stop() error {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return nil
	}
	p.stopped = true
	p.mu.Unlock()
	close(p.quit)
	select {
	case <-p.ended:
	case <-time.After(stopLimit):
		p.kill()
		select {
		case <-p.ended:
		case <-time.After(stopLimit):
			return fmt.Errorf("the signer process %s does not end", p.command[0])
		}
	}
	return errors.Join(p.file.Close(), os.RemoveAll(p.dir))
}

func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child != nil {
		_ = p.child.Kill()
	}
}

// absent returns an error if no process runs: how the last process ended, and when the next one starts.
func (p *process) absent() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child != nil || p.why == nil {
		return nil
	}
	after := max(time.Until(p.next), 0) + firstRestart
	return &remote.Error{Kind: remote.Unavailable, After: after, Err: fmt.Errorf(
		"the signer process %s has ended (%w) and is started again", p.command[0], p.why)}
}

// starting returns how the last process ended if the current process has not answered yet.
func (p *process) starting(answered time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil || p.why == nil || answered.After(p.begun) {
		return nil
	}
	return &remote.Error{Kind: remote.Unavailable, After: firstRestart, Err: fmt.Errorf(
		"the signer process %s has ended (%w) and does not answer yet", p.command[0], p.why)}
}

// unanswered is called when a call that began at start got no answer in time. It kills a process that has answered no
// call for a while, so that another one is started.
func (p *process) unanswered(start, answered time.Time) {
	p.mu.Lock()
	child, begun := p.child, p.begun
	p.mu.Unlock()
	if child == nil || answered.After(start) || time.Since(answered) < p.hang || time.Since(begun) < p.hang {
		return
	}
	p.log.Error("the signer process does not respond and is stopped", "program", p.command[0], "pid",
		strconv.Itoa(child.Pid), "limit", p.hang)
	_ = child.Kill()
}
