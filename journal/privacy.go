package journal

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/durable"
)

// digestPrefix begins a digest that replaces a subject.
const digestPrefix = "hmac-sha256:"

// privacy replaces subjects by digests. A nil privacy leaves them unchanged.
type privacy struct{ salt []byte }

// privacy reads the salt, and creates one if no salt is configured and none exists.
func (c Config) privacy() (*privacy, error) {
	if c.Subjects != SubjectsDigest {
		return nil, nil //nolint:nilnil // subjects stay as they are
	}
	salt, err := c.ReadSalt()
	if errors.Is(err, fs.ErrNotExist) && c.Salt == nil {
		salt, err = c.makeSalt()
	}
	if err != nil {
		return nil, fmt.Errorf("audit.salt: %w", err)
	}
	return &privacy{salt}, nil
}

// ReadSalt returns the salt for [SubjectDigest]: the configured one, or else the content of FILE.salt. It does not
// create one.
func (c Config) ReadSalt() ([]byte, error) {
	if c.Salt != nil {
		return c.Salt.Read()
	}
	data, err := os.ReadFile(c.File + saltSuffix)
	if err != nil {
		return nil, err
	}
	salt := strings.TrimSuffix(string(data), "\n")
	if len(salt) < 16 {
		return nil, fmt.Errorf("%s has no salt; restore the file, because no subject can be found without the salt",
			c.File+saltSuffix)
	}
	return []byte(salt), nil
}

func (c Config) makeSalt() ([]byte, error) {
	salt := rand.Text() + rand.Text()
	f, err := os.CreateTemp(filepath.Dir(c.File), "."+filepath.Base(c.File)+saltSuffix+".new-*") // 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it has its other name by then, or is not whole
	_, err = f.WriteString(salt + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	err = os.Link(f.Name(), c.File+saltSuffix) // the file appears whole or not at all, and never replaces another one
	if errors.Is(err, fs.ErrExist) {
		return c.ReadSalt()
	}
	if err != nil {
		return nil, err
	}
	return []byte(salt), durable.SyncDir(filepath.Dir(c.File))
}

// SubjectDigest returns what a journal has in place of a subject or a SAN: "hmac-sha256:" and the HMAC-SHA256 under the
// salt in hexadecimal.
func SubjectDigest(salt []byte, subject string) string {
	m := hmac.New(sha256.New, salt)
	m.Write([]byte(subject))
	return digestPrefix + hex.EncodeToString(m.Sum(nil))
}

func (p *privacy) apply(r *Record) {
	if p == nil {
		return
	}
	for _, at := range []*string{&r.Subject, &r.SAN, &r.Repository} {
		if *at != "" {
			*at = SubjectDigest(p.salt, *at)
		}
	}
	r.DER, r.Retry = "", "" // the certificate names the subject
}
