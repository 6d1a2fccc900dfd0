//go:build cgo

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/token"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/version"
)

const about = `mayfly-hsm signs with keys in a PKCS#11 token, for a CA that connects to its Unix socket.

The PIN is read from a file or an environment variable. Exit statuses: 0 ended by a signal, 1 failed,
2 wrong command line, 3 --check found a problem, 4 the library did not return from a call.`

func newRoot(exit func(int)) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "mayfly-hsm --module LIBRARY --token LABEL --key LABEL --socket PATH",
		Short: "sign with keys in a PKCS#11 token",
		Long:  about, Version: version.Read().Version, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: cli.Perform(func(cmd *cobra.Command, _ []string) error {
			if err := o.settle(); err != nil {
				return err
			}
			log, err := o.NewLogger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			t := token.New(o.tokenOptions(log, exit))
			if o.check {
				return check(cmd.Context(), o.module, t, cmd.OutOrStdout())
			}
			return serve(cmd.Context(), &o, t, streams{in: cmd.InOrStdin(), log: log, exit: exit})
		}),
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	o.flags(cmd)
	cli.ExplainArguments(cmd)
	return cmd
}

// serve answers requests until ctx ends.
func serve(ctx context.Context, o *options, t *token.Token, x streams) error {
	log := x.log
	l, inherited, err := listener(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if inherited {
		go func() { // the CA holds the other end of the pipe, which the kernel closes even if the CA is killed
			_, _ = io.Copy(io.Discard, x.in)
			log.Info("the CA has ended")
			cancel()
			time.Sleep(endLimit)
			x.exit(cli.ExitFailed)
		}()
	}
	s := &wire.Server{
		Program: "mayfly-hsm " + version.Read().Version, Find: t.Find, Allowed: o.allowed, Log: log,
		Connections: 2*o.sessions + 64,
	}
	for _, n := range o.names {
		s.Names = append(s.Names, n.String())
	}
	kept := make(chan struct{})
	go func() { defer close(kept); t.Keep(ctx) }()
	log.Info("listening", "socket", l.Addr().String(), "module", o.module, "keys", s.Names)
	err = s.Serve(ctx, l)
	cancel()
	<-kept
	log.Info("ended")
	return err
}

// endLimit bounds how long the process runs after its CA has ended.
const endLimit = 5 * time.Second

// listener returns the socket that the CA passed, or opens one.
func listener(o *options) (l net.Listener, inherited bool, err error) {
	if text := os.Getenv(wire.SocketVariable); text != "" && o.socket == "" {
		fd, err := strconv.Atoi(text)
		if err != nil || fd < 3 {
			return nil, false, cli.Usage("%s=%q is not the number of an inherited file descriptor",
				wire.SocketVariable, text)
		}
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close() //nolint:errcheck // the listener has its own
		l, err = net.FileListener(f)
		if err != nil {
			return nil, false, fmt.Errorf("%s: file descriptor %d: %w", wire.SocketVariable, fd, err)
		}
		return l, true, nil
	}
	if l, err = listen(o.socket); err != nil {
		return nil, false, err
	}
	mode := os.FileMode(0o600)
	if o.group >= 0 {
		mode = 0o660
		err = os.Chown(o.socket, -1, o.group)
	}
	if err = errors.Join(err, os.Chmod(o.socket, mode)); err != nil {
		return nil, false, errors.Join(fmt.Errorf("the group of the socket cannot be set: %w", err), l.Close())
	}
	return l, false, nil
}

// listen opens the socket. It replaces a socket that a killed process left behind, but not one that is in use.
func listen(path string) (net.Listener, error) {
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is not a socket; remove it, or write another path", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil { //nolint:noctx // bounded
			_ = c.Close()
			return nil, fmt.Errorf("%s is in use: another process listens on it", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", path) //nolint:noctx // it does not wait
}

// streams are the input and the outputs of the process.
type streams struct {
	in   io.Reader // ends when the CA ends, if the CA started this process
	log  *slog.Logger
	exit func(int)
}
