package dev

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/trust"
)

// Format is the version of the state directory that this package reads and writes.
const Format = 1

// State is the directory of "mayfly dev".
type State struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Issuer  string    `json:"issuer"`

	dir   string
	lock  *durable.FileLock
	fresh bool // created by this start
}

// Path returns the path of a file in the directory.
func (s *State) Path(name string) string { return filepath.Join(s.dir, name) }

// ReadState reads the directory of a CA that was started before.
func ReadState(dir string) (*State, error) {
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s contains no development CA; start one with \"mayfly dev --dir %s\" or name "+
			"its directory with --dir", dir, dir)
	}
	if err != nil {
		return nil, err
	}
	s := &State{dir: dir}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fault.Cure(fmt.Errorf("%s: %w", s.Path("state.json"), err),
			"restore the file, or choose another directory with --dir")
	}
	if s.Version > Format {
		return nil, fmt.Errorf("%s was written by a newer mayfly (layout %d; this version supports up to %d); use "+
			"that version, or choose another directory with --dir", dir, s.Version, Format)
	}
	if s.Version < 1 {
		return nil, fmt.Errorf("%s has no valid layout version; restore the file, or choose another directory with "+
			"--dir", s.Path("state.json"))
	}
	return s, nil
}

// OpenState reads or creates the directory, and locks it against a second "mayfly dev".
func OpenState(dir string) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Cure(fmt.Errorf("state directory: %w", err), "choose another with --dir")
	}
	open := ReadState
	if !exists(filepath.Join(dir, "state.json")) {
		open = newState
	}
	s, err := open(dir)
	if err != nil {
		return nil, err
	}
	s.lock, err = durable.TryLock(s.Path("lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("%s is in use by another \"mayfly dev\"; stop that one, or choose another directory "+
			"with --dir", dir)
	}
	if err != nil {
		return nil, fault.Cure(fmt.Errorf("state directory: %w", err), "choose another with --dir")
	}
	return s, nil
}

// newState initializes an empty directory. A directory with other files is an error and is not changed.
func newState(dir string) (*State, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fault.Cure(fmt.Errorf("state directory: %w", err), "choose another with --dir")
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			return nil, fmt.Errorf("%s contains other files (%s) and no development CA; choose an empty or "+
				"new directory with --dir", dir, e.Name())
		}
	}
	s := &State{Version: Format, Created: time.Now().UTC().Truncate(time.Second), dir: dir, fresh: true}
	if err := s.save(); err != nil {
		return nil, fault.Cure(fmt.Errorf("state directory: %w", err), "choose another with --dir")
	}
	// The directory holds private keys, so it must not be committed to a repository.
	return s, durable.WriteFile(s.Path(".gitignore"), []byte("*\n"), 0o644)
}

func (s *State) save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(s.Path("state.json"), append(data, '\n'), 0o644)
}

// Close releases the lock of the directory.
func (s *State) Close() {
	if s.lock != nil {
		_ = s.lock.Unlock() // the lock file has no content
	}
}

// certificateFile is the self-signed TLS certificate, in the directory that the configuration has as state_dir.
const certificateFile = "keys/tls/certificate.pem"

