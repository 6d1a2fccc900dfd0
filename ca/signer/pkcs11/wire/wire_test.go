package wire_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
)

// key is a key in memory that can be told what to do.
type key struct {
	crypto.Signer
	before func(context.Context) error
}

func (k key) Public() (crypto.PublicKey, error) { return k.Signer.Public(), nil }
func (k key) Health(ctx context.Context) error  { return k.prepare(ctx) }

func (k key) Attest(context.Context) (wire.Answer, error) {
	return wire.Answer{Exportable: "no", Reason: "a test", Evidence: map[string]string{"CKA_EXTRACTABLE": "false"}}, nil
}

func (k key) prepare(ctx context.Context) error {
	if k.before == nil {
		return nil
	}
	return k.before(ctx)
}

func (k key) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := k.prepare(ctx); err != nil {
		return nil, err
	}
	return k.Signer.Sign(rand.Reader, digest, opts)
}

// signerOf returns a server of these keys that is not started.
func signerOf(keys map[string]key) *wire.Server {
	s := &wire.Server{
		Program: "test", Allowed: wire.Own(), Connections: 16, Log: slog.New(slog.DiscardHandler),
		Find: func(name string) (wire.Key, bool) {
			if name == "" && len(keys) == 1 {
				for name = range keys {
				}
			}
			k, ok := keys[name]
			return k, ok
		},
	}
	for name := range keys {
		s.Names = append(s.Names, name)
	}
	return s
}

