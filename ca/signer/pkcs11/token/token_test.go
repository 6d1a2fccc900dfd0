//go:build cgo

package token

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/testkit/logbuf"
)

// fake is a library with one token that has one EC key, label "ca", identifier 01.
type fake struct {
	mu          sync.Mutex
	key         *ecdsa.PrivateKey
	present     bool   // the token is in its slot
	pin         string // the right one
	logins      []string
	flags       uint
	sessions    map[pkcs11.SessionHandle]bool
	next        pkcs11.SessionHandle
	most        int // sessions that the token has; 0: any number
	loggedIn    bool
	initialized bool
	found       []pkcs11.ObjectHandle
	peak        int           // of the sessions
	hang        chan struct{} // C_Sign waits for it
	flip        bool
	fails       error // of C_Sign
	attributes  map[uint][]byte
}

func newFake(t *testing.T) *fake {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &fake{key: key, present: true, pin: "1234", attributes: map[uint][]byte{}}
}

func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fake) remove() {
	f.set(func(f *fake) { f.present, f.loggedIn, f.sessions = false, false, map[pkcs11.SessionHandle]bool{} })
}

func (f *fake) Initialize() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.initialized, f.loggedIn, f.sessions = true, false, map[pkcs11.SessionHandle]bool{}
	return nil
}

func (f *fake) Finalize() error {
	f.set(func(f *fake) { f.initialized, f.loggedIn, f.sessions = false, false, nil })
	return nil
}

func (f *fake) GetInfo() (pkcs11.Info, error) { return pkcs11.Info{}, nil }

func (f *fake) GetSlotList(bool) ([]uint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.present {
		return nil, nil
	}
	return []uint{7}, nil
}

func (f *fake) GetTokenInfo(uint) (pkcs11.TokenInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return pkcs11.TokenInfo{Label: "test", SerialNumber: "42", Flags: f.flags}, nil
}

func (f *fake) OpenSession(uint, uint) (pkcs11.SessionHandle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.present:
		return 0, pkcs11.Error(pkcs11.CKR_TOKEN_NOT_PRESENT)
	case f.most > 0 && len(f.sessions) >= f.most:
		return 0, pkcs11.Error(pkcs11.CKR_SESSION_COUNT)
	}
	f.next++
	f.sessions[f.next] = true
	f.peak = max(f.peak, len(f.sessions))
	return f.next, nil
}

func (f *fake) CloseSession(s pkcs11.SessionHandle) error {
	f.set(func(f *fake) { delete(f.sessions, s) })
	return nil
}

func (f *fake) alive(s pkcs11.SessionHandle) error {
	if !f.sessions[s] {
		return pkcs11.Error(pkcs11.CKR_SESSION_HANDLE_INVALID)
	}
	return nil
}

func (f *fake) GetSessionInfo(s pkcs11.SessionHandle) (pkcs11.SessionInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return pkcs11.SessionInfo{}, f.alive(s)
}

func (f *fake) Login(s pkcs11.SessionHandle, _ uint, pin string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logins = append(f.logins, pin)
	switch {
	case f.alive(s) != nil:
		return f.alive(s)
	case pin != f.pin:
		return pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)
	}
	f.loggedIn = true
	return nil
}

const privateHandle, publicHandle = 10, 11

func (f *fake) FindObjectsInit(s pkcs11.SessionHandle, template []*pkcs11.Attribute) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.alive(s); err != nil {
		return err
	}
	f.found = []pkcs11.ObjectHandle{privateHandle, publicHandle}
	for _, a := range template {
		switch {
		case a.Type == pkcs11.CKA_CLASS && number(a.Value) == pkcs11.CKO_PRIVATE_KEY:
			f.found = []pkcs11.ObjectHandle{privateHandle}
		case a.Type == pkcs11.CKA_CLASS && number(a.Value) == pkcs11.CKO_PUBLIC_KEY:
			f.found = []pkcs11.ObjectHandle{publicHandle}
		case a.Type == pkcs11.CKA_CLASS, a.Type == pkcs11.CKA_LABEL && string(a.Value) != "ca",
			a.Type == pkcs11.CKA_ID && !bytes.Equal(a.Value, []byte{1}):
			f.found = nil
		}
	}
	if !f.loggedIn {
		f.found = nil
	}
	return nil
}

func (f *fake) FindObjects(pkcs11.SessionHandle, int) ([]pkcs11.ObjectHandle, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := f.found
	f.found = nil
	return found, false, nil
}

