//go:build cgo

package token

import (
	"encoding/hex"
	"errors"
	"strings"
)

// KeyName names a key by the label of the private key, its identifier, or both.
type KeyName struct {
	text  string // as it was written
	label string
	id    []byte
}

const idPrefix = "id:"

// ParseKeyName reads LABEL, id:HEX or LABEL,id:HEX.
func ParseKeyName(text string) (KeyName, error) {
	k := KeyName{text: text, label: text}
	at := strings.LastIndex(text, ","+idPrefix)
	switch {
	case strings.HasPrefix(text, idPrefix):
		at, k.label = len(idPrefix), ""
	case at >= 0:
		k.label, at = text[:at], at+1+len(idPrefix)
	}
	if at >= 0 {
		var err error
		if k.id, err = hex.DecodeString(text[at:]); err != nil || len(k.id) == 0 {
			return KeyName{}, errors.New("what follows id: must be hexadecimal digits, as pkcs11-tool prints them")
		}
	}
	if k.label == "" && len(k.id) == 0 {
		return KeyName{}, errors.New("the label is empty")
	}
	return k, nil
}

// String returns the name as it was written.
func (k KeyName) String() string { return k.text }

// matches reports whether the name that a client sends is a name of this key.
func (k KeyName) matches(name string) bool {
	return name == k.text || k.label != "" && name == k.label ||
		len(k.id) > 0 && strings.EqualFold(name, idPrefix+hex.EncodeToString(k.id))
}
