package journal

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/journal/ship"
)

// Config says where the journal is written. If there is a file, a record counts when it is in the file, and receivers
// get copies. Without a file, a record counts when each receiver has accepted it.
type Config struct {
	// File is the path of the journal. Its directory must be used by this CA only.
	File string `yaml:"file" path:"write"`
	// MaxSize is the size at which the file is closed and a new one is begun: a whole number of KiB, MiB or GiB.
	// Default: 128MiB.
	MaxSize string `yaml:"max_size"`
	// Key is a secret that makes the sums HMAC-SHA256, so that a part of the journal cannot be recomputed without the
	// secret. When omitted: SHA-256.
	Key *secret.Source `yaml:"key"`
	// Subjects is "plain", or "digest": subjects and SANs are written as HMAC-SHA256 under the salt. Default:
	// plain.
	Subjects string `yaml:"subjects"`
	// Salt is the secret for digests of subjects. When omitted: one is made in FILE.salt.
	Salt        *secret.Source `yaml:"salt"`
	ship.Config `yaml:",inline"`
}

// The values of Config.Subjects.
const (
	SubjectsPlain  = "plain"
	SubjectsDigest = "digest"
)

const (
	defaultMaxSize = 128 << 20
	minMaxSize     = 64 << 10
)

// Check finds wrong settings without opening a file or a socket: one [fault.Setting] for each.
func (c Config) Check() error {
	var errs []error
	if c.File == "" && !c.Any() {
		errs = append(errs, fault.BadSetting("the journal has no destination",
			"write file: with the path of the journal"))
	}
	if _, err := c.maxSize(); err != nil {
		errs = append(errs, fault.BadSetting(err.Error(), "write a size such as 128MiB, at least 64KiB", "max_size"))
	}
	if c.File == "" && c.MaxSize != "" {
		errs = append(errs, fault.BadSetting("the setting needs file:, which is missing",
			"write file:, or remove this setting", "max_size"))
	}
	errs = append(errs, fault.Under(c.Key.Check(), "key"), fault.Under(c.Salt.Check(), "salt"))
	switch c.Subjects {
	case "", SubjectsPlain:
		if c.Salt != nil {
			errs = append(errs, fault.BadSetting("a salt has no effect without subjects: digest",
				"write subjects: digest, or remove the salt", "salt"))
		}
	case SubjectsDigest:
		if c.File == "" && c.Salt == nil {
			errs = append(errs, fault.BadSetting("without file:, a salt cannot be created",
				"write {env: NAME} or {file: PATH}", "salt"))
		}
	default:
		errs = append(errs, fault.BadSetting(strconv.Quote(c.Subjects)+" is neither plain nor digest",
			"write plain or digest", "subjects"))
	}
	errs = append(errs, c.Config.Check(c.File != ""))
	return errors.Join(errs...)
}

// Warnings returns a [fault.Setting] for each setting that is valid but may be a mistake.
func (c Config) Warnings() []*fault.Setting {
	var out []*fault.Setting
	if c.File == "" {
		out = append(out,
			fault.BadSetting("without file:, each start begins a new chain, and only the receivers have the records",
				"write file:"))
	}
	return append(out, c.Config.Warnings()...)
}

// maxSize returns MaxSize in bytes.
func (c Config) maxSize() (int64, error) {
	if c.MaxSize == "" {
		return defaultMaxSize, nil
	}
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		digits, ok := strings.CutSuffix(c.MaxSize, unit)
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		shift := 10 * (i + 1)
		if !ok || err != nil || n < 0 || n > math.MaxInt64>>shift {
			continue
		}
		if n <<= shift; n < minMaxSize {
			break
		}
		return n, nil
	}
	return 0, fmt.Errorf("%q is not a size that a file can have", c.MaxSize)
}
