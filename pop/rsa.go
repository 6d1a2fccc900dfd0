package pop

import (
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"math/bits"
)

const (
	publicExponent = 65537
	smallPrimes    = 752 // moduli with a prime factor below this are refused
	rocaPrimes     = 167 // the largest prime for which every modulus of the faulty Infineon library is a power of 65537
	fermatRounds   = 100
)

// rsaTests holds the tables for the tests of RSA moduli. Each test costs less than one verification with the key:
// divisions by machine words, and one square root. The package goodkey of sigstore does not replace these tests: since
// v1.11 it is deprecated and makes none of them.
type rsaTests struct {
	groups []primeGroup
	// squares[p] has bit r set if r is a square modulo the prime p. Its keys are the first odd primes; squareFilter is
	// their product, which fits a machine word.
	squares      map[uint64]uint64
	squareFilter uint64
}

// primeGroup is a group of primes and their product: one long division by the product serves all of them.
type primeGroup struct {
	product uint64
	primes  []prime
}

type prime struct {
	value uint64
	// powers holds the residues that are powers of 65537 modulo value. It is nil above rocaPrimes, and where every
	// residue is such a power.
	powers map[uint64]bool
}

func newRSATests() *rsaTests {
	t := &rsaTests{squares: map[uint64]uint64{}, squareFilter: 1}
	group := primeGroup{product: 1}
	for v := uint64(2); v < smallPrimes; v++ {
		if !big.NewInt(int64(v)).ProbablyPrime(0) { // exact for numbers of this size
			continue
		}
		if high, _ := bits.Mul64(group.product, v); high != 0 {
			t.groups = append(t.groups, group)
			group = primeGroup{product: 1}
		}
		group.product *= v
		group.primes = append(group.primes, prime{value: v, powers: powersOf65537(v)})
		if v > 2 && v < 64 {
			if high, low := bits.Mul64(t.squareFilter, v); high == 0 {
				t.squareFilter = low
				for x := range v {
					t.squares[v] |= 1 << (x * x % v)
				}
			}
		}
	}
	t.groups = append(t.groups, group)
	return t
}

func powersOf65537(p uint64) map[uint64]bool {
	if p == 2 || p > rocaPrimes {
		return nil
	}
	powers := map[uint64]bool{}
	for x := uint64(1); !powers[x]; x = x * publicExponent % p {
		powers[x] = true
	}
	if uint64(len(powers)) == p-1 {
		return nil
	}
	return powers
}

func (t *rsaTests) check(k *rsa.PublicKey) error {
	switch n := k.N.BitLen(); n {
	case 2048, 3072, 4096:
	default:
		return fmt.Errorf("RSA modulus of %d bits; 2048, 3072 and 4096 are accepted", n)
	}
	if k.E != publicExponent {
		return errors.New("RSA exponent is not 65537")
	}
	words := toWords(k.N)
	roca := true
	for _, g := range t.groups {
		r := words.mod(g.product)
		for _, p := range g.primes {
			rest := r % p.value
			if rest == 0 {
				return fmt.Errorf("RSA modulus is divisible by %d", p.value)
			}
			roca = roca && (p.powers == nil || p.powers[rest])
		}
	}
	if roca {
		return errors.New("RSA modulus has the fingerprint of a faulty key generator (ROCA, CVE-2017-15361)")
	}
	if t.closeFactors(k.N) {
		return errors.New("RSA modulus has two factors close together")
	}
	return nil
}

// closeFactors tries to factor n by Fermat's method: it searches a number a near the square root of n for which a*a - n
// is a square. A test modulo small primes, which costs one word addition per round, excludes nearly all candidates.
func (t *rsaTests) closeFactors(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	square := new(big.Int).Mul(a, a)
	if square.Cmp(n) < 0 {
		a.Add(a, big.NewInt(1))
		square.Mul(a, a)
	}
	m := t.squareFilter
	rest := toWords(square.Sub(square, n)).mod(m)     // a*a - n
	step := addMod(twice(toWords(a).mod(m), m), 1, m) // (a+1)*(a+1) - a*a
	candidate, root := new(big.Int), new(big.Int)
	for i := range fermatRounds {
		if t.maybeSquare(rest) {
			candidate.Add(a, big.NewInt(int64(i)))
			candidate.Mul(candidate, candidate)
			candidate.Sub(candidate, n)
			root.Sqrt(candidate)
			if root.Mul(root, root).Cmp(candidate) == 0 {
				return true
			}
		}
		rest = addMod(rest, step, m)
		step = addMod(step, 2, m)
	}
	return false
}

func (t *rsaTests) maybeSquare(rest uint64) bool {
	for p, squares := range t.squares {
		if squares>>(rest%p)&1 == 0 {
			return false
		}
	}
	return true
}

// addMod returns x + y modulo m, for x and y below m.
func addMod(x, y, m uint64) uint64 {
	sum, carry := bits.Add64(x, y, 0)
	if carry == 1 || sum >= m {
		sum -= m
	}
	return sum
}

func twice(x, m uint64) uint64 { return addMod(x, x, m) }

// number is a natural number in words of 64 bits, the highest first.
type number []uint64

func toWords(n *big.Int) number {
	buf := n.FillBytes(make([]byte, (n.BitLen()+63)/64*8))
	words := make(number, len(buf)/8)
	for i := range words {
		words[i] = binary.BigEndian.Uint64(buf[8*i:])
	}
	return words
}

func (n number) mod(m uint64) uint64 {
	var r uint64
	for _, w := range n {
		_, r = bits.Div64(r, w, m)
	}
	return r
}
