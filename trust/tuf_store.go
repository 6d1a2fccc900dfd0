package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/youmark/pkcs8"
	"google.golang.org/protobuf/encoding/protojson"
)

type tufSigner = signature.Signer

const timestampName = "timestamp.json"

// The names that clients look for.
const (
	rootTarget    = "trusted_root.json"
	signingTarget = "signing_config.v0.2.json"
)

// targetName is the name that clients look for what data is. Anything but a trusted root or a signing configuration is refused.
func targetName(data []byte) (string, error) {
	var kind struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return "", errors.New("not JSON: publish takes a trusted root and a signing configuration")
	}
	switch kind.MediaType {
	case signingMediaType:
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &trustroot.SigningConfig{}); err != nil {
			return "", fmt.Errorf("not a signing configuration: %w", err)
		}
		return signingTarget, nil
	case "":
		return "", errors.New("it has no mediaType: publish takes a trusted root and a signing configuration")
	}
	if _, err := ParseTrustedRoot(data); err != nil {
		return "", err
	}
	return rootTarget, nil
}

func (r *Repository) served(name string) string { return filepath.Join(r.o.Dir, "repository", name) }

func (r *Repository) keyFile(role string, next bool) string {
	if next {
		role += ".next"
	}
	return filepath.Join(r.o.Dir, "keys", role+".pem")
}

func (r *Repository) exists() bool {
	_, err := os.Stat(r.served(timestampName))
	return err == nil
}

// load reads the newest root and what timestamp.json leads to.
func (r *Repository) load() error {
	names, err := filepath.Glob(r.served("*.root.json"))
	if err != nil {
		return err
	}
	newest := 0
	for _, n := range names {
		if v, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(n), ".root.json")); err == nil {
			newest = max(newest, v)
		}
	}
	if r.root, err = read(r, fmt.Sprintf("%d.root.json", newest), &metadata.Metadata[metadata.RootType]{}); err != nil {
		return err
	}
	if r.timestamp, err = read(r, timestampName, &metadata.Metadata[metadata.TimestampType]{}); err != nil {
		return err
	}
	version := func(m *metadata.MetaFiles) int64 {
		if m == nil {
			return 0
		}
		return m.Version
	}
	name := fmt.Sprintf("%d.snapshot.json", version(r.timestamp.Signed.Meta["snapshot.json"]))
	if r.snapshot, err = read(r, name, &metadata.Metadata[metadata.SnapshotType]{}); err != nil {
		return err
	}
	name = fmt.Sprintf("%d.targets.json", version(r.snapshot.Signed.Meta["targets.json"]))
	r.targets, err = read(r, name, &metadata.Metadata[metadata.TargetsType]{})
	return err
}

func read[T metadata.Roles](r *Repository, name string, m *metadata.Metadata[T]) (*metadata.Metadata[T], error) {
	data, err := os.ReadFile(r.served(name))
	if err != nil {
		return nil, err
	}
	out, err := m.FromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// commit writes what was signed: files, then metadata, timestamp.json last.
func (r *Repository) commit() error {
	names := slices.Sorted(maps.Keys(r.files))
	rank := func(name string) int {
		switch {
		case strings.HasPrefix(name, "targets/"):
			return 0
		case name == timestampName:
			return 3
		case strings.HasSuffix(name, ".root.json"):
			return 2
		}
		return 1
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	if err := os.MkdirAll(r.served("targets"), 0o755); err != nil { //nolint:gosec // it is served to everybody
		return err
	}
	for _, name := range names {
		if err := WriteFile(r.served(name), r.files[name], 0o644); err != nil {
			return err
		}
	}
	clear(r.files)
	return nil
}

// newKey makes a key for role. It is in force when [Repository.promote] has been called, which a later start does if need be.
func (r *Repository) newKey(role string) (*metadata.Key, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	kind := "PRIVATE KEY"
	var der []byte
	if len(r.o.Password) > 0 {
		kind = "ENCRYPTED PRIVATE KEY"
		der, err = pkcs8.MarshalPrivateKey(key, r.o.Password, nil)
	} else {
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(r.o.Dir, "keys"), 0o700); err != nil {
		return nil, err
	}
	if err := WriteFile(r.keyFile(role, true), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	return metadata.KeyFromPublicKey(key.Public())
}

func (r *Repository) promote(role string) error {
	return os.Rename(r.keyFile(role, true), r.keyFile(role, false))
}

// hasKey reports whether a private key of role is there.
func (r *Repository) hasKey(role string) bool {
	_, err := os.Stat(r.keyFile(role, false))
	return err == nil
}

// signers opens the key of role that the root names: the one in force, or the next one, if a crash kept it from becoming that.
func (r *Repository) signers(role string) ([]tufSigner, error) {
	var missing error
	for _, next := range []bool{false, true} {
		s, err := r.readKey(role, next)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		public, err := s.PublicKey()
		if err != nil {
			return nil, err
		}
		key, err := metadata.KeyFromPublicKey(public)
		if err != nil {
			return nil, err
		}
		id, err := key.ID()
		if err != nil {
			return nil, err
		}
		if slices.Contains(r.root.Signed.Roles[role].KeyIDs, id) {
			return []tufSigner{s}, nil
		}
		missing = fmt.Errorf("%s is not the key that the root names", r.keyFile(role, next))
	}
	if missing != nil {
		return nil, missing
	}
	return nil, fmt.Errorf("the key of %s is not there; put it into %s", role, r.keyFile(role, false))
}

func (r *Repository) readKey(role string, next bool) (tufSigner, error) {
	name := r.keyFile(role, next)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	b, _ := pem.Decode(data)
	if b == nil {
		return nil, fmt.Errorf("%s: no PEM block in it", name)
	}
	var key crypto.PrivateKey
	if b.Type == "ENCRYPTED PRIVATE KEY" {
		if key, err = pkcs8.ParsePKCS8PrivateKey(b.Bytes, r.o.Password); err != nil {
			return nil, fmt.Errorf("%s: the password does not open it", name)
		}
	} else if key, err = x509.ParsePKCS8PrivateKey(b.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return signature.LoadSigner(key, crypto.SHA256)
}

// WriteFile replaces a file as a whole and durably: a reader, or a crash, meets the old content or the new one.
func WriteFile(name string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return f.Close()
}