func (f *fake) FindObjectsFinal(pkcs11.SessionHandle) error { return nil }

func ulong(n uint64) []byte { return binary.NativeEndian.AppendUint64(nil, n) }

func (f *fake) GetAttributeValue(_ pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) (
	[]*pkcs11.Attribute, error,
) {
	f.mu.Lock()
	defer f.mu.Unlock()
	point, err := f.key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	wrapped, err := asn1.Marshal(point)
	if err != nil {
		return nil, err
	}
	values := map[uint][]byte{
		pkcs11.CKA_LABEL: []byte("ca"), pkcs11.CKA_ID: {1}, pkcs11.CKA_KEY_TYPE: ulong(pkcs11.CKK_EC),
		pkcs11.CKA_EC_PARAMS: []byte("\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"),
	}
	if o == publicHandle {
		values[pkcs11.CKA_EC_POINT] = wrapped
	}
	for k, v := range f.attributes {
		values[k] = v
	}
	v, ok := values[a[0].Type]
	if !ok {
		return nil, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
	}
	return []*pkcs11.Attribute{{Type: a[0].Type, Value: v}}, nil
}

func (f *fake) SignInit(s pkcs11.SessionHandle, _ []*pkcs11.Mechanism, _ pkcs11.ObjectHandle) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.present {
		return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED)
	}
	return f.alive(s)
}

func (f *fake) Sign(_ pkcs11.SessionHandle, digest []byte) ([]byte, error) {
	f.mu.Lock()
	hang, fails, key, flip := f.hang, f.fails, f.key, f.flip
	f.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if fails != nil {
		return nil, fails
	}
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		return nil, err
	}
	out := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	if flip {
		out[5] ^= 1
	}
	return out, nil
}

func (f *fake) tries() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.logins)
}

// bench is a token on the fake library, and what it logged.
type bench struct {
	*testing.T
	*fake
	token  *Token
	log    *logbuf.Buffer
	exited chan bool
	dir    string
}

func newBench(t *testing.T, f *fake, change func(*Options)) *bench {
	t.Helper()
	b := &bench{T: t, fake: f, log: &logbuf.Buffer{}, exited: make(chan bool, 100), dir: t.TempDir()}
	if err := os.Chmod(b.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Module: "fake", Label: "test", Keys: keyNames(t, "ca"), UserType: pkcs11.CKU_USER, Sessions: 4,
		CallLimit: 5 * time.Second, StateDir: b.dir,
		PIN: func() ([]byte, error) {
			data, err := os.ReadFile(filepath.Join(b.dir, "pin"))
			return bytes.TrimSpace(data), err
		},
		Log: slog.New(slog.NewTextHandler(b.log, nil)), Hung: func() { b.exited <- true },
		load: func(string) (module, error) { return f, nil },
	}
	if change != nil {
		change(&o)
	}
	b.writePIN("1234")
	b.token = New(o)
	return b
}

func (b *bench) writePIN(pin string) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, "pin"), []byte(pin+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
}

// keep runs the token until the test ends.
func (b *bench) keep() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); b.token.Keep(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
}

func (b *bench) sign() error {
	k, ok := b.token.Find("")
	if !ok {
		return errors.New("no key")
	}
	ctx, cancel := context.WithTimeout(b.Context(), 3*time.Second)
	defer cancel()
	d := sha256.Sum256([]byte("x"))
	_, err := k.Sign(ctx, d[:], crypto.SHA256)
	return err
}

func (b *bench) until(what string, done func() bool) {
	b.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("not %s\n%s", what, b.log)
		}
	}
}

func kind(err error) remote.Kind {
	if e, ok := errors.AsType[*remote.Error](err); ok {
		return e.Kind
	}
	return 99
}

// The token is removed and inserted again: in between, signatures fail with the cause; each insertion causes one login.
func TestTokenReturns(t *testing.T) {
	t.Parallel()
	b := newBench(t, newFake(t), nil)
	if err := b.sign(); kind(err) != remote.Unavailable || !strings.Contains(err.Error(), "is being opened") {
		t.Errorf("%v", err)
	}
	b.keep()
	for i := range 3 {
		b.until("signed", func() bool { return b.sign() == nil })
		if n := b.tries(); n != i+1 {
			t.Errorf("%d logins", n)
		}
		b.remove()
		b.until("lost",
			func() bool { err := b.sign(); return err != nil && strings.Contains(err.Error(), "lists no tokens") })
		if err := b.sign(); kind(err) != remote.Unavailable {
			t.Errorf("%v", err)
		}
		b.set(func(f *fake) { f.present = true })
	}
	b.until("signed", func() bool { return b.sign() == nil })
}

