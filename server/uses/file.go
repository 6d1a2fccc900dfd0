package uses

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// The file is a sequence of records of 64 bytes: a header, then one record for each use. A record does not cross the
// boundary of a disk sector, so that a crash leaves it whole, or absent, or zero. A record has the number of uses,
// including this one, and a reader takes the largest number of a token: a record may be written after a newer file was
// made from memory that includes its use.
//
//	header  0: magic (16 bytes)  16: version, 1 (8)  24: born, Unix ns (8)  32: forgotten, Unix s (8)  60: CRC-32C (4)
//	use     0: key (32 bytes)    32: expires, Unix s (8)  40: used (4)      60: CRC-32C (4)
//
// Numbers are big-endian; other bytes are zero.
const (
	recordSize = 64
	sumAt      = recordSize - 4
	magic      = "mayfly token use"
)

// Format is the version of the file of token uses that this package reads and writes.
const Format = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the first record of a file.
type header struct {
	born      time.Time // uses before this time are not known
	forgotten int64     // the latest expiry of a token that was dropped, in Unix seconds
}

// stored is a record of a use.
type stored struct {
	key     Key
	expires int64 // Unix seconds
	used    uint32
}

func (h header) encode() []byte {
	out := make([]byte, recordSize)
	copy(out, magic)
	binary.BigEndian.PutUint64(out[16:], Format)
	binary.BigEndian.PutUint64(out[24:], uint64(h.born.UnixNano())) //nolint:gosec // read back as signed
	binary.BigEndian.PutUint64(out[32:], uint64(h.forgotten))       //nolint:gosec // read back as signed
	return sealed(out)
}

func (r stored) encode() []byte {
	out := make([]byte, recordSize)
	copy(out, r.key[:])
	binary.BigEndian.PutUint64(out[32:], uint64(r.expires)) //nolint:gosec // read back as signed
	binary.BigEndian.PutUint32(out[40:], r.used)
	return sealed(out)
}

func sealed(record []byte) []byte {
	binary.BigEndian.PutUint32(record[sumAt:], crc32.Checksum(record[:sumAt], castagnoli))
	return record
}

func intact(record []byte) bool {
	return binary.BigEndian.Uint32(record[sumAt:]) == crc32.Checksum(record[:sumAt], castagnoli)
}

// damage is where a file is not what this package wrote.
type damage struct {
	at   int64
	what string
}

func (d *damage) Error() string { return fmt.Sprintf("damaged at byte %d: %s", d.at, d.what) }

// read reads a file and calls each for every use. end is where the next record belongs: after the last whole record. A
// crash may leave a part of a record, or zeros, at the end, which are not reported: the use of such a record got no
// certificate. Anything else that is not a record is a [*damage].
func read(in io.Reader, each func(stored)) (h header, end int64, err error) {
	b := bufio.NewReaderSize(in, 1<<16)
	record := make([]byte, recordSize)
	if _, err := io.ReadFull(b, record); err != nil {
		return h, 0, &damage{0, "the header is incomplete"}
	}
	switch {
	case string(record[:len(magic)]) != magic:
		return h, 0, &damage{0, "it is not a file with uses of tokens"}
	case !intact(record):
		return h, 0, &damage{0, "the header does not match its checksum"}
	case binary.BigEndian.Uint64(record[16:]) != Format:
		return h, 0, fmt.Errorf("a newer mayfly wrote the file (format %d; this version reads %d); use that version",
			binary.BigEndian.Uint64(record[16:]), Format)
	}
	h.born = time.Unix(0, int64(binary.BigEndian.Uint64(record[24:]))) //nolint:gosec // written as signed
	h.forgotten = int64(binary.BigEndian.Uint64(record[32:]))          //nolint:gosec // written as signed
	end = recordSize
	for {
		n, err := io.ReadFull(b, record)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return h, end, nil
		case err != nil:
			return h, end, err
		case n == recordSize && intact(record):
			each(stored{
				key: Key(record[:32]), expires: int64(binary.BigEndian.Uint64(record[32:])), //nolint:gosec // as above
				used: binary.BigEndian.Uint32(record[40:]),
			})
			end += recordSize
			continue
		}
		at, zero := end, bytes.Equal(record, zeros[:])
		for zero {
			at += recordSize
			n, err = io.ReadFull(b, record)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return h, end, nil
			}
			if err != nil {
				return h, end, err
			}
			zero = bytes.Equal(record[:n], zeros[:n])
		}
		return h, end, &damage{at, "a record does not match its checksum"}
	}
}

