// Package shell writes text into commands that a person copies into a POSIX shell.
package shell

import "strings"

// Quote returns s as one word of a POSIX shell (IEEE Std 1003.1, section 2.2): unchanged if that is safe, otherwise in
// single quotes.
func Quote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("-_./:@%+=,", r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