// A refused PIN is sent only once, even after a restart of the process. A corrected PIN is used without a restart.
func TestWrongPIN(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	b := newBench(t, f, nil)
	b.writePIN("wrong")
	b.keep()
	b.until("refused", func() bool { return kind(b.sign()) == remote.Denied })
	for range 3 { // further processes
		again := newBench(t, f, func(o *Options) { o.StateDir = b.dir })
		again.token.o.PIN = b.token.o.PIN
		if _, err := again.token.open(); kind(err) != remote.Denied ||
			!strings.Contains(err.Error(), "is not sent again") {
			t.Errorf("%v", err)
		}
	}
	b.until("tried again in vain", func() bool { return strings.Contains(fmt.Sprint(b.sign()), "is not sent again") })
	if n := b.tries(); n != 1 {
		t.Errorf("the wrong PIN was sent %d times", n)
	}
	b.writePIN("also wrong")
	b.until("refused", func() bool { return b.tries() == 2 })
	b.writePIN("1234")
	b.until("signed", func() bool { return b.sign() == nil })
	if n := b.tries(); n != 3 {
		t.Errorf("%d logins", n)
	}
	for _, pin := range []string{"wrong", "1234"} {
		if strings.Contains(b.log.String(), "="+pin) || strings.Contains(b.log.String(), `"`+pin) {
			t.Errorf("the log has the PIN\n%s", b.log)
		}
	}
	// An accepted PIN is not recorded, and removes the records of refused PINs.
	left, err := filepath.Glob(filepath.Join(b.dir, "refused-pin-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// No PIN is sent to a token that would be locked by a wrong one.
func TestLastTry(t *testing.T) {
	t.Parallel()
	for flag, want := range map[uint]string{
		pkcs11.CKF_USER_PIN_FINAL_TRY: "one more wrong PIN locks the token",
		pkcs11.CKF_USER_PIN_LOCKED:    "is locked",
	} {
		f := newFake(t)
		f.flags = flag
		b := newBench(t, f, nil)
		if _, err := b.token.open(); kind(err) != remote.Denied ||
			!strings.Contains(err.Error(), want) || f.tries() != 0 {
			t.Errorf("%v, %d logins", err, f.tries())
		}
	}
}

// C10: a call that does not return ends the process, with a message that names the call.
func TestHungCall(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	b := newBench(t, f, func(o *Options) { o.CallLimit = 100 * time.Millisecond })
	b.keep()
	b.until("signed", func() bool { return b.sign() == nil })
	release := make(chan struct{})
	f.set(func(f *fake) { f.hang = release })
	_ = b.sign()
	select {
	case <-b.exited:
		if !strings.Contains(b.log.String(), "a call to the PKCS#11 library does not return") ||
			!strings.Contains(b.log.String(), "call=C_Sign") {
			t.Errorf("%s", b.log)
		}
	case <-time.After(10 * time.Second):
		t.Error("the process goes on")
	}
	f.set(func(f *fake) { f.hang = nil })
	close(release)
}

// C1: a signature that does not verify is not returned.
func TestTokenLies(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	b := newBench(t, f, nil)
	b.keep()
	b.until("signed", func() bool { return b.sign() == nil })
	f.set(func(f *fake) { f.flip = true })
	if err := b.sign(); kind(err) != remote.WrongKey {
		t.Errorf("%v", err)
	}
	f.set(func(f *fake) { f.flip = false })
	b.until("signed", func() bool { return b.sign() == nil })
	// The token comes back with another key under the same name.
	other := newFake(t)
	b.remove()
	b.until("lost", func() bool { return b.sign() != nil })
	f.set(func(f *fake) { f.present, f.key = true, other.key })
	b.until("refused", func() bool { return strings.Contains(fmt.Sprint(b.sign()), "a different key with this name") })
}

// Sessions are opened when they are needed, up to the limit, and kept. If the token has fewer sessions, the pool is
// smaller.
func TestSessions(t *testing.T) {
	t.Parallel()
	for most, peak := range map[int]int{0: 5, 3: 3} { // one of them has the login
		f := newFake(t)
		f.most = most
		b := newBench(t, f, nil)
		b.keep()
		b.until("signed", func() bool { return b.sign() == nil })
		if f.set(func(f *fake) {
			if f.peak != 2 {
				t.Errorf("%d sessions for one signature", f.peak)
			}
		}); t.Failed() {
			return
		}
		release := make(chan struct{})
		f.set(func(f *fake) { f.hang = release })
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := b.sign(); err != nil {
					t.Error(err)
				}
			})
		}
		b.until("busy", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.peak == peak })
		close(release)
		all.Wait()
		f.set(func(f *fake) {
			if f.peak != peak {
				t.Errorf("%d sessions at once, want %d", f.peak, peak)
			}
		})
	}
}

