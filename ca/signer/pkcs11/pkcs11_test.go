package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
)

// The test program is also the signer process. If it inherits a socket, it serves the key in the file of its first
// argument, and files in the folder of the key control its behaviour.
func TestMain(m *testing.M) {
	if os.Getenv(wire.SocketVariable) != "" {
		os.Exit(child(os.Args[1]))
	}
	os.Exit(m.Run())
}

func child(path string) int {
	if exists(path, "refuse-start") {
		return 7
	}
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		panic(err)
	}
	der, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	k := &moody{PrivateKey: key, path: path}
	err = (&wire.Server{
		Names: []string{"ca"}, Allowed: wire.Own(), Connections: 100, Log: slog.New(slog.DiscardHandler),
		Find: func(string) (wire.Key, bool) { return k, true },
	}).Serve(ctx, l)
	if err != nil {
		panic(err)
	}
	return 0
}

func exists(path, mood string) bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(path), mood))
	return err == nil
}

// moody is a key whose behaviour is controlled by files.
type moody struct {
	*ecdsa.PrivateKey
	path string
}

func (k *moody) Public() (crypto.PublicKey, error) { return k.PrivateKey.Public(), nil }
func (k *moody) Health(context.Context) error      { return nil }

func (k *moody) Attest(context.Context) (wire.Answer, error) {
	return wire.Answer{
		Exportable: "no", Reason: "says the test",
		Evidence: map[string]string{"CKA_SENSITIVE": "true"},
	}, nil
}

func (k *moody) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	key := k.PrivateKey
	switch {
	case exists(k.path, "crash"):
		_ = os.Remove(filepath.Join(filepath.Dir(k.path), "crash"))
		os.Exit(9)
	case exists(k.path, "another-key"):
		key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case exists(k.path, "refuse"):
		return nil, &remote.Error{Kind: remote.Denied, Err: errors.New("the token refuses the PIN")}
	}
	signature, err := key.Sign(rand.Reader, digest, opts)
	if exists(k.path, "flip") {
		signature[len(signature)-1] ^= 1
	}
	return signature, err
}

// room is a folder with a key and the files that control the signer process.
type room struct {
	*testing.T
	dir, path string
	key       *ecdsa.PrivateKey
	log       *logbuf.Buffer
}

func newRoom(t *testing.T) *room {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r := &room{T: t, dir: t.TempDir(), key: key, log: &logbuf.Buffer{}}
	r.path = filepath.Join(r.dir, "key")
	r.put("key", der)
	return r
}

func (r *room) put(name string, data []byte) {
	r.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), data, 0o600); err != nil {
		r.Fatal(err)
	}
}

func (r *room) remove(name string) {
	r.Helper()
	if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
		r.Fatal(err)
	}
}

func (r *room) settings() *Settings {
	r.Helper()
	self, err := os.Executable()
	if err != nil {
		r.Fatal(err)
	}
	return &Settings{Chain: "chain.pem", Command: []string{self, r.path}, Key: "ca"}
}

func (r *room) open(s *Settings) (*signer.Key, *remote.Signer, *connection) {
	r.Helper()
	raw, err := s.open(r.Context(), signer.Options{Log: slog.New(slog.NewTextHandler(r.log, nil))})
	if err != nil {
		r.Fatal(err)
	}
	guarded := raw.guard.Signer(raw)
	k := signer.Guarded(guarded, raw.close)
	r.Cleanup(func() {
		if err := k.Close(); err != nil {
			r.Error(err)
		}
	})
	return k, guarded, raw.connection
}

func sign(t *testing.T, s *remote.Signer) error {
	d := sha256.Sum256([]byte("x"))
	_, err := s.SignContext(t.Context(), d[:], crypto.SHA256)
	return err
}

// pid waits for a process that runs, and returns its number.
func pid(c *connection) int {
	for {
		c.process.mu.Lock()
		child := c.process.child
		c.process.mu.Unlock()
		if child != nil {
			return child.Pid
		}
		time.Sleep(time.Millisecond)
	}
}

func kind(err error) remote.Kind {
	if e, ok := errors.AsType[*remote.Error](err); ok {
		return e.Kind
	}
	return 99
}

