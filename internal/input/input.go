// Package input reads files that an operator names, up to a size.
package input

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// maxInput is the most that the tools read of one file, in bytes.
const maxInput = 4 << 20

// Read reads a file or, for "-", standard input, up to maxInput bytes.
func Read(stdin io.Reader, name string) ([]byte, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxInput)
	}
	if len(data) == 0 {
		return nil, errors.New(name + " is empty")
	}
	return data, nil
}
