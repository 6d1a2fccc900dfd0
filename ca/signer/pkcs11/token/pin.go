//go:build cgo

package token

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/scrypt"

	"github.com/mayfly-ca/mayfly/internal/owner"
)

// refusedPINs records which PINs the token refused, so that neither this process nor the next one sends them again. On
// disk, it keeps a salted scrypt hash (RFC 7914) of each PIN, in a file that only this user can read.
type refusedPINs struct {
	path string // "": in memory only

	mu     sync.Mutex
	record []byte            // salts and hashes; nil: none
	asked  [sha256.Size]byte // the last PIN that was looked up, hashed with a salt of this process
	answer bool
	salt   [saltSize]byte
}

const (
	saltSize, hashSize        = 16, 32
	scryptN, scryptR, scryptP = 1 << 14, 8, 1
	maxRefused                = 16 // maximum number of hashes
)

func newRefusedPINs(path string) *refusedPINs {
	r := &refusedPINs{path: path}
	_, _ = rand.Read(r.salt[:])
	if path == "" {
		return r
	}
	if data, err := os.ReadFile(r.path); err == nil && len(data)%(saltSize+hashSize) == 0 &&
		len(data) <= maxRefused*(saltSize+hashSize) {
		r.record = data
	}
	return r
}

func hashPIN(salt, pin []byte) []byte {
	h, err := scrypt.Key(pin, salt, scryptN, scryptR, scryptP, hashSize)
	if err != nil {
		panic(err) // the parameters are constants
	}
	return h
}

// has reports whether the token refused this PIN.
func (r *refusedPINs) has(pin []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := sha256.Sum256(append(r.salt[:], pin...))
	if asked == r.asked {
		return r.answer
	}
	r.asked, r.answer = asked, r.search(pin)
	return r.answer
}

func (r *refusedPINs) search(pin []byte) bool {
	for rest := r.record; len(rest) >= saltSize+hashSize; rest = rest[saltSize+hashSize:] {
		if subtle.ConstantTimeCompare(hashPIN(rest[:saltSize], pin), rest[saltSize:saltSize+hashSize]) == 1 {
			return true
		}
	}
	return false
}

// add records a refused PIN.
func (r *refusedPINs) add(pin []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.answer = sha256.Sum256(append(r.salt[:], pin...)), true
	entry := make([]byte, saltSize, saltSize+hashSize)
	_, _ = rand.Read(entry)
	entry = append(entry, hashPIN(entry, pin)...)
	if len(r.record) >= maxRefused*len(entry) {
		r.record = r.record[len(entry):]
	}
	r.record = append(r.record, entry...)
	if r.path == "" {
		return nil
	}
	return os.WriteFile(r.path, r.record, 0o600)
}

// clear removes all records, after the token accepted a PIN.
func (r *refusedPINs) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record, r.asked = nil, [sha256.Size]byte{}
	if r.path == "" {
		return
	}
	if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		_ = os.Truncate(r.path, 0)
	}
}

// refusedFile returns the path of the file with the refused PINs of a token.
func (o *Options) refusedFile() (string, error) {
	if o.StateDir == "" {
		return "", errors.New("the state directory is not set")
	}
	st, err := os.Stat(o.StateDir)
	if err != nil {
		return "", err
	}
	if uid, known := owner.Of(st); known && uid != os.Geteuid() && uid != 0 || st.Mode().Perm()&0o002 != 0 {
		return "", fmt.Errorf("%s can be written by another user", o.StateDir)
	}
	token := sha256.Sum256([]byte(o.Module + "\x00" + o.Label + "\x00" + o.Serial))
	return filepath.Join(o.StateDir, fmt.Sprintf("refused-pin-%x", token[:8])), nil
}
