package journal

import "fmt"

// Sums proves of single lines that they are as they were written. It is for one goroutine at a time. [Verify] proves more.
type Sums struct{ chain chain }

// NewSums takes the journal's key; an empty one is SHA-256.
func NewSums(key []byte) *Sums { return &Sums{newChain(key)} }

// Check errs unless the entry's sum is the one of its bytes.
func (s *Sums) Check(e *Entry) error {
	l, err := linkOf(e.Raw)
	if err != nil {
		return &Damage{At: e.At, What: err.Error()}
	}
	if s.chain.digest(l.covered) != l.sum {
		return &Damage{At: e.At, What: fmt.Sprintf("the checksum of record %d is not that of its bytes", l.seq)}
	}
	return nil
}
