package uses

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"
)

// BreakFile closes the file, so that the next write fails.
func (l *Local) BreakFile() {
	l.file.mu.Lock()
	defer l.file.mu.Unlock()
	_ = l.file.f.Close()
}

// D20: every file is read without a panic; what is read is what would be written again, up to the end of the whole
// records.
func FuzzRead(f *testing.F) {
	h := header{born: time.Unix(1.8e9, 5), forgotten: 1.7e9}
	a := stored{key: Key{1, 2, 3}, expires: 1.8e9, used: 3}
	b := stored{key: Key{0xff}, expires: -1, used: 1 << 31}
	whole := append(append(h.encode(), a.encode()...), b.encode()...)
	f.Add(whole)
	f.Add(whole[:150])
	f.Add(append(bytes.Clone(whole), make([]byte, 200)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		h, end, err := read(bytes.NewReader(data), func(r stored) { again = append(again, r.encode()...) })
		if err != nil {
			return
		}
		if want := data[:end]; !bytes.Equal(append(h.encode(), again...), want) {
			t.Errorf("%x is read as %x", want, again)
		}
		for _, one := range data[end:max(int(end), len(data)/recordSize*recordSize)] {
			if one != 0 {
				t.Fatal("bytes that are not zero are ignored")
			}
		}
	})
}

// OfFormat returns the content of a file of another format, with a header that is otherwise right.
func OfFormat(content []byte, format uint64) []byte {
	out := bytes.Clone(content)
	binary.BigEndian.PutUint64(out[16:], format)
	binary.BigEndian.PutUint32(out[sumAt:], crc32.Checksum(out[:sumAt], castagnoli))
	return out
}
