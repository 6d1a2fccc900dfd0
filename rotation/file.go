package rotation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/durable"
)

// maxFile is the size limit of a state file in bytes.
const maxFile = 4 << 20

// VersionError says that a state file has a version that this package cannot read.
type VersionError struct {
	File    string
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s has version %d of the state file, and this mayfly reads version %d: install the mayfly that "+
		"wrote it", e.File, e.Version, Version)
}

// Parse reads the content of a state file. It refuses unknown members and values. A newer version is a [VersionError].
func Parse(data []byte) (State, error) {
	if len(data) > maxFile {
		return State{}, fmt.Errorf("the state has %d bytes; the limit is %d", len(data), maxFile)
	}
	var head struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil || head.Version == nil {
		return State{}, errors.New("not a state file: the JSON does not have the expected form")
	}
	if *head.Version != Version {
		return State{}, &VersionError{Version: *head.Version}
	}
	var s State
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return State{}, fmt.Errorf("not a state file: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return State{}, errors.New("not a state file: the file has data after the JSON")
	}
	for i := range s.Chains {
		if err := s.Chains[i].parse(); err != nil {
			return State{}, err
		}
	}
	return s, s.Check()
}

// Encode returns the content of a state file.
func (s State) Encode() ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("the state has %d bytes; the limit is %d", len(data), maxFile)
	}
	return append(data, '\n'), err
}

// File is a state file.
type File struct {
	Path string
	// Write replaces the file. Nil: [durable.WriteFile]. Tests interrupt it.
	Write func(name string, data []byte, mode fs.FileMode) error
}

// Read returns the state. The error wraps [fs.ErrNotExist] if there is no file.
func (f File) Read() (State, error) {
	data, err := bounded.ReadFile(f.Path, maxFile)
	if err != nil {
		return State{}, err
	}
	s, err := Parse(data)
	if wrong, ok := errors.AsType[*VersionError](err); ok {
		wrong.File = f.Path
		return State{}, wrong
	}
	if err != nil {
		return State{}, fmt.Errorf("%s: %w", f.Path, err)
	}
	return s, nil
}

// Update reads the state under a lock, calls change to make the next state, and writes it. The state is written
// completely or not at all: after a crash, the file has the former state or the next one. change gets a zero State if
// there is no file. If the next state has the revision of the former one, nothing is written. Update waits for the lock
// until ctx ends, at most ten seconds.
func (f File) Update(ctx context.Context, change func(State) (State, error)) (_ State, err error) {
	lock, err := f.lock(ctx)
	if err != nil {
		return State{}, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	before, err := f.Read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return State{}, err
	}
	next, err := change(before)
	if err != nil || next.Revision == before.Revision {
		return before, err
	}
	data, err := next.Encode()
	if err != nil {
		return before, fmt.Errorf("nothing was written: %w", err)
	}
	if back, err := Parse(data); err != nil || !back.Equal(next) {
		return before, fmt.Errorf("nothing was written: the new state cannot be parsed: %w", err)
	}
	write := f.Write
	if write == nil {
		write = durable.WriteFile
	}
	if err := write(f.Path, data, 0o644); err != nil {
		return before, err
	}
	return next, nil
}

const (
	lockWait  = 10 * time.Second
	lockEvery = 50 * time.Millisecond
)

// lock excludes other writers until it is released. It locks a separate file, because the state file is replaced.
func (f File) lock(ctx context.Context) (*durable.FileLock, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		lock, err := durable.TryLock(f.Path + ".lock")
		if !errors.Is(err, durable.ErrLocked) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s is in use by another process; try again", f.Path)
		case <-time.After(lockEvery):
		}
	}
}
