//go:build cgo

// Package token signs with keys in a PKCS #11 token. It needs cgo, and only mayfly-hsm imports it.
//
// A token is opened and logged in to once, and again after it was lost. Running calls take their sessions from a pool.
// Each signature is verified before it is returned. A PIN that the token refused is not sent again. A call of the
// library that does not return within its limit is reported to [Options].Hung, which ends the process, because there is
// no other way to end a call of a C library.
package token

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
)

const (
	firstPause   = 100 * time.Millisecond // pause before the token is opened again
	longestPause = 500 * time.Millisecond
	lookEvery    = 5 * time.Second  // interval of checking that the token is not lost
	openLimit    = 30 * time.Second // of each call that opens the token; a network HSM can be slow
)

// Options describe a token and the keys that are served from it.
type Options struct {
	Module        string // path of the PKCS #11 library
	Label, Serial string // of the token; one of them may be empty
	Keys          []KeyName
	PIN           func() ([]byte, error) // reads the PIN again for each login; nil: the token needs no login
	FixedPIN      bool                   // the PIN stays the same until the process ends
	UserType      uint                   // of the login; CKU_USER is 1
	Sessions      int                    // signatures at once, 1 to [MaxSessions]
	CallLimit     time.Duration          // of one call of the library, [MinCallLimit] to [MaxCallLimit]
	StateDir      string                 // directory of the file with refused PINs; "": they are kept only in memory
	Log           *slog.Logger
	Hung          func() // called when a call of the library does not return within its limit; it MUST end the process

	load func(path string) (module, error) // of tests
}

// Limits of [Options].
const (
	MaxSessions  = 1024
	MinCallLimit = 100 * time.Millisecond
	MaxCallLimit = 10 * time.Second
)

// Token is one token of a library. Each running call holds the generation that it began with. After a loss, the
// generation is closed when its last call has ended, and then the next generation is opened.
type Token struct {
	o       Options
	log     *slog.Logger
	module  module // nil until it is loaded; used by keep, and by calls of a generation
	loaded  bool   // C_Initialize was called
	refused *refusedPINs
	served  []*servedKey
	lost    chan struct{} // of capacity 1; a value means that a call found the token lost

	mu    sync.Mutex
	now   *generation // nil while the token is not open
	cause error       // why it is not open
}

// generation is the state of the token from one login until the token is lost.
type generation struct {
	module   module
	slot     uint
	info     pkcs11.TokenInfo
	base     pkcs11.SessionHandle // stays open, because closing the last session would log out
	keys     []*object            // in the order of Token.served; nil: the key cannot be used
	causes   []error              // why a key cannot be used
	sessions chan pkcs11.SessionHandle
	calls    sync.WaitGroup
	shrunk   int    // slots of the pool for which the token has no session; guarded by the mutex of the token
	pin      []byte // for keys that require the PIN for each signature
}

// unopened is a pool entry whose session is not open yet. It is not a valid session handle (PKCS #11 §3.3).
const unopened = pkcs11.SessionHandle(pkcs11.CK_INVALID_HANDLE)

// New returns a token that is not open yet: see [Token.Keep].
func New(o Options) *Token {
	remembered, err := o.refusedFile()
	if err != nil {
		o.Log.Warn("a refused PIN is tried again after a restart; set --state-dir", "reason", err.Error())
	}
	if o.load == nil {
		o.load = loadModule
	}
	t := &Token{
		o: o, log: o.Log, lost: make(chan struct{}, 1),
		refused: newRefusedPINs(remembered),
		cause: &remote.Error{
			Kind: remote.Unavailable, After: firstPause,
			Err: errors.New("the token is being opened"),
		},
	}
	for i, n := range o.Keys {
		t.served = append(t.served, &servedKey{token: t, at: i, name: n})
	}
	return t
}

// watch starts a timer for a call of the library. If the call does not return in time, the timer calls [Options].Hung,
// which ends the process. The returned function stops the timer, and MUST be called after the call.
func (t *Token) watch(what string, limit time.Duration) func() bool {
	return time.AfterFunc(limit, func() {
		t.log.Error("a call to the PKCS#11 library does not return; the process ends so that it can be restarted",
			"call", what, "limit", limit, "module", t.o.Module)
		t.o.Hung()
	}).Stop
}

// Keep opens the token, and opens it again whenever it is lost, until ctx ends.
func (t *Token) Keep(ctx context.Context) {
	pause := firstPause
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	last := ""
	for ctx.Err() == nil {
		start := time.Now()
		g, err := t.open()
		if err != nil {
			if text := reason(err); text != last { // once for each cause, not for each attempt
				t.log.Error("the token cannot be used; trying again", "reason", text)
				last = text
			}
			t.set(nil, err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, longestPause)
			continue
		}
		pause, last = firstPause, ""
		t.set(g, nil)
		t.log.Info("the token is open", "token", g.info.Label, "serial", g.info.SerialNumber, "took", time.Since(start))
		for up := true; up; {
			select {
			case <-ctx.Done():
				up = false
			case <-t.lost:
				up = false
			case <-look.C:
				up = t.alive(g)
			}
		}
		t.set(nil, &remote.Error{Kind: remote.Unavailable, After: firstPause, Err: errors.New(
			"the token was lost and is being opened again")})
		g.calls.Wait() // bounded, because each call is watched
		if ctx.Err() == nil {
			t.log.Warn("the token is lost", "token", g.info.Label)
		}
	}
	t.close()
}

