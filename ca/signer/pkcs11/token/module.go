//go:build cgo

package token

import (
	"errors"
	"fmt"
	"os"

	"github.com/miekg/pkcs11"
)

// module has the functions of a PKCS#11 library that this package uses.
type module interface {
	Initialize() error
	Finalize() error
	GetInfo() (pkcs11.Info, error)
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetTokenInfo(slot uint) (pkcs11.TokenInfo, error)
	OpenSession(slot, flags uint) (pkcs11.SessionHandle, error)
	CloseSession(s pkcs11.SessionHandle) error
	GetSessionInfo(s pkcs11.SessionHandle) (pkcs11.SessionInfo, error)
	Login(s pkcs11.SessionHandle, userType uint, pin string) error
	FindObjectsInit(s pkcs11.SessionHandle, template []*pkcs11.Attribute) error
	FindObjects(s pkcs11.SessionHandle, most int) ([]pkcs11.ObjectHandle, bool, error)
	FindObjectsFinal(s pkcs11.SessionHandle) error
	GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error)
	SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error
	Sign(s pkcs11.SessionHandle, data []byte) ([]byte, error)
}

// library is a loaded PKCS#11 library.
type library struct{ *pkcs11.Ctx }

// Initialize allows the library to use the locks of the operating system, because several threads call it.
func (l library) Initialize() error { return l.Ctx.Initialize() }

func loadModule(path string) (module, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("the PKCS#11 library cannot be loaded: %w", err)
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil,
			fmt.Errorf("%s cannot be loaded as a PKCS#11 library: it is another kind of file, made for another "+
				"processor, or lacks a library (\"ldd %s\" shows which)", path, path)
	}
	return library{ctx}, nil
}

// isLost reports whether the error of a call may mean that the token, the session or the login is gone. Vendors return
// different errors in these cases, so that the token is opened again after each of these errors.
func isLost(err error) bool {
	code, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return false
	}
	switch uint(code) {
	case pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY,
		pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_HOST_MEMORY,
		pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED,
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_USER_NOT_LOGGED_IN:
		return true
	}
	return uint(code) >= pkcs11.CKR_VENDOR_DEFINED
}

// isRefusedPIN reports whether a login failed because of the PIN. After such an error the same PIN is not sent again.
func isRefusedPIN(err error) bool {
	code, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return false
	}
	switch uint(code) {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED,
		pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_ARGUMENTS_BAD:
		return true
	}
	return false
}

func is(err error, code uint) bool {
	got, ok := errors.AsType[pkcs11.Error](err)
	return ok && uint(got) == code
}