// start serves on a socket until the returned function is called.
func start(t testing.TB, s *wire.Server, path string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func socket(t testing.TB) string {
	t.Helper()
	//nolint:usetesting // a path of t.TempDir may be too long for a socket
	dir, err := os.MkdirTemp("", "wire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func connect(t testing.TB, path string) *wire.Client {
	t.Helper()
	c := &wire.Client{Path: path, Allowed: wire.Own(), Program: "test"}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func newKey(t testing.TB) key {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key{Signer: k}
}

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func kind(err error) remote.Kind {
	var e *remote.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 99
}

func toSign(k crypto.PublicKey) wire.ToSign {
	d := sha256.Sum256([]byte("x"))
	return wire.ToSign{Public: k, Digest: d[:], Opts: crypto.SHA256}
}

// The key gets every scheme as requested, and every signature verifies.
func TestSchemes(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	path := socket(t)
	ec := newKey(t)
	start(t, signerOf(map[string]key{"ec": ec, "rsa": {Signer: rsaKey}, "ed": {Signer: edwards}}), path)
	c := connect(t, path)
	for _, row := range []struct {
		name string
		opts crypto.SignerOpts
	}{
		{"ec", crypto.SHA256},
		{"ec", crypto.SHA384},
		{"ec", crypto.SHA512},
		{"rsa", crypto.SHA256},
		{"rsa", crypto.SHA512},
		{"rsa", &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}},
		{"rsa", &rsa.PSSOptions{SaltLength: 48, Hash: crypto.SHA384}},
		{"ed", crypto.Hash(0)},
	} {
		public, a, err := c.PublicKey(soon(t), row.name)
		if err != nil || a.Exportable != "no" || a.Evidence["CKA_EXTRACTABLE"] != "false" {
			t.Fatalf("%s: %v, %+v", row.name, err, a)
		}
		message := []byte("message")
		if h := row.opts.HashFunc(); h != 0 {
			hash := h.New()
			hash.Write(message)
			message = hash.Sum(nil)
		}
		signature, err := c.Sign(soon(t), row.name, wire.ToSign{Public: public, Digest: message, Opts: row.opts})
		if err != nil {
			t.Errorf("%s %v: %v", row.name, row.opts, err)
			continue
		}
		good := false
		switch k := public.(type) {
		case *ecdsa.PublicKey:
			good = ecdsa.VerifyASN1(k, message, signature)
		case ed25519.PublicKey:
			good = ed25519.Verify(k, message, signature)
		case *rsa.PublicKey:
			if _, pss := row.opts.(*rsa.PSSOptions); pss {
				good = rsa.VerifyPSS(k, row.opts.HashFunc(), message, signature,
					&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
			} else {
				good = rsa.VerifyPKCS1v15(k, row.opts.HashFunc(), message, signature) == nil
			}
		}
		if !good {
			t.Errorf("%s %v: the signature does not verify", row.name, row.opts)
		}
	}
	for name, s := range map[string]wire.ToSign{
		"a salt of another length": {Public: rsaKey.Public(), Digest: make([]byte, 32), Opts: &rsa.PSSOptions{
			SaltLength: 20, Hash: crypto.SHA256,
		}},
		"SHA-1":                  {Public: rsaKey.Public(), Digest: make([]byte, 20), Opts: crypto.SHA1},
		"a digest of other size": {Public: rsaKey.Public(), Digest: make([]byte, 31), Opts: crypto.SHA256},
	} {
		if _, err := c.Sign(soon(t), "rsa", s); kind(err) != remote.Failed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Failures keep their kind, text and pause over the wire.
func TestErrors(t *testing.T) {
	t.Parallel()
	path := socket(t)
	var result atomic.Pointer[remote.Error]
	k := newKey(t)
	k.before = func(context.Context) error {
		if e := result.Load(); e != nil {
			return e
		}
		return nil
	}
	start(t, signerOf(map[string]key{"one": k, "two": newKey(t)}), path)
	c := connect(t, path)
	for _, want := range []remote.Kind{
		remote.Failed, remote.Denied, remote.Throttled, remote.Unavailable, remote.WrongKey,
		remote.TimedOut, remote.Busy,
	} {
		result.Store(&remote.Error{Kind: want, After: 2 * time.Second, Err: errors.New("the cause")})
		_, err := c.Sign(soon(t), "one", toSign(k.Signer.Public()))
		var e *remote.Error
		if !errors.As(err, &e) || e.Kind != want || e.After != 2*time.Second ||
			!strings.Contains(e.Error(), "the cause") {
			t.Errorf("%s: %v", want, err)
		}
		if _, err := c.Call(soon(t), wire.Request{Op: wire.OpHealth, Key: "one"}); kind(err) != want {
			t.Errorf("health, %s: %v", want, err)
		}
	}
	result.Store(&remote.Error{Kind: remote.Throttled, After: 24 * time.Hour})
	if _, err := c.Sign(soon(t), "one", toSign(k.Signer.Public())); err != nil {
		if e, ok := errors.AsType[*remote.Error](err); !ok || e.After > time.Minute {
			t.Errorf("a pause of a day is taken: %v", err)
		}
	}
	result.Store(nil)
	for name, want := range map[string]string{
		"three": `no key "three"; it has`,
		"":      "several keys; name one of",
	} {
		if _, _, err := c.PublicKey(soon(t), name); kind(err) != remote.Failed || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := c.Call(soon(t), wire.Request{Op: "erase"}); err == nil ||
		!strings.Contains(err.Error(), `"erase" is unknown`) {
		t.Errorf("%v", err)
	}
}

// A client works again after a restart of the signer, even with connections that it kept. In between, its errors say
// what is wrong.
func TestRestart(t *testing.T) {
	t.Parallel()
	path := socket(t)
	k := newKey(t)
	c := connect(t, path)
	_, err := c.Sign(soon(t), "", toSign(k.Signer.Public()))
	if kind(err) != remote.Unavailable || !strings.Contains(err.Error(), "the socket "+path+" does not exist") {
		t.Errorf("%v", err)
	}
	for range 3 {
		stop := start(t, signerOf(map[string]key{"k": k}), path)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, err := c.Sign(soon(t), "", toSign(k.Signer.Public())); err != nil {
					t.Errorf("%v", err)
				}
			})
		}
		all.Wait()
		stop()
		if _, err := c.Sign(soon(t), "", toSign(k.Signer.Public())); kind(err) != remote.Unavailable {
			t.Errorf("%v", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // what a killed process leaves behind
	_ = l.Close()
	if _, err := c.Sign(soon(t), "", toSign(k.Signer.Public())); kind(err) != remote.Unavailable ||
		!strings.Contains(err.Error(), "no process listens on "+path) {
		t.Errorf("%v", err)
	}
}

// A process that is not allowed gets no answer, as client and as server. The tests run as one user, so that the rule
// is changed instead of the user.
func TestPeers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Log("the superuser is always allowed: only the rule is tested")
	}
	for name, c := range map[string]struct {
		allowed wire.Allowed
		peer    wire.Peer
		ok      bool
	}{
		"the user":         {wire.Allowed{UIDs: []int{7}}, wire.Peer{UID: 7, GID: 9}, true},
		"the superuser":    {wire.Allowed{UIDs: []int{7}}, wire.Peer{}, true},
		"another user":     {wire.Allowed{UIDs: []int{7}}, wire.Peer{UID: 8, GID: 7}, false},
		"a further user":   {wire.Allowed{UIDs: []int{7, 8}}, wire.Peer{UID: 8}, true},
		"a group":          {wire.Allowed{GIDs: []int{9}}, wire.Peer{UID: 8, GID: 9}, true},
		"nobody":           {wire.Allowed{}, wire.Peer{UID: 8, GID: 9}, false},
		"group of the 0":   {wire.Allowed{GIDs: []int{9}}, wire.Peer{UID: 8, GID: 0}, false},
		"user of that gid": {wire.Allowed{GIDs: []int{9}}, wire.Peer{UID: 9, GID: 8}, false},
	} {
		if err := c.allowed.Permits(c.peer); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := socket(t)
	k := newKey(t)
	s := signerOf(map[string]key{"k": k})
	var log logbuf.Buffer
	s.Log = slog.New(slog.NewTextHandler(&log, nil))
	s.Allowed = wire.Allowed{UIDs: []int{1 << 30}}
	start(t, s, path)
	_, err := connect(t, path).Sign(soon(t), "", toSign(k.Signer.Public()))
	if os.Geteuid() != 0 {
		if kind(err) != remote.Unavailable || !strings.Contains(log.String(), "is not allowed") {
			t.Errorf("%v, log %s", err, log.String())
		}
		notAllowed := &wire.Client{Path: path, Allowed: wire.Allowed{UIDs: []int{1 << 30}}}
		if _, err := notAllowed.Call(soon(t), wire.Request{Op: wire.OpHealth}); kind(err) != remote.Denied {
			t.Errorf("%v", err)
		}
	} else if err != nil {
		t.Error(err)
	}
}

// frame returns v as a frame of the protocol.
func frame(t testing.TB, v any) []byte {
	t.Helper()
	body, ok := v.([]byte)
	if !ok {
		var err error
		if body, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// liar accepts connections and answers each frame with what f returns; nil: nothing.
func liar(t testing.TB, path string, f func(n int, request wire.Request) []byte) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for n := 0; ; n++ {
					var head [4]byte
					if _, err := io.ReadFull(c, head[:]); err != nil {
						return
					}
					body := make([]byte, binary.BigEndian.Uint32(head[:]))
					if _, err := io.ReadFull(c, body); err != nil {
						return
					}
					var r wire.Request
					_ = json.Unmarshal(body, &r)
					answer := f(n, r)
					if answer == nil {
						return
					}
					_, _ = c.Write(answer)
				}
			}()
		}
	}()
}

// C10: whatever a signer answers, a call ends in time with an error of the right kind.
func TestLiars(t *testing.T) {
	t.Parallel()
	hello := frame(t, wire.Answer{Version: wire.Version})
	k := newKey(t)
	for name, c := range map[string]struct {
		first, later []byte
		hang         bool
		kind         remote.Kind
		text         string
	}{
		"another version": {
			first: frame(t, wire.Answer{Version: 2}), kind: remote.Failed,
			text: "speaks version 2",
		},
		"no version": {first: frame(t, wire.Answer{}), kind: remote.Failed, text: "version 0"},
		"refuses the version": {
			first: frame(t, wire.Answer{Error: &wire.Error{Kind: wire.KindVersion, Text: "old"}}),
			kind:  remote.Failed, text: "old",
		},
		"an oversize frame": {
			first: hello, later: []byte("\xff\xff\xff\xff{}"), kind: remote.Failed,
			text: "4294967295 bytes",
		},
		"an empty frame": {
			first: hello, later: []byte("\x00\x00\x00\x00"), kind: remote.Failed,
			text: "not a message",
		},
		"no JSON": {
			first: hello, later: frame(t, []byte("{nonsense")), kind: remote.Failed,
			text: "not a message",
		},
		"no object": {
			first: hello, later: frame(t, []byte("[1,2]")), kind: remote.Failed,
			text: "not a message",
		},
		"HTTP": {
			first: []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), kind: remote.Failed,
			text: "not a message",
		},
		"no signature": {
			first: hello, later: frame(t, wire.Answer{}), kind: remote.Failed,
			text: "without a signature",
		},
		"an unknown kind": {
			first: hello, later: frame(t, wire.Answer{Error: &wire.Error{Kind: "gone"}}),
			kind: remote.Failed,
		},
		"ends before hello":    {kind: remote.Unavailable, text: "closed the connection"},
		"ends before it signs": {first: hello, kind: remote.Unavailable, text: "ended before it answered"},
		"hangs at hello":       {hang: true, kind: remote.TimedOut},
		"hangs":                {first: hello, hang: true, kind: remote.TimedOut, text: "does not answer"},
		"half a frame":         {first: hello, later: []byte("\x00\x00\x00\x09{"), hang: true, kind: remote.TimedOut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := socket(t)
			release := make(chan struct{})
			t.Cleanup(func() { close(release) })
			liar(t, path, func(n int, _ wire.Request) []byte {
				switch {
				case n == 0 && c.first != nil:
					return c.first
				case n == 1 && c.later != nil:
					return c.later
				case c.hang:
					<-release
				}
				return nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if c.hang {
				ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
			}
			defer cancel()
			begun := time.Now()
			signature, err := connect(t, path).Sign(ctx, "k", toSign(k.Signer.Public()))
			if signature != nil || kind(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%x, %v", signature, err)
			}
			if took := time.Since(begun); took > 2500*time.Millisecond {
				t.Errorf("took %s", took)
			}
		})
	}
}

// A server closes the connection of a client that violates the protocol, and serves the other clients.
func TestRudeClients(t *testing.T) {
	t.Parallel()
	path := socket(t)
	k := newKey(t)
	start(t, signerOf(map[string]key{"k": k}), path)
	hello := frame(t, wire.Request{Op: wire.OpHello, Versions: []int{1, 9}})
	for name, c := range map[string]struct {
		send   []byte
		answer string // of the last frame; "": none
	}{
		"sign before hello": {frame(t, wire.Request{
			Op: wire.OpSign, Key: "k", Scheme: "ecdsa", Hash: "sha256", Data: make([]byte, 32),
		}), wire.KindMalformed},
		"another version": {frame(t, wire.Request{Op: wire.OpHello, Versions: []int{9}}), wire.KindVersion},
		"oversize":        {append(bytes.Clone(hello), 0xff, 0xff, 0xff, 0xff), ""},
		"nonsense":        {append(bytes.Clone(hello), frame(t, []byte("{{{{"))...), ""},
		"a digest of 3 bytes": {
			append(bytes.Clone(hello),
				frame(t, wire.Request{Op: wire.OpSign, Scheme: "ecdsa", Hash: "sha256", Data: []byte("abc")})...),
			wire.KindMalformed,
		},
		"an unknown hash": {append(bytes.Clone(hello),
			frame(t, wire.Request{Op: wire.OpSign, Scheme: "ecdsa", Hash: "md5"})...), wire.KindMalformed},
		"an unknown scheme": {
			append(bytes.Clone(hello),
				frame(t, wire.Request{Op: wire.OpSign, Scheme: "dsa", Hash: "sha256", Data: make([]byte, 32)})...),
			wire.KindMalformed,
		},
		"ed25519 with a hash": {append(bytes.Clone(hello),
			frame(t, wire.Request{Op: wire.OpSign, Scheme: "ed25519", Hash: "sha256"})...), wire.KindMalformed},
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write(c.send); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.(*net.UnixConn).CloseWrite()
		all, err := io.ReadAll(conn)
		_ = conn.Close()
		if err != nil && c.answer != "" {
			t.Errorf("%s: %v", name, err)
		}
		var last wire.Answer
		for len(all) >= 4 {
			n := binary.BigEndian.Uint32(all)
			last = wire.Answer{}
			if err := json.Unmarshal(all[4:4+n], &last); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all = all[4+n:]
		}
		got := ""
		if last.Error != nil {
			got = last.Error.Kind
		}
		if got != c.answer {
			t.Errorf("%s: %+v", name, last)
		}
	}
	if _, err := connect(t, path).Sign(soon(t), "k", toSign(k.Signer.Public())); err != nil {
		t.Error(err)
	}
}

// As many connections as allowed are open at once; a further one is closed, and works later.
func TestConnections(t *testing.T) {
	t.Parallel()
	path := socket(t)
	k := newKey(t)
	s := signerOf(map[string]key{"k": k})
	s.Connections = 1
	start(t, s, path)
	first, second := connect(t, path), connect(t, path)
	if _, err := first.Sign(soon(t), "k", toSign(k.Signer.Public())); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Sign(soon(t), "k", toSign(k.Signer.Public())); kind(err) != remote.Unavailable {
		t.Errorf("%v", err)
	}
	_ = first.Close()
	for end := time.Now().Add(5 * time.Second); ; {
		_, err := second.Sign(soon(t), "k", toSign(k.Signer.Public()))
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// A server that stops answers the running requests.
func TestDrain(t *testing.T) {
	t.Parallel()
	path := socket(t)
	k := newKey(t)
	begun, release := make(chan struct{}), make(chan struct{})
	k.before = func(context.Context) error { close(begun); <-release; return nil }
	stop := start(t, signerOf(map[string]key{"k": k}), path)
	result := make(chan error, 1)
	c := connect(t, path)
	ctx := soon(t)
	go func() { _, err := c.Sign(ctx, "k", toSign(k.Signer.Public())); result <- err }()
	<-begun
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	close(release)
	if err := <-result; err != nil {
		t.Error(err)
	}
	<-stopped
}

func TestUsers(t *testing.T) {
	t.Parallel()
	if n, err := wire.User("root"); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := wire.Group("4711"); n != 4711 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "-1", "no such user", "4294967296"} {
		if n, err := wire.User(bad); err == nil {
			t.Errorf("user %q is %d", bad, n)
		}
		if n, err := wire.Group(bad); err == nil {
			t.Errorf("group %q is %d", bad, n)
		}
	}
}

// FuzzServer sends anything to a server: it answers with frames of the protocol or ends the connection, signs nothing
// before hello, and works for the next client.
func FuzzServer(f *testing.F) {
	k := newKey(f)
	path := socket(f)
	start(f, signerOf(map[string]key{"k": k}), path)
	hello := frame(f, wire.Request{Op: wire.OpHello, Versions: []int{1}})
	f.Add(hello)
	f.Add(append(bytes.Clone(hello), frame(f,
		wire.Request{Op: wire.OpSign, Key: "k", Scheme: "ecdsa", Hash: "sha256", Data: make([]byte, 32)})...))
	f.Add(append(bytes.Clone(hello), frame(f, wire.Request{Op: wire.OpPublicKey, TimeoutMS: -1})...))
	f.Add([]byte("\x00\x01\x00\x01{"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = conn.Write(sent)
		_ = conn.(*net.UnixConn).CloseWrite()
		all, err := io.ReadAll(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the server keeps the connection")
		}
		greeted := false
		for len(all) > 0 {
			if len(all) < 4 || uint32(len(all)-4) < binary.BigEndian.Uint32(all) {
				t.Fatalf("half a frame: %x", all)
			}
			n := binary.BigEndian.Uint32(all)
			var a wire.Answer
			if err := json.Unmarshal(all[4:4+n], &a); err != nil {
				t.Fatal(err)
			}
			if len(a.Signature) > 0 && !greeted {
				t.Fatal("signed before hello")
			}
			greeted = greeted || a.Version == wire.Version
			all = all[4+n:]
		}
	})
}

// FuzzClient answers anything to a client: a call ends with an error of a known kind, or with a signature that was
// sent.
func FuzzClient(f *testing.F) {
	k := newKey(f)
	hello := frame(f, wire.Answer{Version: 1, Keys: []string{"k"}})
	f.Add(hello, frame(f, wire.Answer{Signature: []byte("x")}))
	f.Add(hello, frame(f, wire.Answer{Error: &wire.Error{Kind: "busy", RetryAfterMS: -5}}))
	f.Add(hello, frame(f, wire.Answer{Error: &wire.Error{Kind: "busy", RetryAfterMS: 1 << 62}}))
	f.Add(hello, []byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x7f\xff\xff\xff{"), []byte(nil))
	path := socket(f)
	var mu sync.Mutex
	var first, later []byte
	liar(f, path, func(n int, _ wire.Request) []byte {
		mu.Lock()
		defer mu.Unlock()
		if n == 0 {
			return first
		}
		return later
	})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		mu.Lock()
		first, later = a, b
		mu.Unlock()
		c := connect(t, path)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		signature, err := c.Sign(ctx, "k", toSign(k.Signer.Public()))
		if (err == nil) != (len(signature) > 0) {
			t.Fatalf("%x, %v", signature, err)
		}
		if e, ok := errors.AsType[*remote.Error](err); err != nil && (!ok || e.After < 0 || e.After > time.Minute) {
			t.Fatal(fmt.Errorf("%w", err))
		}
	})
}
