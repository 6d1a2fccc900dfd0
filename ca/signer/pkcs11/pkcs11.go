// Package pkcs11 is the key backend for a key in a hardware security module. The module is used by a separate process:
// mayfly-hsm, or another program that implements the same protocol (package wire). The library of a module runs inside
// the process that loads it. In a separate process, a crash or hang of the library makes requests fail, but does not
// stop the CA.
//
// Either the process is started by something else and listens on a socket, or this package starts and restarts the
// process ([Settings]). While no process runs, each call fails with the cause within the limits of the guard
// (ca/signer/remote). Calls succeed again as soon as the process is back. Signatures are verified with the public key
// that was read when the key was opened.
package pkcs11

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/version"
)

// Settings name a key behind a signer process. Either Socket or Command is set.
type Settings struct {
	// Chain is the path of the chain in PEM: issuing certificate first, root last.
	Chain string `yaml:"chain" path:"read"`
	// Socket is the absolute path of the Unix socket of mayfly-hsm, if it is not started by the CA, but by systemd or
	// Kubernetes, for example.
	Socket string `yaml:"socket"`
	// Command is the command that starts mayfly-hsm, one word for each item: program and arguments without --socket.
	// The CA starts the program with its own rights and environment, and restarts it whenever it ends.
	Command []string `yaml:"command"`
	// Key is the name of the key, as in the flag --key of mayfly-hsm. It may be omitted if mayfly-hsm serves one key.
	Key string `yaml:"key"`
	// User is the name or number of the user that runs mayfly-hsm. A socket of any other user except the superuser is
	// refused. Default: the user of the CA.
	User string `yaml:"user"`
	// Limits bound the calls of mayfly-hsm.
	Limits remote.Limits `yaml:"limits"`
}

// Check implements [signer.Backend].
func (s *Settings) Check() error {
	var errs []error
	bad := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	if s.Chain == "" {
		bad("chain is missing", "write the path of the chain in PEM, issuing certificate first, root last", "chain")
	}
	const both = "write socket: PATH if something else starts mayfly-hsm, or command: [mayfly-hsm, …] if the CA shall"
	switch {
	case s.Socket == "" && len(s.Command) == 0:
		bad("socket or command is missing", both, "socket")
	case s.Socket != "" && len(s.Command) > 0:
		bad("both socket and command are set", both, "command")
	case s.Socket != "" && !filepath.IsAbs(s.Socket):
		bad(fmt.Sprintf("%q is not an absolute path", s.Socket), "write one such as /run/mayfly/hsm.sock", "socket")
	case len(s.Socket) > maxSocket:
		bad(fmt.Sprintf("a path of %d bytes is too long for a Unix socket", len(s.Socket)),
			fmt.Sprintf("use one of at most %d bytes", maxSocket), "socket")
	case len(s.Command) > 0 && s.Command[0] == "":
		bad("the name of the program is empty", "write the path of mayfly-hsm first", "command")
	case len(s.Command) > 0 && s.User != "":
		bad("a program that the CA starts has the user of the CA", "remove user", "user")
	}
	return errors.Join(append(errs, fault.Under(s.Limits.Check(), "limits"))...)
}

// maxSocket is the maximum length of the path of a socket on all supported systems, in bytes (unix(7)).
const maxSocket = 103

// Temporary implements [signer.Backend].
func (*Settings) Temporary() bool { return false }

// ChainFile implements [signer.Backend].
func (s *Settings) ChainFile() string { return s.Chain }

// startLimit bounds how long [Settings.Open] waits for a signer process that is about to start.
const startLimit = 15 * time.Second

// Open reads the public key. It waits up to 15 seconds for a process that is still starting.
func (s *Settings) Open(ctx context.Context, o signer.Options) (*signer.Key, error) {
	k, err := s.open(ctx, o)
	if err != nil {
		return nil, err
	}
	return signer.Guarded(k.guard.Signer(k), k.close), nil
}

func (s *Settings) open(ctx context.Context, o signer.Options) (*key, error) {
	c, err := s.connect(o)
	if err != nil {
		return nil, err
	}
	k := &key{connection: c, name: s.Key}
	if k.public, _, err = c.read(ctx, s.Key); err != nil {
		return nil, errors.Join(s.place(err), c.close())
	}
	return k, nil
}

