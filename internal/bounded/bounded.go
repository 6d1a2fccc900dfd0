// Package bounded reads untrusted input up to a limit. Everything that comes over a network, or from a file that
// another program writes, MUST be read through this package, with a limit that no correct input reaches.
package bounded

import (
	"fmt"
	"io"
	"io/fs"
	"os"
)

// TooLargeError says that the input is longer than its limit.
type TooLargeError struct{ Limit int64 }

// Error implements error.
func (e *TooLargeError) Error() string { return fmt.Sprintf("larger than %d bytes", e.Limit) }

// ReadAll reads r to its end. More than limit bytes are a [*TooLargeError]; at most one byte beyond the limit is read.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, &TooLargeError{limit}
	}
	return data, nil
}

// ReadFile reads a file as [os.ReadFile] does; its errors are [*fs.PathError] values. More than limit bytes are a
// [*TooLargeError].
func ReadFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the caller names the file
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := ReadAll(f, limit)
	if e, tooLarge := err.(*TooLargeError); tooLarge { //nolint:errorlint // ReadAll returns it as it is
		return nil, &fs.PathError{Op: "read", Path: name, Err: e}
	}
	return data, err
}