// prepare writes the keys of all services on the first start, and the configuration on each start.
func (s *State) prepare(a addresses, tls bool) error {
	if err := s.save(); err != nil { // the address of the issuer may have changed
		return err
	}
	for _, complete := range []func() error{s.complete, s.completeStamps, s.completeTUF} {
		if err := complete(); err != nil {
			return err
		}
	}
	identity := fmt.Sprintf("oidc-issuers:\n  %q:\n    issuer-url: %q\n    client-id: sigstore\n    type: email\n",
		s.Issuer, s.Issuer)
	if err := durable.WriteFile(s.Path("identity.yaml"), []byte(identity), 0o644); err != nil {
		return err
	}
	url, secure := "http://"+a.http, ""
	if tls {
		url, secure = "https://"+a.http, "  tls: {self_signed: true}\n"
	}
	host, _, err := net.SplitHostPort(a.http)
	if err != nil {
		return err
	}
	cfg := fmt.Sprintf(`# "mayfly dev" overwrites this file at each start. Copy it to write a configuration of your own.
listen:
  http: %q
  grpc: %q
  admin: %q
%sidentity:
  file: identity.yaml
ca:
  file:
    chain: chain.pem
    key: ca-key.pem
ct:
  embedded:
    dir: ct
    origin: mayfly.local/ct
rekor:
  dir: rekor
  origin: %q # the host in the URL of the log
  admit: any
  v1: true
tsa:
  file:
    chain: %s
    key: %s
publish:
  url: %q
  operator: %q
  issuer: %q
  tuf: {dir: tuf, serve: true}
find: {dir: index}
audit:
  file: journal.jsonl
state_dir: keys
`, a.http, a.grpc, a.admin, secure, host, stampFiles[1], stampFiles[0], url, operator, s.Issuer)
	if err := os.MkdirAll(s.Path("keys"), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(s.Path("mayfly.yaml"), []byte(cfg), 0o644)
}

// hierarchyFiles are the files of the CA, in the order in which they are written. If the last one is missing, the first
// start was interrupted before the others were used.
var hierarchyFiles = []string{"root-key.pem", "ca-key.pem", "chain.pem"}

// complete creates the hierarchy in a new directory. If only some files are missing, complete returns an error and
// replaces none: verifiers may still need what the existing keys have signed.
func (s *State) complete() error {
	var have, gone []string
	for _, name := range hierarchyFiles {
		if exists(s.Path(name)) {
			have = append(have, name)
		} else {
			gone = append(gone, name)
		}
	}
	used := ""
	for _, name := range []string{"ct", "journal.jsonl", "idp", "tsa", "trusted_root.json"} {
		if used == "" && exists(s.Path(name)) {
			used = name
		}
	}
	switch {
	case len(gone) == 0:
		return nil
	case len(have) > 0:
		return fmt.Errorf("%s is missing, but %s exists: restore it, or choose another directory with --dir",
			s.Path(gone[0]), s.Path(have[0]))
	case used != "":
		return fmt.Errorf("%s is missing, but the CA has been used (%s exists): restore it, or choose "+
			"another directory with --dir", s.Path(gone[0]), s.Path(used))
	}
	return s.makeHierarchy()
}

func (s *State) makeHierarchy() error {
	h, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "mayfly dev", Now: time.Now()})
	if err != nil {
		return err
	}
	for _, one := range []struct {
		name string
		key  any
	}{{hierarchyFiles[0], h.RootKey}, {hierarchyFiles[1], h.Key}} {
		if err := s.writeKey(one.name, one.key); err != nil {
			return err
		}
	}
	return s.writeChain("chain.pem", h.Chain)
}

// stampFiles are the key and the chain of the timestamp authority, in the order in which they are written.
var stampFiles = []string{"tsa/key.pem", "tsa/chain.pem"}

// completeStamps creates the key and the chain of the timestamp authority, unless both exist. The key of its root is
// discarded after one signature.
func (s *State) completeStamps() error {
	key, chain := exists(s.Path(stampFiles[0])), exists(s.Path(stampFiles[1]))
	switch {
	case key && chain:
		return nil
	case key || chain:
		gone := stampFiles[0]
		if key {
			gone = stampFiles[1]
		}
		return fmt.Errorf("%s is missing: restore it, or remove %s to create a new timestamp authority", s.Path(gone),
			s.Path("tsa"))
	}
	h, err := ca.NewHierarchy(ca.HierarchyOptions{Organization: "mayfly dev", Now: time.Now(), Timestamping: true})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Path("tsa"), 0o700); err != nil {
		return err
	}
	if err := s.writeKey(stampFiles[0], h.Key); err != nil {
		return err
	}
	return s.writeChain(stampFiles[1], h.Chain)
}

// tufRoot is the file from which clients trust the TUF repository.
const tufRoot = "tuf/repository/1.root.json"

// completeTUF creates the TUF repository, unless it exists. The CA publishes the files for clients in it.
func (s *State) completeTUF() error {
	if exists(s.Path("tuf")) {
		return nil
	}
	_, err := trust.InitTUF(trust.TUFOptions{Dir: s.Path("tuf")})
	return err
}

func (s *State) writeKey(name string, key any) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.Path(name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func (s *State) writeChain(name string, chain []*x509.Certificate) error {
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return durable.WriteFile(s.Path(name), text, 0o644)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}
