// Package input reads files that an operator names, up to a size. What is read is never empty: an empty file is an
// error, because no file of an operator means something without content.
package input

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/mayfly-ca/mayfly/internal/bounded"
)

// maxInput is the size limit of one file in bytes.
const maxInput = 4 << 20

// Read reads a file, or for the name "-" the stream stdin if it is not nil. A file that is empty or has more than 4 MiB
// is an error that names it.
func Read(stdin io.Reader, name string) ([]byte, error) {
	in := stdin
	if name != "-" || stdin == nil {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	data, err := bounded.ReadAll(in, maxInput)
	if _, ok := errors.AsType[*bounded.TooLargeError](err); ok {
		return nil, fmt.Errorf("%s is %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, errors.New(name + " is empty")
	}
	return data, nil
}