func TestCheck(t *testing.T) {
	t.Parallel()
	long := time.Hour
	for name, c := range map[string]struct {
		s    Settings
		want string
	}{
		"socket":  {Settings{Chain: "c", Socket: "/run/s"}, ""},
		"command": {Settings{Chain: "c", Command: []string{"mayfly-hsm"}}, ""},
		"nothing": {Settings{}, "chain: chain is missing"},
		"no way":  {Settings{Chain: "c"}, "socket: socket or command is missing"},
		"both": {
			Settings{Chain: "c", Socket: "/s", Command: []string{"x"}},
			"command: both socket and command are set",
		},
		"relative": {
			Settings{Chain: "c", Socket: "hsm.sock"},
			`socket: "hsm.sock" is not an absolute path; write one such as /run/mayfly/hsm.sock`,
		},
		"too long": {
			Settings{Chain: "c", Socket: "/" + strings.Repeat("x", 103)},
			"socket: a path of 104 bytes is too long",
		},
		"empty program": {
			Settings{Chain: "c", Command: []string{"", "x"}},
			"command: the name of the program is empty",
		},
		"user": {
			Settings{Chain: "c", Command: []string{"x"}, User: "root"},
			"user: a program that the CA starts",
		},
		"limits": {
			Settings{Chain: "c", Socket: "/s", Limits: remote.Limits{Timeout: &long}},
			"limits.timeout: ",
		},
	} {
		err := c.s.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// C1: a signature that does not verify is never returned, whatever the process does.
func TestLies(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	k, s, _ := r.open(r.settings())
	if !k.Remote() || !r.key.PublicKey.Equal(s.Public()) {
		t.Error("another key")
	}
	if err := k.Usable(t.Context()); err != nil {
		t.Error(err)
	}
	for mood, want := range map[string]remote.Kind{
		"flip": remote.WrongKey, "another-key": remote.WrongKey, "refuse": remote.Denied,
	} {
		r.put(mood, nil)
		if err := sign(t, s); kind(err) != want || !strings.HasPrefix(err.Error(), "sign with the key ca of ") {
			t.Errorf("%s: %v", mood, err)
		}
		r.remove(mood)
	}
	if err := sign(t, s); err != nil {
		t.Error(err)
	}
	a, err := r.settings().Attest(t.Context())
	if err != nil || a.Exportable != signer.ExportNo || a.Evidence["CKA_SENSITIVE"] != "true" {
		t.Errorf("%+v, %v", a, err)
	}
}

// C10, F5: the process crashes again and again under load. Calls fail with the cause meanwhile, and go on within a
// second after each crash.
func TestCrashes(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	k, s, c := r.open(r.settings())
	done := make(chan struct{})
	var load sync.WaitGroup
	var good, bad atomic.Int64
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				switch err := sign(t, s); {
				case err == nil:
					good.Add(1)
				case kind(err) != remote.Unavailable && kind(err) != remote.TimedOut:
					t.Errorf("%v", err)
					return
				default:
					bad.Add(1)
				}
			}
		})
	}
	var longest time.Duration
	for range 10 {
		r.put("crash", nil)
		for end := time.Now().Add(20 * time.Second); exists(r.path, "crash"); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the process does not crash")
			}
		}
		begun := time.Now()
		for sign(t, s) != nil {
			if time.Since(begun) > 20*time.Second {
				t.Fatal("no signature after a crash")
			}
		}
		longest = max(longest, time.Since(begun))
	}
	close(done)
	load.Wait()
	t.Logf("10 crashes: %d signatures, %d failed, at most %s until the next one", good.Load(), bad.Load(), longest)
	if err := k.Usable(t.Context()); err != nil {
		t.Error(err)
	}
	if n := strings.Count(r.log.String(), "exit status 9"); n != 10 {
		t.Errorf("the log names %d crashes\n%s", n, r.log.String())
	}
	child := pid(c)
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(child, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
	if _, err := os.Stat(c.process.dir); !os.IsNotExist(err) {
		t.Errorf("the folder of the socket is still there: %v", err)
	}
}

// A process that answers nothing any more is ended, and the next one signs.
func TestHangs(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	limit := 400 * time.Millisecond
	settings := r.settings()
	settings.Limits = remote.Limits{Timeout: &limit}
	_, s, c := r.open(settings)
	c.process.hang = 500 * time.Millisecond
	if err := sign(t, s); err != nil {
		t.Fatal(err)
	}
	child := pid(c)
	if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ended := func() bool { return strings.Contains(r.log.String(), "does not respond and is stopped") }
	for end := time.Now().Add(20 * time.Second); sign(t, s) != nil || !ended(); { // it stops some time after the signal
		if time.Now().After(end) {
			t.Fatalf("no signature after a hang\n%s", r.log.String())
		}
	}
}

// What keeps the process from starting is in the error, with the place in the configuration.
func TestCannotStart(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.put("refuse-start", nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := r.settings().Open(ctx, signer.Options{})
	if err == nil || !strings.HasPrefix(err.Error(), "command: ") || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("%v", err)
	}
	missing := &Settings{Command: []string{"/no/such/program"}}
	if _, err := missing.Open(t.Context(), signer.Options{}); err == nil ||
		!strings.HasPrefix(err.Error(), "command: ") || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("%v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	absent := &Settings{Socket: filepath.Join(r.dir, "absent")}
	if _, err := absent.Open(ctx, signer.Options{}); err == nil || !strings.HasPrefix(err.Error(), "socket: ") ||
		!strings.Contains(err.Error(), "does not exist: start mayfly-hsm") {
		t.Errorf("%v", err)
	}
	unknownUser := &Settings{Socket: "/x", User: "no such user"}
	if _, err := unknownUser.Open(t.Context(), signer.Options{}); err == nil ||
		!strings.HasPrefix(err.Error(), "user: ") {
		t.Errorf("%v", err)
	}
}

// Two keys that are open at once, as during a reload, have a process each.
func TestTwice(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	first, s1, c1 := r.open(r.settings())
	_, s2, c2 := r.open(r.settings())
	if pid(c1) == pid(c2) {
		t.Error("one process")
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := sign(t, s2); err != nil {
		t.Error(err)
	}
	if err := sign(t, s1); err == nil {
		t.Error("a closed key signs")
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "mayfly-hsm-*", "socket"))
	if err != nil || slices.Contains(left, c1.process.socket) {
		t.Errorf("%v, %v", left, err)
	}
}
