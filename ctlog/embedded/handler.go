package embedded

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// readable are the paths of a log, and no others: keys and state lie in the same directory.
var readable = regexp.MustCompile(`^/(checkpoint|issuer/[0-9a-f]{64}|tile/(data|[0-5])/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?)$`)

// Handler serves the read path: /checkpoint, /tile/…, /issuer/<sha256 hex> (c2sp.org/static-ct-api) and /ct/v1/get-roots
// (RFC 6962 §4.7). There is no submission from outside.
func (l *Log) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this log is read-only", http.StatusMethodNotAllowed)
			return
		}
		if r.URL.Path == "/ct/v1/get-roots" {
			l.getRoots(w)
			return
		}
		if !readable.MatchString(r.URL.Path) {
			http.NotFound(w, r)
			return
		}
		l.serveFile(w, r)
	})
}

func (l *Log) serveFile(w http.ResponseWriter, r *http.Request) {
	f, err := os.Open(filepath.Join(l.dir, filepath.FromSlash(r.URL.Path))) //nolint:gosec // the path has passed readable
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	switch {
	case r.URL.Path == "/checkpoint":
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Cache-Control", "no-store")
	case strings.HasPrefix(r.URL.Path, "/issuer/"):
		h.Set("Content-Type", "application/pkix-cert")
		h.Set("Cache-Control", "public, max-age=604800, immutable")
	default:
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Cache-Control", "public, max-age=604800, immutable") // a partial tile has its width in its name
	}
	http.ServeContent(w, r, "", st.ModTime(), f)
}

func (l *Log) getRoots(w http.ResponseWriter) {
	out := struct {
		Certificates [][]byte `json:"certificates"`
	}{Certificates: [][]byte{}}
	for _, c := range *l.roots.Load() {
		out.Certificates = append(out.Certificates, c.Raw)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the client is gone: nobody to tell
}
