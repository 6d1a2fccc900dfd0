package oidc

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// stateFile keeps an issuer's last good keys over a restart. Public keys only: whoever can write the file can forge tokens,
// so it belongs to the operator alone.
type stateFile struct {
	dir    string
	issuer string
	log    *slog.Logger
}

type savedKeys struct {
	Issuer     string          `json:"issuer"`
	Fetched    time.Time       `json:"fetched"`
	Algorithms []string        `json:"algorithms"`
	Keys       json.RawMessage `json:"keys"`
}

func (s stateFile) path() string {
	sum := sha256.Sum256([]byte(s.issuer))
	return filepath.Join(s.dir, "issuer-"+hex.EncodeToString(sum[:8])+".json")
}

// load returns nil when there is nothing good: then the provider is asked.
func (s stateFile) load() *keyring {
	data, err := os.ReadFile(s.path())
	if err != nil || len(data) > 2*maxBody {
		return nil
	}
	var saved savedKeys
	if json.Unmarshal(data, &saved) != nil || saved.Issuer != s.issuer {
		return nil
	}
	keys, err := parseKeys(saved.Keys)
	if err != nil {
		return nil
	}
	return &keyring{fetched: saved.Fetched, algs: saved.Algorithms, keys: keys, raw: saved.Keys}
}

func (s stateFile) save(r *keyring) {
	data, err := json.Marshal(savedKeys{Issuer: s.issuer, Fetched: r.fetched, Algorithms: r.algs, Keys: r.raw})
	if err == nil {
		tmp := s.path() + ".new"
		if err = os.WriteFile(tmp, data, 0o600); err == nil {
			err = os.Rename(tmp, s.path())
		}
	}
	if err != nil {
		s.log.Warn("the keys of an identity provider cannot be kept", "issuer", s.issuer, "cause", err.Error())
	}
}