// reason returns the text of the cause of an error of [Token.open].
func reason(err error) string {
	if e, ok := errors.AsType[*remote.Error](err); ok && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

func (t *Token) set(g *generation, cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now, t.cause = g, cause
}

// use returns the open token and a function that ends its use.
func (t *Token) use() (*generation, func(), error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now == nil {
		return nil, nil, t.cause
	}
	t.now.calls.Add(1)
	return t.now, t.now.calls.Done, nil
}

func (t *Token) reportLost() {
	select {
	case t.lost <- struct{}{}:
	default:
	}
}

// alive checks that the base session is still valid.
func (t *Token) alive(g *generation) bool {
	defer t.watch("C_GetSessionInfo", t.o.CallLimit)()
	_, err := g.module.GetSessionInfo(g.base)
	return err == nil
}

// close finalizes the library, which ends the login.
func (t *Token) close() {
	if t.module == nil || !t.loaded {
		return
	}
	defer t.watch("C_Finalize", t.o.CallLimit)()
	_ = t.module.Finalize()
	t.loaded = false
}

// open initializes the library, finds the token, logs in and finds the keys. Its errors are [remote.Error] values.
func (t *Token) open() (*generation, error) {
	select { // an earlier loss does not concern the next generation
	case <-t.lost:
	default:
	}
	t.close()
	if err := t.initialize(); err != nil {
		return nil, &remote.Error{Kind: remote.Unavailable, After: longestPause, Err: err}
	}
	g := &generation{module: t.module}
	if err := t.findToken(g); err != nil {
		return nil, &remote.Error{Kind: remote.Unavailable, After: longestPause, Err: err}
	}
	stop := t.watch("C_OpenSession", openLimit)
	var err error
	g.base, err = t.module.OpenSession(g.slot, pkcs11.CKF_SERIAL_SESSION)
	stop()
	if err != nil {
		return nil, &remote.Error{Kind: remote.Unavailable, After: longestPause, Err: fmt.Errorf(
			"no session with the token %q can be opened: %w", g.info.Label, err)}
	}
	if err := t.login(g); err != nil {
		return nil, err
	}
	t.findKeys(g)
	g.sessions = make(chan pkcs11.SessionHandle, t.o.Sessions)
	for range t.poolSize(g.info) {
		g.sessions <- unopened
	}
	return g, nil
}

// poolSize returns the maximum number of sessions in the pool, not counting the base session.
func (t *Token) poolSize(info pkcs11.TokenInfo) int {
	most := info.MaxSessionCount
	if most == pkcs11.CK_EFFECTIVELY_INFINITE || most == pkcs11.CK_UNAVAILABLE_INFORMATION || most > MaxSessions {
		return t.o.Sessions
	}
	return max(1, min(t.o.Sessions, int(most)-1))
}

func (t *Token) initialize() (err error) {
	if t.module == nil {
		defer t.watch("dlopen", openLimit)()
		if t.module, err = t.o.load(t.o.Module); err != nil {
			t.module = nil
			return err
		}
	}
	defer t.watch("C_Initialize", openLimit)()
	if err := t.module.Initialize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return fmt.Errorf("the PKCS#11 library cannot be initialized: %w", err)
	}
	t.loaded = true
	return nil
}

// findToken finds the token by its label, its serial number, or both.
func (t *Token) findToken(g *generation) error {
	defer t.watch("C_GetSlotList", openLimit)()
	slots, err := t.module.GetSlotList(true)
	if err != nil {
		return fmt.Errorf("the slots cannot be listed: %w", err)
	}
	var there []string
	found := 0
	for _, slot := range slots {
		info, err := t.module.GetTokenInfo(slot)
		if err != nil {
			continue // a slot whose token is being removed
		}
		if info.Label == "" && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue // an uninitialized slot of SoftHSM
		}
		there = append(there, fmt.Sprintf("%q (serial %s)", info.Label, cmp.Or(info.SerialNumber, "none")))
		if (t.o.Label == "" || info.Label == t.o.Label) && (t.o.Serial == "" || info.SerialNumber == t.o.Serial) {
			g.slot, g.info = slot, info
			found++
		}
	}
	wanted := strings.TrimSpace(t.o.Label + " " + t.o.Serial)
	switch {
	case found == 1:
		return nil
	case found > 1:
		return fmt.Errorf("%d tokens are called %s: name one by its serial number, of %s", found, wanted,
			strings.Join(there, ", "))
	case len(there) == 0:
		return fmt.Errorf("the token %s does not exist: the library lists no tokens", wanted)
	}
	return fmt.Errorf("the token %s does not exist: the library lists %s", wanted, strings.Join(there, ", "))
}

