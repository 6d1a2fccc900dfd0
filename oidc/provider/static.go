package provider

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// Limits on static keys.
const (
	staticEvery = 5 * time.Second // interval at which files are read again
	maxStatic   = 4 << 20         // bytes of all files of a directory together
)

// static reads the keys of one issuer from the configuration or from files: only in the background, never for a
// request.
type static struct{ config StaticKeysConfig }

func (static) wait() time.Duration { return defaultWait }

func (static) timeout(class) time.Duration { return defaultWait }

// fetch reads the keys. If one file cannot be read, or has no key set, fetch fails: the last good keys then stay in use
// for a day. A key set without keys is not an error: the operator has removed them.
func (s static) fetch(_ context.Context, now time.Time) (*Keyring, error) {
	out := &Keyring{fetched: now, algorithms: s.config.Algorithms}
	if len(out.algorithms) == 0 {
		out.algorithms = token.Algorithms()
	}
	if s.config.JWKS != "" {
		set, err := parseKeySet([]byte(s.config.JWKS))
		out.keys, out.unusable = set.keys, set.unusable
		return out, err
	}
	files := []string{s.config.File}
	if s.config.Dir != "" {
		var err error
		if files, err = filepath.Glob(filepath.Join(s.config.Dir, "*.json")); err != nil {
			return nil, err
		}
		files = slices.DeleteFunc(files, func(f string) bool { return strings.HasPrefix(filepath.Base(f), ".") })
		if len(files) == 0 {
			return nil, fmt.Errorf("%s has no file *.json", s.config.Dir)
		}
	}
	for _, name := range files {
		data, err := readFile(name, maxBody)
		if err != nil {
			return nil, err
		}
		if out.size += len(data); out.size > maxStatic {
			return nil, fmt.Errorf("the files in %s have more than %d bytes in total", s.config.Dir, maxStatic)
		}
		set, err := parseKeySet(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out.keys = append(out.keys, set.keys...)
		if out.unusable == nil {
			out.unusable = set.unusable
			continue
		}
		for id, why := range set.unusable {
			if len(out.unusable) < maxUnusable {
				out.unusable[id] = why
			}
		}
	}
	return out, nil
}

// setting returns err as an error of the setting that names the keys.
func (c StaticKeysConfig) setting(err error) error {
	key, name := "jwks", ""
	switch {
	case c.File != "":
		key, name = "file", c.File
	case c.Dir != "":
		key, name = "dir", c.Dir
	}
	s := fault.BadFile(name, err, "static-keys", key)
	if s.Fix == "" {
		s.Fix = `write files that contain {"keys": […]}`
	}
	s.Problem = strings.TrimPrefix(s.Problem, name+": ")
	return s
}
