package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// Copied is what a copy has of a journal.
type Copied struct {
	// Seq is the number of the last record, 0 if there is none; Sum is the sum of that record.
	Seq uint64 `json:"seq"`
	Sum string `json:"sum,omitempty"`
}

// CopiedFile is a file of a copy. Content is read once, before the next file is passed on.
type CopiedFile struct {
	Name    string // relative to the directory of the journal
	Mode    fs.FileMode
	Size    int64
	Content io.Reader
}

// copyAttempts bounds how often the files are looked for again because the journal has closed a segment meanwhile.
const copyAttempts = 10

// Copy calls put with each file of the journal at path that [Open] needs in another directory, while another process
// may write. The copy ends with the last record that was acknowledged when Copy began, or a later one; it has no record
// that was not acknowledged.
func Copy(path string, put func(CopiedFile) error) (Copied, error) {
	for attempt := 1; ; attempt++ {
		out, files, err := copyable(path)
		if errors.Is(err, errMoved) && attempt < copyAttempts {
			closeAll(files)
			continue
		}
		for _, f := range files {
			if err == nil {
				err = put(f.CopiedFile)
			}
		}
		closeAll(files)
		return out, err
	}
}

// errMoved means that the journal wrote its head, or closed a segment, while its files were looked for.
var errMoved = errors.New("the files of the journal change")

// openedFile is a file of a copy with what to close afterwards.
type openedFile struct {
	CopiedFile
	file *os.File
}

func closeAll(files []openedFile) {
	for _, f := range files {
		if f.file != nil {
			_ = f.file.Close() // only read
		}
	}
}

// copyable opens the files of the journal, as of one acknowledged record.
func copyable(path string) (out Copied, files []openedFile, err error) {
	h, err := readHead(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, e := os.Stat(path); errors.Is(e, fs.ErrNotExist) {
			return out, nil, nil // nothing was written yet
		}
	}
	if err != nil {
		return out, nil, fmt.Errorf("%w: %w", errMoved, err) // the head may be in the middle of a write
	}
	out = Copied{h.seq, h.sum}
	before, err := closedSegments(path)
	if err != nil {
		return out, nil, err
	}
	for _, s := range before {
		f, err := openWhole(s.Path)
		if err != nil {
			return out, files, err
		}
		files = append(files, f)
	}
	current, err := openWhole(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return out, files, errMoved // between the rename and the first record
	case err != nil:
		return out, files, err
	}
	files = append(files, current)
	after, err := closedSegments(path)
	if err == nil && len(after) != len(before) {
		err = errMoved
	}
	if err != nil {
		return out, files, err
	}
	end, err := endOf(current.file, h)
	if err != nil {
		return out, files, fmt.Errorf("%s: %w", path, err)
	}
	files[len(files)-1].Size = end
	files[len(files)-1].Content = io.NewSectionReader(current.file, 0, end)
	switch salt, err := openWhole(path + saltSuffix); {
	case err == nil:
		files = append(files, salt)
	case !errors.Is(err, fs.ErrNotExist):
		return out, files, err
	}
	head := h.bytes()
	return out, append(files, openedFile{CopiedFile: CopiedFile{
		Name: filepath.Base(path) + headSuffix, Mode: 0o600, Size: int64(len(head)), Content: bytes.NewReader(head),
	}}), nil
}

// openWhole opens a file that does not change, or only grows.
func openWhole(path string) (openedFile, error) {
	f, err := os.Open(path) //nolint:gosec // a file of the journal
	if err != nil {
		return openedFile{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return openedFile{}, errors.Join(err, f.Close())
	}
	return openedFile{CopiedFile{
		Name: filepath.Base(path), Mode: st.Mode().Perm(), Size: st.Size(),
		Content: io.NewSectionReader(f, 0, st.Size()),
	}, f}, nil
}

// endOf returns the offset after the record that h names. The file may have later records, which are few.
func endOf(f *os.File, h head) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st.Size() == 0 {
		return 0, nil // the record that h names is the last one of the segment before
	}
	for window := int64(1 << 20); ; window *= 8 {
		from := max(0, st.Size()-window)
		data := make([]byte, st.Size()-from)
		if _, err := f.ReadAt(data, from); err != nil {
			return 0, err
		}
		for end := bytes.LastIndexByte(data, '\n') + 1; end > 0; {
			begin := bytes.LastIndexByte(data[:end-1], '\n') + 1
			if begin == 0 && from > 0 {
				break // the line may begin before the window
			}
			l, err := linkOf(data[begin:end])
			switch {
			case err != nil:
				return 0, err
			case l.seq == h.seq && l.sum == h.sum:
				return from + int64(end), nil
			case l.seq == h.seq:
				return 0,
					fmt.Errorf("record %d differs from the one that was acknowledged; see \"mayfly audit verify\"",
						h.seq)
			case l.seq < h.seq:
				return 0, fmt.Errorf("record %d was acknowledged and is missing; see \"mayfly audit verify\"", h.seq)
			}
			end = begin
		}
		if from == 0 {
			return 0, nil // every record of the segment is newer than h
		}
	}
}

// Reserve locks the journal at path against processes that write to it, until the lock is released. The error wraps
// [durable.ErrLocked] if one runs.
func Reserve(path string) (*durable.FileLock, error) { return durable.TryLock(path + lockSuffix) }