// Attest implements [signer.Attester] with what the module says about the key.
func (s *Settings) Attest(ctx context.Context) (signer.Attestation, error) {
	c, err := s.connect(signer.Options{})
	if err != nil {
		return signer.Attestation{}, err
	}
	_, a, err := c.read(ctx, s.Key)
	if err != nil {
		return signer.Attestation{}, errors.Join(s.place(err), c.close())
	}
	out := signer.Attestation{Exportable: signer.ExportUnknown, Reason: a.Reason, Evidence: a.Evidence}
	if a.Exportable == signer.ExportNo || a.Exportable == signer.ExportYes {
		out.Exportable = a.Exportable
	}
	return out, c.close()
}

// place turns an error of the signer process into an error of a setting.
func (s *Settings) place(err error) error {
	at := "socket"
	if len(s.Command) > 0 {
		at = "command"
	}
	return fault.BadSetting(err.Error(), "run \"mayfly-hsm --check\" with the same arguments to see the cause",
		at)
}

// connection is a client of the signer process.
type connection struct {
	client  *wire.Client
	guard   *remote.Guard
	process *process // nil if something else runs it
}

func (s *Settings) connect(o signer.Options) (*connection, error) {
	c := &connection{client: &wire.Client{Path: s.Socket, Allowed: wire.Own(), Program: version.UserAgent()}}
	where := s.Socket
	if s.User != "" {
		uid, err := wire.User(s.User)
		if err != nil {
			return nil, fault.BadSetting(err.Error(), "write the user that runs mayfly-hsm", "user")
		}
		c.client.Allowed = wire.Allowed{UIDs: []int{uid}}
	}
	if len(s.Command) > 0 {
		var err error
		if c.process, err = start(s.Command, o.Log); err != nil {
			return nil, fault.BadSetting(err.Error(), "write the path of mayfly-hsm and its arguments", "command")
		}
		c.client.Path, where = c.process.socket, filepath.Base(s.Command[0])
	}
	c.guard = remote.New(remote.Options{
		Key:    fmt.Sprintf("%s of %s", cmp.Or(s.Key, "(the only one)"), where),
		Limits: s.Limits,
	})
	return c, nil
}

func (c *connection) close() error {
	err := c.client.Close()
	if c.process != nil {
		err = errors.Join(err, c.process.stop())
	}
	return err
}

// answer is the answer of the signer process about a key.
type answer struct {
	public crypto.PublicKey
	about  wire.Answer
	err    error
}

// read reads the public key. It waits for a process that is still starting.
func (c *connection) read(ctx context.Context, name string) (crypto.PublicKey, wire.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var last atomic.Pointer[answer] // the last error that says more than that the time is over
	for {
		err := c.guard.Do(ctx, "public_key", func(ctx context.Context) error {
			var a answer
			a.public, a.about, a.err = c.client.PublicKey(ctx, name)
			a.err = c.explain(a.err)
			if e, ok := errors.AsType[*remote.Error](a.err); !ok || e.Kind != remote.TimedOut {
				last.Store(&a)
			}
			return a.err
		})
		e, ok := errors.AsType[*remote.Error](err)
		switch a := last.Load(); {
		case err == nil:
			return a.public, a.about, nil
		case ctx.Err() != nil && a != nil && a.err != nil:
			return nil, wire.Answer{}, a.err
		case ctx.Err() != nil:
			return nil, wire.Answer{}, c.explain(&remote.Error{Kind: remote.TimedOut, Err: errors.New(
				"the signer does not answer")})
		case !ok || e.Kind != remote.Unavailable && e.Kind != remote.TimedOut:
			return nil, wire.Answer{}, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// explain adds why the process does not run, if this package starts it.
func (c *connection) explain(err error) error {
	var e *remote.Error
	if c.process == nil || !errors.As(err, &e) || e.Kind != remote.Unavailable && e.Kind != remote.TimedOut {
		return err
	}
	return cmp.Or(c.process.absent(), c.process.starting(c.client.Answered()), err)
}

// key is one key of the signer process.
type key struct {
	*connection
	name   string
	public crypto.PublicKey
}

var _ remote.Raw = (*key)(nil)

// Public implements [remote.Raw].
func (k *key) Public() crypto.PublicKey { return k.public }

// Sign implements [remote.Raw].
func (k *key) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.process != nil {
		if why := k.process.absent(); why != nil {
			return nil, why
		}
	}
	start := time.Now()
	signature, err := k.client.Sign(ctx, k.name, wire.ToSign{Public: k.public, Digest: digest, Opts: opts})
	if e, ok := errors.AsType[*remote.Error](err); ok && e.Kind == remote.TimedOut && k.process != nil {
		k.process.unanswered(start, k.client.Answered())
	}
	return signature, k.explain(err)
}
