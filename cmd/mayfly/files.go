package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// writePrivate writes a file that only its owner may read.
func writePrivate(name string, data []byte) error { return writeFile(name, data, 0o600) }

// writeFile replaces a file as a whole.
func writeFile(name string, data []byte, mode fs.FileMode) error {
	return durable.WriteFile(name, data, mode)
}

// decodeNumbers decodes exactly one JSON value and keeps the digits of its numbers.
func decodeNumbers(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}
