package ca

import (
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// Backdate bounds: how far before now a certificate may begin, for verifiers whose clock is slow.
const (
	DefaultBackdate = 30 * time.Second
	MaxBackdate     = 40 * time.Second
)

// Config says where the CA's key is and which chains verifiers may need. Exactly one key backend is set.
type Config struct {
	// File is a key in a file.
	File *FileConfig `yaml:"file"`
	// Ephemeral, written as {}, is for trials: root and key are made at start, in memory only.
	Ephemeral *EphemeralConfig `yaml:"ephemeral"`

	// KMS is refused: not in this version. Whatever is written below it is not looked at.
	KMS any `yaml:"kms"`
	// PKCS11 is refused: not in this version.
	PKCS11 any `yaml:"pkcs11"`
	// Tink is refused: not in this version.
	Tink any `yaml:"tink"`
	// GoogleCAS is refused: not in this version.
	GoogleCAS any `yaml:"googlecas"`

	// Backdate is how far before now a certificate begins: whole seconds, 0 to 40. Default: 30s.
	Backdate *time.Duration `yaml:"backdate"`
	// Trust has paths of PEM files, one chain each, that the trust bundle serves after the active one. A chain that was
	// replaced stays in the bundle only while it is listed here.
	Trust []string `yaml:"trust"`
}

// FileConfig is a key in a file.
type FileConfig struct {
	// Chain is the path of the chain in PEM: issuing certificate first, root last.
	Chain string `yaml:"chain"`
	// Key is the path of the private key in PEM: PKCS#8, SEC 1 or PKCS#1, encrypted or not. The old encryption of
	// OpenSSL (DEK-Info) is read with a warning.
	Key string `yaml:"key"`
	// Password is the secret that decrypts the key. When omitted: the key is not encrypted.
	Password *secret.Source `yaml:"password"`
}

// EphemeralConfig is a hierarchy that is made at start and lives in memory only.
type EphemeralConfig struct{}

// BackdateOrDefault returns the backdate in force.
func (c Config) BackdateOrDefault() time.Duration {
	if c.Backdate == nil {
		return DefaultBackdate
	}
	return *c.Backdate
}

// Check finds what is wrong without looking into files. Its errors are [fault.Setting] values.
func (c Config) Check() error {
	var errs []error
	set := 0
	for _, on := range []bool{c.File != nil, c.Ephemeral != nil} {
		if on {
			set++
		}
	}
	for name, other := range map[string]any{
		"kms": c.KMS, "pkcs11": c.PKCS11, "tink": c.Tink,
		"googlecas": c.GoogleCAS,
	} {
		if other != nil {
			set++
			errs = append(errs, fault.BadSetting("this version has no key backend "+name, "use file: or ephemeral: {}", name))
		}
	}
	switch {
	case set == 0:
		errs = append(errs, fault.BadSetting("no key backend", "write file: with chain and key, or ephemeral: {} to try things out"))
	case set > 1:
		errs = append(errs, fault.BadSetting("more than one key backend", "keep one of file and ephemeral"))
	}
	if c.File != nil {
		errs = append(errs, fault.Under(c.File.check(), "file"))
	}
	if b := c.BackdateOrDefault(); b < 0 || b > MaxBackdate || b%time.Second != 0 {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("backdate %s is out of range", b), "write whole seconds from 0s to 40s", "backdate"))
	}
	for i, path := range c.Trust {
		if path == "" {
			errs = append(errs, fault.BadSetting("empty path", "write the path of a chain in PEM or remove the entry", "trust", fmt.Sprint(i)))
		}
	}
	return errors.Join(errs...)
}

func (c *FileConfig) check() error {
	var errs []error
	if c.Chain == "" {
		errs = append(errs, fault.BadSetting("chain is missing", "write the path of the chain in PEM, issuing certificate first, root last", "chain"))
	}
	if c.Key == "" {
		errs = append(errs, fault.BadSetting("key is missing", "write the path of the private key in PEM", "key"))
	}
	if p := c.Password; p != nil && (p.Env == "") == (p.File == "") {
		errs = append(errs, fault.BadSetting("a password comes from one place", "write {env: NAME} or {file: PATH}", "password"))
	}
	return errors.Join(errs...)
}