var zeros [recordSize]byte

// file appends records in groups: the records that arrive while one group is written are the next group, with one sync.
type file struct {
	owner *Local
	name  string
	lock  *durable.FileLock

	mu      sync.Mutex
	f       *os.File // nil: closed, or to be made again
	size    int64
	next    *group // what is not written yet; nil: nothing
	running bool   // a goroutine writes groups
	failed  error  // of the last group; nil: it is on disk
	retry   time.Time
	idle    sync.Cond
}

// group is records that are written together.
type group struct {
	records []byte
	done    chan struct{} // closed when err is set
	err     error
}

const (
	// compactFrom is the size below which a file is not made smaller.
	compactFrom = 1 << 20
	// retryEvery is how often writing is tried again after a failure.
	retryEvery = time.Second
	// mostWaiting bounds the records that wait for the disk.
	mostWaiting = 1 << 16
)

// open reads the file, or creates it, and makes it as small as possible.
func (l *Local) open(name string) (err error) {
	lock, err := durable.TryLock(name + ".lock")
	if err != nil {
		if errors.Is(err, durable.ErrLocked) {
			return fmt.Errorf("another process counts uses of tokens in %s: give each process its own state_dir, or "+
				"count in a shared store: %w", filepath.Dir(name), err)
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Unlock())
		}
	}()
	l.born = l.o.Wall()
	if err := l.load(name); err != nil {
		return err
	}
	l.file = &file{owner: l, name: name, lock: lock}
	l.file.idle.L = &l.file.mu
	return l.file.rewrite()
}

// retired is the end of the name of a file whose process counts elsewhere now.
const retired = ".retired"

// Retire moves a file with uses away, because they are counted elsewhere from now on: the file would not have the uses
// from now on, and what counts elsewhere does not have those of the file. It returns the time up to which tokens that
// are in the file may have been issued, also when the file was moved before; the zero time if there was no file.
func Retire(name string) (until time.Time, err error) {
	if _, err := os.Lstat(name); err == nil {
		lock, err := durable.TryLock(name + ".lock")
		if err != nil {
			return until, err
		}
		err = errors.Join(os.Rename(name, name+retired), durable.SyncDir(filepath.Dir(name)), lock.Unlock())
		if err != nil {
			return until, err
		}
	}
	st, err := os.Stat(name + retired)
	if errors.Is(err, fs.ErrNotExist) {
		return until, nil
	}
	if err != nil {
		return until, err
	}
	return st.ModTime().Add(leeway), nil // the clock of a provider may be ahead
}

