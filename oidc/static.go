package oidc

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

// How often files with keys are looked at, and how many bytes those of a directory may have.
const (
	staticEvery = 5 * time.Second
	maxStatic   = 4 << 20
)

// static reads the keys of one issuer from the configuration or from files. It is asked beside the traffic only, never
// for a request.
type static struct{ config StaticKeysConfig }

func (static) wait() time.Duration { return defaultWait }

func (static) timeout(class) time.Duration { return defaultWait }

// fetch reads the keys. A file that cannot be read, or that is no key set, spoils the whole: then the keys before stay, for a
// day. A set that somebody has emptied is no fault: its keys are gone.
func (s static) fetch(_ context.Context, now time.Time) (*keyring, error) {
	ring := &keyring{fetched: now, algs: s.config.Algorithms}
	if len(ring.algs) == 0 {
		ring.algs = algorithms
	}
	if s.config.JWKS != "" {
		set, err := parseKeySet([]byte(s.config.JWKS))
		ring.keys, ring.unusable = set.keys, set.unusable
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
		data, err := readFile(name, maxBody)
		if err != nil {
			return nil, err
		}
		if ring.size += len(data); ring.size > maxStatic {
			return nil, fmt.Errorf("the files in %s have more than %d bytes together", s.config.Dir, maxStatic)
		}
		set, err := parseKeySet(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		ring.keys = append(ring.keys, set.keys...)
		if ring.unusable == nil {
			ring.unusable = set.unusable
			continue
		}
		for id, why := range set.unusable {
			if len(ring.unusable) < maxUnusable {
				ring.unusable[id] = why
			}
		}
	}
	return ring, nil
}

// usable refuses a ring without keys: at load a set that holds none is a mistake.
func (r *keyring) usable() error {
	if len(r.keys) > 0 {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(r.unusable)) {
		return unusableError(fmt.Sprintf("no key that is accepted: %.64q is %s", id, r.unusable[id]))
	}
	return errNoKey
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
