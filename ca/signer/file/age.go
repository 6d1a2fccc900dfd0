package file

import (
	"bytes"
	"crypto"
	"errors"
	"io"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

const (
	ageIntro = "age-encryption.org/v1\n"
	ageBegin = "-----BEGIN AGE ENCRYPTED FILE-----"
)

// isAge reports whether data is encrypted with age.
func isAge(data []byte) bool {
	return bytes.HasPrefix(data, []byte(ageIntro)) || bytes.HasPrefix(bytes.TrimSpace(data), []byte(ageBegin))
}

// checkIdentities reports what is wrong in a file with identities.
func checkIdentities(data []byte) error {
	if _, err := age.ParseIdentities(bytes.NewReader(data)); err != nil { // the cause can contain a line of the file
		return &pemfile.Error{
			Problem: "the file has no age identity, or a line that is not one",
			Fix:     "write the path of a file that \"age-keygen\" wrote",
		}
	}
	return nil
}

// ageIdentities returns the identities that can decrypt the key.
func (o KeyOptions) ageIdentities() ([]age.Identity, error) {
	if len(o.AgeIdentities) > 0 {
		if err := checkIdentities(o.AgeIdentities); err != nil {
			return nil, err
		}
		return age.ParseIdentities(bytes.NewReader(o.AgeIdentities))
	}
	if len(o.Password) == 0 {
		return nil, &pemfile.Error{
			Problem: "the private key is encrypted with age",
			Fix:     "set its password, or the age identity that decrypts it",
		}
	}
	id, err := age.NewScryptIdentity(string(o.Password))
	if err != nil {
		return nil, errAge
	}
	id.SetMaxWorkFactor(maxAgeLogN)
	return []age.Identity{bounding{id}}, nil
}

// bounding gives a type to the error of a work factor above the limit.
type bounding struct{ *age.ScryptIdentity }

// Unwrap implements [age.Identity].
func (b bounding) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := b.ScryptIdentity.Unwrap(stanzas)
	if err == nil || errors.Is(err, age.ErrIncorrectIdentity) {
		return key, err
	}
	return nil, &pemfile.Error{
		Problem: "the scrypt header of the age-encrypted file is damaged, or its work factor is above 20",
		Fix:     "restore the file, or encrypt the key again with \"age -p -a -o NEW KEY\"",
	}
}

var errAge = &pemfile.Error{
	Problem: "the age-encrypted file is damaged", Fix: "restore the file",
}

// parseAge reads a PEM private key encrypted with age.
func (o KeyOptions) parseAge() (crypto.Signer, error) {
	if err := approved("the encryption by age"); err != nil {
		return nil, err
	}
	identities, err := o.ageIdentities()
	if err != nil {
		return nil, err
	}
	in := io.Reader(bytes.NewReader(o.Key))
	if !bytes.HasPrefix(o.Key, []byte(ageIntro)) {
		in = armor.NewReader(in)
	}
	plain, err := age.Decrypt(in, identities...)
	var wrong *age.NoIdentityMatchError
	var located *pemfile.Error
	switch {
	case errors.As(err, &located):
		return nil, located
	case errors.As(err, &wrong) && len(o.AgeIdentities) > 0:
		return nil, &pemfile.Error{
			Problem: "none of the age identities decrypts the private key",
			Fix:     "set the identity whose recipient the key was encrypted to",
		}
	case errors.As(err, &wrong):
		return nil, &pemfile.Error{
			Problem: "the private key cannot be decrypted: wrong password, or the key is encrypted to an age recipient",
			Fix:     "set the password that the key was encrypted with, or the age identity",
		}
	case err != nil:
		return nil, errAge
	}
	text, err := bounded.ReadAll(plain, maxKey*2)
	var large *bounded.TooLargeError
	switch {
	case errors.As(err, &large):
		return nil, &pemfile.Error{
			Problem: "the age-encrypted file is too large for a private key",
			Fix:     "encrypt a file with only the private key",
		}
	case err != nil:
		return nil, errAge
	}
	if isAge(text) || isPKCS12(text) {
		return nil, &pemfile.Error{
			Problem: "the private key is encrypted twice",
			Fix:     "encrypt a plain PEM key with age",
		}
	}
	inner := KeyOptions{Key: text, Warn: o.Warn}
	key, err := inner.parsePEM()
	if errors.As(err, &located) {
		at := *located // the line number is relative to the decrypted content
		at.Line, at.Problem = 0, "in the age-encrypted file, "+located.What()
		return nil, &at
	}
	return key, err
}