// load reads the records of a file. A file that does not exist has no records.
func (l *Local) load(name string) error {
	f, err := os.Open(name) //nolint:gosec // the file of this process
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	now, elapsed := l.o.Wall(), l.o.Elapsed()
	h, _, err := read(f, func(r stored) {
		s := l.shardOf(r.key)
		one, known := s.by[r.key]
		if !known {
			l.live.Add(1)
		}
		one.used, one.expires = max(one.used, r.used), max(one.expires, r.expires)
		one.keep = elapsed + max(0, time.Unix(one.expires, 0).Sub(now)) + leeway
		s.by[r.key] = one
	})
	if d := (*damage)(nil); errors.As(err, &d) {
		return fmt.Errorf("%s is %w; how often tokens were used is not known. To continue, move the file away: tokens "+
			"that were issued before the next start then get no certificate, unless their issuer entry has "+
			"budget-unavailable: issue", name, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if l.born = h.born; now.Before(l.born) { // the clock was ahead when the file was created
		l.born = now
	}
	for i := range l.shards {
		s := &l.shards[i]
		s.forgotten = h.forgotten
		for k, one := range s.by { // at a start there is one clock only; what it forgets is refused later
			if now.Unix() >= one.expires+int64(leeway/time.Second) {
				s.forgotten = max(s.forgotten, one.expires)
				delete(s.by, k)
				l.live.Add(-1)
			}
		}
	}
	return nil
}

// rewrite replaces the file with a new one that has a record for each token in memory, and opens it. The caller MUST be
// the only writer.
func (f *file) rewrite() error {
	l := f.owner
	h := header{born: l.born}
	all := make([]byte, recordSize, recordSize*(1+l.live.Load()))
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		h.forgotten = max(h.forgotten, s.forgotten)
		for k, one := range s.by {
			all = append(all, stored{key: k, expires: one.expires, used: one.used}.encode()...)
		}
		s.mu.Unlock()
	}
	copy(all, h.encode())
	if f.f != nil {
		_ = f.f.Close() // it is replaced
		f.f = nil
	}
	if err := durable.WriteFile(f.name, all, 0o600); err != nil {
		return err
	}
	out, err := os.OpenFile(f.name, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	f.f, f.size = out, int64(len(all))
	return nil
}

var (
	errFileClosed  = errors.New("the file is closed")
	errFileWaiting = errors.New("too many uses wait for the disk")
)

// append writes a record and returns when it is on disk, or when ctx ends.
func (f *file) append(ctx context.Context, r stored) error {
	f.mu.Lock()
	if f.lock == nil {
		f.mu.Unlock()
		return errFileClosed
	}
	if f.next == nil {
		f.next = &group{done: make(chan struct{})}
	}
	g := f.next
	if len(g.records) >= mostWaiting*recordSize {
		f.mu.Unlock()
		return errFileWaiting
	}
	g.records = append(g.records, r.encode()...)
	if !f.running {
		f.running = true
		go f.run()
	}
	f.mu.Unlock()
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run writes groups until there is none.
func (f *file) run() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.next != nil {
		g := f.next
		f.next = nil
		f.mu.Unlock()
		g.err = f.write(g.records)
		close(g.done)
		f.mu.Lock()
		if g.err != nil && f.failed == nil {
			f.owner.o.Logger.Error("uses of tokens cannot be stored", "file", f.name, "cause", g.err.Error())
		}
		if g.err == nil && f.failed != nil {
			f.owner.o.Logger.Info("uses of tokens are stored again", "file", f.name)
		}
		f.failed = g.err
	}
	f.running = false
	f.idle.Broadcast()
}

// write writes a group. After a failed write or sync, the end of the file is not known, and the file is made again.
func (f *file) write(records []byte) (err error) {
	if f.f == nil {
		if now := time.Now(); now.Before(f.retry) {
			return f.failed
		}
		f.retry = time.Now().Add(retryEvery)
		return f.rewrite() // has the uses of this group, which are in memory
	}
	if f.size > compactFrom && f.size > 4*recordSize*(1+f.owner.live.Load()) {
		return f.rewrite()
	}
	n, err := f.f.Write(records)
	f.size += int64(n)
	if err == nil {
		err = f.f.Sync()
	}
	if err != nil {
		_ = f.f.Close() // the error of the write is the one to report
		f.f = nil
	}
	return err
}

func (f *file) broken() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// close waits until what was appended is on disk, and closes the file.
func (f *file) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.running {
		f.idle.Wait()
	}
	if f.lock == nil {
		return nil
	}
	var err error
	if f.f != nil {
		err = f.f.Close()
	}
	err = errors.Join(err, f.lock.Unlock())
	f.lock = nil
	return err
}
