package oidc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// How often files with keys are looked at.
const staticEvery = 5 * time.Second

// static reads the keys of one issuer from the configuration or from files.
type static struct{ config StaticKeysConfig }

func (s static) close() {}

// fetch reads the keys. A file that cannot be read, or that is no key set, spoils the whole: then the keys before stay, for a
// day. A set that somebody has emptied is no fault: its keys are gone.
func (s static) fetch(_ context.Context, now time.Time) (*keyring, error) {
	ring := &keyring{fetched: now, algs: s.config.Algorithms}
	if len(ring.algs) == 0 {
		ring.algs = algorithms
	}
	if s.config.JWKS != "" {
		keys, err := parseKeySet([]byte(s.config.JWKS))
		ring.keys = keys
		return ring, err
	}
	files := []string{s.config.File}
	if s.config.Dir != "" {
		var err error
		if files, err = filepath.Glob(filepath.Join(s.config.Dir, "*.json")); err != nil {
			return nil, err
		}
		files = slices.DeleteFunc(files, func(f string) bool { return strings.HasPrefix(filepath.Base(f), ".") })
		if len(files) == 0 {
			return nil, fmt.Errorf("%s has no *.json", s.config.Dir)
		}
	}
	for _, name := range files {
		st, err := os.Stat(name)
		if err == nil && st.Size() > maxBody {
			err = fmt.Errorf("%s has more than %d bytes", name, maxBody)
		}
		if err != nil {
			return nil, err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		keys, err := parseKeySet(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		ring.keys = append(ring.keys, keys...)
	}
	if len(ring.keys) > maxKeys {
		return nil, errors.New("too many keys")
	}
	return ring, nil
}

// staticProblem says where the setting stands whose file is wrong.
func staticProblem(c StaticKeysConfig, err error) error {
	key, name := "jwks", ""
	switch {
	case c.File != "":
		key, name = "file", c.File
	case c.Dir != "":
		key, name = "dir", c.Dir
	}
	s := fault.BadFile(name, err, "static-keys", key)
	if s.Fix == "" {
		s.Fix = `write files that hold {"keys": […]}`
	}
	s.Problem = strings.TrimPrefix(s.Problem, name+": ")
	return s
}
