package reconcile

import (
	"encoding/binary"
	"math/rand/v2"
)

// row is one TBSCertificate: what journals say of it, and where logs have it. There may be a million of them: no pointers.
type row struct {
	tbs     [32]byte
	serial  [20]byte
	when    uint32 // seconds since 1970: of the intent, or of the first entry
	mark    uint64 // of the certificate that was released, see markOf
	places  uint32 // the newest place; 0 is none
	journal uint16 // that has the intent
	flags   uint8
}

const (
	intended = 1 << iota
	issued
	failed
	trial
)

func (r *row) is(flag uint8) bool { return r.flags&flag != 0 }

// place is an entry of a log that has a row's TBSCertificate.
type place struct {
	index      uint64
	timestamp  uint64
	extensions uint64
	next       uint32 // an older place of the same row; 0 is none
	log        uint16
	final      bool
	below      bool // it is a CA certificate that our key made, or is under one
}

// promise is an SCT whose entry has not been seen yet.
type promise struct {
	row        uint32
	log        uint16
	indexed    bool // the SCT says where: index
	index      uint64
	timestamp  uint64
	extensions uint64
}

// blockSize is how many values grow at once: a large slice is never copied.
const blockSize = 1 << 13

// blocks is a slice that grows without being copied. Its values are numbered from 1.
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

// index finds rows by a key of theirs: a hash table with open addressing, of numbers of rows. 0 is a free slot.
type index struct {
	slots []uint32
	used  int
	seed  uint64
	key   func(row uint32) []byte // at least 8 bytes
}

func newIndex(key func(uint32) []byte) *index {
	return &index{slots: make([]uint32, 1<<10), seed: rand.Uint64() | 1, key: key} //nolint:gosec // spreads, and is no secret
}

// slot returns where key is, or the free slot where it would be.
func (x *index) slot(key []byte) int {
	h := (binary.LittleEndian.Uint64(key[len(key)-8:]) ^ x.seed) * 0x9e3779b97f4a7c15
	h ^= h >> 29
	mask := len(x.slots) - 1
	for i := int(h>>1) & mask; ; i = (i + 1) & mask {
		if n := x.slots[i]; n == 0 || string(x.key(n)) == string(key) {
			return i
		}
	}
}

func (x *index) get(key []byte) uint32 { return x.slots[x.slot(key)] }

func (x *index) put(n uint32) {
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

// table has the rows and finds them by TBSCertificate and by serial number.
type table struct {
	rows     blocks[row]
	places   blocks[place]
	byTBS    *index
	bySerial *index
}

func newTable() *table {
	t := &table{}
	t.byTBS = newIndex(func(n uint32) []byte { return t.rows.at(n).tbs[:] })
	t.bySerial = newIndex(func(n uint32) []byte { return t.rows.at(n).serial[:] })
	return t
}

// find returns the row of a TBSCertificate; 0 is none.
func (t *table) find(tbs [32]byte) uint32 { return t.byTBS.get(tbs[:]) }

// add makes a row. twin is another one that has its serial number; 0 is none.
func (t *table) add(r row) (n, twin uint32) {
	n = t.rows.add(r)
	t.byTBS.put(n)
	if r.serial == [20]byte{} {
		return n, 0
	}
	if twin = t.bySerial.get(r.serial[:]); twin == 0 {
		t.bySerial.put(n)
	}
	return n, twin
}

// has returns whether the row has a place that satisfies ok.
func (t *table) has(n uint32, ok func(*place) bool) bool {
	for at := t.rows.at(n).places; at != 0; {
		p := t.places.at(at)
		if ok(p) {
			return true
		}
		at = p.next
	}
	return false
}

// addPlace adds a place to a row, once.
func (t *table) addPlace(n uint32, p place) (added bool) {
	if t.has(n, func(have *place) bool { return have.log == p.log && have.index == p.index }) {
		return false
	}
	r := t.rows.at(n)
	p.next = r.places
	r.places = t.places.add(p)
	return true
}
