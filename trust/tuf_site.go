package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Site serves a repository over HTTP from memory, so that clients get only files that were verified: a change of
// DIR/repository by others reaches no client. The zero value answers with status 503.
type Site struct {
	set     sync.Mutex
	current atomic.Pointer[site]
}

type site struct {
	files    map[string][]byte
	previous map[string][]byte // the state before, for clients that have its timestamp
}

// Set replaces the files, as [Repository.Files] returns them. Of the replaced files, those with a version or a digest
// in their name are served until the next call with other files, so that a client that has the old timestamp can
// finish.
func (s *Site) Set(files map[string][]byte) {
	s.set.Lock()
	defer s.set.Unlock()
	next := &site{files: files}
	if old := s.current.Load(); old != nil {
		next.previous = old.files
		if bytes.Equal(old.files[timestampFile], files[timestampFile]) {
			next.previous = old.previous
		}
	}
	s.current.Store(next)
}

// Ready reports whether Set was called.
func (s *Site) Ready() bool { return s.current.Load() != nil }

// ServeHTTP serves GET and HEAD; the path is the name of the file in the repository. The files have the caching rules
// of the TUF specification: timestamp.json may change at any time, and so may the answer that a file does not exist
// (clients ask for the next root); all other files never change.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are allowed", http.StatusMethodNotAllowed)
		return
	}
	now := s.current.Load()
	if now == nil {
		h.Set("Retry-After", "5")
		http.Error(w, "the TUF repository is not available", http.StatusServiceUnavailable)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	data, ok := now.files[name]
	if !ok && name != timestampFile {
		data, ok = now.previous[name]
	}
	if !ok {
		http.Error(w, "the repository has no such file", http.StatusNotFound)
		return
	}
	sum := sha256.Sum256(data)
	h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	if name == timestampFile {
		h.Set("Cache-Control", "no-cache")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}
