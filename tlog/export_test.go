package tlog

import f_note "github.com/transparency-dev/formats/note"

// Cosignature returns the cosignature line in a witness's answer.
func Cosignature(checkpoint, answer []byte, key string) (string, error) {
	v, err := f_note.NewVerifierForCosignatureV1(key)
	if err != nil {
		return "", err
	}
	return cosignature(checkpoint, answer, v)
}
