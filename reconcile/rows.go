package reconcile

import (
	"encoding/binary"
	"math/rand/v2"
)

// row is one TBSCertificate, with its state in the journals and the logs. There may be a million rows, so a row has no
// pointers.
type row struct {
	tbs        [32]byte // SHA-256 of the TBSCertificate without poison and SCT list
	serial     [20]byte
	seconds    uint32 // Unix time of the intent, or of the first log entry
	certPrefix uint64 // digest of the released certificate, see certPrefix
	entries    uint32 // number of the newest log entry; 0: none
	journal    uint16 // number of the journal that has the intent
	flags      uint8
}

// The flags of a row.
const (
	intended = 1 << iota // a journal has its intent
	issued               // a journal has an outcome that released the certificate
	failed               // a journal has an outcome that released nothing
	trial                // it was signed to test the key at a start
	canary               // a journal has an outcome that says that no certificate was to be made
)

func (r *row) is(flag uint8) bool { return r.flags&flag != 0 }

// logEntry is a log entry for the TBSCertificate of a row.
type logEntry struct {
	index      uint64
	timestamp  uint64
	extensions uint64 // extensionsDigest
	next       uint32 // number of the next older entry of the same row; 0: none
	log        uint16
	final      bool // a certificate, not a precertificate
	// subordinate: the certificate is below a CA certificate that an issuing key signed, or is such a certificate.
	subordinate bool
	// precertSigner: the certificate is a precertificate signing certificate that an issuing key signed (RFC 6962 §3.1)
	precertSigner bool
}

// blockSize is the number of values in a block.
const blockSize = 1 << 13

// blocks is a list that grows by one block at a time, so that a large list is never copied. Its values are numbered
// from 1.
type blocks[T any] struct {
	all [][]T
	n   uint32
}

func (b *blocks[T]) add(v T) uint32 {
	if int(b.n)%blockSize == 0 {
		b.all = append(b.all, make([]T, 0, blockSize))
	}
	last := &b.all[len(b.all)-1]
	*last = append(*last, v)
	b.n++
	return b.n
}

func (b *blocks[T]) at(n uint32) *T { return &b.all[(n-1)/blockSize][(n-1)%blockSize] }

// hashIndex finds row numbers by a key: a hash table with open addressing. A slot of 0 is free.
type hashIndex struct {
	slots []uint32
	used  int
	seed  uint64
	key   func(row uint32) []byte // at least 8 bytes
}

func newHashIndex(key func(uint32) []byte) *hashIndex {
	return &hashIndex{slots: make([]uint32, 1<<10), seed: rand.Uint64() | 1, key: key} //nolint:gosec // not a secret: it only spreads the keys
}

// slot returns the slot of key, or the free slot where it belongs.
func (x *hashIndex) slot(key []byte) int {
	h := (binary.LittleEndian.Uint64(key[len(key)-8:]) ^ x.seed) * 0x9e3779b97f4a7c15
	h ^= h >> 29
	mask := len(x.slots) - 1
	for i := int(h>>1) & mask; ; i = (i + 1) & mask {
		if n := x.slots[i]; n == 0 || string(x.key(n)) == string(key) {
			return i
		}
	}
}

func (x *hashIndex) get(key []byte) uint32 { return x.slots[x.slot(key)] }

func (x *hashIndex) put(n uint32) {
	if 4*(x.used+1) > 3*len(x.slots) {
		old := x.slots
		x.slots = make([]uint32, 2*len(old))
		for _, have := range old {
			if have != 0 {
				x.slots[x.slot(x.key(have))] = have
			}
		}
	}
	x.slots[x.slot(x.key(n))] = n
	x.used++
}

// rowTable holds the rows and finds them by TBSCertificate and by serial number.
type rowTable struct {
	rows     blocks[row]
	entries  blocks[logEntry]
	byTBS    *hashIndex
	bySerial *hashIndex
}

func newRowTable() *rowTable {
	t := &rowTable{}
	t.byTBS = newHashIndex(func(n uint32) []byte { return t.rows.at(n).tbs[:] })
	t.bySerial = newHashIndex(func(n uint32) []byte { return t.rows.at(n).serial[:] })
	return t
}

// find returns the row of a TBSCertificate; 0: none.
func (t *rowTable) find(tbs [32]byte) uint32 { return t.byTBS.get(tbs[:]) }

// addRow adds a row. sameSerial is an older row with its serial number; 0: none.
func (t *rowTable) addRow(r row) (n, sameSerial uint32) {
	n = t.rows.add(r)
	t.byTBS.put(n)
	if r.serial == [20]byte{} {
		return n, 0
	}
	if sameSerial = t.bySerial.get(r.serial[:]); sameSerial == 0 {
		t.bySerial.put(n)
	}
	return n, sameSerial
}

// hasEntry reports whether the row has a log entry that satisfies ok.
func (t *rowTable) hasEntry(n uint32, ok func(*logEntry) bool) bool {
	for at := t.rows.at(n).entries; at != 0; {
		e := t.entries.at(at)
		if ok(e) {
			return true
		}
		at = e.next
	}
	return false
}

// addEntry adds a log entry to a row, unless the row has it.
func (t *rowTable) addEntry(n uint32, e logEntry) (added bool) {
	if t.hasEntry(n, func(have *logEntry) bool { return have.log == e.log && have.index == e.index }) {
		return false
	}
	r := t.rows.at(n)
	e.next = r.entries
	r.entries = t.entries.add(e)
	return true
}
