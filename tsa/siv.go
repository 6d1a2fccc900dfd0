package tsa

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
)

// siv is AEAD_AES_SIV_CMAC_256 (RFC 5297 §6.1), which NTS demands: no library that this module can get has it with keys
// of 256 bits.
type siv struct {
	mac, ctr cipher.Block
	k1, k2   [aes.BlockSize]byte // the subkeys of CMAC (RFC 4493 §2.3)
}

const sivKeySize = 32

var errSIV = errors.New("the authentication of the packet does not verify")

func newSIV(key []byte) (*siv, error) {
	if len(key) != sivKeySize {
		return nil, errors.New("a key of AEAD_AES_SIV_CMAC_256 has 32 bytes")
	}
	mac, err := aes.NewCipher(key[:sivKeySize/2])
	if err != nil {
		return nil, err
	}
	ctr, err := aes.NewCipher(key[sivKeySize/2:])
	if err != nil {
		return nil, err
	}
	s := &siv{mac: mac, ctr: ctr}
	mac.Encrypt(s.k1[:], s.k1[:])
	s.k1 = doubled(s.k1)
	s.k2 = doubled(s.k1)
	return s, nil
}

// doubled multiplies by x in GF(2^128) (RFC 5297 §2.3).
func doubled(b [aes.BlockSize]byte) (out [aes.BlockSize]byte) {
	carry := byte(0)
	for i := len(b) - 1; i >= 0; i-- {
		out[i] = b[i]<<1 | carry
		carry = b[i] >> 7
	}
	out[len(out)-1] ^= carry * 0x87
	return out
}

// cmac is AES-CMAC (RFC 4493 §2.4).
func (s *siv) cmac(message []byte) (out [aes.BlockSize]byte) {
	for len(message) > aes.BlockSize {
		subtle.XORBytes(out[:], out[:], message[:aes.BlockSize])
		s.mac.Encrypt(out[:], out[:])
		message = message[aes.BlockSize:]
	}
	last := s.k1
	if len(message) < aes.BlockSize {
		last = s.k2
		last[len(message)] ^= 0x80
	}
	subtle.XORBytes(last[:], last[:], message)
	subtle.XORBytes(out[:], out[:], last[:])
	s.mac.Encrypt(out[:], out[:])
	return out
}

// s2v is S2V (RFC 5297 §2.4) of associated data and a plaintext.
func (s *siv) s2v(plaintext []byte, associated ...[]byte) [aes.BlockSize]byte {
	d := s.cmac(make([]byte, aes.BlockSize))
	for _, one := range associated {
		d = doubled(d)
		m := s.cmac(one)
		subtle.XORBytes(d[:], d[:], m[:])
	}
	if len(plaintext) >= aes.BlockSize {
		t := append([]byte(nil), plaintext...)
		end := t[len(t)-aes.BlockSize:]
		subtle.XORBytes(end, end, d[:])
		return s.cmac(t)
	}
	d = doubled(d)
	d[len(plaintext)] ^= 0x80
	subtle.XORBytes(d[:], d[:], plaintext)
	return s.cmac(d[:])
}

// stream encrypts or decrypts (RFC 5297 §2.5).
func (s *siv) stream(v [aes.BlockSize]byte, text []byte) []byte {
	v[8] &= 0x7f
	v[12] &= 0x7f
	out := make([]byte, len(text))
	cipher.NewCTR(s.ctr, v[:]).XORKeyStream(out, text)
	return out
}

// seal encrypts a plaintext and authenticates it with associated data, the nonce last (RFC 5297 §2.6).
func (s *siv) seal(plaintext []byte, associated ...[]byte) []byte {
	v := s.s2v(plaintext, associated...)
	return append(v[:], s.stream(v, plaintext)...)
}

// open is the reverse of seal (RFC 5297 §2.7).
func (s *siv) open(sealed []byte, associated ...[]byte) ([]byte, error) {
	if len(sealed) < aes.BlockSize {
		return nil, errSIV
	}
	v := [aes.BlockSize]byte(sealed)
	plaintext := s.stream(v, sealed[aes.BlockSize:])
	if want := s.s2v(plaintext, associated...); subtle.ConstantTimeCompare(want[:], v[:]) != 1 {
		return nil, errSIV
	}
	return plaintext, nil
}