// login logs in once. It does not send a PIN that the token has refused, and sends no PIN if a wrong one would lock the
// token.
func (t *Token) login(g *generation) error {
	denied := func(format string, args ...any) error {
		return &remote.Error{Kind: remote.Denied, After: longestPause, Err: fmt.Errorf(format, args...)}
	}
	flags := g.info.Flags
	if t.o.PIN == nil {
		return nil
	}
	pin, err := t.o.PIN()
	switch {
	case err != nil:
		return denied("the PIN cannot be read: %w", err)
	case t.refused.has(pin):
		return denied("the token %q refused the PIN, which is not sent again because repeated wrong PINs lock a token: "+
			"write the right PIN to its place%s", g.info.Label, t.restartHint())
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return denied("the PIN of the token %q is locked: unlock it with the security officer's PIN", g.info.Label)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return denied("one more wrong PIN locks the token %q, so that none is sent: log in once by hand (\"pkcs11-tool "+
			"--module %s --token-label %q --login --list-objects\")", g.info.Label, t.o.Module, g.info.Label)
	}
	defer t.watch("C_Login", openLimit)()
	err = t.module.Login(g.base, t.o.UserType, string(pin))
	switch {
	case err == nil, is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		t.refused.clear()
		g.pin = pin
		return nil
	case isRefusedPIN(err):
		if e := t.refused.add(pin); e != nil {
			t.log.Warn("the refused PIN cannot be recorded and is tried again after a restart", "reason", e.Error())
		}
		return denied("the token %q refuses the PIN (%w): write the right one to its place%s", g.info.Label, err,
			t.restartHint())
	}
	return &remote.Error{Kind: remote.Unavailable, After: longestPause, Err: fmt.Errorf(
		"the login to the token %q failed: %w", g.info.Label, err)}
}

func (t *Token) restartHint() string {
	if t.o.FixedPIN {
		return ", and start the process again"
	}
	return ""
}

// session takes a session out of the pool, and opens it if it is not open yet.
func (t *Token) session(ctx context.Context, g *generation) (pkcs11.SessionHandle, error) {
	for {
		var s pkcs11.SessionHandle
		select {
		case s = <-g.sessions:
		case <-ctx.Done():
			return 0, &remote.Error{Kind: remote.Busy, Err: errors.New("no session is free")}
		}
		if s != unopened {
			return s, nil
		}
		stop := t.watch("C_OpenSession", t.o.CallLimit)
		s, err := g.module.OpenSession(g.slot, pkcs11.CKF_SERIAL_SESSION)
		stop()
		switch {
		case err == nil:
			return s, nil
		case is(err, pkcs11.CKR_SESSION_COUNT) && t.shrink(g):
			continue // the token has fewer sessions than it reports; wait for a session in use
		}
		g.sessions <- unopened
		return 0, t.failure(err)
	}
}

// shrink removes one slot of the pool permanently, unless it is the last one.
func (t *Token) shrink(g *generation) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g.shrunk >= cap(g.sessions)-1 {
		return false
	}
	g.shrunk++
	return true
}

// failure classifies the error of a call. If the token may be lost, it causes the token to be opened again.
func (t *Token) failure(err error) error {
	if isLost(err) {
		t.reportLost()
		return &remote.Error{Kind: remote.Unavailable, After: firstPause, Err: fmt.Errorf("the token is lost: %w", err)}
	}
	return &remote.Error{Kind: remote.Failed, Err: err}
}

// Find returns the key that a client names. With an empty name, it returns the key if there is only one.
func (t *Token) Find(name string) (wire.Key, bool) {
	if name == "" {
		if len(t.served) != 1 {
			return nil, false
		}
		return t.served[0], true
	}
	for _, k := range t.served {
		if k.name.text == name {
			return k, true
		}
	}
	var found *servedKey
	for _, k := range t.served {
		if k.name.matches(name) {
			if found != nil {
				return nil, false // two keys with one label
			}
			found = k
		}
	}
	return found, found != nil
}

// object is a private key of an open token.
type object struct {
	handle     pkcs11.ObjectHandle
	public     crypto.PublicKey
	label      string
	id         []byte
	always     bool // the key requires the PIN for each signature (CKA_ALWAYS_AUTHENTICATE)
	exportable string
	reason     string
	evidence   map[string]string
}

// findKeys finds all served keys. If a key cannot be used, the other keys can still be used.
func (t *Token) findKeys(g *generation) {
	g.keys, g.causes = make([]*object, len(t.served)), make([]error, len(t.served))
	for i, k := range t.served {
		o, err := t.findKey(g, k.name)
		if err == nil {
			err = k.adopt(o.public)
		}
		if err != nil {
			kind := remote.Failed
			if isLost(err) {
				kind = remote.Unavailable
				t.reportLost()
			}
			g.causes[i] = &remote.Error{Kind: kind, Err: fmt.Errorf("the key %q cannot be used: %w", k.name.text, err)}
			t.log.Error("a key cannot be used", "key", k.name.text, "reason", err.Error())
			continue
		}
		g.keys[i] = o
	}
}

// equal reports whether two public keys are the same.
func equal(a, b crypto.PublicKey) bool {
	x, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && x.Equal(b)
}