// After a failed signature, its session is closed, but there is no new login.
func TestFailedSignature(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	b := newBench(t, f, nil)
	b.keep()
	b.until("signed", func() bool { return b.sign() == nil })
	f.set(func(f *fake) { f.fails = pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID) })
	if err := b.sign(); kind(err) != remote.Failed || !strings.Contains(err.Error(), "CKR_MECHANISM_INVALID") {
		t.Errorf("%v", err)
	}
	f.set(func(f *fake) { f.fails = nil })
	if err := b.sign(); err != nil || f.tries() != 1 {
		t.Errorf("%v, %d logins", err, f.tries())
	}
}

// The attestation follows from the attributes of the key in the token.
func TestAttest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		attributes map[uint][]byte
		want       string
	}{
		"nothing":           {nil, "unknown"},
		"extractable":       {map[uint][]byte{pkcs11.CKA_EXTRACTABLE: {1}, pkcs11.CKA_NEVER_EXTRACTABLE: {0}}, "yes"},
		"never extractable": {map[uint][]byte{pkcs11.CKA_EXTRACTABLE: {0}, pkcs11.CKA_NEVER_EXTRACTABLE: {1}}, "no"},
		"imported":          {map[uint][]byte{pkcs11.CKA_EXTRACTABLE: {0}, pkcs11.CKA_NEVER_EXTRACTABLE: {0}}, "no"},
	} {
		f := newFake(t)
		f.attributes = c.attributes
		b := newBench(t, f, nil)
		b.keep()
		b.until("signed", func() bool { return b.sign() == nil })
		k, ok := b.token.Find("ca")
		if _, other := b.token.Find("id:01"); !ok || other {
			t.Fatal("the key has the name that it was given, and no other")
		}
		a, err := k.Attest(t.Context())
		if err != nil || a.Exportable != c.want || a.Reason == "" || a.Evidence["serial"] != "42" {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		if strings.Contains(a.Reason, "never could") != (name == "never extractable") {
			t.Errorf("%s: %s", name, a.Reason)
		}
	}
}

// The error names the unusable object and the existing ones.
func TestNotFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Options)
		fake   func(*fake)
		want   string
	}{
		"token": {
			func(o *Options) { o.Label = "other" }, nil,
			`the token other does not exist: the library lists "test" (serial 42)`,
		},
		"serial": {func(o *Options) { o.Serial = "43" }, nil, "the token test 43 does not exist"},
		"label": {
			func(o *Options) { o.Keys = keyNames(t, "other") }, nil,
			`does not have this private key; it has "ca",id:01`,
		},
		"id":           {func(o *Options) { o.Keys = keyNames(t, "ca,id:02") }, nil, "does not have this private key"},
		"does no sign": {nil, func(f *fake) { f.attributes[pkcs11.CKA_SIGN] = []byte{0} }, "CKA_SIGN is false"},
		"curve": {
			nil, func(f *fake) { f.attributes[pkcs11.CKA_EC_PARAMS] = []byte("\x06\x05\x2b\x81\x04\x00\x0a") },
			"is not allowed for a CA",
		},
		"kind": {nil, func(f *fake) { f.attributes[pkcs11.CKA_KEY_TYPE] = ulong(1) }, "type 0x1 of PKCS #11"},
		"point": {
			nil, func(f *fake) { f.attributes[pkcs11.CKA_EC_POINT] = []byte{4, 1, 4} },
			"does not return the point",
		},
	} {
		f := newFake(t)
		if c.fake != nil {
			c.fake(f)
		}
		b := newBench(t, f, c.change)
		g, err := b.token.open()
		if err == nil {
			err = g.causes[0]
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func keyNames(t *testing.T, text string) []KeyName {
	t.Helper()
	k, err := ParseKeyName(text)
	if err != nil {
		t.Fatal(err)
	}
	return []KeyName{k}
}
