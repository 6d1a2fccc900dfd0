//go:build notink

package tink

import "crypto"

var parse func(data []byte, decrypt func([]byte) ([]byte, error)) (crypto.Signer, error)
